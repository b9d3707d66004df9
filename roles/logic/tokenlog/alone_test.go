package tokenlog_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/roles/logic/tokenlog"
	"imgo/store"
)

// alone returns the tokens of a node that runs alone.
func alone(db *store.DB) *tokenlog.Tokens {
	return tokenlog.NewAlone(fast(), store.NewTokens(db), zerolog.Nop())
}

// TestAlone changes the tokens of a node that runs alone.
func TestAlone(t *testing.T) {
	dir := t.TempDir()
	db := openDB(t, store.Options{Dir: dir})
	s := alone(db)
	ctx := t.Context()
	now := time.Now().UnixMilli()
	put := func(token, user string, expiresMS int64, single bool) {
		t.Helper()
		if err := s.Put(ctx, hashOf(token), envelope.Token{User: user, ExpiresMS: expiresMS, CreatedMS: now}, single); err != nil {
			t.Fatalf("Put %s: %v", token, err)
		}
	}
	want := func(token, user string, err error) {
		t.Helper()
		got, gotErr := s.Lookup(ctx, hashOf(token))
		if got.User != user || !errors.Is(gotErr, err) {
			t.Fatalf("Lookup %s: %q, %v; want %q, %v", token, got.User, gotErr, user, err)
		}
	}
	count := func(user string, n int) {
		t.Helper()
		got, err := s.List(ctx, user)
		if err != nil || len(got) != n {
			t.Fatalf("List of %s: %v, %v; want %d", user, got, err, n)
		}
	}

	want("never", "", envelope.ErrUnauthorized)
	put("a", "ann", 0, false)
	put("b", "ann", now+3_600_000, false)
	put("c", "anna", 0, false) // a longer name must not share ann's tokens
	want("a", "ann", nil)
	want("b", "ann", nil)
	count("ann", 2)
	count("anna", 1)
	if b, err := s.Lookup(ctx, hashOf("b")); err != nil || b.ExpiresMS != now+3_600_000 {
		t.Fatalf("Lookup b: %+v, %v", b, err)
	}

	// An expired token is told apart from an unknown one.
	put("old", "ann", now-1, false)
	want("old", "", envelope.ErrExpired)
	count("ann", 2)

	// single allows one token for each user.
	put("d", "ann", 0, true)
	want("a", "", envelope.ErrRevoked)
	want("b", "", envelope.ErrRevoked)
	want("c", "anna", nil)
	want("d", "ann", nil)
	count("ann", 1)
	put("d", "ann", 0, true) // the same token again
	want("d", "ann", nil)
	count("ann", 1)

	// A revoked token may be put again, also for another user.
	put("a", "bob", 0, false)
	want("a", "bob", nil)
	put("d", "bob", 0, false)
	want("d", "bob", nil)
	count("ann", 0)
	count("bob", 2)

	for range 2 {
		if err := revoke(ctx, s, "a"); err != nil {
			t.Fatalf("Revoke: %v", err)
		}
		want("a", "", envelope.ErrRevoked)
	}
	if err := revoke(ctx, s, "never"); !errors.Is(err, envelope.ErrNotFound) {
		t.Fatalf("Revoke of none: %v, want not found", err)
	}
	put("e", "bob", 0, false)
	if n, err := s.RevokeUser(ctx, "bob"); err != nil || n != 2 {
		t.Fatalf("RevokeUser: %d, %v; want 2", n, err)
	}
	want("d", "", envelope.ErrRevoked)
	want("e", "", envelope.ErrRevoked)
	if n, err := s.RevokeUser(ctx, "bob"); err != nil || n != 0 {
		t.Fatalf("RevokeUser again: %d, %v; want 0", n, err)
	}

	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s = alone(openDB(t, store.Options{Dir: dir}))
	want("c", "anna", nil)
	want("e", "", envelope.ErrRevoked)
	want("old", "", envelope.ErrExpired)
	count("anna", 1)
}

func TestInputAlone(t *testing.T) {
	db := openDB(t, store.Options{Dir: t.TempDir()})
	s := alone(db)
	if err := s.Put(t.Context(), hashOf("a"), envelope.Token{User: "u"}, false); err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"", strings.Repeat("x", 129), "a\x00b", "\xff"} {
		if err := s.Put(t.Context(), hashOf("a"), envelope.Token{User: user}, false); !errors.Is(err, envelope.ErrInvalid) {
			t.Errorf("Put for user %q: %v, want invalid", user, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, lookup := s.Lookup(ctx, hashOf("a"))
	_, revokeUser := s.RevokeUser(ctx, "a")
	_, list := s.List(ctx, "a")
	for i, err := range []error{
		s.Put(ctx, hashOf("a"), envelope.Token{User: "u"}, false), lookup, revokeUser, list, revoke(ctx, s, "a"),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("call %d with a cancelled context: %v", i, err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Lookup(t.Context(), hashOf("a")); !errors.Is(err, envelope.ErrClosed) {
		t.Errorf("Lookup after Close: %v, want closed", err)
	}
}

func TestTooManyTokensAlone(t *testing.T) {
	s := alone(openDB(t, store.Options{Dir: t.TempDir()}))
	ctx := t.Context()
	const user = "u"
	for i := range store.MaxTokensPerUser {
		if err := s.Put(ctx, hashOf(fmt.Sprint(i)), envelope.Token{User: user, CreatedMS: int64(i)}, false); err != nil {
			t.Fatalf("Put %d: %v", i, err)
		}
	}
	if err := s.Put(ctx, hashOf("one more"), envelope.Token{User: user}, false); !errors.Is(err, envelope.ErrTooMany) {
		t.Fatalf("Put of one more: %v, want too many", err)
	}
	if err := s.Put(ctx, hashOf("7"), envelope.Token{User: user, CreatedMS: 7}, false); err != nil {
		t.Fatalf("Put of one that is there: %v", err)
	}
	infos, err := s.List(ctx, user)
	if err != nil || len(infos) != store.MaxTokensPerUser {
		t.Fatalf("List: %d, %v", len(infos), err)
	}
	if !slices.IsSortedFunc(infos, func(a, b envelope.TokenInfo) int { return int(a.CreatedMS - b.CreatedMS) }) {
		t.Fatal("List is not oldest first")
	}
	if infos[7].CreatedMS != 8 || infos[8].CreatedMS != 8 { // it was made again, so it is newer than it was
		t.Fatalf("List: %+v are the 8th and the 9th", infos[7:9])
	}
	if n, err := s.RevokeUser(ctx, user); err != nil || n != store.MaxTokensPerUser {
		t.Fatalf("RevokeUser: %d, %v", n, err)
	}
}

// TestHousekeepingAlone forgets a token a day after its end.
func TestHousekeepingAlone(t *testing.T) {
	cfg := fast()
	cfg.Housekeep = 5 * time.Millisecond
	s := start(t, cfg, nil, nil)
	// The token expired a day ago but for two seconds, so it is forgotten in two seconds.
	ends := time.Now().Add(2*time.Second - 24*time.Hour)
	if err := s.Put(t.Context(), hashOf("a"), envelope.Token{User: "u", ExpiresMS: ends.UnixMilli()}, false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Lookup(t.Context(), hashOf("a")); !errors.Is(err, envelope.ErrExpired) {
		t.Fatalf("Lookup: %v, want expired", err)
	}
	until(t, "the token is forgotten", func() bool {
		_, err := s.Lookup(t.Context(), hashOf("a"))
		return errors.Is(err, envelope.ErrUnauthorized)
	})
}

// TestSingleTokenAlone puts single tokens of one user from many goroutines. One of
// them must be valid in the end.
func TestSingleTokenAlone(t *testing.T) {
	s := alone(openDB(t, store.Options{Dir: t.TempDir()}))
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			if err := s.Put(t.Context(), hashOf(fmt.Sprint(i)), envelope.Token{User: "u"}, true); err != nil {
				t.Errorf("Put: %v", err)
			}
		})
	}
	group.Wait()
	good := 0
	for i := range 20 {
		if _, err := s.Lookup(t.Context(), hashOf(fmt.Sprint(i))); err == nil {
			good++
		} else if !errors.Is(err, envelope.ErrRevoked) {
			t.Errorf("Lookup %d: %v", i, err)
		}
	}
	if list, err := s.List(t.Context(), "u"); good != 1 || len(list) != 1 || err != nil {
		t.Fatalf("%d are good, %v are listed, %v; want 1", good, list, err)
	}
}

// TestBoundAlone puts tokens of one user from many goroutines. One of them is the last that
// the user may have.
func TestBoundAlone(t *testing.T) {
	s := alone(openDB(t, store.Options{Dir: t.TempDir()}))
	for i := range store.MaxTokensPerUser - 1 {
		if err := s.Put(t.Context(), hashOf(fmt.Sprint("old", i)), envelope.Token{User: "u"}, false); err != nil {
			t.Fatal(err)
		}
	}
	var group sync.WaitGroup
	var put atomic.Int32
	for i := range 20 {
		group.Go(func() {
			switch err := s.Put(t.Context(), hashOf(fmt.Sprint(i)), envelope.Token{User: "u"}, false); {
			case err == nil:
				put.Add(1)
			case !errors.Is(err, envelope.ErrTooMany):
				t.Errorf("Put: %v", err)
			}
		})
	}
	group.Wait()
	if list, err := s.List(t.Context(), "u"); put.Load() != 1 || len(list) != store.MaxTokensPerUser || err != nil {
		t.Fatalf("%d were put, %d are listed, %v", put.Load(), len(list), err)
	}
}

// TestSingleRevokesFirst writes the new token behind what it revokes: many revocations do not fit into one transaction,
// and after an error in the middle the new token must not be there.
func TestSingleRevokesFirst(t *testing.T) {
	db := openDB(t, store.Options{Dir: t.TempDir()})
	s := alone(db)
	for _, token := range []string{"a", "b", "new"} {
		if err := s.Put(t.Context(), hashOf(token), envelope.Token{User: "u"}, token == "new"); err != nil {
			t.Fatal(err)
		}
	}
	tokens := store.NewTokens(db)
	next, _, err := tokens.Position()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tokens.Token(t.Context(), hashOf("new")); err != nil || got.Offset != next-1 {
		t.Errorf("the new token is %+v, %v; want it at %d, the last change", got, err, next-1)
	}
}

// TestFullDiskAlone refuses new tokens while the reserve of the disk is used, and every change
// while a quarter of it is.
func TestFullDiskAlone(t *testing.T) {
	const reserve = 1 << 30
	var free atomic.Int64
	free.Store(reserve)
	s := alone(openDB(t, store.Options{
		Dir: t.TempDir(), Reserve: reserve, Faults: store.Faults{FreeBytes: func(string) (int64, error) { return free.Load(), nil }},
	}))
	put := func() error { return s.Put(t.Context(), hashOf("a"), envelope.Token{User: "u"}, false) }
	revoke := func() error { _, err := s.RevokeUser(t.Context(), "u"); return err }
	if err := put(); err != nil {
		t.Fatal(err)
	}
	free.Store(reserve - 1)
	until(t, "new tokens are refused", func() bool { return errors.Is(put(), envelope.ErrDiskFull) })
	if err := revoke(); err != nil {
		t.Errorf("RevokeUser: %v", err)
	}
	free.Store(reserve)
	until(t, "new tokens are accepted", func() bool { return put() == nil })
	free.Store(reserve/4 - 1)
	until(t, "nothing is accepted", func() bool { return errors.Is(revoke(), envelope.ErrDiskFull) || put() != nil })
	if err := put(); !errors.Is(err, envelope.ErrDiskFull) {
		t.Errorf("Put: %v", err)
	}
}
