package hooks_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/internal/settings"
	"imgo/internal/webhook"
	"imgo/roles/job"
	"imgo/roles/job/hooks"
)

// retention is how long the topics keep events.
const retention = 72 * time.Hour

const secret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="

// topic is an events topic of one partition in memory.
type topic struct {
	number  uint16
	mu      sync.Mutex
	begin   int64
	events  int64 // that were ever added
	entries []envelope.Entry
	grown   chan struct{}
	short   int // answers to Bounds that lack the last entry
}

func newTopic(generation uint16) *topic {
	return &topic{number: generation, grown: make(chan struct{})}
}

func (l *topic) Partitions() int32  { return 1 }
func (l *topic) Generation() uint16 { return l.number }

func (l *topic) Bounds(context.Context, int32) (begin, end int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	end = l.begin + int64(len(l.entries))
	if l.short > 0 {
		l.short--
		end--
	}
	return l.begin, end, nil
}

func (l *topic) End(int32) int64 {
	_, end, _ := l.Bounds(context.Background(), 0)
	return end
}

func (l *topic) Read(ctx context.Context, _ int32, from int64, maxBytes int) ([]envelope.Entry, error) {
	for {
		l.mu.Lock()
		if from < l.begin || from > l.begin+int64(len(l.entries)) {
			l.mu.Unlock()
			return nil, envelope.ErrOutOfRange
		}
		rest, grown := l.entries[from-l.begin:], l.grown
		l.mu.Unlock()
		if len(rest) > 0 {
			n, size := 0, 0
			for n < len(rest) && (n == 0 || size < maxBytes) {
				size += len(rest[n].Value)
				n++
			}
			return rest[:n:n], nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// add appends an event of a user and returns its id.
func (l *topic) add(user string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	offset := l.begin + int64(len(l.entries))
	e := events.Event{
		ID: events.ID{Record: envelope.ID(l.number, l.events)}, Type: events.Delivered, User: user, Device: "phone",
		TimeMS: time.Now().UnixMilli(),
	}
	l.entries = append(l.entries, envelope.Entry{Offset: offset, Value: e.AppendJSON(nil, "imgo/test")})
	l.events++
	close(l.grown)
	l.grown = make(chan struct{})
	return events.TextID(0, e.ID)
}

// trim lets the topic forget its oldest events.
func (l *topic) trim(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begin, l.entries = l.begin+int64(n), l.entries[n:]
}

// makeAgain deletes the topic and makes it again. The kept log goes on, so events have higher ids.
func (l *topic) makeAgain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begin, l.entries = 0, nil
	close(l.grown)
	l.grown = make(chan struct{})
}

// openTopic is a topic as a core opens it. Its reads fail with envelope.ErrClosed after closed was closed.
type openTopic struct {
	*topic
	closed chan struct{}
}

func (l *openTopic) Bounds(ctx context.Context, partition int32) (begin, end int64, err error) {
	select {
	case <-l.closed:
		return 0, 0, envelope.ErrClosed
	default:
		return l.topic.Bounds(ctx, partition)
	}
}

func (l *openTopic) Read(ctx context.Context, partition int32, from int64, maxBytes int) ([]envelope.Entry, error) {
	reading, cancel := context.WithCancel(ctx)
	defer cancel()
	var closing sync.WaitGroup
	defer closing.Wait()
	defer cancel()
	closing.Go(func() {
		select {
		case <-l.closed:
			cancel()
		case <-reading.Done():
		}
	})
	entries, err := l.topic.Read(reading, partition, from, maxBytes)
	if err != nil && reading.Err() != nil && ctx.Err() == nil {
		err = envelope.ErrClosed
	}
	return entries, err
}

// topics are topics of which the last one is the newest generation. As the topics of a node do, they lend the log of the core
// that serves, which growth closes.
type topics struct {
	mu      sync.Mutex
	all     []*topic
	serving *openTopic
}

func (t *topics) Current() uint16 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return uint16(len(t.all))
}

func (t *topics) Open(_ context.Context, generation uint16) (envelope.Log, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all[generation-1] == nil {
		return nil, envelope.ErrNotFound
	}
	if int(generation) == len(t.all) {
		return t.serving, nil
	}
	return t.all[generation-1], nil
}

// remove deletes the topic of a generation.
func (t *topics) remove(generation uint16) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all[generation-1] = nil
}

// grow begins a generation. It closes the log of the one before.
func (t *topics) grow() *topic {
	t.mu.Lock()
	defer t.mu.Unlock()
	newest := newTopic(uint16(len(t.all) + 1))
	t.all = append(t.all, newest)
	if t.serving != nil {
		close(t.serving.closed)
	}
	t.serving = &openTopic{newest, make(chan struct{})}
	return newest
}

// table is a table in memory. While failing is set, nothing is stored. beforeControl, if not nil, runs once, before the
// next entry that says what the hook is to do.
type table struct {
	beforeControl func()
	mu            sync.Mutex
	keys          [][]byte
	values        [][]byte
	grown         chan struct{}
	failing       bool
}

func newTable() *table { return &table{grown: make(chan struct{})} }

func (t *table) Put(_ context.Context, key, value []byte) (int64, error) {
	if !bytes.HasPrefix(key, []byte("state/")) {
		t.mu.Lock()
		before := t.beforeControl
		t.beforeControl = nil
		t.mu.Unlock()
		if before != nil {
			before()
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failing {
		return 0, envelope.ErrUnavailable
	}
	t.keys, t.values = append(t.keys, bytes.Clone(key)), append(t.values, bytes.Clone(value))
	close(t.grown)
	t.grown = make(chan struct{})
	return int64(len(t.keys) - 1), nil
}

func (t *table) End(context.Context) (int64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return int64(len(t.keys)), nil
}

func (t *table) Follow(ctx context.Context, from int64, fn func(offset int64, key, value []byte) error) error {
	for {
		t.mu.Lock()
		keys, values, grown := t.keys[from:], t.values[from:], t.grown
		t.mu.Unlock()
		for i := range keys {
			if err := fn(from, keys[i], values[i]); err != nil {
				return err
			}
			from++
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// fail changes whether entries are stored.
func (t *table) fail(failing bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failing = failing
}

// state returns the newest state of the partition of the first topic.
func (t *table) state() (key, value []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.keys {
		if string(t.keys[i]) == "state/orders/1/0" {
			key, value = t.keys[i], t.values[i]
		}
	}
	return key, value
}

// group is a group of one member with one partition. Its position outlives the member.
type group struct {
	mu   sync.Mutex
	next int64
}

func (g *group) Next(context.Context) (job.Assignment, error) { return g, nil }
func (g *group) Done() <-chan struct{}                        { return nil }
func (g *group) Close() error                                 { return nil }

func (g *group) Parts() []job.Part {
	g.mu.Lock()
	defer g.mu.Unlock()
	return []job.Part{{Partition: 0, Next: g.next}}
}

func (g *group) Commit(_ context.Context, at []job.Part) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.next = at[0].Next
	return nil
}

// change changes the group, while no position is being stored.
func (g *group) change(fn func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	fn()
}

// event is an event as the receiver gets it.
type event struct {
	ID      string `json:"id"`
	Subject string `json:"subject"`
}

// call is a call as the receiver gets it.
type call struct {
	id, contentType string
	events          []event
	at              time.Time
}

// receiver is the address of a hook. It stands in for the network.
type receiver struct {
	t      *testing.T
	answer func(c call) (status int, header http.Header)
	takes  time.Duration // for each call

	mu    sync.Mutex
	calls []call
	taken []event // of calls that were answered with success, in the order of the answers
}

func (r *receiver) RoundTrip(q *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return nil, err
	}
	verifier, err := standardwebhooks.NewWebhookRaw([]byte("01234567890123456789012345678901"))
	if err != nil {
		return nil, err
	}
	if err := verifier.VerifyIgnoringTimestamp(body, q.Header); err != nil {
		r.t.Errorf("a call has no good signature: %v", err)
	}
	c := call{id: q.Header.Get("webhook-id"), contentType: q.Header.Get("Content-Type"), at: time.Now()}
	if body[0] == '[' {
		err = json.Unmarshal(body, &c.events)
	} else {
		c.events = make([]event, 1)
		err = json.Unmarshal(body, &c.events[0])
	}
	if err != nil {
		r.t.Errorf("a call has no events: %v", err)
	}
	r.mu.Lock()
	r.calls = append(r.calls, c)
	status, header := http.StatusOK, http.Header(nil)
	if r.answer != nil {
		status, header = r.answer(c)
	}
	wait := time.NewTimer(r.takes)
	r.mu.Unlock()
	if status == 0 { // no answer
		wait.Reset(time.Hour)
	}
	select {
	case <-wait.C:
	case <-q.Context().Done():
		return nil, q.Context().Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if status/100 == 2 {
		r.taken = append(r.taken, c.events...)
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(bytes.NewReader(nil)), Request: q}, nil
}

// change changes what the receiver answers, while no answer is being made.
func (r *receiver) change(fn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn()
}

// always makes the receiver answer each call from now on with a status.
func (r *receiver) always(status int) {
	r.change(func() { r.answer = func(call) (int, http.Header) { return status, nil } })
}

// ids returns the ids of the events of a user that were taken, each once.
func (r *receiver) ids(user string) (ids []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.taken {
		if e.Subject == user && !slices.Contains(ids, e.ID) {
			ids = append(ids, e.ID)
		}
	}
	return ids
}

func (r *receiver) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.calls)
}

// world has a hook and what it works with.
type world struct {
	t      *testing.T
	topics topics
	topic  *topic // the newest one
	table  *table
	groups map[uint16]*group
	to     *receiver
	cfg    hooks.Config
	alone  bool                // the process has no group
	sent   map[string][]string // ids by user
	// metrics are those of the running hook.
	metrics *prometheus.Registry
	stop    func()
	ahead   atomic.Int64 // nanoseconds by which the wall clock of jobs is ahead
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }

// inWorld runs a test with a running hook, in a bubble with a clock of its own.
func inWorld(t *testing.T, fn func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			t: t, table: newTable(), groups: make(map[uint16]*group), to: &receiver{t: t}, sent: make(map[string][]string),
			cfg: settings.Default[hooks.Config](),
		}
		w.cfg.Name, w.cfg.URL, w.cfg.Secrets = "orders", "https://backend.example/hook", []string{secret}
		w.topic = w.topics.grow()
		fn(w)
		if w.stop != nil {
			w.stop()
		}
	})
}

// start starts the hook, and returns once it follows the topic.
func (w *world) start() {
	w.t.Helper()
	w.metrics = prometheus.NewRegistry()
	deps := hooks.Deps{
		Topics: &w.topics, Table: w.table, Log: zerolog.Nop(), Metrics: w.metrics, Faults: webhook.Faults{Transport: w.to}, Now: w.now,
		Group: func(_ context.Context, _ string, generation uint16) (hooks.Group, error) {
			if w.groups[generation] == nil {
				w.groups[generation] = &group{next: -1}
			}
			return w.groups[generation], nil
		},
	}
	if w.alone {
		deps.Group = nil
	}
	h, err := hooks.New([]hooks.Config{w.cfg}, deps)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	w.stop = func() {
		w.t.Helper()
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
		w.stop = nil
	}
	synctest.Wait()
}

// add appends n events of each user, in turns.
func (w *world) add(n int, users ...string) {
	for range n {
		for _, user := range users {
			w.sent[user] = append(w.sent[user], w.topic.add(user))
		}
	}
}

// after lets time pass.
func (w *world) after(d time.Duration) {
	time.Sleep(d) // in the bubble
	synctest.Wait()
}

// checkAll fails the test unless each event was taken and those of a user in their order.
func (w *world) checkAll() {
	w.t.Helper()
	for user, sent := range w.sent {
		if got := w.to.ids(user); !slices.Equal(got, sent) {
			w.t.Errorf("of %s the receiver has %v, want %v", user, got, sent)
		}
	}
}

// counted returns how many events the metrics count with a result.
func (w *world) counted(result string) (n float64) {
	w.t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				if family.GetName() == "imgo_hook_events_total" && label.GetValue() == result {
					n += m.GetCounter().GetValue()
				}
			}
		}
	}
	return n
}

// status returns the status of the hook, as callers of the API see it.
func (w *world) status() (s events.Hook) {
	w.t.Helper()
	w.admin(func(ctx context.Context, a *hooks.Admin) error {
		list, err := a.List(ctx)
		if err == nil && len(list) != 1 {
			err = fmt.Errorf("%d hooks", len(list))
		}
		if err == nil {
			s = list[0]
		}
		return err
	})
	return s
}

func (w *world) admin(fn func(context.Context, *hooks.Admin) error) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	a, err := hooks.New([]hooks.Config{w.cfg}, hooks.Deps{
		Topics: &w.topics, ShowOnly: true, Table: w.table, Log: zerolog.Nop(), Retention: retention, Now: time.Now,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	if err := fn(ctx, &a.Admin); err != nil {
		w.t.Error(err)
	}
	cancel()
	<-done
}
