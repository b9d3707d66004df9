package transport

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"imgo/protocol"
)

// Message is one message for any number of connections. It is encoded at most
// once for each wire form, when the first connection of that form needs it. All
// connections share the bytes. It is safe for concurrent use.
type Message struct {
	op   int32
	id   uint64
	body []byte

	mu     sync.Mutex // held while encoding, so that no form is encoded twice
	frames [NumForms]atomic.Pointer[[]byte]
}

// NewMessage makes a message. id is 0 if the message is not kept. The message
// keeps body, and neither it nor the caller changes body.
func NewMessage(op int32, id uint64, body []byte) *Message {
	return &Message{op: op, id: id, body: body}
}

// Op is the message's operation.
func (m *Message) Op() int32 { return m.op }

// ID is the id of a kept message, or 0.
func (m *Message) ID() uint64 { return m.id }

// Body is the message's body as it was pushed. It must not be changed.
func (m *Message) Body() []byte { return m.body }

// Frame returns the message in form f, ready for Conn.Write. The bytes are shared
// and must not be changed.
func (m *Message) Frame(f Form) []byte {
	if b := m.frames[f].Load(); b != nil {
		return *b
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if b := m.frames[f].Load(); b != nil {
		return *b
	}
	b := AppendMessage(make([]byte, 0, f.FrameSize(len(m.body))), f, m.op, m.id, m.body)
	m.frames[f].Store(&b)
	return b
}

// pushVersion is the version in pushes, as the original server of each form set it.
func (f Form) pushVersion() int16 {
	switch f.plain() {
	case FormGoim, FormGoimWS:
		return 1
	case FormV2, FormV2JSON:
		return protocol.Version2
	}
	return 0
}

// AppendMessage appends to dst the frame of a message that only one connection
// gets.
func AppendMessage(dst []byte, f Form, op int32, id uint64, body []byte) []byte {
	if op == protocol.OpIfAccepted {
		op = protocol.OpMessage
	}
	if f.plain() != FormGoimWS {
		return appendReply(dst, f, f.pushVersion(), op, 0, id, body)
	}
	n := protocol.HeaderV1 + len(body)
	if f.framed() {
		dst = AppendFrameHead(dst, false, protocol.HeaderV1+n)
	}
	dst = appendHeader(dst, f.pushVersion(), protocol.HeaderV1, protocol.OpRaw, 0, n)
	return AppendPacket(dst, f.pushVersion(), protocol.HeaderV1, op, 0, 0, body)
}

// FrameSize is the length of a frame in form f with a body of n bytes. For a JSON
// form it is an estimate.
func (f Form) FrameSize(n int) int {
	switch plain := f.plain(); {
	case plain.JSON():
		n += jsonOverhead
	case plain == FormV2:
		n += protocol.HeaderV2
	case plain == FormGoimWS:
		n += 2 * protocol.HeaderV1
	default:
		n += protocol.HeaderV1
	}
	if f.framed() {
		n += maxFrameHead
	}
	return n
}

// EncodeReply encodes one packet for one client in form f. version and seq are
// those that the client sent. The v2 forms carry id, which is 0 if the packet is
// not a kept message; the other forms have no id.
func EncodeReply(f Form, version int16, op, seq int32, id uint64, body []byte) []byte {
	return appendReply(make([]byte, 0, f.FrameSize(len(body))), f, version, op, seq, id, body)
}

func appendReply(dst []byte, f Form, version int16, op, seq int32, id uint64, body []byte) []byte {
	plain := f.plain()
	if plain.JSON() {
		// The length of the frame is known only after it is encoded.
		var head [maxFrameHead]byte
		at := len(dst)
		if f.framed() {
			dst = append(dst, head[:]...)
		}
		from := len(dst)
		dst = append(dst, '[')
		dst = AppendJSONObject(dst, plain == FormV2JSON, version, op, seq, id, body)
		dst = append(dst, ']')
		if plain == FormImgoJSON {
			dst = append(dst, '\n')
		}
		if !f.framed() {
			return dst
		}
		h := AppendFrameHead(head[:0], true, len(dst)-from)
		n := copy(dst[at:], h)
		return dst[:at+n+copy(dst[at+n:], dst[from:])]
	}
	headerLen := protocol.HeaderV1
	if plain == FormV2 {
		headerLen = protocol.HeaderV2
	}
	if f.framed() {
		dst = AppendFrameHead(dst, false, headerLen+len(body))
	}
	return AppendPacket(dst, version, headerLen, op, seq, id, body)
}

// maxFrameHead is the longest header of a server's WebSocket frame, in bytes.
const maxFrameHead = 10

// AppendFrameHead appends the header of a server's WebSocket frame (RFC 6455,
// 5.2) that is a whole text or binary message of n bytes. It is not masked.
func AppendFrameHead(dst []byte, text bool, n int) []byte {
	first := byte(0x82)
	if text {
		first = 0x81
	}
	switch {
	case n <= 125:
		return append(dst, first, byte(n))
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16(append(dst, first, 126), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, first, 127), uint64(n))
}
