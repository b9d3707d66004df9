package mailbox_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/roles/router/mailbox"
	"imgo/store"
)

const never = int64(1) << 50 // an expiry that no test reaches, Unix milliseconds

// ack takes a device's acknowledgement of messages, by the record at.
func ack(m *mailbox.Mailbox, at uint64, device string, ids ...uint64) int {
	return m.Ack(at, &mailbox.Acknowledgement{Device: device, IDs: ids}, nil)
}

func push(m *mailbox.Mailbox, id uint64, body string, bound int) (dropped int) {
	return m.Push(&envelope.Kept{Id: id, Op: 5, Body: []byte(body), TimeMs: int64(id)}, 0, never, false, nil, mailbox.Bound{Length: bound})
}

// pending lists the bodies that wait for a device.
func pending(m *mailbox.Mailbox, device string) string {
	entries, _ := m.Messages.Backlog(nil, m.Devices().Mask(device), 0, 0, 1<<20, 1<<30)
	var out strings.Builder
	for _, e := range entries {
		out.Write(e.Message.Body)
	}
	return out.String()
}

func TestEachDeviceAcknowledgesByItself(t *testing.T) {
	m := mailbox.New("u")
	m.NoteDevice(1, "phone", 1, 1)
	m.NoteDevice(2, "laptop", 1, 1)
	push(&m, 3, "a", 10)
	push(&m, 4, "b", 10)
	push(&m, 4, "again", 10)
	if n := ack(&m, 5, "phone", 3, 3, 99); n != 0 || pending(&m, "phone") != "b" || pending(&m, "laptop") != "ab" {
		t.Errorf("%d deleted; phone %q, laptop %q", n, pending(&m, "phone"), pending(&m, "laptop"))
	}
	if n := ack(&m, 6, "laptop", 3, 4); n != 1 || m.Messages.Find(3) != nil || pending(&m, "laptop") != "" || pending(&m, "phone") != "b" {
		t.Errorf("%d deleted; phone %q, laptop %q", n, pending(&m, "phone"), pending(&m, "laptop"))
	}
	// A device that comes later starts with what no device has acknowledged.
	push(&m, 7, "c", 10)
	m.NoteDevice(8, "tablet", 1, 1)
	if got := pending(&m, "tablet"); got != "c" {
		t.Errorf("a new device is handed %q", got)
	}
	if prev := m.Messages.Prev(m.Devices().Mask("phone"), 7); prev != 4 {
		t.Errorf("before 7 the phone waits for %d", prev)
	}
	if n := ack(&m, 9, "unknown", 4, 7); n != 0 || pending(&m, "phone") != "bc" {
		t.Errorf("an unknown device deleted %d", n)
	}
}

// A client may forget one device after another while a message waits: what is remembered of that has a bound.
func TestWithoutHasABound(t *testing.T) {
	m := mailbox.New("u")
	m.NoteDevice(1, "phone", 1, 1)
	tracked := mailbox.TrackedOf(&envelope.Report{Level: 1}, 2)
	m.Push(&envelope.Kept{Id: 2}, 0, never, false, tracked, mailbox.Bound{Length: 10})
	var out mailbox.Events
	for i := range uint64(100) {
		device := fmt.Sprint("d", i)
		m.NoteDevice(3+2*i, device, 1, 1)
		m.Forget(4+2*i, device, &out)
	}
	m.Ack(1000, &mailbox.Acknowledgement{Device: "phone", IDs: []uint64{2}}, &out)
	if len(out) != 1 || len(out[0].Without) != mailbox.MaxDevices || out[0].Without[0] != "d36" || out[0].Without[63] != "d99" {
		t.Errorf("events: %+v", out)
	}
}

func TestTheFirstDeviceTakesOverWhatWaits(t *testing.T) {
	m := mailbox.New("u")
	push(&m, 1, "a", 10)
	push(&m, 2, "b", 10)
	if !m.Messages.Find(1).Unclaimed {
		t.Error("a message is claimed though there is no device")
	}
	if n := ack(&m, 3, "", 1); n != 1 {
		t.Errorf("the default cursor of a user without devices deleted %d", n)
	}
	m.NoteDevice(4, "phone", 1, 1)
	if got := pending(&m, "phone"); got != "b" {
		t.Errorf("the first device is handed %q", got)
	}
	m.NoteDevice(5, "laptop", 1, 1)
	ack(&m, 6, "phone", 2)
	if got := pending(&m, "laptop"); got != "b" {
		t.Errorf("the second device is handed %q", got)
	}
}

func TestExpire(t *testing.T) {
	m := mailbox.New("u")
	now := time.UnixMilli(1_700_000_000_000)
	m.NoteDevice(1, "old", now.Add(-2*time.Hour).UnixMilli(), 1)
	m.NoteDevice(2, "connected", now.Add(-2*time.Hour).UnixMilli(), 1)
	m.NoteDevice(3, "new", now.UnixMilli(), 1)
	bound := mailbox.Bound{Length: 10}
	m.Push(&envelope.Kept{Id: 4, Body: []byte("a"), TimeMs: 1}, 0, now.UnixMilli(), false, nil, bound)
	m.Push(&envelope.Kept{Id: 5, Body: []byte("b"), TimeMs: 1}, 0, now.UnixMilli()+1, false, nil, bound)
	connected := func(device string) bool { return device == "connected" }
	if n, _ := m.Expire(now, mailbox.NoExpiry, connected); n != 1 || pending(&m, "new") != "b" || m.Devices().Find("old") == nil {
		t.Errorf("%d expired, %q wait", n, pending(&m, "new"))
	}
	n, _ := m.Expire(now, time.Hour, connected)
	if n != 0 || m.Devices().Find("old") != nil || m.Devices().Find("connected") == nil || m.Devices().Find("new") == nil {
		t.Errorf("%d expired; devices %v", n, m.Meta().Devices)
	}
}

// A device that is forgotten leaves nothing behind, and costs no other device and no later one a message.
func TestForget(t *testing.T) {
	m := mailbox.New("u")
	m.NoteDevice(1, "phone", 1, 1)
	m.NoteDevice(2, "laptop", 1, 1)
	push(&m, 3, "a", 10)
	push(&m, 4, "b", 10)
	ack(&m, 5, "laptop", 3)
	if n, known := m.Forget(1, "phone", nil); n != 0 || known {
		t.Errorf("a record from before the device forgets it: %d, %v", n, known)
	}
	if n, known := m.Forget(6, "phone", nil); n != 2 || !known || m.Messages.Find(3) != nil || pending(&m, "laptop") != "b" {
		t.Errorf("%d waited, %v; the laptop gets %q", n, known, pending(&m, "laptop"))
	}
	if n, known := m.Forget(7, "phone", nil); n != 0 || known {
		t.Errorf("again: %d, %v", n, known)
	}
	// What nobody has had waits for the next device.
	if n, known := m.Forget(8, "laptop", nil); n != 1 || !known || !m.Messages.Find(4).Unclaimed {
		t.Errorf("%d waited, %v; the message is %+v", n, known, m.Messages.Find(4))
	}
	m.NoteDevice(9, "tablet", 1, 1)
	if got := pending(&m, "tablet"); got != "b" {
		t.Errorf("the next device gets %q", got)
	}
}

func TestPurgeAndErase(t *testing.T) {
	m := mailbox.New("u")
	m.NoteDevice(1, "phone", 1, 1)
	push(&m, 2, "a", 10)
	push(&m, 4, "b", 10)
	m.Keys().Use("old", 2)
	m.Keys().Use("new", 6)
	if n := m.Purge(3, nil); n != 1 || pending(&m, "phone") != "b" {
		t.Errorf("%d were dropped, %q wait", n, pending(&m, "phone"))
	}
	m.Messages.CountDropped(3)
	m.Erase(5, nil)
	if !m.Blank() || len(m.Messages.All()) != 0 || m.Keys().Erased() != 5 {
		t.Errorf("left: %+v, %d messages", m.Meta(), len(m.Messages.All()))
	}
	if old, _ := m.Keys().Used("old"); old != 0 {
		t.Error("an idempotency key is left")
	}
	if id, _ := m.Keys().Used("new"); id != 6 {
		t.Error("a later idempotency key is gone")
	}
	c, _ := m.CollectChanges(10)
	if c.Erased != 5 || !c.Meta {
		t.Errorf("to be written: %+v", c)
	}
	m.Undo(&c)
	if c, _ = m.CollectChanges(10); c.Erased != 5 {
		t.Errorf("to be written after a failure: %+v", c)
	}
	m.Written(&c, nil)
	m.NoteDevice(7, "phone", 1, 1)
	if c, _ = m.CollectChanges(10); c.Erased != 0 || m.Blank() {
		t.Errorf("to be written later: %+v", c)
	}
}

func TestChangesAreTakenAgainAfterAFailure(t *testing.T) {
	m := mailbox.New("u")
	m.NoteDevice(1, "d", 1, 1)
	push(&m, 2, "a", 10)
	push(&m, 3, "b", 10)
	c, later := m.CollectChanges(2)
	if len(c.Entries) != 1 || len(c.Fresh) != 1 || c.Entries[0].ID != 2 || !c.Meta || !later {
		t.Errorf("took %+v, later %v", c, later)
	}
	ack(&m, 4, "d", 2) // while it is being written
	m.Undo(&c)
	if c, _ = m.CollectChanges(10); len(c.Fresh) != 1 || c.Fresh[0].ID != 3 || len(c.Gone) != 1 || c.Gone[0].ID != 2 {
		t.Errorf("took %+v", c)
	}
	var held []uint64
	m.Written(&c, func(e *mailbox.Entry, message *envelope.Kept) {
		held = append(held, message.Id)
		m.Messages.Hold(e, message)
	})
	if fmt.Sprint(held) != "[3]" || m.Messages.Held() == 0 || m.Dirty() {
		t.Errorf("held %v, %d bytes, dirty %v", held, m.Messages.Held(), m.Dirty())
	}
	if m.Messages.Release(); m.Messages.Held() != 0 || !m.Messages.Find(3).NeedsBody() {
		t.Error("the body is in memory though it was released")
	}
	if m.Messages.DropLost(3, 0) != true || m.Messages.DropLost(3, 0) || m.Meta().Dropped != 1 || len(m.Messages.All()) != 0 {
		t.Error("a lost message is dropped once")
	}
}

func TestMergeCountsOnce(t *testing.T) {
	from := mailbox.New("u")
	from.NoteDevice(1, "phone", 5, 1)
	from.NoteDevice(2, "laptop", 6, 1)
	push(&from, 3, "a", 10)
	push(&from, 4, "b", 10)
	ack(&from, 5, "phone", 3)
	part := &envelope.MovedMailbox{User: "u", Last: true, LastMs: 9, Dropped: 2}
	for _, d := range from.Meta().Devices {
		part.Devices = append(part.Devices, &envelope.MovedDevice{Device: d.Name, Since: d.Since, SeenMs: d.SeenMS})
	}
	for _, e := range from.Messages.All() {
		part.Messages = append(part.Messages, &envelope.MovedMessage{
			Id: e.ID, Body: e.Message.Body, ExpiresMs: e.ExpiresMS, Acked: e.Acked,
			Waiting: mailbox.MovedBits(e.Waiting, from.Meta().Devices),
		})
	}
	to := mailbox.New("u")
	if !to.Merge(100, part, 1, 0) || pending(&to, "phone") != "b" || pending(&to, "laptop") != "ab" {
		t.Errorf("phone %q, laptop %q", pending(&to, "phone"), pending(&to, "laptop"))
	}
	ack(&to, 101, "laptop", 3)
	if to.Merge(102, part, 1, 0) || to.Messages.Find(3) != nil || to.Meta().Moved != 100 || to.Meta().Dropped != 2 {
		t.Errorf("a part behind a complete mailbox counts: %v", to.Meta())
	}
	if got := mailbox.Covered(to.Messages.Find(4).Waiting, to.Meta().Devices); len(got) != 2 {
		t.Errorf("the message waits for %v", got)
	}
}

// record is one step of a random history.
type record func(m *mailbox.Mailbox)

// randomRecords returns records and the number of those up to the last one that removes something: the stored
// position is never before such a record while the stored state is behind it.
func randomRecords(rng *rand.Rand, n int) (records []record, removed int) {
	devices := []string{"", "phone", "laptop"}
	now := mailbox.New("u") // the state so far
	for i := range n {
		if i > 0 {
			records[i-1](&now)
		}
		id := uint64(i + 1)
		device := devices[rng.IntN(len(devices))]
		switch rng.IntN(6) {
		case 4:
			if rng.IntN(3) == 0 { // most histories end without a removal
				removed = i + 1
			}
			switch k := rng.IntN(8); {
			case removed <= i:
				records = append(records, func(*mailbox.Mailbox) {})
			case k == 0:
				records = append(records, func(m *mailbox.Mailbox) { m.Purge(id, nil) })
			case k == 1:
				records = append(records, func(m *mailbox.Mailbox) { m.Erase(id, nil) })
			default:
				records = append(records, func(m *mailbox.Mailbox) { m.Forget(id, device, nil) })
			}
		case 5:
			room, member := fmt.Sprint("room", rng.IntN(4)), rng.IntN(3) > 0
			records = append(records, func(m *mailbox.Mailbox) { m.Rooms().Set(id, room, member, int64(i), 2) })
		case 0:
			seen := int64(1000*i) + rng.Int64N(1000) // clocks go on
			records = append(records, func(m *mailbox.Mailbox) { m.NoteDevice(id, device, seen, seen) })
		case 1:
			ids := make([]uint64, rng.IntN(5))
			for k := range ids {
				ids[k] = rng.Uint64N(id + 1)
			}
			if device == "" && now.Devices().Find("") == nil { // the API of 2016 acknowledges only what it has read
				ids = slices.DeleteFunc(ids, func(id uint64) bool { return now.Messages.Find(id) == nil || !now.Messages.Find(id).Unclaimed })
			}
			records = append(records, func(m *mailbox.Mailbox) { ack(m, id, device, ids...) })
		default:
			records = append(records, func(m *mailbox.Mailbox) { push(m, id, fmt.Sprint(id, " "), 1<<20) })
		}
	}
	return records, removed
}

func state(m *mailbox.Mailbox) string {
	var out strings.Builder
	devices := slices.Clone(m.Meta().Devices)
	slices.SortFunc(devices, func(a, b store.MailboxDevice) int { return strings.Compare(a.Name, b.Name) })
	for _, d := range devices {
		fmt.Fprintf(&out, "%q since %d seen %d: %s\n", d.Name, d.Since, d.SeenMS, pending(m, d.Name))
	}
	for _, e := range m.Messages.All() {
		fmt.Fprintf(&out, "%d %v %v\n", e.ID, e.Acked, e.Unclaimed)
	}
	fmt.Fprintf(&out, "rooms %v\n", m.Rooms().Memberships().GetRooms())
	return out.String()
}

// A record that is applied a second time, over what it and all later records
// did, changes nothing: the store's state may be newer than its position.
func TestRecordsMayBeAppliedAgain(t *testing.T) {
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(seed, 1))
		records, removed := randomRecords(rng, 40)
		once := mailbox.New("u")
		for _, r := range records {
			r(&once)
		}
		want := state(&once)
		for _, r := range records[removed+rng.IntN(len(records)-removed+1):] {
			r(&once)
		}
		if got := state(&once); got != want {
			t.Fatalf("seed %d: applied again it is\n%s\nafter\n%s", seed, got, want)
		}
	}
}
