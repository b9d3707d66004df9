package store_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"imgo/envelope"
	"imgo/store"
)

func TestDamagedEntryIsNeverSkipped(t *testing.T) {
	tests := []struct {
		name   string
		change func(stored []byte) []byte
	}{
		{"bit", func(b []byte) []byte { b[len(b)/2] ^= 4; return b }},
		{"cut", func(b []byte) []byte { return b[:3] }},
		{"empty", func(b []byte) []byte { return b[:0] }},
		{"zeros", func(b []byte) []byte { clear(b); return b }},
		{"missing", func([]byte) []byte { return nil }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			db := openDB(t, store.Options{Dir: t.TempDir()})
			l := openLog(t, db, store.LogOptions{Partitions: 4, TailBytes: 1})
			run(t, l)
			for i := range 10 {
				if _, err := l.Append(t.Context(), 2, fmt.Appendf(nil, "value %d", i)); err != nil {
					t.Fatal(err)
				}
			}
			if err := db.Overwrite(2, 5, test.change); err != nil {
				t.Fatal(err)
			}
			entries, err := l.Read(t.Context(), 2, 0, 1<<20)
			if err != nil || len(entries) != 5 {
				t.Fatalf("Read before the damage: %d entries, %v; want 5", len(entries), err)
			}
			_, err = l.Read(t.Context(), 2, 5, 1<<20)
			if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "partition 2 offset 5") {
				t.Fatalf("Read of the damage: %v", err)
			}
			if entries, err := l.Read(t.Context(), 2, 6, 1<<20); err != nil || entries[0].Offset != 6 {
				t.Fatalf("Read behind the damage: %v, %v", entries, err)
			}
		})
	}
	t.Run("ends are checked on opening", func(t *testing.T) {
		for _, offset := range []int64{0, 9} {
			db := openDB(t, store.Options{Dir: t.TempDir()})
			l := openLog(t, db, store.LogOptions{Partitions: 4})
			run(t, l)
			if err := l.AppendMany(t.Context(), make([]envelope.Entry, 10)); err != nil {
				t.Fatal(err)
			}
			if err := db.Overwrite(0, offset, func(b []byte) []byte { b[2] ^= 1; return b }); err != nil {
				t.Fatal(err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			_, err := store.OpenLog(db, store.LogOptions{})
			if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "back-up") {
				t.Fatalf("OpenLog with offset %d damaged: %v", offset, err)
			}
		}
	})
}

func TestEntriesAreBoundToTheirPlace(t *testing.T) {
	for _, after := range []int64{7, 6, 0} {
		stored := store.AppendLogEntry(nil, 3, 7, after, 1234, []byte("record"))
		if e, err := store.DecodeLogEntry(stored, 3, 7); err != nil || e.After != after || e.TimeMS != 1234 || string(e.Record) != "record" {
			t.Fatalf("decode: %+v %v", e, err)
		}
		for _, at := range [][2]int64{{3, 8}, {4, 7}} {
			if _, err := store.DecodeLogEntry(stored, int32(at[0]), at[1]); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("decode at partition %d offset %d: %v, want corrupt", at[0], at[1], err)
			}
		}
	}
}
