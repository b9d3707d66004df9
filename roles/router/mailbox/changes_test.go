package mailbox_test

import (
	"testing"

	"imgo/envelope"
	"imgo/roles/router/mailbox"
)

// Whatever part changes, the mailbox is dirty until the store has it.
func TestEachPartIsWritten(t *testing.T) {
	for name, c := range map[string]struct {
		change     func(m *mailbox.Mailbox)
		meta, told bool
	}{
		"messages":    {func(m *mailbox.Mailbox) { push(m, 20, "a", 10) }, true, false},
		"acked":       {func(m *mailbox.Mailbox) { ack(m, 20, "laptop", 3) }, false, false},
		"dropped":     {func(m *mailbox.Mailbox) { m.Messages.CountDropped(1) }, true, false},
		"body lost":   {func(m *mailbox.Mailbox) { m.Messages.DropLost(3, 0) }, true, false},
		"new device":  {func(m *mailbox.Mailbox) { m.NoteDevice(20, "watch", 1, 1) }, true, false},
		"forgotten":   {func(m *mailbox.Mailbox) { m.Forget(20, "phone", nil) }, true, false},
		"seen":        {func(m *mailbox.Mailbox) { m.Devices().Seen("phone", 9) }, true, false},
		"published":   {func(m *mailbox.Mailbox) { m.Publish(20, "phone", 1, 1) }, true, false},
		"rooms":       {func(m *mailbox.Mailbox) { m.Rooms().Set(20, "r", true, 1, 5) }, true, false},
		"rooms again": {func(m *mailbox.Mailbox) { m.Rooms().Restore(&envelope.Memberships{At: 20}, 1) }, true, false},
		"presence":    {func(m *mailbox.Mailbox) { m.Presence().Set(20, &envelope.Presence{Online: true}, 1, nil) }, true, true},
		"read":        {func(m *mailbox.Mailbox) { read(m, 20, &mailbox.Reading{IDs: []uint64{7}}) }, true, false},
		"moved":       {func(m *mailbox.Mailbox) { m.Merge(20, &envelope.MovedMailbox{Last: true}, 1, 1) }, true, false},
		"key":         {func(m *mailbox.Mailbox) { m.Keys().Use("k", 20) }, false, false},
		"erased":      {func(m *mailbox.Mailbox) { m.Erase(20, nil) }, true, false},
	} {
		m := mailbox.New("u")
		m.NoteDevice(1, "phone", 1, 1)
		m.NoteDevice(2, "laptop", 1, 1)
		push(&m, 3, "a", 10)
		written, _ := m.CollectChanges(1 << 40)
		m.Written(&written, nil)
		if m.Dirty() {
			t.Fatalf("%s: dirty before", name)
		}
		c.change(&m)
		for range 2 { // the first time the store fails
			taken, _ := m.CollectChanges(1 << 40)
			if taken.Meta != c.meta || taken.Told != c.told || len(taken.Used) == 0 && m.Dirty() {
				t.Errorf("%s: to be written: %+v", name, taken)
			}
			if m.Undo(&taken); !m.Dirty() {
				t.Errorf("%s: not dirty after a failure", name)
			}
		}
		taken, _ := m.CollectChanges(1 << 40)
		if m.Written(&taken, nil); m.Dirty() {
			t.Errorf("%s: dirty after it was written", name)
		}
	}
}
