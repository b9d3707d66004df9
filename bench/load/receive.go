//go:build linux

package load

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"time"

	"imgo/bench/limit"
	"imgo/internal/events"
)

// HookCounts is every answer of Receive but the first. Its counts are since the answer before.
type HookCounts struct {
	Calls  int64 `json:"calls"`
	Events int64 `json:"events"`
	// Disordered counts events whose id is not higher than the last one of their user.
	Disordered int64 `json:"disordered"`
	// First and Last are the times of the first and the last call.
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// Receive is the main function of a process that receives the events of a hook, and answers each call at once. It does
// not verify signatures. It answers as limit.Serve does, with HookCounts.
func Receive(dec *json.Decoder, enc *json.Encoder) error {
	r := &receiver{last: make(map[string]events.ID)}
	return limit.Serve(dec, enc, r.serve, func() any { return r.reset() })
}

// receiver counts events.
type receiver struct {
	mu     sync.Mutex
	counts HookCounts
	last   map[string]events.ID // by user, since the last answer
}

// reset returns the counts, and begins to count again.
func (r *receiver) reset() HookCounts {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := r.counts
	r.counts = HookCounts{}
	clear(r.last)
	return counts
}

func (r *receiver) serve(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return
	}
	r.count(body, time.Now())
	w.WriteHeader(http.StatusNoContent)
}

// count counts the events of a call. It looks for two fields only, because it shares the processors with the server.
func (r *receiver) count(body []byte, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.counts.Calls++; r.counts.First.IsZero() {
		r.counts.First = now
	}
	r.counts.Last = now
	for {
		at := bytes.Index(body, []byte(`{"specversion":"1.0","id":"`))
		if at < 0 {
			return
		}
		body = body[at+len(`{"specversion":"1.0","id":"`):]
		text, _, _ := bytes.Cut(body, []byte(`"`))
		_, user, _ := bytes.Cut(body, []byte(`"subject":"`))
		user, _, _ = bytes.Cut(user, []byte(`"`))
		id, err := events.ParseID(string(text))
		if err != nil || !id.After(r.last[string(user)]) {
			r.counts.Disordered++
		}
		r.last[string(user)] = id
		r.counts.Events++
	}
}
