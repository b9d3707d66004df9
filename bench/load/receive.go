//go:build linux

package load

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"imgo/internal/events"
)

// Taken is every answer of Receive but the first. Its counts are since the answer before.
type Taken struct {
	Calls  int64 `json:"calls"`
	Events int64 `json:"events"`
	// Disordered counts events whose id is not higher than the last one of their user.
	Disordered int64 `json:"disordered"`
	// First and Last are the times of the first and the last call.
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// Receiving is the first answer of Receive.
type Receiving struct {
	Addr string `json:"addr"`
}

// Receive is the main function of a process that receives the events of a hook, and answers each call at once. It does
// not verify signatures. Its first answer is a Receiving. After that it answers every JSON object with Taken, until its
// input ends.
func Receive(dec *json.Decoder, enc *json.Encoder) error {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // binding loopback does not wait
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	r := &receiver{last: make(map[string]events.ID)}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: r}
	go func() { _ = server.Serve(l) }() // it returns when the server is closed
	err = enc.Encode(Receiving{Addr: l.Addr().String()})
	for err == nil {
		var ignored struct{}
		if err = dec.Decode(&ignored); err == nil { // the input's end is the end
			err = enc.Encode(r.take())
		}
	}
	return errors.Join(err, server.Close())
}

// receiver counts events.
type receiver struct {
	mu    sync.Mutex
	taken Taken
	last  map[string]events.ID // by user, since the last answer
}

// take returns the counts, and begins to count again.
func (r *receiver) take() Taken {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.taken
	r.taken = Taken{}
	clear(r.last)
	return taken
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
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
	if r.taken.Calls++; r.taken.First.IsZero() {
		r.taken.First = now
	}
	r.taken.Last = now
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
			r.taken.Disordered++
		}
		r.last[string(user)] = id
		r.taken.Events++
	}
}
