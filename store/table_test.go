package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/store"
)

// checkFollow fails the test unless Follow gives these entries, with growing offsets.
func checkFollow(t *testing.T, table *store.Table, from int64, want map[string]string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	got, last := make(map[string]string), from-1
	err := table.Follow(ctx, from, func(offset int64, key, value []byte) error {
		if offset <= last {
			return fmt.Errorf("offset %d after %d", offset, last)
		}
		last = offset
		if got[string(key)] = string(value); maps.Equal(got, want) {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("from %d: %v, with %v, want %v", from, err, got, want)
	}
}

func TestTable(t *testing.T) {
	dir := t.TempDir()
	open := func() (*store.DB, *store.Table) {
		db, err := store.Open(store.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		table, err := db.Table("hooks")
		if err != nil {
			t.Fatal(err)
		}
		return db, table
	}
	put := func(table *store.Table, key, value string) int64 {
		offset, err := table.Put(t.Context(), []byte(key), []byte(value))
		if err != nil {
			t.Fatal(err)
		}
		return offset
	}
	db, table := open()
	other, err := db.Table("hook") // its name begins as the other's
	if err != nil {
		t.Fatal(err)
	}
	put(other, "s/a", "other")
	put(table, "a", "1")
	put(table, "b", "1")
	put(table, "a", "2")
	if _, err := table.Put(t.Context(), []byte("c"), []byte(strings.Repeat("x", 1<<20))); envelope.CodeOf(err) != envelope.CodeTooLarge {
		t.Errorf("put of a megabyte: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	db, table = open()
	defer db.Close()
	if offset := put(table, "c", "1"); offset != 3 {
		t.Errorf("offset %d after a restart, want 3", offset)
	}
	checkFollow(t, table, 0, map[string]string{"a": "2", "b": "1", "c": "1"})
	checkFollow(t, table, 2, map[string]string{"a": "2", "c": "1"})
	timer := time.AfterFunc(10*time.Millisecond, func() { put(table, "d", "1") })
	defer timer.Stop()
	checkFollow(t, table, 4, map[string]string{"d": "1"})
}
