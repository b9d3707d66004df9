package store_test

import (
	"testing"

	"imgo/envelope"
	"imgo/store"
)

// The version of records in use is there after a restart, and 1 before any was set.
func TestRecordsVersion(t *testing.T) {
	dir := t.TempDir()
	for _, want := range []uint32{1, 2, 7} {
		db, err := store.Open(store.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if want > 1 {
			if err := db.SetRecordsVersion(want); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			if db, err = store.Open(store.Options{Dir: dir}); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := db.RecordsVersion(); got != want || err != nil {
			t.Errorf("version %d, %v, want %d", got, err, want)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A position says which version of records its writer read.
func TestPositionHasVersion(t *testing.T) {
	m, closeDB := openMailboxes(t, t.TempDir())
	defer closeDB()
	for _, c := range []struct {
		boxes *store.Mailboxes
		want  uint32
	}{{m.DerivedBy(1), 1}, {m.DerivedBy(300), 300}, {m, envelope.RecordVersion}} {
		if err := c.boxes.Batch(3).Commit(77); err != nil {
			t.Fatal(err)
		}
		if at, version, ok, err := m.Position(3); at != 77 || version != c.want || !ok || err != nil {
			t.Errorf("position %d of version %d, %v, %v; want 77 of version %d", at, version, ok, err, c.want)
		}
	}
}
