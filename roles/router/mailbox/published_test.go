package mailbox_test

import (
	"testing"
	"time"

	"imgo/envelope"
	"imgo/roles/router/mailbox"
)

// A record that is applied again over newer state is no event, and neither is one of a device that became known later.
func TestPublish(t *testing.T) {
	m := mailbox.New("u")
	m.NoteDevice(10, "d", 1, 1)
	for i, c := range []struct {
		at, id uint64
		counts bool
	}{{11, 5, true}, {12, 5, false}, {13, 4, false}, {14, 6, true}, {11, 5, false}, {14, 6, false}} {
		if got := m.Publish(c.at, "d", c.id, 1); got != c.counts {
			t.Errorf("%d: message %d by record %d counts: %v", i, c.id, c.at, got)
		}
	}
	m.Forget(20, "d", nil)
	m.NoteDevice(30, "d", 1, 1)
	if m.Publish(11, "d", 5, 1) || !m.Publish(31, "d", 1, 1) {
		t.Error("a device that was forgotten and is known again has the ids of before")
	}
	// A repetition of what was known before does not count for the device of now.
	m.Devices().NotePublished("d", 10, 99, 1)
	if !m.Publish(32, "d", 2, 1) {
		t.Error("the last id of a device that was forgotten came back")
	}
	m.Devices().NotePublished("d", 30, 7, 1)
	if m.Publish(33, "d", 7, 1) || !m.Publish(34, "d", 8, 1) {
		t.Error("a repeated last id does not count")
	}
	// A device that is not known is, from then on.
	if !m.Publish(40, "new", 3, 1) || m.Publish(41, "new", 3, 1) || m.Publish(40, "new", 3, 1) {
		t.Error("a message of an unknown device does not count once")
	}
}

// A last id moves with its device, and no clock forgets it.
func TestPublishedMovesAndStays(t *testing.T) {
	m := mailbox.New("u")
	part := &envelope.MovedMailbox{
		User: "u", Last: true, Devices: []*envelope.MovedDevice{{Device: "d", Since: 3, SeenMs: 1, Published: 7}, {Device: "e", SeenMs: 1}},
	}
	if !m.Merge(10, part, 1, 1) || m.Publish(11, "d", 7, 1) || !m.Publish(12, "d", 8, 1) || !m.Publish(13, "e", 1, 1) {
		t.Errorf("moved: %+v", m.Meta())
	}
	m.NoteDevice(14, "f", 1, 1)
	_, devices := m.Expire(time.UnixMilli(1).Add(time.Hour), time.Minute, func(string) bool { return false })
	if m.Devices().Find("d") == nil || m.Devices().Find("e") == nil || m.Devices().Find("f") != nil {
		t.Errorf("after the time of the devices: %+v", m.Meta())
	}
	if len(devices) != 2 {
		t.Errorf("a record is to forget %q", devices)
	}
	if !m.MetaExpiry(time.Now()).IsZero() {
		t.Error("the store forgets it by its clock")
	}
}
