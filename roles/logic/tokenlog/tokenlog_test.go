package tokenlog_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/roles/logic/tokenlog"
	"imgo/store"
)

func TestTwoNodesOfOneTopic(t *testing.T) {
	p := newTopic()
	a, b := start(t, fast(), p, nil), start(t, fast(), p, nil)
	a.ready(t)
	b.ready(t)
	ctx := t.Context()

	// A change is true on its own node at once, and on the other soon.
	a.put(t, "one", "ann", 0, false)
	a.is(t, "one", "ann")
	b.becomes(t, "one", "ann")
	if err := revoke(ctx, b.Tokens, "one"); err != nil {
		t.Fatal(err)
	}
	b.is(t, "one", revoked)
	a.becomes(t, "one", revoked)
	if err := errors.Join(revoke(ctx, a.Tokens, "one"), revoke(ctx, b.Tokens, "one")); err != nil {
		t.Errorf("revoked again: %v", err)
	}
	if err := revoke(ctx, a.Tokens, "never"); !errors.Is(err, envelope.ErrNotFound) {
		t.Errorf("a token that was never made: %v", err)
	}

	// RevokeUser covers tokens that another node made a moment ago.
	for i := range 5 {
		a.put(t, fmt.Sprint("many", i), "ann", 0, false)
	}
	a.put(t, "anna's", "anna", 0, false)
	if n, err := b.RevokeUser(ctx, "ann"); n != 5 || err != nil {
		t.Errorf("revoked %d, %v", n, err)
	}
	b.is(t, "many3", revoked)
	b.is(t, "anna's", "anna")
	a.becomes(t, "many4", revoked)
	if n, err := a.RevokeUser(ctx, "ann"); n != 0 || err != nil {
		t.Errorf("revoked %d of those that were, %v", n, err)
	}

	forbid := func(string) error { return envelope.ErrForbidden }
	if _, err := a.Revoke(ctx, hashOf("anna's"), forbid); !errors.Is(err, envelope.ErrForbidden) {
		t.Errorf("revoked though the check forbids it: %v", err)
	}

	// single revokes also tokens that another node made.
	a.put(t, "left", "bob", 0, false)
	b.put(t, "right", "bob", 0, true)
	b.is(t, "left", revoked)
	b.is(t, "right", "bob")
	a.becomes(t, "left", revoked)
	a.is(t, "anna's", "anna")
	b.put(t, "right", "bob", 0, true)
	b.is(t, "right", "bob")

	// A token may be made again, also for another user.
	a.put(t, "left", "carl", 0, false)
	a.is(t, "left", "carl")
	b.becomes(t, "left", "carl")
	if n, err := b.RevokeUser(ctx, "bob"); n != 1 || err != nil {
		t.Errorf("revoked %d of bob's, %v", n, err)
	}
	b.is(t, "left", "carl")
	if err := a.Put(ctx, hashOf("x"), envelope.Token{User: ""}, false); !errors.Is(err, envelope.ErrInvalid) {
		t.Errorf("a token of nobody: %v", err)
	}
}

func TestExpiry(t *testing.T) {
	p := newTopic()
	a, b := start(t, fast(), p, nil), start(t, fast(), p, nil)
	a.ready(t)
	now := time.Now().UnixMilli()
	at := now + 300
	a.put(t, "short", "ann", at, false)
	a.put(t, "long", "ann", now+day.Milliseconds(), false)
	if got, err := a.Lookup(t.Context(), hashOf("long")); got.User != "ann" || got.ExpiresMS != now+day.Milliseconds() || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	b.becomes(t, "long", "ann")
	for _, n := range []*node{a, b} {
		n.becomes(t, "short", expired)
		if time.Now().UnixMilli() < at {
			t.Error("it expired too soon")
		}
	}
	// An expired token needs no entry to be revoked.
	end, _ := p.End(t.Context())
	if err := revoke(t.Context(), a.Tokens, "short"); err != nil {
		t.Error(err)
	}
	if n, err := a.RevokeUser(t.Context(), "ann"); n != 1 || err != nil {
		t.Errorf("revoked %d, %v", n, err)
	}
	if after, _ := p.End(t.Context()); after != end+1 {
		t.Errorf("%d entries for one good token", after-end)
	}
}

func TestTooManyTokens(t *testing.T) {
	a := start(t, fast(), newTopic(), nil)
	a.ready(t)
	for i := range store.MaxTokensPerUser {
		a.put(t, fmt.Sprint(i), "ann", 0, false)
	}
	if err := a.Put(t.Context(), hashOf("more"), envelope.Token{User: "ann"}, false); !errors.Is(err, envelope.ErrTooMany) {
		t.Errorf("one too many: %v", err)
	}
	a.put(t, "1", "ann", 0, false) // it is there already
	a.put(t, "other", "bob", 0, false)
	a.put(t, "single", "ann", 0, true)
	if n, err := a.RevokeUser(t.Context(), "ann"); n != 1 || err != nil {
		t.Errorf("%d were left, %v", n, err)
	}
}

// Two nodes come to the same tokens whatever faults the topic has.
func TestFaultsOfFollowing(t *testing.T) {
	for name, fault := range map[string]func(*topic){
		"entries twice":         func(p *topic) { p.twice = true },
		"fails now and then":    func(p *topic) { p.breakAfter = 3 },
		"both":                  func(p *topic) { p.twice, p.breakAfter = true, 2 },
		"no end":                func(p *topic) { p.endErr = errTopic },
		"entries of no token":   func(p *topic) { p.records = junk() },
		"begins at offset 3":    func(p *topic) { p.records, p.first = junk(), 3 },
		"all before it is gone": func(p *topic) { p.records = make([]record, 9); gone(p.records) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newTopic()
			fault(p)
			a, b := start(t, fast(), p, nil), start(t, fast(), p, nil)
			for i := range 20 {
				n := []*node{a, b}[i%2]
				n.put(t, fmt.Sprint(i), "ann", 0, false)
				if i%3 == 0 {
					if err := revoke(t.Context(), n.Tokens, fmt.Sprint(i)); err != nil {
						t.Fatal(err)
					}
				}
			}
			p.change(func() { p.endErr = nil })
			for i := range 20 {
				want := "ann"
				if i%3 == 0 {
					want = revoked
				}
				a.becomes(t, fmt.Sprint(i), want)
				b.becomes(t, fmt.Sprint(i), want)
			}
			a.ready(t)
			b.ready(t)
		})
	}
}

// junk returns entries of no token.
func junk() []record {
	key := make([]byte, 44)
	nobody, _ := (&envelope.TokenChange{User: "a\x00b"}).MarshalVT()
	return []record{
		{}, {value: []byte("x")}, {key: []byte("short"), value: []byte("x")}, {key: key, value: []byte{0xff, 0xff}},
		{key: key, value: nobody}, {key: key, value: []byte{0}}, {key: key},
	}
}

func gone(records []record) {
	for i := range records {
		records[i].gone = true
	}
}

func TestSlowFollower(t *testing.T) {
	p := newTopic()
	cfg := fast()
	cfg.Timeout = 50 * time.Millisecond
	a := start(t, fast(), p, nil)
	a.ready(t)
	a.put(t, "old", "ann", 0, false)
	b := start(t, cfg, p, nil)
	b.ready(t)
	b.becomes(t, "old", "ann")

	// While nothing can be read, no write is reported as done.
	p.change(func() { p.paused = true })
	if err := b.Put(t.Context(), hashOf("new"), envelope.Token{User: "ann"}, false); !errors.Is(err, envelope.ErrUnavailable) {
		t.Errorf("put: %v", err)
	}
	if err := revoke(t.Context(), b.Tokens, "old"); !errors.Is(err, envelope.ErrUnavailable) {
		t.Errorf("revoked: %v", err)
	}
	if err := revoke(t.Context(), b.Tokens, "unknown"); !errors.Is(err, envelope.ErrUnavailable) {
		t.Errorf("revoked what may have been made meanwhile: %v", err)
	}
	if _, err := b.RevokeUser(t.Context(), "ann"); !errors.Is(err, envelope.ErrUnavailable) {
		t.Errorf("revoked all: %v", err)
	}
	b.is(t, "old", "ann") // by what the node has read
	if err := b.Ready(); err != nil {
		t.Errorf("a node that fell behind: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Put(ctx, hashOf("cancelled"), envelope.Token{User: "ann"}, false); err == nil {
		t.Error("put although cancelled")
	}
	p.change(func() { p.paused = false })
	for _, n := range []*node{a, b} {
		n.becomes(t, "old", revoked)
		n.is(t, "cancelled", unknown)
	}
	// The writes were in the topic all the same.
	b.becomes(t, "new", "ann")
	a.becomes(t, "new", "ann")
}

// A node that is behind reads to the end before it decides that a token needs no
// revocation.
func TestRevokeWhileBehind(t *testing.T) {
	p := newTopic()
	a, b := start(t, fast(), p, nil), start(t, fast(), p, nil)
	a.ready(t)
	b.ready(t)
	a.put(t, "again", "ann", 0, false)
	b.becomes(t, "again", "ann")
	if err := revoke(t.Context(), a.Tokens, "again"); err != nil {
		t.Fatal(err)
	}
	b.becomes(t, "again", revoked)

	p.change(func() { p.paused = true })
	// Another node makes the token again, and neither node has read that yet.
	hash := hashOf("again")
	key := slices.Concat(hash[:], []byte("twelve bytes"))
	value, err := (&envelope.TokenChange{User: "bob", CreatedMs: time.Now().UnixMilli()}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Put(t.Context(), key, value); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		user, err := b.Revoke(context.Background(), hash, func(user string) error {
			if user != "bob" {
				return fmt.Errorf("a check for %q", user)
			}
			return nil
		})
		if err == nil && user != "bob" {
			err = fmt.Errorf("revoked a token of %q", user)
		}
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("revoked by what the node had read before: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	p.change(func() { p.paused = false })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	b.is(t, "again", revoked)
	a.becomes(t, "again", revoked)
}

// A node that is behind revokes a token that another node has made again meanwhile.
func TestRevokeOfATokenThatWasMadeAgain(t *testing.T) {
	p := newTopic()
	a, b := start(t, fast(), p, nil), start(t, fast(), p, nil)
	a.ready(t)
	b.ready(t)
	hash := hashOf("again")
	put := func(n *node, user string, createdMS int64) error {
		return n.Put(t.Context(), hash, envelope.Token{User: user, CreatedMS: createdMS}, false)
	}
	if err := put(a, "ann", 1); err != nil {
		t.Fatal(err)
	}
	b.becomes(t, "again", "ann")
	p.change(func() { p.paused = true })
	results := make(chan error, 2)
	go func() { results <- put(a, "bob", 2) }()
	until(t, "it is made again", func() bool { return len(p.keys("again")) == 2 })
	var checked []string
	go func() {
		_, err := b.Revoke(context.Background(), hash, func(user string) error {
			checked = append(checked, user)
			return nil
		})
		results <- err
	}()
	until(t, "the first one is revoked", func() bool { end, _ := p.End(t.Context()); return end == 3 })
	p.change(func() { p.paused = false })
	if err := errors.Join(<-results, <-results); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(checked, []string{"ann", "bob", "bob"}) {
		t.Errorf("checked for %q", checked)
	}
	b.is(t, "again", revoked)
	a.becomes(t, "again", revoked)
}

// A token whose Put failed is unknown on every node.
func TestPutFails(t *testing.T) {
	p := newTopic()
	a, b := start(t, fast(), p, nil), start(t, fast(), p, nil)
	a.ready(t)
	b.ready(t)
	a.put(t, "old", "ann", 0, false)
	p.change(func() { p.putErr = errTopic })
	for _, single := range []bool{false, true} {
		if err := a.Put(t.Context(), hashOf("new"), envelope.Token{User: "ann"}, single); !errors.Is(err, errTopic) {
			t.Errorf("put: %v", err)
		}
	}
	if err := revoke(t.Context(), a.Tokens, "old"); !errors.Is(err, errTopic) {
		t.Errorf("revoked: %v", err)
	}
	if n, err := a.RevokeUser(t.Context(), "ann"); n != 0 || !errors.Is(err, errTopic) {
		t.Errorf("revoked %d, %v", n, err)
	}
	p.change(func() { p.putErr = nil })
	a.put(t, "after", "ann", 0, false)
	b.becomes(t, "after", "ann")
	for _, n := range []*node{a, b} {
		n.is(t, "new", unknown)
		n.is(t, "old", "ann")
	}
}

func TestMetricsAndNew(t *testing.T) {
	view := store.NewTokenView(openDB(t, store.Options{Dir: t.TempDir()}))
	reg := prometheus.NewRegistry()
	if _, err := tokenlog.New(tokenlog.DefaultConfig(), newTopic(), view, zerolog.Nop(), reg); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	var names []string
	for _, f := range families {
		names = append(names, f.GetName())
	}
	if slices.Sort(names); err != nil || strings.Join(names, " ") != "imgo_logic_tokens_errors_total imgo_logic_tokens_lag_records" {
		t.Errorf("%v, %v", names, err)
	}
	for name, f := range map[string]func() error{
		"registered twice": func() error {
			_, err := tokenlog.New(tokenlog.DefaultConfig(), newTopic(), view, zerolog.Nop(), reg)
			return err
		},
		"no topic": func() error {
			_, err := tokenlog.New(tokenlog.DefaultConfig(), nil, view, zerolog.Nop(), nil)
			return err
		},
		"no view": func() error {
			_, err := tokenlog.New(tokenlog.DefaultConfig(), newTopic(), nil, zerolog.Nop(), nil)
			return err
		},
	} {
		if f() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
