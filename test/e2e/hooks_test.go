package e2e_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"imgo/config"
	"imgo/roles/job/hooks"
)

const hookSecret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="

// hookReceiver is a backend that gets events.
type hookReceiver struct {
	*httptest.Server

	mu     sync.Mutex
	status int                 // of each answer
	ids    map[string][]string // webhook-ids by type and ref, each call
	order  []string            // types and refs, each event once
}

func newHookReceiver(t *testing.T) *hookReceiver {
	verifier, err := standardwebhooks.NewWebhook(hookSecret)
	if err != nil {
		t.Fatal(err)
	}
	r := &hookReceiver{status: http.StatusNoContent, ids: make(map[string][]string)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		if err == nil {
			err = verifier.Verify(body, q.Header)
		}
		var e struct {
			ID, Type string
			Data     struct{ Ref string }
		}
		if err == nil {
			err = json.Unmarshal(body, &e)
		}
		if err != nil || e.ID != q.Header.Get("webhook-id") {
			t.Errorf("a call cannot be used: %v, event %q under %q", err, e.ID, q.Header.Get("webhook-id"))
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		name := strings.TrimPrefix(e.Type, "message.") + " " + e.Data.Ref
		r.ids[name] = append(r.ids[name], e.ID)
		if r.status/100 == 2 && !slices.Contains(r.order, name) {
			r.order = append(r.order, name)
		}
		w.WriteHeader(r.status)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *hookReceiver) answer(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = status
}

func (r *hookReceiver) calls(name string) (ids []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ids[name])
}

// waitFor waits until the receiver has taken these events, and no others, in this order.
func (r *hookReceiver) waitFor(t *testing.T, want ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("the receiver has %q", want), func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.order) >= len(want)
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.order, want) {
		t.Errorf("the receiver has %q, want %q", r.order, want)
	}
}

// Events reach the backend, once it is there, whatever becomes of imgo meanwhile.
func TestHooks(t *testing.T) {
	r := newHookReceiver(t)
	n := start(t, func(cfg *config.Config) {
		cfg.Hooks = []hooks.Config{{
			Name: "orders", URL: r.URL, Secrets: []string{hookSecret}, Timeout: 5 * time.Second, Batch: 1, RetryFor: time.Hour,
		}}
	})
	push := func(ref string) {
		n.call(t, "POST", "/v1/push", `{"user":"alice","body":1,"ref":"`+ref+`","report":"each"}`).want(t, 202)
	}
	c := n.tcp(t)
	c.login("v2", "alice", `,"ack":true,"device":"phone"`)
	take := func() { c.ack(c.expect(5, "1").ID) }
	push("a")
	take()
	r.waitFor(t, "delivered a", "settled a")

	// The backend fails, and imgo starts again. The event comes again under the same id.
	r.answer(http.StatusInternalServerError)
	push("b")
	take()
	eventually(t, "a failed call", func() bool { return len(r.calls("delivered b")) > 0 })
	n = n.restart(t)
	r.answer(http.StatusOK)
	r.waitFor(t, "delivered a", "settled a", "delivered b", "settled b")
	if ids := slices.Compact(r.calls("delivered b")); len(ids) != 1 {
		t.Errorf("one event came under the ids %q", ids)
	}
	if ids := r.calls("delivered a"); len(ids) > 2 {
		t.Errorf("%d calls for an event that was taken", len(ids))
	}

	// The backend wants no more.
	c = n.tcp(t)
	c.login("v2", "alice", `,"ack":true,"device":"phone"`)
	r.answer(http.StatusGone)
	push("c")
	take()
	eventually(t, "the pause", func() bool { return strings.Contains(n.call(t, "GET", "/v1/hooks", "").body, `"paused"`) })
	r.answer(http.StatusOK)
	n.call(t, "POST", "/v1/hooks/orders/resume", "").want(t, 200, "{}")
	n.call(t, "POST", "/v1/hooks/orders/resume", "").want(t, 409, "is not paused")
	n.call(t, "POST", "/v1/hooks/other/resume", "").want(t, 404, "orders")
	r.waitFor(t, "delivered a", "settled a", "delivered b", "settled b", "delivered c", "settled c")

	// A wrong answer makes a dead letter, which is replayed.
	r.answer(http.StatusBadRequest)
	push("d")
	take()
	eventually(t, "two dead letters", func() bool {
		return strings.Contains(n.call(t, "GET", "/v1/hooks", "").body, `"dead_letters":2`)
	})
	r.answer(http.StatusOK)
	n.call(t, "POST", "/v1/hooks/orders/retry", "").want(t, 202, "{}")
	r.waitFor(t, "delivered a", "settled a", "delivered b", "settled b", "delivered c", "settled c", "delivered d", "settled d")
	n.call(t, "POST", "/v1/hooks/orders/replay", `{"from_ms":1}`).want(t, 202, "{}")
	eventually(t, "the first event again", func() bool {
		return len(slices.Compact(r.calls("delivered a"))) == 1 && len(r.calls("delivered a")) > 1
	})
}
