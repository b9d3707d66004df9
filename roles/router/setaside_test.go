package router_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"imgo/envelope"
	"imgo/roles/router"
	"imgo/store"
)

// badRecords returns records of each kind that cannot be stored, by name. u is a user that can be stored.
func badRecords(t *testing.T, u string) map[string]*envelope.Record {
	t.Helper()
	long := strings.Repeat("k", 70_000)
	expires := time.Now().Add(time.Hour).UnixMilli()
	pushTo := func(users ...string) *envelope.Push {
		return &envelope.Push{Users: users, Op: 5, Body: []byte("x"), ExpiresMs: expires}
	}
	keyed := pushTo(u)
	keyed.IdempotencyKey = long
	records := map[string]*envelope.Record{
		"idempotency key": {Push: keyed},
		"user":            {Push: pushTo(u, long)},
		"empty user":      {Push: pushTo("")},
		"claim":           {Claim: &envelope.Claim{Key: long}},
		"device's name":   {Device: &envelope.Device{User: u, Device: long}},
		"device's user":   {Device: &envelope.Device{User: "a\x00b", Device: "d"}},
		"moved key":       {Moved: &envelope.Moved{Keys: []*envelope.MovedKey{{User: u, Key: long, Id: 1, ExpiresMs: expires}}}},
		"moved claim":     {Moved: &envelope.Moved{Claims: []*envelope.MovedClaim{{Key: long, Id: 1, ExpiresMs: expires}}}},
		"moved mailbox":   {Moved: &envelope.Moved{Mailboxes: []*envelope.MovedMailbox{{User: long, Last: true}}}},
	}
	// A record of any other kind is bad by its user.
	byHand := slices.Collect(maps.Values(records))
	fields := (&envelope.Record{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		kind := fields.Get(i)
		has := func(rec *envelope.Record) bool { return rec.ProtoReflect().Has(kind) }
		if kind.Message() == nil || kind.Name() == "fence" || slices.ContainsFunc(byHand, has) {
			continue // a fence has nothing to store
		}
		rec := &envelope.Record{}
		if !setUsers(rec.ProtoReflect().Mutable(kind).Message(), long) {
			t.Errorf("a record of the kind %s names no user: say here what makes it bad", kind.Name())
		}
		records[string(kind.Name())] = rec
	}
	return records
}

// setUsers gives a name to each user in a message and in the messages that it has, and a text to each other name. It
// reports whether there is a user.
func setUsers(m protoreflect.Message, name string) (found bool) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		switch {
		case field.Message() != nil && field.IsList():
			found = setUsers(m.Mutable(field).List().AppendMutable().Message(), name) || found
		case field.Message() != nil:
			found = setUsers(m.Mutable(field).Message(), name) || found
		case field.Name() == "user":
			m.Set(field, protoreflect.ValueOfString(name))
			found = true
		case field.Kind() == protoreflect.StringKind && !field.IsList():
			m.Set(field, protoreflect.ValueOfString("x"))
		}
	}
	return found
}

// A record that cannot be stored stops nothing: those after it are applied and written, and it is counted and
// reported once.
func TestRecordsThatCannotBeApplied(t *testing.T) {
	const u = "u"
	for name, rec := range badRecords(t, u) {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *router.Config) { c.FlushInterval = time.Millisecond })
			w.append(u, rec)
			id := w.push(u, "after")
			w.applied(u, id)
			eventually(t, "all is written", func() bool {
				at, _, ok, err := store.NewMailboxes(w.db).Position(envelope.Partition(u, 2))
				return err == nil && ok && at >= id
			})
			if n := w.counter("imgo_router_set_aside_records_total"); n != 1 || !slices.Equal(w.happened(), []string{"record_set_aside "}) {
				t.Errorf("%v were set aside, events %v", n, w.happened())
			}
			if err := w.r.Ready(); err != nil {
				t.Error(err)
			}
			w.restart()
			w.attach(session("c", 1, u, ""))
			if ids := w.pendingIDs(u, ""); !slices.Contains(ids, id) {
				t.Errorf("%v wait", ids)
			}
		})
	}
}

// brokenStore cannot be written to until it is mended.
type brokenStore struct {
	router.Store
	closed *store.DB
	mended *atomic.Bool
}

func (b brokenStore) Batch(partition int32) *store.MailboxBatch {
	if b.mended.Load() {
		return b.Store.Batch(partition)
	}
	return store.NewMailboxes(b.closed).Batch(partition)
}

// breakStore starts the router again with a store that cannot be written to until mended is set.
func (w *world) breakStore() (mended *atomic.Bool) {
	w.t.Helper()
	closed, err := store.Open(store.Options{Dir: w.t.TempDir()})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		w.t.Fatal(err)
	}
	mended = new(atomic.Bool)
	w.stop()
	w.store = func(s router.Store) router.Store { return brokenStore{s, closed, mended} }
	w.start()
	return mended
}

// A router whose store takes nothing does not apply records without bound. It goes on once the store takes them.
func TestRecordsAreNotAppliedWithoutBoundWhileNothingIsWritten(t *testing.T) {
	const flushBytes, records = 1 << 10, 200
	w := newWorld(t, func(c *router.Config) { c.FlushInterval, c.FlushBytes = time.Millisecond, flushBytes })
	mended := w.breakStore()
	w.kept.inChunks(1)
	var last uint64
	for range records {
		last = w.push("u", strings.Repeat("x", flushBytes/2))
	}
	applied := func() float64 { return w.counter("imgo_router_applied_records_total") }
	eventually(t, "the records wait for the store", func() bool {
		return applied() >= records || w.r.Ready() != nil
	})
	if n := applied(); n > 2*17 {
		t.Errorf("%v records of half of FlushBytes each were applied", n)
	}
	mended.Store(true)
	eventually(t, "the router is ready again", func() bool { return w.r.Ready() == nil })
	w.applied("u", last)
	eventually(t, "all is written", func() bool { return metric(w, "imgo_router_unflushed_bytes") == 0 })
}

// A router whose store takes nothing for long says that it is not ready.
func TestNotReadyWhileNothingIsWritten(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.FlushInterval = time.Millisecond })
	w.breakStore()
	w.applied("u", w.push("u", "a"))
	eventually(t, "the router is not ready", func() bool {
		w.clock.add(time.Second)
		return errors.Is(w.r.Ready(), envelope.ErrUnavailable)
	})
}

// What retention took from a router that was stopped is counted and reported.
func TestRecordsThatLeftTheLogOfAStoppedRouter(t *testing.T) {
	const u = "u"
	w := newWorld(t, nil)
	w.attach(session("c", 1, u, "d"))
	w.applied(u, w.push(u, "a"))
	w.stop()
	first := w.push(u, "lost")
	w.push(u, "lost too")
	last := w.push(u, "kept")
	_, begin := envelope.SplitID(last)
	w.kept.trim(envelope.Partition(u, 2), begin)
	w.start()
	if n := w.counter("imgo_router_skipped_records_total"); n != 2 || !slices.Equal(w.happened(), []string{"records_skipped "}) {
		t.Errorf("%v were skipped (%d is the first), events %v", n, first, w.happened())
	}
	to := &envelope.Address{Comet: "c", Session: 1}
	if b, err := w.r.CatchUp(context.Background(), &envelope.CatchUpRequest{To: to, User: u, Device: "d"}); err != nil ||
		bodies(b) != "akept" {
		t.Errorf("%q wait, %v", bodies(b), err)
	}
}
