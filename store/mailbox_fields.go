package store

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// mailboxFieldsFormat is the first byte of a meta that ends with fields: each a tag, a length and so
// many bytes. A meta without what only fields have keeps mailboxFormat, which older versions read.
const mailboxFieldsFormat = 2

// The tags of fields.
const (
	fieldRooms     = 1
	fieldReads     = 2
	fieldPresence  = 3
	fieldPublished = 4 // for each device that has sent a message with an id: its bit, the id and the time
)

// MailboxReads is what a user has read, as far as it is remembered.
type MailboxReads struct {
	// At is the id of the newest record that told of reading.
	At uint64
	// UpTo: all messages up to this id are read.
	UpTo uint64
	// IDs are the messages after UpTo that are read, in order, each once.
	IDs []uint64
}

// needsFields reports whether only fields have all of the meta.
func (m *MailboxMeta) needsFields() bool {
	return m.Reads != nil || m.Presence != nil || slices.ContainsFunc(m.Devices, func(d MailboxDevice) bool { return d.Published > 0 })
}

func appendField(b []byte, tag uint64, value []byte) []byte {
	b = binary.AppendUvarint(b, tag)
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

// appendFields appends the fields of a meta, in the order of their tags.
func appendFields(b []byte, m *MailboxMeta) []byte {
	if m.Rooms != nil {
		b = appendField(b, fieldRooms, appendRooms(nil, m.Rooms))
	}
	if m.Reads != nil {
		b = appendField(b, fieldReads, appendReads(nil, m.Reads))
	}
	if m.Presence != nil {
		b = appendField(b, fieldPresence, appendPresence(nil, m.Presence))
	}
	if published := appendPublished(nil, m); published != nil {
		b = appendField(b, fieldPublished, published)
	}
	return b
}

// fields reads what appendFields wrote, to the end of the value.
func (c *fieldReader) fields(m *MailboxMeta) {
	for len(c.b) > 0 && c.err == nil {
		tag := c.uint()
		value := fieldReader{b: c.bytes()}
		switch {
		case c.err != nil:
			return
		case tag == fieldRooms:
			m.Rooms = value.rooms()
		case tag == fieldReads:
			m.Reads = value.reads()
		case tag == fieldPresence:
			m.Presence = value.presence()
		case tag == fieldPublished:
			value.published(m)
		default:
			value.err = fmt.Errorf("field %d is not one that this version reads", tag)
		}
		c.err = value.err
	}
}

// appendReads appends the distances between the ids: they are small.
func appendReads(b []byte, r *MailboxReads) []byte {
	b = binary.AppendUvarint(b, r.At)
	b = binary.AppendUvarint(b, r.UpTo)
	last := r.UpTo
	for _, id := range r.IDs {
		b = binary.AppendUvarint(b, id-last)
		last = id
	}
	return b
}

// reads reads what appendReads wrote, to the end of the field.
func (c *fieldReader) reads() *MailboxReads {
	r := &MailboxReads{At: c.uint(), UpTo: c.uint()}
	for last := r.UpTo; len(c.b) > 0 && c.err == nil; {
		last += c.uint()
		r.IDs = append(r.IDs, last)
	}
	return r
}

func appendPublished(b []byte, m *MailboxMeta) []byte {
	for _, d := range m.Devices {
		if d.Published > 0 {
			b = append(b, d.Bit)
			b = binary.AppendUvarint(b, d.Published)
			b = binary.AppendUvarint(b, uint64(d.PublishedMS))
		}
	}
	return b
}

// published reads what appendPublished wrote, to the end of the field.
func (c *fieldReader) published(m *MailboxMeta) {
	for len(c.b) > 0 && c.err == nil {
		bit, id, ms := c.byte(), c.uint(), int64(c.uint())
		for i := range m.Devices {
			if m.Devices[i].Bit == bit && id > 0 {
				m.Devices[i].Published, m.Devices[i].PublishedMS = id, ms
			}
		}
	}
}

func appendRooms(b []byte, r *MailboxRooms) []byte {
	b = binary.AppendUvarint(b, r.At)
	b = binary.AppendUvarint(b, uint64(r.NotedMS))
	return appendTexts(b, r.Names)
}

// rooms reads what appendRooms wrote, to the end of the value.
func (c *fieldReader) rooms() *MailboxRooms {
	return &MailboxRooms{At: c.uint(), NotedMS: int64(c.uint()), Names: c.texts()}
}
