package store_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"imgo/envelope"
	"imgo/store"
	"imgo/store/logtest"
)

// The log of events is a log as the kept one is.
func TestEventsLogConforms(t *testing.T) {
	logtest.Run(t, func(t *testing.T) logtest.Log {
		l := openLog(t, openDB(t, store.Options{Dir: t.TempDir()}), store.LogOptions{Events: true, Partitions: 4})
		run(t, l)
		return l
	}, logtest.Options{})
}

// The two logs of a directory know nothing of each other, also after a restart.
func TestEventsLogIsApart(t *testing.T) {
	dir := t.TempDir()
	for start := range int64(3) {
		db := openDB(t, store.Options{Dir: dir, Metrics: prometheus.NewRegistry()})
		kept := openLog(t, db, store.LogOptions{Partitions: 2})
		events := openLog(t, db, store.LogOptions{Events: true, Partitions: 2})
		if _, err := store.OpenLog(db, store.LogOptions{Events: true}); err == nil {
			t.Error("the log of events is open twice")
		}
		run(t, kept)
		run(t, events)
		for i, l := range []*store.Log{kept, events, events} {
			want := map[int]int64{0: start, 1: 2 * start, 2: 2*start + 1}[i]
			if at, err := l.Append(t.Context(), 1, []byte("x")); at != want || err != nil {
				t.Errorf("start %d: offset %d, %v, want %d", start, at, err, want)
			}
		}
		if err := errors.Join(events.Close(), kept.Close(), db.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// Events are appended while pushes are refused for want of room: what frees the disk waits for them.
func TestEventsLogIsEssential(t *testing.T) {
	db := openDB(t, store.Options{Dir: t.TempDir(), Reserve: 100 << 20, Faults: store.Faults{
		FreeBytes: func(string) (int64, error) { return 60 << 20, nil },
	}})
	kept := openLog(t, db, store.LogOptions{Partitions: 4})
	events := openLog(t, db, store.LogOptions{Partitions: 4, Events: true})
	run(t, kept)
	run(t, events)
	one := []envelope.Entry{{Value: []byte("x")}}
	if err := kept.AppendMany(t.Context(), one); !errors.Is(err, envelope.ErrDiskFull) {
		t.Errorf("the kept log: %v", err)
	}
	if err := events.AppendMany(t.Context(), one); err != nil {
		t.Errorf("the log of events: %v", err)
	}
}

// What is tracked of a message is stored with it, and the times of its steps are found in their order.
func TestTrackedMessage(t *testing.T) {
	m, closeDB := openMailboxes(t, t.TempDir())
	defer closeDB()
	later := time.Now().Add(time.Hour).UnixMilli()
	entry := func(id uint64, tracked *store.MailboxTracked) store.MailboxEntry {
		return store.MailboxEntry{ID: id, TimeMS: 1, ExpiresMS: later + int64(id), Waiting: 3, Size: 1, Tracked: tracked}
	}
	entries := []store.MailboxEntry{
		entry(1, nil),
		entry(2, &store.MailboxTracked{Ref: "only a ref"}),
		entry(3, &store.MailboxTracked{Ref: "é", Level: 2, PushedMS: 77, DeadlineMS: later - 5, DeadlineAny: true, Decided: true,
			Receipts: []store.MailboxReceipt{{Device: "", TimeMS: 5}, {Device: "phone", TimeMS: 6}}, Without: []string{"a", "b"}}),
		entry(4, &store.MailboxTracked{Level: 1}),
	}
	b := m.Batch(1)
	b.PutMeta("u", &store.MailboxMeta{LastMS: 1}, time.Now().Add(2*time.Hour))
	for i := range entries {
		b.PutEntry("u", &entries[i])
		b.PutDue("u", &entries[i])
	}
	if err := b.Commit(9); err != nil {
		t.Fatal(err)
	}
	_, got, err := m.Load(1, "u")
	if diff := cmp.Diff(entries, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	dues := func(after store.DueTime, until int64, limit int) (ids []uint64, next int64) {
		t.Helper()
		list, next, _, err := m.Dues(1, after, until, limit)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range list {
			if d.User != "u" {
				t.Errorf("due %+v", d)
			}
			ids = append(ids, d.ID)
		}
		return ids, next
	}
	for _, c := range []struct {
		after store.DueTime
		until int64
		limit int
		ids   []uint64
		next  int64
	}{
		{store.DueTime{}, later - 6, 10, nil, later - 5},
		{store.DueTime{}, later - 5, 10, []uint64{3}, later + 3},
		{store.DueTime{}, later + 4, 10, []uint64{3, 3, 4}, 0},
		{store.DueTime{}, later + 4, 2, []uint64{3, 3}, later + 4},
		{store.DueTime{TimeMS: later - 5, ID: 3, User: "u"}, later + 3, 10, []uint64{3}, later + 4},
	} {
		if ids, next := dues(c.after, c.until, c.limit); !cmp.Equal(ids, c.ids) || next != c.next {
			t.Errorf("dues after %v until %d: %v, next %d; want %v, %d", c.after, c.until-later, ids, next-later, c.ids, c.next-later)
		}
	}
	b = m.Batch(1)
	b.Delete("u", &entries[2])
	if err := b.Commit(10); err != nil {
		t.Fatal(err)
	}
	if ids, _ := dues(store.DueTime{}, later+10, 10); !cmp.Equal(ids, []uint64{4}) {
		t.Errorf("dues after message 3 was deleted: %v", ids)
	}
	if err := m.DropPartition(context.Background(), 1); err != nil {
		t.Fatal(err)
	}
	if ids, _ := dues(store.DueTime{}, later+10, 10); ids != nil {
		t.Errorf("dues of a dropped partition: %v", ids)
	}
}
