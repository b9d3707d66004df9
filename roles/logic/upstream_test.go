package logic_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"imgo/envelope"
	"imgo/internal/settings"
	"imgo/internal/upstream"
	"imgo/roles/logic"
)

// upstreamRules has op 4 become events, calls url for ops 1000 to 1999, and drops op 2000.
func upstreamRules(url string) option {
	return func(c *logic.Config, _ *world) {
		events := settings.Default[upstream.Rule]()
		events.Ops, events.To = []string{"4"}, upstream.ToEvents
		drop := settings.Default[upstream.Rule]()
		drop.Ops, drop.To = []string{"2000"}, upstream.ToDrop
		rules := []upstream.Rule{events, drop}
		if url != "" {
			call := settings.Default[upstream.Rule]()
			call.Ops, call.To, call.URL = []string{"1000-1999"}, upstream.ToCall, url
			call.Secrets, call.Timeout = []string{webhookSecret}, time.Second
			rules = append(rules, call)
		}
		c.Upstream = upstream.Rules{Upstream: rules}
	}
}

func upstreamRequest(op int32, clientID uint64, body string) *envelope.UpstreamRequest {
	return &envelope.UpstreamRequest{Id: []byte("123456789012"), Session: joinSession(), Op: op, ClientId: clientID, Body: []byte(body)}
}

// A message of a rule with events is in the log of its user when it is answered.
func TestUpstreamToEvents(t *testing.T) {
	w := newWorld(t, upstreamRules(""))
	reply, err := w.Upstream(t.Context(), upstreamRequest(4, 7, "hello"))
	if err != nil || reply.Code != "" || len(reply.Body) != 0 {
		t.Fatalf("%v, %v", reply, err)
	}
	records := w.records()
	if len(records) != 1 {
		t.Fatalf("%d records", len(records))
	}
	up := records[0].Upstream
	if string(records[0].Id) != "123456789012" || up.GetUser() != "ann" || up.GetDevice() != "phone" ||
		up.GetOp() != 4 || up.GetClientId() != 7 ||
		string(up.GetBody()) != "hello" || up.GetSession() != joinSession().Address.AsKey().Name() {
		t.Errorf("record %v", records[0])
	}
}

// A message that is no good leaves nothing in the log.
func TestUpstreamRefused(t *testing.T) {
	w := newWorld(t, upstreamRules(""), func(c *logic.Config, _ *world) { c.MaxBody = 1 << 20 })
	for name, c := range map[string]struct {
		change func(*envelope.UpstreamRequest)
		code   string
		says   string
	}{
		"no rule":          {func(r *envelope.UpstreamRequest) { r.Op = 3000 }, "unsupported", "no rule"},
		"drop":             {func(r *envelope.UpstreamRequest) { r.Op = 2000 }, "unsupported", "no rule"},
		"no message":       {func(r *envelope.UpstreamRequest) { r.Op = 5 }, "unsupported", "no rule"},
		"id, no device":    {func(r *envelope.UpstreamRequest) { r.Session.Device = "" }, "invalid", "named device"},
		"id, nobody":       {func(r *envelope.UpstreamRequest) { r.Session.User = envelope.AnonymousUser(7) }, "invalid", "named device"},
		"no user":          {func(r *envelope.UpstreamRequest) { r.Session.User = "" }, "invalid", "user"},
		"too large":        {func(r *envelope.UpstreamRequest) { r.Body = make([]byte, 1<<20+1) }, "too_large", "at most 1048576"},
		"large for events": {func(r *envelope.UpstreamRequest) { r.Body = make([]byte, 500<<10+1) }, "too_large", "an event has room for 512000"},
	} {
		r := upstreamRequest(4, 7, "hello")
		c.change(r)
		reply, err := w.Upstream(t.Context(), r)
		if err != nil || reply.Code != c.code || !strings.Contains(reply.Reason, c.says) || reply.RetryMs != 0 {
			t.Errorf("%s: %v, %v, want %s %q", name, reply, err, c.code, c.says)
		}
	}
	r := upstreamRequest(4, 0, "hello") // without an id no device is needed
	r.Session.Device = ""
	if reply, err := w.Upstream(t.Context(), r); err != nil || reply.Code != "" {
		t.Errorf("%v, %v", reply, err)
	}
	if n := len(w.records()); n != 1 {
		t.Errorf("%d records", n)
	}
}

func TestUpstreamDuringAnUpgrade(t *testing.T) {
	w := newWorld(t)
	cfg := logic.DefaultConfig()
	upstreamRules("")(&cfg, w)
	deps := w.deps()
	deps.Records = refusingVersions(envelope.RecordVersionClients)
	l, err := logic.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := l.Upstream(t.Context(), upstreamRequest(4, 7, "hello"))
	if err != nil || reply.Code != "unavailable" || reply.RetryMs == 0 || !strings.Contains(reply.Reason, "upgrade") || len(w.records()) != 0 {
		t.Errorf("%v, %v, %d records", reply, err, len(w.records()))
	}
}

// What the backend gets, that it can verify it, and what its answers are for the client.
func TestUpstreamCall(t *testing.T) {
	var ids []string
	var bodies []string
	answer := func(http.ResponseWriter) {}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		receiver, err := standardwebhooks.NewWebhook(webhookSecret)
		if err == nil {
			err = receiver.Verify(body, r.Header)
		}
		if err != nil {
			t.Errorf("the call cannot be verified: %v, %v", err, r.Header)
		}
		ids, bodies = append(ids, r.Header.Get("webhook-id")), append(bodies, string(body))
		answer(rw)
	}))
	t.Cleanup(server.Close)
	w := newWorld(t, upstreamRules(server.URL))
	for _, c := range []struct {
		name       string
		status     int
		body       string
		code, want string
		retry      bool
	}{
		// The backend fails less often in a row than the circuit breaker allows.
		{"redirect", 302, "", "unavailable", "the backend does not answer; try again later", true},
		{"busy", 429, "", "unavailable", "the backend does not answer; try again later", true},
		{"broken", 503, "", "unavailable", "the backend does not answer; try again later", true},
		{"endless", 200, strings.Repeat("x", 65<<10), "unavailable", "the backend does not answer; try again later", true},
		{"answer", 200, `{"order":7}`, "", `{"order":7}`, false},
		{"no content", 204, "", "", "", false},
		{"unauthorized", 401, "", "forbidden", "the backend refuses the message", false},
		{"forbidden", 403, `{"refuse":"not yours"}`, "forbidden", "not yours", false},
		{"bad request", 400, `{"refuse":"no such order"}`, "invalid", "no such order", false},
		{"page", 404, "<html>", "invalid", "the backend refuses the message", false},
		{"too large", 413, "", "too_large", "the backend refuses the message", false},
	} {
		answer = func(rw http.ResponseWriter) { rw.WriteHeader(c.status); _, _ = io.WriteString(rw, c.body) }
		reply, err := w.Upstream(t.Context(), upstreamRequest(1000, 7, `{"buy": 1}`))
		got := string(reply.GetBody())
		if c.code != "" {
			got = reply.GetReason()
		}
		if err != nil || reply.Code != c.code || got != c.want || (reply.RetryMs > 0) != c.retry {
			t.Errorf("%s: %v, %v", c.name, reply, err)
		}
	}
	answer = func(rw http.ResponseWriter) {
		rw.Header().Set("Retry-After", "7")
		rw.WriteHeader(http.StatusTooManyRequests)
	}
	if reply, err := w.Upstream(t.Context(), upstreamRequest(1000, 7, `{"buy": 1}`)); err != nil || reply.RetryMs != 7000 {
		t.Errorf("after Retry-After: 7 the client gets %v, %v", reply, err)
	}
	for _, id := range ids {
		if !strings.HasPrefix(id, "up_") || id != ids[0] {
			t.Errorf("a message that is sent again has the ids %q and %q", ids[0], id)
		}
	}
	answer = func(http.ResponseWriter) {}
	for _, r := range []*envelope.UpstreamRequest{
		upstreamRequest(1000, 8, `{"buy": 1}`), upstreamRequest(1000, 7, `{"buy": 2}`), upstreamRequest(1000, 0, `{"buy": 1}`),
	} {
		if _, err := w.Upstream(t.Context(), r); err != nil || ids[len(ids)-1] == ids[0] {
			t.Errorf("another message has the id of the first: %v", err)
		}
	}
	var got, want map[string]any
	if err := json.Unmarshal([]byte(bodies[0]), &got); err != nil {
		t.Fatalf("%s: %v", bodies[0], err)
	}
	want = map[string]any{
		"type": "upstream", "user": "ann", "device": "phone", "session": joinSession().Address.AsKey().Name(),
		"platform": "web", "address": "192.0.2.1:99",
		"transport": "ws", "generation": "v2", "op": 1000, "client_id": "7", "body": map[string]any{"buy": 1},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the backend got %v, want %v", got, want)
	}
	if n := len(w.records()); n != 0 {
		t.Errorf("%d records", n)
	}
}

// A backend that fails for one rule is left alone for a while, and the other rules go on.
func TestUpstreamBreaker(t *testing.T) {
	calls := 0
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		calls++
		rw.WriteHeader(500)
	}))
	t.Cleanup(server.Close)
	w := newWorld(t, upstreamRules(server.URL))
	for range 20 {
		reply, err := w.Upstream(t.Context(), upstreamRequest(1000, 7, "x"))
		if err != nil || reply.Code != "unavailable" || reply.RetryMs == 0 {
			t.Fatalf("%v, %v", reply, err)
		}
	}
	if calls != 5 {
		t.Errorf("%d calls, want the 5 after which none is made", calls)
	}
	if reply, err := w.Upstream(t.Context(), upstreamRequest(4, 7, "x")); err != nil || reply.Code != "" {
		t.Errorf("%v, %v", reply, err)
	}
}

// A backend that hangs costs the client the time of the rule.
func TestUpstreamTimeout(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	w := newWorld(t, upstreamRules(server.URL), func(c *logic.Config, _ *world) { c.Upstream.Upstream[2].Timeout = 100 * time.Millisecond })
	reply, err := w.Upstream(t.Context(), upstreamRequest(1000, 7, "x"))
	if errors.Is(err, context.DeadlineExceeded) || err != nil || reply.Code != "unavailable" {
		t.Errorf("%v, %v", reply, err)
	}
}
