package store_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"imgo/store"
)

// onlineUsers returns all users of a partition that were told to be online, a few at a time.
func onlineUsers(t *testing.T, m *store.Mailboxes, partition int32, limit int) (users []string) {
	t.Helper()
	for after := ""; ; {
		page, err := m.Online(partition, after, limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			return users
		}
		users = append(users, page...)
		after = page[len(page)-1]
	}
}

// TestOnlineUsers shows that Online returns each user of one partition and generation that was told to be online, once.
// It does so until the user is told to be offline or the partition is dropped.
func TestOnlineUsers(t *testing.T) {
	first, _ := openMailboxes(t, t.TempDir())
	for _, m := range []*store.Mailboxes{first, first.ForGeneration(2)} {
		b := m.Batch(3)
		var want []string
		for i := range 5 {
			user := fmt.Sprint("u", i)
			b.PutMeta(user, &store.MailboxMeta{Presence: &store.MailboxPresence{At: 1, Online: true}}, time.Time{})
			b.PutOnline(user, true)
			want = append(want, user)
		}
		b.PutOnline("gone", false)
		if err := b.Commit(1); err != nil {
			t.Fatal(err)
		}
		other := m.Batch(4)
		other.PutOnline("other", true)
		if err := other.Commit(1); err != nil {
			t.Fatal(err)
		}
		for limit := 1; limit < 7; limit++ {
			if got := onlineUsers(t, m, 3, limit); !slices.Equal(got, want) {
				t.Fatalf("%d at a time: %v, want %v", limit, got, want)
			}
		}
		b = m.Batch(3)
		b.PutOnline("u2", false)
		if err := b.Commit(2); err != nil {
			t.Fatal(err)
		}
		if got := onlineUsers(t, m, 3, 9); slices.Contains(got, "u2") || len(got) != 4 {
			t.Errorf("after u2 went: %v", got)
		}
		if meta, _, err := m.Load(3, "u1"); err != nil || meta == nil || !meta.Presence.Online {
			t.Errorf("u1 is stored as %+v, %v", meta, err)
		}
		if err := m.DropPartition(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		if got := onlineUsers(t, m, 3, 9); len(got) != 0 {
			t.Errorf("after the drop: %v", got)
		}
	}
	later := first.ForGeneration(3)
	if dropped, err := later.DropOlder(t.Context()); !dropped || err != nil {
		t.Fatalf("older generations: %v, %v", dropped, err)
	}
	for _, m := range []*store.Mailboxes{first, first.ForGeneration(2)} {
		if got := onlineUsers(t, m, 4, 9); len(got) != 0 {
			t.Errorf("an older generation still has %v", got)
		}
	}
}
