package tokenlog_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/store"
)

// A node resumes where it was. A node that lost its disk reads a compacted topic
// and comes to the same tokens.
func TestResumeAndCompaction(t *testing.T) {
	p := newTopic()
	dir := t.TempDir()
	db := openDB(t, store.Options{Dir: dir})
	a := start(t, fast(), p, db)
	a.ready(t)
	for i := range 20 {
		a.put(t, fmt.Sprint("t", i), "ann", 0, false)
	}
	for i := range 10 {
		if err := revoke(t.Context(), a.Tokens, fmt.Sprint("t", i)); err != nil {
			t.Fatal(err)
		}
	}
	a.put(t, "t3", "bob", 0, false) // made again, under another key
	if keys := p.keys("t3"); len(keys) != 2 {
		t.Fatalf("a token that was made twice has %d keys", len(keys))
	}
	check := func(n *node) {
		t.Helper()
		n.becomes(t, "t19", "ann")
		n.becomes(t, "t0", revoked)
		n.becomes(t, "t3", "bob")
	}
	check(a)
	a.stop()
	end, _ := p.End(t.Context())
	again := start(t, fast(), p, db)
	again.ready(t)
	check(again)
	// It has all of the 31 changes. A mark may have come after them.
	if began := p.began(); began[len(began)-1] < 31 || began[len(began)-1] > end {
		t.Errorf("it follows from %d, the end was %d", began[len(began)-1], end)
	}
	again.stop()

	p.compact(false)
	fresh := start(t, fast(), p, nil)
	fresh.ready(t)
	check(fresh)
	if began := p.began(); began[len(began)-1] != 0 {
		t.Errorf("a node without a disk follows from %d", began[len(began)-1])
	}
}

// A node that reads the topic for the first time becomes ready although the last
// entries before the end were compacted away.
func TestEndIsCompactedAway(t *testing.T) {
	p := newTopic()
	a := start(t, fast(), p, nil)
	a.ready(t)
	a.put(t, "one", "ann", 0, false)
	if err := revoke(t.Context(), a.Tokens, "one"); err != nil {
		t.Fatal(err)
	}
	a.stop()
	p.change(func() {
		for i := range p.records {
			p.records[i].gone = true
		}
	})
	fresh := start(t, fast(), p, nil)
	fresh.ready(t)
	fresh.is(t, "one", unknown)
}

// A recreated topic is read from its beginning, and what the old one had is
// forgotten.
func TestTopicRecreated(t *testing.T) {
	p := newTopic()
	a := start(t, fast(), p, nil)
	a.ready(t)
	for i := range 5 {
		a.put(t, fmt.Sprint("old", i), "ann", 0, false)
	}
	p.change(func() { p.records = nil })
	a.becomes(t, "old1", unknown)
	a.ready(t)
	a.put(t, "new", "ann", 0, false)
	a.is(t, "new", "ann")
}

// Only tokens that have been dead for a day are removed from the topic.
func TestHousekeeping(t *testing.T) {
	p := newTopic()
	quick := fast()
	quick.Housekeep = 5 * time.Millisecond
	a, b := start(t, quick, p, nil), start(t, quick, p, nil)
	a.ready(t)
	b.ready(t)
	now := time.Now()
	a.put(t, "good", "ann", 0, false)
	a.put(t, "later", "ann", now.Add(day).UnixMilli(), false)
	a.put(t, "just dead", "ann", now.Add(-time.Minute).UnixMilli(), false)
	a.put(t, "long dead", "ann", now.Add(-day-time.Minute).UnixMilli(), false)
	want := p.keys("long dead")
	until(t, "the dead token is removed", func() bool { return slices.Contains(p.removed(), want[0]) })
	for _, n := range []*node{a, b} {
		n.becomes(t, "long dead", unknown)
		n.becomes(t, "good", "ann")
		n.becomes(t, "later", "ann")
		n.becomes(t, "just dead", expired)
	}
	for _, key := range p.removed() {
		if key != want[0] {
			t.Errorf("%x was removed too", key)
		}
	}
}

// A copy of a token's entry comes late, from an append that was tried again. It changes nothing, also for
// a node that reads the compacted topic.
func TestLateCopy(t *testing.T) {
	made := int64(0)
	put := func(t *testing.T, n *node, user string) {
		t.Helper()
		made++
		if err := n.Put(t.Context(), hashOf("t"), envelope.Token{User: user, CreatedMS: made}, false); err != nil {
			t.Fatal(err)
		}
	}
	end := func(t *testing.T, n *node) {
		t.Helper()
		if err := revoke(t.Context(), n.Tokens, "t"); err != nil {
			t.Fatal(err)
		}
	}
	ann := func(t *testing.T, n *node) { put(t, n, "ann") }
	bob := func(t *testing.T, n *node) { put(t, n, "bob") }
	for name, c := range map[string]struct {
		entry func(t *testing.T, n *node) // the last entry is copied
		then  func(t *testing.T, n *node) // between the entry and its copy
		want  string
	}{
		"of a valid token":                                 {ann, func(*testing.T, *node) {}, "ann"},
		"of a revoked token":                               {ann, end, revoked},
		"of a token that was replaced":                     {ann, bob, "bob"},
		"of a token that was replaced at once":             {ann, func(t *testing.T, n *node) { made--; bob(t, n) }, "bob"},
		"of a revoked token that was made again":           {ann, func(t *testing.T, n *node) { end(t, n); bob(t, n) }, "bob"},
		"of a token whose successor was revoked":           {ann, func(t *testing.T, n *node) { bob(t, n); end(t, n) }, revoked},
		"of the revocation":                                {func(t *testing.T, n *node) { ann(t, n); end(t, n) }, end, revoked},
		"of the revocation of a token that was made again": {func(t *testing.T, n *node) { ann(t, n); end(t, n) }, bob, "bob"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newTopic()
			dbs := []*store.DB{openDB(t, store.Options{Dir: t.TempDir()}), openDB(t, store.Options{Dir: t.TempDir()})}
			a, b := start(t, fast(), p, dbs[0]), start(t, fast(), p, dbs[1])
			a.ready(t)
			b.ready(t)
			c.entry(t, a)
			copied := p.newestOf("t")
			c.then(t, a)
			p.change(func() { p.records = append(p.records, copied) })
			for _, n := range []*node{a, b} {
				n.put(t, "other", "carl", 0, false) // it has read the copy
				n.is(t, "t", c.want)
			}
			a.stop()
			b.stop()

			// Both nodes know after a restart what the topic needs, and see to it at the same time.
			p.compact(true)
			quick := fast()
			quick.Housekeep = 5 * time.Millisecond
			a = start(t, quick, p, dbs[0])
			start(t, quick, p, dbs[1])
			until(t, "the topic says the same", func() bool {
				p.compact(true)
				fresh := start(t, fast(), p, nil)
				fresh.ready(t)
				defer fresh.stop()
				return fresh.says("t") == c.want
			})
			a.is(t, "t", c.want)
			put(t, a, "dan") // it may be made again
			a.is(t, "t", "dan")
		})
	}
}

// A logic whose clock is behind replaces a token that it knows. It says so if it did not replace one that it did
// not know.
func TestTokenOfAFasterClock(t *testing.T) {
	p := newTopic()
	a := start(t, fast(), p, nil)
	a.ready(t)
	put := func(user string, createdMS int64) error {
		return a.Put(t.Context(), hashOf("t"), envelope.Token{User: user, CreatedMS: createdMS}, false)
	}
	if err := errors.Join(put("ann", 2000), put("bob", 1000)); err != nil {
		t.Fatal(err)
	}
	a.is(t, "t", "bob")
	p.change(func() { p.paused = true })
	b := newTopic()
	other := start(t, fast(), b, nil)
	other.ready(t)
	if err := other.Put(t.Context(), hashOf("t"), envelope.Token{User: "carl", CreatedMS: 3000}, false); err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	p.change(func() { p.records = append(p.records, b.newestOf("t")) })
	go func() { result <- put("dan", 1000) }()
	until(t, "it is appended", func() bool { return len(p.keys("t")) == 4 })
	p.change(func() { p.paused = false })
	if err := <-result; !errors.Is(err, envelope.ErrUnavailable) {
		t.Errorf("%v, want unavailable", err)
	}
	a.is(t, "t", "carl")
	if err := put("dan", 1000); err != nil {
		t.Fatal(err)
	}
	a.is(t, "t", "dan")
}

// A node that was away for long reads the topic again: it may have forgotten the revocation of a token that the node
// knows.
func TestRevocationIsForgottenWhileAway(t *testing.T) {
	for _, suspended := range []bool{false, true} {
		t.Run(fmt.Sprintf("suspended=%v", suspended), func(t *testing.T) {
			p := newTopic()
			db := openDB(t, store.Options{Dir: t.TempDir()})
			a := start(t, fast(), p, db)
			a.ready(t)
			a.put(t, "t", "ann", 0, false)
			a.put(t, "good", "ann", 0, false)
			if suspended {
				p.change(func() { p.paused = true })
			} else {
				a.stop()
			}
			if err := store.NewTokenView(db).SetCurrent(time.Now().Add(-day - time.Minute)); err != nil {
				t.Fatal(err)
			}
			// Another node revokes the token, and removes it a day later.
			for _, value := range [][]byte{{0}, nil} {
				if _, err := p.Put(t.Context(), []byte(p.keys("t")[0]), value); err != nil {
					t.Fatal(err)
				}
			}
			p.compact(true)
			if suspended {
				p.change(func() { p.paused = false })
			} else {
				a = start(t, fast(), p, db)
				a.ready(t)
				a.is(t, "t", unknown)
			}
			a.becomes(t, "t", unknown)
			a.ready(t)
			a.becomes(t, "good", "ann")
			a.stop()
			began := len(p.began())
			a = start(t, fast(), p, db)
			a.ready(t)
			if from := p.began()[began]; from == 0 {
				t.Error("a node that was away for a moment reads the topic from its beginning")
			}
		})
	}
}

// Sync succeeds only once the node has all of the topic.
func TestSync(t *testing.T) {
	p := newTopic()
	b := start(t, fast(), p, nil)
	b.ready(t)
	synced := func(want bool) {
		t.Helper()
		until(t, fmt.Sprint("synced: ", want), func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			defer cancel()
			return (b.Sync(ctx) == nil) == want
		})
	}
	synced(true)
	p.change(func() { p.paused = true })
	if _, err := p.Put(t.Context(), []byte("no token"), nil); err != nil {
		t.Fatal(err)
	}
	synced(false)
	p.change(func() { p.paused = false })
	synced(true)
	p.change(func() { p.endErr = errTopic })
	synced(false)
	p.change(func() { p.endErr = nil })
	synced(true)
}
