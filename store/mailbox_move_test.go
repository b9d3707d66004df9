package store_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"imgo/store"
)

// fill stores a user's mailbox, keys and a position of a partition.
func fill(t *testing.T, m *store.Mailboxes, partition int32, word string) {
	t.Helper()
	hour := time.Now().Add(time.Hour)
	e := entryAt(1, hour)
	b := m.Batch(partition)
	b.PutMeta("u", &store.MailboxMeta{LastMS: 7, Moved: uint64(len(word)), Devices: []store.MailboxDevice{{Name: word}}}, hour)
	b.PutEntry("u", &e)
	b.PutBody("u", &e, store.MailboxBody{Op: 5, Body: []byte(word)})
	b.Use("u", "key-"+word, 9, hour)
	b.Claim("claim-"+word, store.MailboxClaim{ID: 10, Record: [12]byte{1}}, hour)
	if err := b.Commit(77); err != nil {
		t.Fatal(err)
	}
}

// holds reports whether a partition has what fill stored. Anything between all and nothing
// fails the test.
func holds(t *testing.T, m *store.Mailboxes, partition int32, word string) bool {
	t.Helper()
	meta, entries, err := m.Load(partition, "u")
	if err != nil {
		t.Fatal(err)
	}
	position, _, ok, err := m.Position(partition)
	if err != nil {
		t.Fatal(err)
	}
	if empty, err := m.Empty(partition); err != nil || empty != !ok {
		t.Fatalf("empty %v, %v; position %v", empty, err, ok)
	}
	if meta == nil && len(entries) == 0 && !ok {
		return false
	}
	bodies, err := m.Bodies(partition, "u", entries)
	if err != nil || len(bodies) != 1 || string(bodies[0].Body) != word || meta.Devices[0].Name != word ||
		meta.Moved != uint64(len(word)) || position != 77 {
		t.Fatalf("partition %d has %+v, %v, %v, not what was stored as %q (%v)", partition, meta, entries, bodies, word, err)
	}
	return true
}

// TestGenerationsAreApart shows that partitions with the same number in different
// generations are separate, and that data from before there were generations belongs to the
// first.
func TestGenerationsAreApart(t *testing.T) {
	dir := t.TempDir()
	first, stop := openMailboxes(t, dir)
	second, third := first.ForGeneration(2), first.ForGeneration(3)
	fill(t, first, 0, "first") // keys without a generation, as older versions wrote them
	if holds(t, second, 0, "") || !holds(t, first.ForGeneration(1), 0, "first") {
		t.Fatal("the first generation is another one's")
	}
	fill(t, second, 0, "second")
	fill(t, third, 0, "third")
	fill(t, third, 1, "more")
	stop()
	first, _ = openMailboxes(t, dir)
	second, third = first.ForGeneration(2), first.ForGeneration(3)
	for word, has := range map[string]bool{
		"first": holds(t, first, 0, "first"), "second": holds(t, second, 0, "second"),
		"third": holds(t, third, 0, "third"), "more": holds(t, third, 1, "more"),
	} {
		if !has {
			t.Errorf("%s is gone", word)
		}
	}
	if dropped, err := first.DropOlder(context.Background()); dropped || err != nil {
		t.Fatalf("before the first: %v, %v", dropped, err)
	}
	if dropped, err := third.DropOlder(context.Background()); !dropped || err != nil {
		t.Fatalf("before the third: %v, %v", dropped, err)
	}
	if holds(t, first, 0, "") || holds(t, second, 0, "") {
		t.Error("an older generation is still there")
	}
	if !holds(t, third, 0, "third") || !holds(t, third, 1, "more") {
		t.Error("the newest generation lost something")
	}
	if dropped, err := third.DropOlder(context.Background()); dropped || err != nil {
		t.Errorf("a second time: %v, %v", dropped, err)
	}
}

// TestKeys shows that Keys returns every key of a partition once, a few at a time.
func TestKeys(t *testing.T) {
	m, _ := openMailboxes(t, t.TempDir())
	for _, m := range []*store.Mailboxes{m, m.ForGeneration(2)} {
		hour := time.Now().Add(time.Hour)
		b := m.Batch(3)
		var want []string
		for i := range 5 {
			key := fmt.Sprint("k", i)
			b.Claim(key, store.MailboxClaim{ID: uint64(i + 1), Record: [12]byte{byte(i)}}, hour)
			want = append(want, fmt.Sprintf("/%s/%d/%d", key, i+1, i))
		}
		for _, user := range []string{"a", "ab", "b"} {
			for i := range 2 {
				key := fmt.Sprint("\x00k", i)
				b.Use(user, key, uint64(i+10), hour)
				want = append(want, fmt.Sprintf("%s/%s/%d/0", user, key, i+10))
			}
		}
		b.Use("a", "old", 1, time.Now().Add(-time.Hour))
		if err := b.Commit(1); err != nil {
			t.Fatal(err)
		}
		fill(t, m, 4, "another partition's")
		for limit := 1; limit < 13; limit++ {
			var got []string
			for after := (store.UsedKey{}); ; {
				keys, err := m.Keys(3, after, limit)
				if err != nil {
					t.Fatal(err)
				}
				if len(keys) == 0 {
					break
				}
				for _, k := range keys {
					got = append(got, fmt.Sprintf("%s/%s/%d/%d", k.User, k.Key, k.ID, k.Record[0]))
					if left := time.Until(k.Expires); left < 59*time.Minute || left > 61*time.Minute {
						t.Fatalf("%q expires in %v", k.Key, left)
					}
				}
				after = keys[len(keys)-1]
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%d at a time: %s", limit, diff)
			}
		}
	}
}
