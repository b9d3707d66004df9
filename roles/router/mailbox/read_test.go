package mailbox_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/protocol"
	"imgo/roles/router/mailbox"
	"imgo/store"
)

// pushReporting pushes a message that reports each event.
func pushReporting(m *mailbox.Mailbox, id uint64) {
	m.Push(&envelope.Kept{Id: id, Op: 5, TimeMs: int64(id)}, 0, never, false, &store.MailboxTracked{Level: uint32(events.LevelEach)},
		mailbox.Bound{Length: 100})
}

// tellings describes events.
func tellings(told mailbox.Events) string {
	var list []string
	for _, e := range told {
		text := strings.TrimPrefix(string(e.Type), "message.")
		if e.Message != 0 {
			text += fmt.Sprint(" ", e.Message)
		}
		for _, part := range []struct {
			name string
			set  bool
			what any
		}{
			{"on", e.Device != "", e.Device}, {"without", e.Without != nil, e.Without}, {"ids", e.IDs != nil, e.IDs},
			{"up to", e.UpTo != 0, e.UpTo},
		} {
			if part.set {
				text += fmt.Sprint(" ", part.name, " ", part.what)
			}
		}
		list = append(list, text)
	}
	return strings.Join(list, "; ")
}

// read takes a reading, by the record at. It returns how many messages waited, and describes the events.
func read(m *mailbox.Mailbox, at uint64, by *mailbox.Reading) (deleted int, told string) {
	var out mailbox.Events
	deleted = m.Read(at, by, &out)
	return deleted, tellings(out)
}

// reading is a mailbox with a phone (since 1) and a laptop (since 2), and messages 10 to 13 that report. The phone has 10.
func reading() *mailbox.Mailbox {
	m := mailbox.New("u")
	m.NoteDevice(1, "phone", 1, 1)
	m.NoteDevice(2, "laptop", 1, 1)
	for id := range uint64(4) {
		pushReporting(&m, 10+id)
	}
	ack(&m, 14, "phone", 10)
	return &m
}

func TestRead(t *testing.T) {
	for _, c := range []struct {
		name    string
		by      mailbox.Reading
		left    []uint64
		told    string
		deleted int
	}{
		{"one, on the device that waits", mailbox.Reading{Device: "phone", IDs: []uint64{11}}, []uint64{10, 12, 13},
			"delivered 11 on phone; settled 11 without [laptop]; read on phone ids [11]", 1},
		{"one, on the device that has it", mailbox.Reading{Device: "phone", IDs: []uint64{10}}, []uint64{11, 12, 13},
			"settled 10 without [laptop]; read on phone ids [10]", 1},
		{"by a caller", mailbox.Reading{Device: "phone", IDs: []uint64{11}, ByCaller: true}, []uint64{10, 12, 13},
			"settled 11 without [laptop phone]; read on phone ids [11]", 1},
		{"on an unknown device", mailbox.Reading{Device: "watch", IDs: []uint64{11}}, []uint64{10, 12, 13},
			"settled 11 without [laptop phone]; read on watch ids [11]", 1},
		{"up to", mailbox.Reading{Device: "laptop", UpTo: 11}, []uint64{12, 13},
			"delivered 10 on laptop; settled 10; delivered 11 on laptop; settled 11 without [phone]; read on laptop up to 11", 2},
		{"up to and beyond", mailbox.Reading{Device: "phone", UpTo: 10, IDs: []uint64{13, 9, 13, 10}}, []uint64{11, 12},
			"settled 10 without [laptop]; delivered 13 on phone; settled 13 without [laptop]; read on phone ids [13] up to 10", 2},
		{"ids that do not wait", mailbox.Reading{Device: "phone", IDs: []uint64{7, 3}}, []uint64{10, 11, 12, 13}, "read on phone ids [3 7]", 0},
		{"everything", mailbox.Reading{Device: "phone", UpTo: 1 << 63}, nil,
			"settled 10 without [laptop]; delivered 11 on phone; settled 11 without [laptop]; delivered 12 on phone; settled 12 without [laptop]; " +
				"delivered 13 on phone; settled 13 without [laptop]; read on phone up to 20", 4},
		{"ids from the future", mailbox.Reading{Device: "phone", IDs: []uint64{20, 21, 1 << 63}}, []uint64{10, 11, 12, 13}, "", 0},
		{"nothing", mailbox.Reading{Device: "phone"}, []uint64{10, 11, 12, 13}, "", 0},
	} {
		m := reading()
		given := slices.Clone(c.by.IDs)
		deleted, got := read(m, 20, &c.by)
		var left []uint64
		for _, e := range m.Messages.All() {
			left = append(left, e.ID)
		}
		if got != c.told || deleted != c.deleted || !slices.Equal(left, c.left) {
			t.Errorf("%s: %d deleted, left %v, told %q\nwant %d, %v, %q", c.name, deleted, left, got, c.deleted, c.left, c.told)
		}
		if !slices.Equal(given, c.by.IDs) {
			t.Errorf("%s: the ids of the record have become %v", c.name, c.by.IDs)
		}
	}
}

// A message that is newer than the record stays, whatever the record says: the record is applied again over what came later.
func TestReadLeavesNewerMessages(t *testing.T) {
	m := reading()
	pushReporting(m, 30)
	if n, _ := read(m, 20, &mailbox.Reading{Device: "phone", UpTo: 1 << 63, IDs: []uint64{30}}); n != 4 || m.Messages.Find(30) == nil {
		t.Errorf("%d deleted; the newer message: %v", n, m.Messages.Find(30))
	}
}

// What was told once is not told again, as far as it is remembered.
func TestReadIsToldOnce(t *testing.T) {
	m := reading()
	for i, c := range []struct {
		ids  []uint64
		upTo uint64
		told string
	}{
		{[]uint64{12}, 0, "read on x ids [12]"},
		{[]uint64{12}, 0, ""},
		{[]uint64{13, 12}, 0, "read on x ids [13]"},
		{nil, 11, "read on x up to 11"},
		{[]uint64{10}, 11, ""},
		{[]uint64{13, 14}, 9, "read on x ids [14]"},
		{nil, 13, "read on x up to 13"},
		{[]uint64{12, 13, 14}, 0, ""},
		{nil, 0, ""},
	} {
		_, told := read(m, uint64(20+i), &mailbox.Reading{Device: "x", IDs: c.ids, UpTo: c.upTo, ByCaller: true})
		var got []string
		for part := range strings.SplitSeq(told, "; ") {
			if strings.HasPrefix(part, "read ") {
				got = append(got, part)
			}
		}
		if text := strings.Join(got, "; "); text != c.told {
			t.Errorf("call %d, %v up to %d: %q, want %q", i, c.ids, c.upTo, text, c.told)
		}
	}
	if r := m.Meta().Reads; r.At != 26 || r.UpTo != 13 || !slices.Equal(r.IDs, []uint64{14}) {
		t.Errorf("remembered is %+v", r)
	}
}

// A mailbox remembers the newest ids, and not more than its bound.
func TestReadIsBounded(t *testing.T) {
	m := mailbox.New("u")
	at := uint64(1 << 20)
	for from := range uint64(3) {
		ids := make([]uint64, protocol.MaxReadIDs)
		for i := range ids {
			ids[i] = 1 + from*protocol.MaxReadIDs + uint64(i)
		}
		at++
		read(&m, at, &mailbox.Reading{IDs: ids})
	}
	if n := len(m.Meta().Reads.IDs); n != protocol.MaxReadIDs {
		t.Errorf("%d ids are remembered", n)
	}
	_, got := read(&m, at+1, &mailbox.Reading{IDs: []uint64{2 * protocol.MaxReadIDs, 2*protocol.MaxReadIDs + 1}})
	if want := fmt.Sprintf("read ids [%d]", 2*protocol.MaxReadIDs); got != want {
		t.Errorf("told is %q, want %q", got, want)
	}
}

// A record that is applied again, over what it and later records did, tells nothing and changes nothing that is remembered,
// though what it told of has been forgotten meanwhile.
func TestReadAgainOverNewerState(t *testing.T) {
	m := mailbox.New("u")
	m.NoteDevice(1, "phone", 1, 1)
	pushReporting(&m, 5)
	first := mailbox.Reading{Device: "phone", IDs: []uint64{5}}
	read(&m, 10, &first)
	many := make([]uint64, protocol.MaxReadIDs)
	for i := range many {
		many[i] = uint64(100 + i)
	}
	read(&m, 1000, &mailbox.Reading{Device: "phone", IDs: many})
	meta := m.Meta()
	before := *meta.Reads
	again := mailbox.Load("u", &meta, nil)
	for _, box := range []*mailbox.Mailbox{&m, &again} {
		pushReporting(box, 5) // the store may not have had the message, but what the user has read
		box.NoteDevice(7, "laptop", 1, 1)
		n, got := read(box, 10, &first)
		if n != 1 || len(box.Messages.All()) != 0 {
			t.Errorf("%d deleted, %d wait", n, len(box.Messages.All()))
		}
		if strings.Contains(got, "read") {
			t.Errorf("told is %q", got)
		}
		if r := box.Meta().Reads; r.At != before.At || !slices.Equal(r.IDs, before.IDs) {
			t.Errorf("remembered is %+v", r)
		}
	}
}

// What was read moves with the mailbox, and an older part does not take it back.
func TestReadMoves(t *testing.T) {
	old := reading()
	read(old, 20, &mailbox.Reading{Device: "phone", UpTo: 10, IDs: []uint64{12}})
	part := &envelope.MovedMailbox{User: "u", Last: true, Reads: mailbox.Reads(old.Meta().Reads)}
	const next = uint64(1) << 48
	m := mailbox.New("u")
	m.Merge(next+1, part, 1, 1)
	if _, got := read(&m, next+2, &mailbox.Reading{IDs: []uint64{12, 13}, UpTo: 10}); got != "read ids [13]" {
		t.Errorf("told is %q", got)
	}
	m.Merge(next+1, part, 1, 1) // applied again
	if _, got := read(&m, next+3, &mailbox.Reading{IDs: []uint64{12, 13}, UpTo: 10}); got != "" {
		t.Errorf("told again is %q", got)
	}
	if mailbox.Reads(nil) != nil {
		t.Error("reads of nobody move")
	}
}

// An erased user has read nothing.
func TestReadIsErased(t *testing.T) {
	m := mailbox.New("u")
	read(&m, 5, &mailbox.Reading{UpTo: 4})
	if m.Blank() {
		t.Error("the mailbox is blank: what was read would not be stored")
	}
	m.Erase(6, nil)
	if m.Meta().Reads != nil {
		t.Errorf("remembered is %+v", m.Meta().Reads)
	}
	read(&m, 9, &mailbox.Reading{UpTo: 8})
	m.Erase(6, nil) // applied again
	if m.Meta().Reads == nil {
		t.Error("what was read after the erasure is gone")
	}
}
