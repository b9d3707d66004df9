package transport

import (
	"sync"
	"sync/atomic"
)

// Message is one message on its way to any number of connections. It is
// encoded at most once for each wire form, when the first connection of that
// form asks, and all connections share the bytes. Safe for concurrent use.
type Message struct {
	op   int32
	id   uint64
	body []byte

	mu     sync.Mutex // held while encoding, so that no form is encoded twice
	frames [NumForms]atomic.Pointer[[]byte]
}

// NewMessage makes a message. id is 0 where the message is not kept. The
// message keeps body and never changes it; the caller must not either.
func NewMessage(op int32, id uint64, body []byte) *Message {
	return &Message{op: op, id: id, body: body}
}

// Op is the message's operation.
func (m *Message) Op() int32 { return m.op }

// ID is the kept message's id, 0 where it is not kept.
func (m *Message) ID() uint64 { return m.id }

// Body is the message's body as the caller pushed it; not to be changed.
func (m *Message) Body() []byte { return m.body }

// Frame is the message in form f, ready for Conn.Write. The bytes are shared:
// nobody may change them.
func (m *Message) Frame(f Form) []byte {
	if b := m.frames[f].Load(); b != nil {
		return *b
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if b := m.frames[f].Load(); b != nil {
		return *b
	}
	b := EncodeReply(f, f.pushVersion(), m.op, 0, m.id, m.body)
	m.frames[f].Store(&b)
	return b
}

// pushVersion is the version that each generation's own server put in pushes.
func (f Form) pushVersion() int16 {
	switch f {
	case FormGoim:
		return 1
	case FormV2, FormV2JSON:
		return Version2
	}
	return 0
}

// EncodeReply encodes one packet for one client in form f: version and seq
// are what the client sent, echoed. The v2 forms carry id (0 for a packet that
// is no kept message); the others leave it out.
func EncodeReply(f Form, version int16, op, seq int32, id uint64, body []byte) []byte {
	if f.JSON() {
		b := make([]byte, 0, jsonOverhead+len(body))
		b = append(b, '[')
		b = AppendJSONObject(b, f == FormV2JSON, version, op, seq, id, body)
		return append(b, ']')
	}
	headerLen := HeaderV1
	if f == FormV2 {
		headerLen = HeaderV2
	}
	b := make([]byte, 0, headerLen+len(body))
	return AppendPacket(b, version, headerLen, op, seq, id, body)
}
