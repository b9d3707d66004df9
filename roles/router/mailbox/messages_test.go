package mailbox_test

import (
	"fmt"
	"testing"

	"imgo/roles/router/mailbox"
)

func TestBound(t *testing.T) {
	m := mailbox.New("u")
	m.NoteDevice(1, "d", 1, 1)
	for id := uint64(2); id < 7; id++ {
		if dropped := push(&m, id, fmt.Sprint(id), 3); (dropped == 1) != (id > 4) {
			t.Errorf("message %d cost %d", id, dropped)
		}
	}
	if pending(&m, "d") != "456" || m.Meta().Dropped != 2 {
		t.Errorf("%q wait, %d were dropped", pending(&m, "d"), m.Meta().Dropped)
	}
}

func TestBacklogs(t *testing.T) {
	m := mailbox.New("u")
	m.NoteDevice(1, "d", 1, 1)
	for id := uint64(2); id < 12; id++ {
		push(&m, id, "0123456789", 100)
	}
	for _, c := range []struct {
		after        uint64
		messages     int
		bytes        int
		first, count uint64
		more         bool
	}{
		{0, 100, 1 << 20, 2, 10, false},
		{0, 3, 1 << 20, 2, 3, true},
		{4, 100, 2 * 34, 5, 2, true},
		{4, 100, 1, 5, 1, true}, // one message always
		{10, 1, 1, 11, 1, false},
		{11, 1, 1, 0, 0, false},
	} {
		entries, more := m.Messages.Backlog(nil, m.Devices().Mask("d"), c.after, 0, c.messages, c.bytes)
		if uint64(len(entries)) != c.count || more != c.more || c.count > 0 && entries[0].ID != c.first {
			t.Errorf("%+v: %d messages, more %v", c, len(entries), more)
		}
	}
}
