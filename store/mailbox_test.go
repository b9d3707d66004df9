package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/testing/protocmp"

	"imgo/envelope"
	"imgo/store"
)

func openMailboxes(t *testing.T, dir string) (*store.Mailboxes, func()) {
	t.Helper()
	db, err := store.Open(store.Options{Dir: dir, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	stop := func() {
		if !closed {
			closed = true
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return store.NewMailboxes(db), stop
}

func entryAt(id uint64, expires time.Time) store.MailboxEntry {
	return store.MailboxEntry{ID: id, TimeMS: int64(id), ExpiresMS: expires.UnixMilli(), Waiting: 1<<63 | 1, Acked: id%2 == 0, Size: 3}
}

func TestMailboxSurvivesAReopen(t *testing.T) {
	dir := t.TempDir()
	m, stop := openMailboxes(t, dir)
	hour := time.Now().Add(time.Hour)
	meta := &store.MailboxMeta{LastMS: 7, Dropped: 3, Devices: []store.MailboxDevice{
		{Name: "", Bit: 0, Since: 1, SeenMS: 2}, {Name: "ünï", Bit: 63, Since: 1 << 50, SeenMS: 1 << 40}}}
	one, two, shared := entryAt(1, hour), entryAt(2, hour), entryAt(3, hour)
	shared.Shared, shared.Unclaimed = true, true
	b := m.Batch(1)
	b.PutMeta("u", meta, hour)
	for _, e := range []*store.MailboxEntry{&one, &two, &shared} {
		b.PutEntry("u", e)
		b.PutBody("u", e, store.MailboxBody{Op: -5, Body: []byte(fmt.Sprint("b", e.ID))})
	}
	b.PutEntry("v", &shared)
	b.PutEntry("u2", &one) // a user whose name begins with another user's name
	b.Use("u", "key", 9, hour)
	b.Claim("claim", store.MailboxClaim{ID: 10, Record: [12]byte{1, 2}}, hour)
	if err := b.Commit(77); err != nil {
		t.Fatal(err)
	}
	stop()
	m, _ = openMailboxes(t, dir)

	gotMeta, entries, err := m.Load(1, "u")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(meta, gotMeta); diff != "" {
		t.Errorf("meta: %s", diff)
	}
	if diff := cmp.Diff([]store.MailboxEntry{one, two, shared}, entries); diff != "" {
		t.Errorf("entries: %s", diff)
	}
	bodies, err := m.Bodies(1, "u", append(entries, entryAt(4, hour)))
	if err != nil || len(bodies) != 4 || string(bodies[0].Body) != "b1" || bodies[0].Op != -5 || bodies[3] != nil {
		t.Errorf("bodies: %v, %v", bodies, err)
	}
	if bodies, err := m.Bodies(1, "v", []store.MailboxEntry{shared}); err != nil || string(bodies[0].Body) != "b3" {
		t.Errorf("the shared body: %v, %v", bodies, err)
	}
	for _, c := range []struct {
		partition int32
		user, key string
		id        uint64
	}{{1, "u", "key", 9}, {1, "u", "claim", 0}, {2, "u", "key", 0}} {
		id, ok, err := m.Used(c.partition, c.user, c.key)
		if err != nil || id != c.id || ok != (c.id != 0) {
			t.Errorf("Used(%d, %q, %q) = %d, %v, %v", c.partition, c.user, c.key, id, ok, err)
		}
	}
	for key, want := range map[string]store.MailboxClaim{"claim": {ID: 10, Record: [12]byte{1, 2}}, "none": {}} {
		if c, ok, err := m.Claimed(1, key); err != nil || c != want || ok != (want.ID != 0) {
			t.Errorf("Claimed(1, %q) = %v, %v, %v", key, c, ok, err)
		}
	}
	if pos, version, ok, err := m.Position(1); pos != 77 || version != envelope.RecordVersion || !ok || err != nil {
		t.Errorf("position %d, %v, %v", pos, ok, err)
	}
	if _, _, ok, err := m.Position(2); ok || err != nil {
		t.Errorf("a position of a partition that was never written: %v, %v", ok, err)
	}

	b = m.Batch(1)
	b.Delete("u", &one)
	b.Delete("u", &shared)
	if err := b.Commit(78); err != nil {
		t.Fatal(err)
	}
	if _, entries, _ := m.Load(1, "u"); len(entries) != 1 || entries[0].ID != 2 {
		t.Errorf("after the deletion: %v", entries)
	}
	if bodies, err := m.Bodies(1, "v", []store.MailboxEntry{shared}); err != nil || bodies[0] == nil {
		t.Errorf("the shared body went with another user's entry: %v", err)
	}
	if err := m.DropPartition(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if meta, entries, err := m.Load(1, "u"); meta != nil || len(entries) != 0 || err != nil {
		t.Errorf("after the drop: %v, %v, %v", meta, entries, err)
	}
}

// TestMailboxMeta checks that a meta is read back as it was, whatever it has, and that no other bytes are read.
func TestMailboxMeta(t *testing.T) {
	rooms := &store.MailboxRooms{At: 300, NotedMS: 6, Names: []string{"r", "", "s"}}
	reads := &store.MailboxReads{At: 1 << 60, UpTo: 1 << 50, IDs: []uint64{1<<50 + 1, 1<<50 + 400}}
	devices := []store.MailboxDevice{{Name: "a", Bit: 2, Since: 1, SeenMS: 2, NotedMS: 3}, {Name: "b", Bit: 0, Since: 4}}
	published := slices.Clone(devices)
	published[1].Published, published[1].PublishedMS = 1<<64-1, 1<<40
	for name, meta := range map[string]store.MailboxMeta{
		"empty":           {},
		"devices":         {LastMS: 7, Dropped: 8, Devices: devices},
		"moved":           {Moved: 9},
		"rooms":           {Devices: devices, Moved: 9, Rooms: rooms},
		"published":       {Devices: published},
		"published, all":  {LastMS: 7, Dropped: 8, Devices: published, Moved: 9, Rooms: rooms},
		"published, room": {Devices: published, Rooms: &store.MailboxRooms{At: 1}},
		"reads":           {Devices: devices, Reads: reads},
		"empty reads":     {Reads: &store.MailboxReads{}},
		"online":          {Presence: &store.MailboxPresence{At: 9, Online: true, SinceMS: 4, NotedMS: 300}},
		"offline":         {Presence: &store.MailboxPresence{At: 1 << 60}},
		"all": {LastMS: 1, Dropped: 2, Devices: devices, Moved: 9, Rooms: rooms, Reads: reads,
			Presence: &store.MailboxPresence{At: 5, Online: true, SinceMS: 6, NotedMS: 7}},
	} {
		raw, _ := store.EncodeMailbox(&meta, &store.MailboxEntry{})
		got, _, errs := store.DecodeMailbox(raw)
		if diff := cmp.Diff(&meta, got); errs[0] != nil || diff != "" {
			t.Errorf("%s: %v, %s", name, errs[0], diff)
		}
		if _, _, errs := store.DecodeMailbox(append(slices.Clone(raw), 99, 2, 'n', 'o')); errs[0] == nil {
			t.Errorf("%s: bytes after its end were read", name)
		}
		for n := range raw {
			if _, _, errs := store.DecodeMailbox(raw[:n]); errs[0] == nil {
				t.Errorf("%s: a value that is cut off at %d was read", name, n)
			}
		}
	}
	for _, format := range []byte{0, 2, 3} {
		_, _, errs := store.DecodeMailbox([]byte{format, 0, 0, 0, 0, 0, 0, 0})
		if errs[0] == nil || !strings.Contains(errs[0].Error(), "format") {
			t.Errorf("format %d was read: %v", format, errs[0])
		}
	}
}

func TestMailboxEntriesExpire(t *testing.T) {
	m, _ := openMailboxes(t, t.TempDir())
	// A clock that is ahead of the one of the messages must not take them.
	gone, here := entryAt(1, time.Now().Add(-store.ClockSlack-3*time.Second)), entryAt(2, time.Now().Add(-time.Hour))
	b := m.Batch(0)
	b.PutMeta("u", &store.MailboxMeta{}, time.Now().Add(time.Hour))
	b.PutEntry("u", &gone)
	b.PutEntry("u", &here)
	if err := b.Commit(1); err != nil {
		t.Fatal(err)
	}
	if _, entries, err := m.Load(0, "u"); err != nil || len(entries) != 1 || entries[0].ID != 2 {
		t.Errorf("entries: %v, %v", entries, err)
	}
}

func TestMailboxMetaExpiry(t *testing.T) {
	m, _ := openMailboxes(t, t.TempDir())
	at := time.Unix(4e9, 0)
	for _, test := range []struct {
		expires time.Time
		want    uint64
	}{{time.Time{}, 0}, {at, uint64(at.Add(store.ClockSlack).Unix()) + 1}} {
		b := m.Batch(0)
		b.PutMeta("u", &store.MailboxMeta{}, test.expires)
		if err := b.Commit(1); err != nil {
			t.Fatal(err)
		}
		if got, err := store.MetaExpiresAt(m, 0, "u"); err != nil || got != test.want {
			t.Errorf("a meta until %v expires at %d, %v; want %d", test.expires, got, err, test.want)
		}
	}
}

// TestMailboxBatchOfAnySize shows that a batch that is larger than a transaction of Badger is
// written completely.
func TestMailboxBatchOfAnySize(t *testing.T) {
	m, _ := openMailboxes(t, t.TempDir())
	b := m.Batch(0)
	hour := time.Now().Add(time.Hour)
	b.PutMeta("u", &store.MailboxMeta{}, hour)
	for id := uint64(1); id <= 60_000; id++ {
		e := entryAt(id, hour)
		b.PutEntry("u", &e)
	}
	big := entryAt(1, hour)
	for range 10 {
		b.PutBody("u", &big, store.MailboxBody{Op: 5, Body: make([]byte, 500<<10)})
	}
	if err := b.Commit(60_000); err != nil {
		t.Fatal(err)
	}
	if _, entries, err := m.Load(0, "u"); err != nil || len(entries) != 60_000 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	if pos, _, _, _ := m.Position(0); pos != 60_000 {
		t.Fatalf("position %d", pos)
	}
}

func TestMailboxNamesBrokenEntry(t *testing.T) {
	m, _ := openMailboxes(t, t.TempDir())
	e := entryAt(5, time.Now().Add(time.Hour))
	b := m.Batch(3)
	b.PutMeta("123", &store.MailboxMeta{}, time.Now().Add(time.Hour))
	b.PutEntry("123", &e)
	if err := b.Commit(1); err != nil {
		t.Fatal(err)
	}
	if err := store.BreakMailboxEntry(m, 3, "123", 5); err != nil {
		t.Fatal(err)
	}
	_, _, err := m.Load(3, "123")
	if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), `"123"`) || !strings.Contains(err.Error(), "partition 3") {
		t.Fatalf("got %v", err)
	}
}

// FuzzMailboxValue decodes arbitrary stored bytes. It must not panic, and decoding what was
// decoded and encoded again must give the same value.
func FuzzMailboxValue(f *testing.F) {
	meta, entry := store.EncodeMailbox(&store.MailboxMeta{LastMS: 1, Devices: []store.MailboxDevice{{Name: "d", Bit: 3, Since: 1 << 48}}},
		&store.MailboxEntry{TimeMS: 1, ExpiresMS: 2, Waiting: 3, Acked: true, Size: 4})
	fields, _ := store.EncodeMailbox(&store.MailboxMeta{Moved: 2, Rooms: &store.MailboxRooms{At: 1, Names: []string{"r"}},
		Devices: []store.MailboxDevice{{Name: "d", Bit: 3, Since: 1, Published: 7, PublishedMS: 8}}}, &store.MailboxEntry{})
	f.Add(meta)
	f.Add(fields)
	f.Add(entry)
	meta, _ = store.EncodeMailbox(&store.MailboxMeta{
		Rooms: &store.MailboxRooms{At: 1, Names: []string{"a"}}, Reads: &store.MailboxReads{At: 3, UpTo: 1, IDs: []uint64{2}},
	}, &store.MailboxEntry{})
	f.Add(meta)
	f.Add([]byte{1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		meta, entry, errs := store.DecodeMailbox(b)
		if errs[0] == nil {
			again, _ := store.EncodeMailbox(meta, &entry)
			if back, _, e := store.DecodeMailbox(again); e[0] != nil || !cmp.Equal(meta, back) {
				t.Fatalf("meta %v became %v (%v)", meta, back, e[0])
			}
		}
		if errs[1] == nil {
			_, again := store.EncodeMailbox(&store.MailboxMeta{}, &entry)
			if _, back, e := store.DecodeMailbox(again); e[1] != nil || !cmp.Equal(entry, back) {
				t.Fatalf("entry %v became %v (%v)", entry, back, e[1])
			}
		}
	})
}

// TestManyBodies shows that reading many bodies at once gives the same as reading one by
// one, also if some are gone, shared, repeated or out of order.
func TestManyBodies(t *testing.T) {
	m, _ := openMailboxes(t, t.TempDir())
	hour := time.Now().Add(time.Hour)
	b := m.Batch(1)
	var entries []store.MailboxEntry
	for id := range uint64(300) {
		e := entryAt(id+1, hour)
		e.Shared = id%7 == 0
		body := bytes.Repeat([]byte{byte(id)}, int(id)%50)
		if e.Size = int32(len(body)); id%11 == 0 {
			e.Size = 0 // wrong, which must not matter
		}
		if id%5 != 0 {
			b.PutBody("u", &e, store.MailboxBody{Op: int32(id), Body: body})
		}
		other := e
		b.PutBody("v", &other, store.MailboxBody{Op: -1, Body: []byte("another user's")})
		if e.Shared && id%5 != 0 {
			b.PutBody("u", &e, store.MailboxBody{Op: int32(id), Body: body}) // overwrites the earlier body
		}
		entries = append(entries, e)
	}
	if err := b.Commit(1); err != nil {
		t.Fatal(err)
	}
	entries = append(entries, entries[4], entries[200], entryAt(1000, hour), entries[3])
	all, err := m.Bodies(1, "u", entries)
	if err != nil || len(all) != len(entries) {
		t.Fatalf("%d bodies, %v", len(all), err)
	}
	for i := range entries {
		one, err := m.Bodies(1, "u", entries[i:i+1])
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(one[0], all[i], protocmp.Transform()); diff != "" {
			t.Fatalf("body %d: %s", entries[i].ID, diff)
		}
	}
	if all[6] == nil || all[6].Op != 6 || len(all[6].Body) != 6 || all[5] != nil {
		t.Errorf("bodies 7 and 6 are %v and %v", all[6], all[5])
	}
	all[1].Body = append(all[1].Body, "more"...)
	if string(all[2].Body) != "\x02\x02" {
		t.Error("what is appended to a body goes into the next")
	}
}

// BenchmarkBodies reads a thousand bodies of 100 bytes.
func BenchmarkBodies(b *testing.B) {
	db := openDB(b, store.Options{Dir: b.TempDir()})
	m := store.NewMailboxes(db)
	hour := time.Now().Add(time.Hour)
	batch := m.Batch(1)
	entries := make([]store.MailboxEntry, 1000)
	for i := range entries {
		entries[i] = entryAt(uint64(i+1), hour)
		entries[i].Size = 100
		batch.PutBody("u", &entries[i], store.MailboxBody{Op: 5, Body: bytes.Repeat([]byte("x"), 100)})
	}
	if err := batch.Commit(1); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if all, err := m.Bodies(1, "u", entries); err != nil || all[999] == nil {
			b.Fatal(err)
		}
	}
}
