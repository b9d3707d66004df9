package store

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// mailboxFormat is the first byte of every mailbox value, but for metas with fields. A node that meets a newer
// format refuses it instead of misreading it.
const mailboxFormat = 1

// errMailboxShort is the error of a value that is cut off.
var errMailboxShort = errors.New("value is cut off")

func appendMeta(b []byte, m *MailboxMeta) []byte {
	format := byte(mailboxFormat)
	if m.needsFields() {
		format = mailboxFieldsFormat
	}
	b = append(b, format)
	b = binary.AppendUvarint(b, uint64(m.LastMS))
	b = binary.AppendUvarint(b, m.Dropped)
	b = binary.AppendUvarint(b, uint64(len(m.Devices)))
	for _, d := range m.Devices {
		b = appendText(b, d.Name)
		b = append(b, d.Bit)
		b = binary.AppendUvarint(b, d.Since)
		b = binary.AppendUvarint(b, uint64(d.SeenMS))
	}
	// Last, and one for each device: older versions neither write nor read them.
	for _, d := range m.Devices {
		b = binary.AppendUvarint(b, uint64(d.NotedMS))
	}
	if format == mailboxFieldsFormat {
		return appendFields(binary.AppendUvarint(b, m.Moved), m)
	}
	if m.Moved > 0 || m.Rooms != nil {
		b = binary.AppendUvarint(b, m.Moved)
	}
	if m.Rooms != nil {
		b = appendRooms(b, m.Rooms)
	}
	return b
}

// fieldReader reads the fields of a value in order. It keeps the first error.
type fieldReader struct {
	b   []byte
	err error
}

func newFieldReader(b []byte) *fieldReader {
	c := &fieldReader{b: b}
	c.checkFormat(c.byte(), mailboxFormat)
	return c
}

func (c *fieldReader) checkFormat(format, want byte) {
	if c.err == nil && format != want {
		c.err = fmt.Errorf("format %d is not one that this version reads", format)
	}
}

func (c *fieldReader) byte() byte {
	if len(c.b) == 0 {
		c.fail()
		return 0
	}
	v := c.b[0]
	c.b = c.b[1:]
	return v
}

func (c *fieldReader) fail() {
	if c.err == nil {
		c.err = errMailboxShort
	}
	c.b = nil
}

func (c *fieldReader) uint() uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.fail()
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *fieldReader) bytes() []byte {
	n := c.uint()
	if n > uint64(len(c.b)) {
		c.fail()
		return nil
	}
	v := c.b[:n]
	c.b = c.b[n:]
	return v
}

// texts reads what appendTexts wrote, to the end of the value.
func (c *fieldReader) texts() (texts []string) {
	for len(c.b) > 0 && c.err == nil {
		texts = append(texts, string(c.bytes()))
	}
	return texts
}

func decodeMeta(b []byte) (*MailboxMeta, error) {
	c := &fieldReader{b: b}
	format := c.byte()
	if format != mailboxFieldsFormat {
		c.checkFormat(format, mailboxFormat)
	}
	m := &MailboxMeta{LastMS: int64(c.uint()), Dropped: c.uint()}
	for n := c.uint(); n > 0 && c.err == nil; n-- {
		m.Devices = append(m.Devices, MailboxDevice{
			Name: string(c.bytes()), Bit: c.byte(), Since: c.uint(), SeenMS: int64(c.uint()),
		})
	}
	if len(c.b) > 0 {
		for i := range m.Devices {
			m.Devices[i].NotedMS = int64(c.uint())
		}
	}
	if len(c.b) > 0 {
		m.Moved = c.uint()
	}
	switch {
	case format == mailboxFieldsFormat:
		c.fields(m)
	case len(c.b) > 0:
		m.Rooms = c.rooms()
	}
	return m, c.err
}

// Flags of a stored entry.
const (
	entryAcked     = 1 << 0
	entryUnclaimed = 1 << 1
	entryShared    = 1 << 2
	entryTracked   = 1 << 3 // the fields of MailboxTracked follow

	trackedAny     = 1 << 0
	trackedDecided = 1 << 1
)

// flag returns bit if on, else 0.
func flag(bit byte, on bool) byte {
	if on {
		return bit
	}
	return 0
}

func appendEntry(b []byte, e *MailboxEntry) []byte {
	b = append(b, mailboxFormat, flag(entryAcked, e.Acked)|flag(entryUnclaimed, e.Unclaimed)|
		flag(entryShared, e.Shared)|flag(entryTracked, e.Tracked != nil))
	b = binary.AppendUvarint(b, uint64(e.TimeMS))
	b = binary.AppendUvarint(b, uint64(e.ExpiresMS))
	b = binary.AppendUvarint(b, e.Waiting)
	b = binary.AppendUvarint(b, uint64(e.Size))
	if e.Tracked != nil {
		b = appendTracked(b, e.Tracked)
	}
	return b
}

func appendTracked(b []byte, t *MailboxTracked) []byte {
	b = append(b, flag(trackedAny, t.DeadlineAny)|flag(trackedDecided, t.Decided))
	b = binary.AppendUvarint(b, uint64(t.Level))
	b = binary.AppendUvarint(b, uint64(t.DeadlineMS))
	b = appendText(b, t.Ref)
	b = binary.AppendUvarint(b, uint64(t.PushedMS))
	b = binary.AppendUvarint(b, uint64(len(t.Receipts)))
	for _, r := range t.Receipts {
		b = appendText(b, r.Device)
		b = binary.AppendUvarint(b, uint64(r.TimeMS))
	}
	return appendTexts(b, t.Without)
}

func (c *fieldReader) tracked() *MailboxTracked {
	flags := c.byte()
	t := &MailboxTracked{
		DeadlineAny: flags&trackedAny != 0, Decided: flags&trackedDecided != 0, Level: uint32(c.uint()), DeadlineMS: int64(c.uint()),
		Ref: string(c.bytes()), PushedMS: int64(c.uint()),
	}
	for n := c.uint(); n > 0 && c.err == nil; n-- {
		t.Receipts = append(t.Receipts, MailboxReceipt{Device: string(c.bytes()), TimeMS: int64(c.uint())})
	}
	t.Without = c.texts()
	return t
}

func decodeEntry(id uint64, b []byte) (MailboxEntry, error) {
	c := newFieldReader(b)
	flags := c.byte()
	e := MailboxEntry{
		ID: id, TimeMS: int64(c.uint()), ExpiresMS: int64(c.uint()), Waiting: c.uint(), Size: int32(c.uint()),
		Acked: flags&entryAcked != 0, Unclaimed: flags&entryUnclaimed != 0, Shared: flags&entryShared != 0,
	}
	if flags&entryTracked != 0 {
		e.Tracked = c.tracked()
	}
	return e, c.err
}
