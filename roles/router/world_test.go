package router_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"imgo/envelope"
	"imgo/internal/wait/waittest"
	"imgo/roles/router"
	"imgo/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memLog is a topic in memory. It keeps everything but what a test trims.
type memLog struct {
	// chunk is how many records a read gives at most; 0: all there are.
	chunk int
	// generation is the log's; 0: 1.
	generation uint16
	mu         sync.Mutex
	parts      [][]envelope.Entry
	begins     map[int32]int64
	stuck      map[int32]int64 // reads stop before this offset; 0: they do not
	reads      map[int32]int
	grown      chan struct{}
	appends    int
	fail       error
	// before is called before each append, and may wait or refuse it; nil: nothing is.
	before func(p int32, value []byte) error
	// stamp is the log's clock; nil: it has none.
	stamp func() time.Time
}

func newMemLog(partitions int) *memLog {
	return &memLog{
		parts: make([][]envelope.Entry, partitions), begins: make(map[int32]int64), stuck: make(map[int32]int64),
		reads: make(map[int32]int), grown: make(chan struct{}),
	}
}

func (l *memLog) Partitions() int32  { return int32(len(l.parts)) }
func (l *memLog) Generation() uint16 { return max(1, l.generation) }

// maxRecord is the largest record that the log of a cluster takes.
const maxRecord = 1<<20 - 1<<10

func (l *memLog) AppendMany(ctx context.Context, entries []envelope.Entry) (err error) {
	for i := range entries {
		if len(entries[i].Value) > maxRecord {
			return envelope.ErrTooLarge
		}
		if entries[i].Offset, err = l.Append(ctx, entries[i].Partition, entries[i].Value); err != nil {
			return err
		}
	}
	return nil
}

func (l *memLog) Append(_ context.Context, p int32, v []byte) (int64, error) {
	l.mu.Lock()
	before := l.before
	l.mu.Unlock()
	if before != nil {
		if err := before(p, v); err != nil {
			return 0, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return 0, l.fail
	}
	off := int64(len(l.parts[p]))
	e := envelope.Entry{Partition: p, Offset: off, Value: v}
	if l.stamp != nil {
		e.TimeMS = l.stamp().UnixMilli()
	}
	l.parts[p] = append(l.parts[p], e)
	l.appends++
	close(l.grown)
	l.grown = make(chan struct{})
	return off, nil
}

func (l *memLog) AppendEssential(ctx context.Context, p int32, v []byte) (int64, error) {
	return l.Append(ctx, p, v)
}

func (l *memLog) Read(ctx context.Context, p int32, from int64, _ int) ([]envelope.Entry, error) {
	for {
		l.mu.Lock()
		if from < l.begins[p] {
			l.mu.Unlock()
			return nil, envelope.ErrOutOfRange
		}
		end := int64(len(l.parts[p]))
		if s := l.stuck[p]; s > 0 {
			end = max(from, min(end, s))
		}
		if l.chunk > 0 {
			end = min(end, from+int64(l.chunk))
		}
		got, grown := l.parts[p][from:end], l.grown
		l.reads[p] += len(got)
		l.mu.Unlock()
		if len(got) > 0 {
			return got, nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Recent lets a waiting caller read the log itself. It gives records at every
// other offset only, so that now the caller comes first and now the follower.
func (l *memLog) Recent(p int32, from int64, _ int) []envelope.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	end := int64(len(l.parts[p]))
	if s := l.stuck[p]; s > 0 {
		end = min(end, s)
	}
	if from%2 == 0 || from < l.begins[p] || from >= end {
		return nil
	}
	return l.parts[p][from:end]
}

func (l *memLog) Bounds(_ context.Context, p int32) (int64, int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.begins[p], int64(len(l.parts[p])), nil
}

// End makes the log one whose lag is measured.
func (l *memLog) End(p int32) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(len(l.parts[p]))
}

// setBefore sets what is called before each append.
func (l *memLog) setBefore(before func(p int32, value []byte) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.before = before
}

// trim forgets the records before an offset, as retention does.
func (l *memLog) trim(p int32, begin int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begins[p] = begin
}

// read returns how many records of a partition were read.
func (l *memLog) read(p int32) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reads[p]
}

// inChunks bounds how many records a read gives.
func (l *memLog) inChunks(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.chunk = n
}

// stick makes reads stop before an offset; 0: no longer.
func (l *memLog) stick(p int32, at int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stuck[p] = at
	close(l.grown)
	l.grown = make(chan struct{})
}

// clock is a wall clock that a test moves; of the zero time: that of the bubble of testing/synctest.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.t.IsZero() {
		return time.Now()
	}
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// set sets the wall clock d ahead, as an operator does: the monotonic clock goes on as before. The seconds of the
// wall clock begin at the 31st bit of a time.Time.
func (c *clock) set(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.t
	*(*uint64)(unsafe.Pointer(&c.t)) += uint64(d/time.Second) << 30
	if c.t.Unix()-old.Unix() != int64(d/time.Second) || c.t.Sub(old) != 0 {
		panic("time.Time has another layout")
	}
}

// world is one router with all it stands on.
type world struct {
	t           *testing.T
	cfg         router.Config
	dir         string
	kept, live  *memLog
	topic       *memLog // of events; nil: none
	clock       *clock
	db          *store.DB
	ring        *ring
	growth      router.Growth
	store       func(router.Store) router.Store // what the router gets; nil: the store itself
	storeFaults store.Faults
	records     uint32 // Deps.Records
	versions    router.RecordVersions
	reg         *prometheus.Registry
	r           *router.Router
	stop        func()

	// noticed is called with each notice, and may wait; nil: nothing is.
	noticed func()

	mu     sync.Mutex
	events []string
}

func newWorld(t *testing.T, change func(*router.Config)) *world {
	return newWorldOf(t, nil, nil, change)
}

// newWorldOf is a world with a given log, and a router that owns only what the
// ring says; nil: a new log of 2 partitions, all of them.
func newWorldOf(t *testing.T, kept *memLog, owned *ring, change func(*router.Config)) *world {
	if kept == nil {
		kept = newMemLog(2)
	}
	cfg := router.DefaultConfig()
	cfg.FlushInterval = time.Hour
	cfg.WatchInterval = 5 * time.Millisecond
	if change != nil {
		change(&cfg)
	}
	w := &world{t: t, cfg: cfg, dir: t.TempDir(), kept: kept, ring: owned, live: newMemLog(1), clock: &clock{t: time.Now()}}
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

func (w *world) start() {
	w.t.Helper()
	db, err := store.Open(store.Options{Dir: w.dir, Log: zerolog.Nop(), Faults: w.storeFaults})
	if err != nil {
		w.t.Fatal(err)
	}
	w.reg = prometheus.NewRegistry()
	var owned func() ([]int32, <-chan struct{})
	if w.ring != nil {
		owned = w.ring.get
	}
	var boxes router.Store = store.NewMailboxes(db).ForGeneration(w.kept.Generation())
	if w.store != nil {
		boxes = w.store(boxes)
	}
	var topic router.EventsLog
	if w.topic != nil {
		topic = w.topic
	}
	r, err := router.New(w.cfg, router.Deps{
		Topic: topic, Owned: owned, Metrics: w.reg, Growth: w.growth,
		Kept: w.kept, Live: w.live, Store: boxes, Log: zerolog.Nop(), Now: w.clock.now, Records: w.records, Versions: w.versions,
		Notices: func(kind, user string, _ int, _ string) {
			if w.noticed != nil {
				w.noticed()
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, kind+" "+user)
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	w.db, w.r = db, r
	eventually(w.t, "the router has found its place", func() bool { return r.Ready() == nil })
	w.stop = func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("router ended with %v", err)
		}
		if err := db.Close(); err != nil {
			w.t.Errorf("close store: %v", err)
		}
		w.stop = func() {}
	}
}

func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.start()
}

// waitLimit bounds every wait: far more than anything takes that works.
const waitLimit = time.Minute

var eventually = waittest.Eventually

func (w *world) append(user string, rec *envelope.Record) uint64 {
	w.t.Helper()
	if rec.Id == nil {
		rec.Id = envelope.NewRecordID()
	}
	rec.TimeMs = w.clock.now().UnixMilli()
	v, err := rec.MarshalVT()
	if err != nil {
		w.t.Fatal(err)
	}
	off, err := w.kept.Append(context.Background(), envelope.Partition(user, 2), v)
	if err != nil {
		w.t.Fatal(err)
	}
	return envelope.ID(1, off)
}

func (w *world) push(user, body string) uint64 {
	w.t.Helper()
	return w.append(user, &envelope.Record{Push: &envelope.Push{
		Users: []string{user}, Op: 5, Body: []byte(body), ExpiresMs: w.clock.now().Add(time.Hour).UnixMilli(),
	}})
}

func (w *world) ack(user, device string, ids ...uint64) {
	w.t.Helper()
	id := w.append(user, &envelope.Record{Acks: &envelope.Acks{Acks: []*envelope.Ack{{User: user, Device: device, Ids: ids}}}})
	w.applied(user, id)
}

// pendingIDs are the ids of all messages that are pending for a device.
func (w *world) pendingIDs(user, device string) (ids []uint64) {
	w.t.Helper()
	b, err := w.r.CatchUp(context.Background(), &envelope.CatchUpRequest{
		To: &envelope.Address{Comet: "c", Session: 1}, User: user, Device: device, MaxMessages: 1 << 20, MaxBytes: 1 << 30,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, m := range b.Messages {
		ids = append(ids, m.Id)
	}
	return ids
}

// applied waits until the router has applied a record.
func (w *world) applied(user string, id uint64) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	_, err := w.r.Resolve(ctx, &envelope.ResolveRequest{
		Partition: uint32(envelope.Partition(user, 2)), Items: []*envelope.ResolveItem{{Id: id}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func session(comet string, id uint64, user, device string) *envelope.SessionInfo {
	return &envelope.SessionInfo{
		Address: &envelope.Address{Comet: comet, Session: id}, User: user, Device: device, Incarnation: id >> 32,
	}
}

func (w *world) attach(s *envelope.SessionInfo) *envelope.AttachReply {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	reply, err := w.r.Attach(ctx, &envelope.AttachRequest{Session: s})
	if err != nil {
		w.t.Fatal(err)
	}
	return reply
}

func (w *world) detach(s *envelope.SessionInfo) {
	w.t.Helper()
	err := w.r.Detach(context.Background(), &envelope.DetachRequest{
		Sessions: []*envelope.Detached{{Session: s.Address, User: s.User, Device: s.Device}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func bodies(b *envelope.Backlog) string {
	out := ""
	for _, m := range b.Messages {
		out += string(m.Body)
	}
	return out
}

func (w *world) resolve(user string, id uint64) string {
	w.t.Helper()
	reply, err := w.r.Resolve(context.Background(), &envelope.ResolveRequest{
		Partition: uint32(envelope.Partition(user, 2)), Items: []*envelope.ResolveItem{{Id: id, Users: []string{user}}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	out := ""
	for _, to := range reply.Items[0].To {
		_, prev := envelope.SplitID(to.Prev)
		if to.Prev == 0 {
			prev = -1
		}
		out += fmt.Sprintf("%s/%d prev %d;", to.To.Comet, to.To.Session, prev)
	}
	return out
}
