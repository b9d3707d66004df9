package mailbox_test

import (
	"fmt"
	"testing"

	"imgo/envelope"
	"imgo/roles/router/mailbox"
)

func TestRooms(t *testing.T) {
	m := mailbox.New("u")
	r := m.Rooms()
	if !r.Set(1, "a", false, 1, 2) || r.Memberships() != nil {
		t.Errorf("a user that was never in a room is in %v", r.Memberships())
	}
	for _, c := range []struct {
		id     uint64
		room   string
		member bool
		counts bool
		rooms  string
	}{
		{5, "a", true, true, "[a]"},
		{5, "b", true, false, "[a]"}, // the record is applied again
		{6, "b", true, true, "[a b]"},
		{7, "c", true, true, "[a b]"}, // no further room
		{8, "a", false, true, "[b]"},
		{4, "b", false, false, "[b]"},
	} {
		if counts := r.Set(c.id, c.room, c.member, 1, 2); counts != c.counts || fmt.Sprint(r.Memberships().Rooms) != c.rooms {
			t.Errorf("%+v: counts %v, rooms %v", c, counts, r.Memberships().Rooms)
		}
	}
	r.Restore(&envelope.Memberships{At: 7, Rooms: []string{"old"}}, 1)
	if got := r.Memberships(); got.At != 8 || fmt.Sprint(got.Rooms) != "[b]" {
		t.Errorf("an older repetition made it %v", got)
	}
	r.Restore(&envelope.Memberships{At: 9, Rooms: []string{"new"}}, 1)
	if got := r.Memberships(); got.At != 9 || fmt.Sprint(got.Rooms) != "[new]" {
		t.Errorf("a repetition made it %v", got)
	}
}
