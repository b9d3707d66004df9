package tokenlog_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"imgo/store"
)

// A node resumes where it was. A node that lost its disk reads a compacted topic
// and comes to the same tokens.
func TestResumeAndCompaction(t *testing.T) {
	p := newTopic()
	dir := t.TempDir()
	db := openDB(t, store.Options{Dir: dir, Reserve: -1})
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
