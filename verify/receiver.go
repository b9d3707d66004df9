package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"golang.org/x/time/rate"

	"imgo/internal/events"
)

const (
	// faultsPerSecond is how often the receiver fails a call, on average at most. It does not grow with the rate of
	// events, so that a hook keeps up.
	faultsPerSecond = 3
	// maxSlow bounds the time of a slow answer. mute is how long a call is left without an answer.
	maxSlow, mute = 1500 * time.Millisecond, 15 * time.Second
	// The receiver is away for up to maxAway, awayEvery apart on average.
	awayEvery, maxAway = 20 * time.Second, 3 * time.Second
	// maxHookBody bounds the body of a call, in bytes.
	maxHookBody = 16 << 20
)

// receiver serves the calls of a hook. It takes an event before it answers 2xx. It fails some calls, some of them after
// it has taken their events, as a receiver does that is killed in between.
type receiver struct {
	address  string
	verifier *standardwebhooks.Webhook
	v        *Verifier
	take     func([]events.Document)
	calm     atomic.Bool // every call is answered at once
	limiter  *rate.Limiter

	order sync.Mutex // held while the events of a call are taken
	mu    sync.Mutex
	away  time.Time // until then the receiver is away
	next  time.Time // when it is away again
	all   int64     // number of calls
	// calls counts the calls by fault, but for the good ones.
	calls [hookAway + 1]int64
}

// newReceiver returns a receiver that passes the events of each call to take.
func newReceiver(cfg *Events, v *Verifier, take func([]events.Document)) (*receiver, error) {
	verifier, err := standardwebhooks.NewWebhook(cfg.HookSecret)
	if err != nil || cfg.HookSecret == "" {
		return nil, errors.New("is no secret of a hook: make one with: echo whsec_$(openssl rand -base64 32)")
	}
	r := &receiver{address: cfg.Hook, verifier: verifier, v: v, take: take, limiter: rate.NewLimiter(faultsPerSecond, faultsPerSecond)}
	r.calm.Store(cfg.CalmHook)
	r.next = time.Now().Add(time.Duration(rand.ExpFloat64() * float64(awayEvery)))
	return r, nil
}

// start serves until stop is called.
func (r *receiver) start(ctx context.Context) (stop func(), err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", r.address)
	if err != nil {
		return func() {}, fmt.Errorf("serve the receiver of the hook: %w", err)
	}
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return serving }}
	var running sync.WaitGroup
	running.Go(func() { _ = s.Serve(l) }) // it returns when the server is closed
	return func() {
		cancel()
		_ = s.Close()
		running.Wait()
	}, nil
}

// hookFault is what the receiver does with a call.
type hookFault int

const (
	hookGood hookFault = iota
	hookFails
	hookThrottles
	hookSlow
	hookMute
	hookAway
)

// choose returns what the receiver does with a call.
func (r *receiver) choose() hookFault {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all++
	if r.calm.Load() {
		return hookGood
	}
	now := time.Now()
	if now.After(r.next) {
		r.away = now.Add(rand.N(maxAway))
		r.next = r.away.Add(time.Duration(rand.ExpFloat64() * float64(awayEvery)))
	}
	if now.Before(r.away) {
		r.calls[hookAway]++
		return hookAway
	}
	if rand.IntN(4) > 0 || !r.limiter.Allow() {
		return hookGood
	}
	fault := []hookFault{hookFails, hookThrottles, hookSlow, hookMute}[rand.IntN(4)]
	r.calls[fault]++
	return fault
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, q.Body, maxHookBody))
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError) // the caller was killed, for example
		return
	}
	list, err := r.read(body, q.Header)
	if err != nil {
		// An answer of 400 would make a dead letter of an event of somebody else.
		r.v.problem("the hook: %v", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	fault := r.choose()
	takes := fault == hookGood || fault == hookSlow || rand.IntN(2) == 0
	if fault == hookSlow {
		r.pause(q.Context(), rand.N(maxSlow))
	}
	if takes {
		// A call whose answer the server no longer waits for still takes its events, as a real receiver does.
		r.order.Lock()
		r.take(list)
		r.order.Unlock()
	}
	switch fault {
	case hookFails, hookAway:
		w.WriteHeader(http.StatusInternalServerError)
	case hookThrottles:
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
	case hookMute:
		r.pause(q.Context(), mute)
		panic(http.ErrAbortHandler) // the connection ends without an answer
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

// pause waits for d, or until ctx is done or the receiver is to be calm.
func (r *receiver) pause(ctx context.Context, d time.Duration) {
	for until := time.Now().Add(d); time.Now().Before(until) && !r.calm.Load(); {
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(100*time.Millisecond, time.Until(until))):
		}
	}
}

// read verifies a call and returns its events.
func (r *receiver) read(body []byte, header http.Header) ([]events.Document, error) {
	if err := r.verifier.Verify(body, header); err != nil {
		return nil, fmt.Errorf("verify the signature of a call: %w", err)
	}
	kind, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil {
		return nil, fmt.Errorf("read the content type of a call: %w", err)
	}
	raw := []json.RawMessage{body}
	switch kind {
	case "application/cloudevents+json":
	case "application/cloudevents-batch+json":
		if err := json.Unmarshal(body, &raw); err != nil {
			return nil, fmt.Errorf("read the events of a call: %w", err)
		}
	default:
		return nil, fmt.Errorf("a call has the content type %q", kind)
	}
	list, err := parseEvents(raw)
	if err == nil && kind == "application/cloudevents+json" && header.Get("Webhook-Id") != list[0].ID {
		err = fmt.Errorf("event %s came as webhook-id %s", list[0].ID, header.Get("Webhook-Id"))
	}
	return list, err
}
