package webhook_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.uber.org/goleak"

	"imgo/clients/go/pushapi"
	"imgo/internal/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	secret  = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
	secret2 = "whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="
)

func newCaller(t *testing.T, cfg webhook.Config) *webhook.Caller {
	t.Helper()
	if cfg.Secrets == nil {
		cfg.Secrets = []string{secret}
	}
	c, err := webhook.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestSignature verifies calls as a receiver does, with either of two secrets.
func TestSignature(t *testing.T) {
	var got http.Header
	var body []byte
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		body, _ = io.ReadAll(r.Body)
		_, _ = io.WriteString(w, `{"ok":true}`)
	}))
	defer server.Close()
	c := newCaller(t, webhook.Config{URL: server.URL, Secrets: []string{secret, secret2}})
	answer, err := c.Post(t.Context(), "call-1", []byte(`{"a":1}`))
	if err != nil || !answer.OK() || string(answer.Body) != `{"ok":true}` {
		t.Fatalf("answer %+v, %v", answer, err)
	}
	if string(body) != `{"a":1}` || got.Get("Webhook-Id") != "call-1" || got.Get("Content-Type") != "application/json" {
		t.Errorf("got %s with %v", body, got)
	}
	for _, s := range []string{secret, secret2} {
		receiver, err := standardwebhooks.NewWebhook(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := receiver.Verify(body, got); err != nil {
			t.Errorf("the signature is wrong: %v", err)
		}
		if receiver.Verify([]byte(`{"a":2}`), got) == nil {
			t.Error("the signature fits another body")
		}
		backend, err := pushapi.NewWebhook(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := backend.Verify(got, body); err != nil {
			t.Errorf("the Go client for backends: %v", err)
		}
	}
}

func TestAnswersThatDoNotCount(t *testing.T) {
	var followed atomic.Bool
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Store(true) }))
	defer target.Close()
	stall := make(chan struct{})
	for name, handler := range map[string]http.HandlerFunc{
		"500": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		"503": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) },
		"429": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) },
		"408": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(408) },
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, target.URL, http.StatusTemporaryRedirect)
		},
		"large": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bytes.Repeat([]byte("x"), 2000)) },
		"endless": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		},
		"hangs up": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"slow": func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-stall:
			case <-r.Context().Done():
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // net/http sees an end of the caller only behind the body
				handler(w, r)
			}))
			defer server.Close()
			var outcome string
			c := newCaller(t, webhook.Config{URL: server.URL + "/?key=hush", Timeout: 300 * time.Millisecond, MaxAnswer: 1000,
				Observe: func(o string, _ time.Duration) { outcome = o }})
			answer, err := c.Post(t.Context(), "1", []byte("{}"))
			if !errors.Is(err, webhook.ErrUnavailable) || outcome != webhook.OutcomeFailed {
				t.Errorf("answer %+v, %v, outcome %s", answer, err, outcome)
			}
			if err != nil && strings.Contains(err.Error(), "hush") {
				t.Errorf("the error shows the query: %v", err)
			}
			c.Close()
		})
	}
	close(stall)
	if followed.Load() {
		t.Error("a redirect was followed")
	}
}

func TestRefusalsAreAnswers(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	defer server.Close()
	c := newCaller(t, webhook.Config{URL: server.URL})
	for range 20 {
		if answer, err := c.Post(t.Context(), "1", nil); err != nil || answer.Status != http.StatusForbidden || answer.OK() {
			t.Fatalf("answer %+v, %v", answer, err)
		}
	}
}

// roundTripper is a network of one function.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// network makes calls go through fn.
func network(fn roundTripper) webhook.Faults { return webhook.Faults{Transport: fn} }

func respond(status int) *http.Response {
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(""))}
}

// TestCircuit checks that after failures in a row the address has a rest, and is tried again by one call.
func TestCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		var down atomic.Bool
		down.Store(true)
		c := newCaller(t, webhook.Config{URL: "https://x.example", OpenFor: 5 * time.Second,
			Faults: network(func(*http.Request) (*http.Response, error) {
				calls.Add(1)
				if down.Load() {
					return respond(500), nil
				}
				return respond(200), nil
			})})
		for range 100 {
			if _, err := c.Post(t.Context(), "1", nil); !errors.Is(err, webhook.ErrUnavailable) {
				t.Fatal(err)
			}
		}
		if n := calls.Load(); n != 5 {
			t.Errorf("called %d times, want 5", n)
		}
		time.Sleep(6 * time.Second)
		for range 100 {
			_, _ = c.Post(t.Context(), "1", nil)
		}
		if n := calls.Load(); n != 6 {
			t.Errorf("called %d times, want one more", n)
		}
		down.Store(false)
		time.Sleep(6 * time.Second)
		for range 10 {
			if _, err := c.Post(t.Context(), "1", nil); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestAnswersToComeLater checks that an answer which tells one client to come later is no reason to make no calls for
// the others.
func TestAnswersToComeLater(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		header http.Header
		stays  bool
	}{
		"too many requests":       {429, nil, true},
		"too many, with a time":   {429, http.Header{"Retry-After": {"2"}}, true},
		"unavailable with a time": {503, http.Header{"Retry-After": {"2"}}, true},
		"unavailable":             {503, nil, false},
		"broken":                  {500, nil, false},
		"too slow":                {408, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			var later atomic.Bool
			caller := newCaller(t, webhook.Config{URL: "https://x.example", Faults: network(func(*http.Request) (*http.Response, error) {
				if later.Load() {
					return respond(200), nil
				}
				answer := respond(c.status)
				answer.Header = c.header
				return answer, nil
			})})
			for range 10 {
				if _, err := caller.Post(t.Context(), "1", nil); !errors.Is(err, webhook.ErrUnavailable) {
					t.Fatal(err)
				}
			}
			later.Store(true)
			if _, err := caller.Post(t.Context(), "1", nil); (err == nil) != c.stays {
				t.Errorf("a call for another client: %v, want an answer: %v", err, c.stays)
			}
		})
	}
}

// TestCallsThatWaited checks that an address which answers in time stays in use, however long its calls have waited
// for their turn. An address that does not answer has a rest.
func TestCallsThatWaited(t *testing.T) {
	for name, c := range map[string]struct {
		takes, budget time.Duration // of an answer, and of the caller
		answered      int
		stays         bool
	}{
		"in time":                  {600 * time.Millisecond, 5 * time.Second, 16, true},
		"little is left":           {600 * time.Millisecond, time.Second, 8, true},
		"not the whole is left":    {600 * time.Millisecond, 1150 * time.Millisecond, 8, true},
		"no answer within Timeout": {time.Minute, 5 * time.Second, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var quick atomic.Bool
				caller := newCaller(t, webhook.Config{URL: "https://x.example", InFlight: 8, Timeout: time.Second, OpenFor: time.Hour,
					Faults: network(func(r *http.Request) (*http.Response, error) {
						if quick.Load() {
							return respond(200), nil
						}
						select {
						case <-time.After(c.takes):
							return respond(200), nil
						case <-r.Context().Done():
							return nil, r.Context().Err()
						}
					})})
				var answered atomic.Int32
				var wg sync.WaitGroup
				for range 16 {
					wg.Go(func() {
						ctx, cancel := context.WithTimeout(t.Context(), c.budget)
						defer cancel()
						if _, err := caller.Post(ctx, "1", nil); err == nil {
							answered.Add(1)
						}
					})
				}
				wg.Wait()
				quick.Store(true)
				_, err := caller.Post(t.Context(), "1", nil)
				if answered.Load() != int32(c.answered) || (err == nil) != c.stays {
					t.Errorf("%d calls were answered, want %d; a later one: %v, want an answer: %v", answered.Load(), c.answered, err, c.stays)
				}
			})
		})
	}
}

// TestCallersThatGoAway checks that callers that give up do not open the circuit.
func TestCallersThatGoAway(t *testing.T) {
	var hang atomic.Bool
	hang.Store(true)
	c := newCaller(t, webhook.Config{URL: "https://x.example", Faults: network(func(r *http.Request) (*http.Response, error) {
		if hang.Load() {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}
		return respond(200), nil
	})})
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, _ = c.Post(ctx, "1", nil)
	}
	hang.Store(false)
	if _, err := c.Post(t.Context(), "1", nil); err != nil {
		t.Error(err)
	}
}

// TestInFlight checks that calls above the bound wait, and are refused when their time is over.
func TestInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int32
		var refused atomic.Int32
		c := newCaller(t, webhook.Config{URL: "https://x.example", InFlight: 2, Timeout: time.Second,
			Observe: func(outcome string, _ time.Duration) {
				if outcome == webhook.OutcomeRefused {
					refused.Add(1)
				}
			},
			Faults: network(func(*http.Request) (*http.Response, error) {
				most.Store(max(most.Load(), now.Add(1)))
				time.Sleep(900 * time.Millisecond)
				now.Add(-1)
				return respond(200), nil
			})})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { _, _ = c.Post(t.Context(), "1", nil) })
		}
		wg.Wait()
		if most.Load() != 2 || refused.Load() != 6 {
			t.Errorf("at most %d calls at once, %d refused; want 2 and 6", most.Load(), refused.Load())
		}
	})
}

// TestSendWaitsForItsTurn checks that the time of a call begins when it is made, however long it has waited. A
// caller that goes away while it waits gets its context's error.
func TestSendWaitsForItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCaller(t, webhook.Config{URL: "https://x.example", InFlight: 1, Timeout: time.Second,
			Faults: network(func(r *http.Request) (*http.Response, error) {
				select {
				case <-time.After(900 * time.Millisecond):
					return respond(200), nil
				case <-r.Context().Done():
					return nil, r.Context().Err()
				}
			})})
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				if _, err := c.Send(t.Context(), webhook.Document{ID: "1"}); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		if _, err := c.Send(ctx, webhook.Document{ID: "2"}); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		wg.Wait()
	})
}

func TestCheck(t *testing.T) {
	for address, good := range map[string]bool{
		"https://backend.example/auth": true, "http://127.0.0.1:9000": true, "http://localhost/x": true, "https://b.example/?k=v": true,
		"http://backend.example": false, "ftp://x": false, "backend": false, "": false, "https://user:pass@b.example": false, "https://": false,
	} {
		if wrong, fix := webhook.CheckURL(address); (wrong == "") != good || (fix == "") != good {
			t.Errorf("%q: %q, %q", address, wrong, fix)
		}
	}
	for secret, good := range map[string]bool{
		secret: true, strings.TrimPrefix(secret, "whsec_"): true, "whsec_c2hvcnQ=": false, "not base64!": false, "": false,
	} {
		if wrong, _ := webhook.CheckSecret(secret); (wrong == "") != good {
			t.Errorf("%q: %q", secret, wrong)
		}
	}
	if _, err := webhook.New(webhook.Config{URL: "https://x.example"}); err == nil {
		t.Error("a webhook without a secret was made")
	}
}
