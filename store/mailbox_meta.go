package store

import "fmt"

// MailboxDevice is one cursor of a user's mailbox.
type MailboxDevice struct {
	// Name is the name of the device; empty for the default cursor.
	Name string
	// Bit is the device's bit in MailboxEntry.Waiting, 0 to 63.
	Bit uint8
	// Since is the id of the record that made the device known. The device gets the
	// messages after it, and those before it that no device had acknowledged.
	Since uint64
	// SeenMS is when the device was last connected, Unix milliseconds.
	SeenMS int64
	// NotedMS is when the newest record about the device was appended to the log, Unix
	// milliseconds, or 0 if it is not known.
	NotedMS int64
	// Published is the highest id that the device has given to a message for the backend, or 0 if there is none. PublishedMS
	// is when the newest record that has the id was appended to the log, Unix milliseconds.
	Published   uint64
	PublishedMS int64
}

// MailboxMeta is what is stored of a user beside the messages.
type MailboxMeta struct {
	Devices []MailboxDevice
	// LastMS is the largest message time so far, Unix milliseconds. The message ids of
	// the API of 2016 are such times, unique and growing within the user.
	LastMS int64
	// Dropped counts the messages that were dropped by the bound on the mailbox's length.
	Dropped uint64
	// Moved is the id of the record that completed the mailbox's move from the log's
	// previous generation. It is 0 if the mailbox did not move.
	Moved uint64
	// Rooms are the rooms that callers of the API have put the user into. It is nil if they
	// never did. The value behind the pointer never changes.
	Rooms *MailboxRooms
	// Reads is what the user has read, or nil for nothing. The value behind the pointer never changes.
	Reads *MailboxReads
	// Presence is what was told of the user's coming and going, or nil for nothing. The value behind the
	// pointer never changes.
	Presence *MailboxPresence
}

// appendMeta appends the stored form of a meta. Rooms, Reads and Presence have their lengths before them. The
// length of a part that is not there is 0.
func appendMeta(b []byte, m *MailboxMeta) []byte {
	b = appendUints(append(b, mailboxFormat), uint64(m.LastMS), m.Dropped, m.Moved, uint64(len(m.Devices)))
	for _, d := range m.Devices {
		b = append(appendText(b, d.Name), d.Bit)
		b = appendUints(b, d.Since, uint64(d.SeenMS), uint64(d.NotedMS), d.Published, uint64(d.PublishedMS))
	}
	b = appendText(b, m.Rooms.stored())
	b = appendText(b, m.Reads.stored())
	return appendText(b, m.Presence.stored())
}

func decodeMeta(b []byte) (*MailboxMeta, error) {
	c := newFieldReader(b)
	m := &MailboxMeta{LastMS: int64(c.uint()), Dropped: c.uint(), Moved: c.uint()}
	for n := c.uint(); n > 0 && c.err == nil; n-- {
		m.Devices = append(m.Devices, MailboxDevice{
			Name: string(c.bytes()), Bit: c.byte(), Since: c.uint(), SeenMS: int64(c.uint()), NotedMS: int64(c.uint()),
			Published: c.uint(), PublishedMS: int64(c.uint()),
		})
	}
	c.part(func(part *fieldReader) { m.Rooms = part.rooms() })
	c.part(func(part *fieldReader) { m.Reads = part.reads() })
	c.part(func(part *fieldReader) { m.Presence = part.presence() })
	if c.err == nil && len(c.b) > 0 {
		c.err = fmt.Errorf("%d bytes are left", len(c.b))
	}
	return m, c.err
}

// MailboxRooms are the memberships of a user.
type MailboxRooms struct {
	// At is the id of the newest record that changed them.
	At uint64
	// NotedMS is when the oldest record was appended to the log that they can be read back
	// from, Unix milliseconds.
	NotedMS int64
	Names   []string
}

func (r *MailboxRooms) stored() []byte {
	if r == nil {
		return nil
	}
	return appendTexts(appendUints(nil, r.At, uint64(r.NotedMS)), r.Names)
}

// rooms reads a stored MailboxRooms, to the end of the part.
func (c *fieldReader) rooms() *MailboxRooms {
	return &MailboxRooms{At: c.uint(), NotedMS: int64(c.uint()), Names: c.texts()}
}

// MailboxReads is what a user has read, as far as it is remembered.
type MailboxReads struct {
	// At is the id of the newest record that told of reading.
	At uint64
	// UpTo: all messages up to this id are read.
	UpTo uint64
	// IDs are the messages after UpTo that are read, in order, each once.
	IDs []uint64
}

// stored has the distances between the ids: they are small.
func (r *MailboxReads) stored() []byte {
	if r == nil {
		return nil
	}
	b := appendUints(nil, r.At, r.UpTo)
	last := r.UpTo
	for _, id := range r.IDs {
		b = appendUints(b, id-last)
		last = id
	}
	return b
}

// reads reads a stored MailboxReads, to the end of the part.
func (c *fieldReader) reads() *MailboxReads {
	r := &MailboxReads{At: c.uint(), UpTo: c.uint()}
	for last := r.UpTo; len(c.b) > 0 && c.err == nil; {
		last += c.uint()
		r.IDs = append(r.IDs, last)
	}
	return r
}

// MailboxPresence is what was told last of a user: that it is online, or offline.
type MailboxPresence struct {
	// At is the id of the record that told it.
	At     uint64
	Online bool
	// SinceMS is when the user came or went, as far as the owner knew, Unix milliseconds. It is 0 if the user has done neither.
	SinceMS int64
	// NotedMS is when the newest record that has it was appended to the log, Unix milliseconds.
	NotedMS int64
}

func (p *MailboxPresence) stored() []byte {
	if p == nil {
		return nil
	}
	return appendUints([]byte{flag(1, p.Online)}, p.At, uint64(p.SinceMS), uint64(p.NotedMS))
}

func (c *fieldReader) presence() *MailboxPresence {
	return &MailboxPresence{Online: c.byte() == 1, At: c.uint(), SinceMS: int64(c.uint()), NotedMS: int64(c.uint())}
}
