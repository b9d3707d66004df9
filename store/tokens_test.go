package store_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/store"
)

// TestManyLargeTokens applies more bytes than fit into one transaction.
func TestManyLargeTokens(t *testing.T) {
	dir := t.TempDir()
	db := openDB(t, store.Options{Dir: dir})
	view := store.NewTokenView(db)
	if token, err := view.Token(t.Context(), store.TokenHash{1}); token != nil || err != nil {
		t.Fatalf("a token of an empty database: %v, %v", token, err)
	}
	rooms := make([]string, protocol.MaxTokenRooms)
	for i := range rooms {
		rooms[i] = fmt.Sprint(strings.Repeat("r", 120), i)
	}
	entries := make([]store.TokenEntry, store.MaxTokensPerUser)
	for i := range entries {
		entries[i] = store.TokenEntry{
			Offset: int64(10 + i), Key: store.TokenKey{Hash: store.TokenHash{1, byte(i), byte(i >> 8)}},
			Change: &envelope.TokenChange{User: "u", Rooms: rooms},
		}
	}
	if err := view.Apply(t.Context(), entries, 5000); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openDB(t, store.Options{Dir: dir})
	view = store.NewTokenView(db)
	if next, ok, err := view.Position(); next != 5000 || !ok || err != nil {
		t.Errorf("Position: %d, %v, %v", next, ok, err)
	}
	tokens, err := view.OfUser(t.Context(), "u")
	if len(tokens) != len(entries) || err != nil {
		t.Errorf("%d tokens, %v", len(tokens), err)
	}
	for _, token := range tokens {
		if len(token.Rooms) != len(rooms) || !token.Good(time.Now()) {
			t.Fatalf("%+v", token)
		}
	}
	// A node that runs alone has tokens of its own.
	alone := store.NewTokens(db)
	if _, ok, err := alone.Position(); ok || err != nil {
		t.Errorf("Position of a node alone: %v, %v", ok, err)
	}
	if tokens, err := alone.OfUser(t.Context(), "u"); len(tokens) != 0 || err != nil {
		t.Errorf("%d tokens of a node alone, %v", len(tokens), err)
	}
}
