package ws

import (
	"encoding/binary"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"imgo/protocol"
	"imgo/transport"
	"imgo/transport/internal/socket"
)

// The first bytes of control frames, and the longest payload of one (RFC 6455, 5.2
// and 5.5).
const (
	frameClose = 0x88
	framePong  = 0x8a
	maxControl = 125
)

// closeNormal is the code of a plain end (RFC 6455, 7.4.1).
const closeNormal = 1000

// The kinds of messages of a connection. The first message decides.
const (
	formUnknown uint32 = iota
	formBinary
	formText
)

// messages reads the messages of a client from its frames. It is for the reader,
// but for Text.
type messages struct {
	form atomic.Uint32
	part *message // a message with fragments to come
	// header is that of the handshake, until it is taken.
	header http.Header
}

var _ transport.Headed = (*messages)(nil)

// RemoveHeader implements transport.Headed.
func (m *messages) RemoveHeader() map[string][]string {
	header := m.header
	m.header = nil
	return header
}

// keep keeps the header of a handshake, and counts it like an incomplete packet.
func (m *messages) keep(in socket.Input, header http.Header) {
	m.header = header
	in.Hold(m.headerSize())
}

// headerSize is about the memory that the kept header takes, in bytes.
func (m *messages) headerSize() int {
	size := 0
	for name, values := range m.header {
		size += len(name) + 64
		for _, value := range values {
			size += len(value) + 16
		}
	}
	return size
}

// message is a message of several fragments.
type message struct {
	text bool
	b    []byte
}

// Text implements transport.Conn.
func (m *messages) Text() bool { return m.form.Load() == formText }

// head is the framing of what the server sends.
func (m *messages) head() socket.Head {
	if m.Text() {
		return textHead
	}
	return binaryHead
}

func textHead(dst []byte, n int) []byte   { return transport.AppendFrameHead(dst, true, n) }
func binaryHead(dst []byte, n int) []byte { return transport.AppendFrameHead(dst, false, n) }

// step reads the next packet, or returns what came instead of it; see
// transport.Conn.
func (m *messages) step(in socket.Input) (transport.Packet, error) {
	var none transport.Packet
	if err := in.Err(); err != nil {
		return none, err
	}
	for filled := false; ; filled = true {
		f, need, err := m.next(in)
		switch {
		case err != nil:
			return none, err
		case need == 0:
			return m.frame(in, f)
		case filled:
			return none, transport.ErrPart
		}
		if err := in.Fill(need); err != nil {
			if err == io.EOF && (len(in.Buffered()) > 0 || m.part != nil) {
				err = io.ErrUnexpectedEOF
			}
			return none, err
		}
	}
}

// next parses the header of the frame that is buffered, and judges it as soon as
// it is there. need is 0 if the whole frame is.
func (m *messages) next(in socket.Input) (f frame, need int, err error) {
	f, need, err = parseFrame(in.Buffered())
	if err != nil || !f.data() {
		return f, need, err
	}
	if err := m.begin(f); err != nil {
		return f, 0, err
	}
	have := 0 // bytes of the message in earlier fragments
	if m.part != nil {
		have = len(m.part.b)
	}
	if f.size > transport.JSONLimit(in.MaxBody())-have {
		return f, 0, &transport.ProtocolError{Code: protocol.CloseTooLarge, Kind: "too_large", Reason: "message is over the limit"}
	}
	return f, need, nil
}

// begin checks that a data frame may come now.
func (m *messages) begin(f frame) error {
	switch {
	case f.op == opContinuation && m.part == nil:
		return protocolError("bad_frame", "a continuation of nothing")
	case f.op == opContinuation:
		return nil
	case m.part != nil:
		return protocolError("bad_frame", "a message within a message")
	}
	return nil
}

// frame takes a whole frame.
func (m *messages) frame(in socket.Input, f frame) (p transport.Packet, err error) {
	payload := in.Buffered()[f.head : f.head+f.size]
	unmask(payload, f.mask)
	if f.data() {
		p, err = m.data(in, f, payload)
	} else {
		err = m.control(in, f.op, payload)
	}
	in.Discard(f.head + f.size) // payload is not valid any more
	return p, err
}

// data handles a data frame. The error is transport.ErrFrame if it ends no message.
func (m *messages) data(in socket.Input, f frame, payload []byte) (p transport.Packet, err error) {
	if !f.fin && m.part == nil {
		m.part = &message{text: f.op == opText}
	}
	text := f.op == opText
	if part := m.part; part != nil {
		part.b = append(part.b, payload...)
		if !f.fin {
			in.Hold(cap(part.b) + m.headerSize())
			return p, transport.ErrFrame
		}
		payload, text, m.part = part.b, part.text, nil
		in.Hold(m.headerSize())
	} else {
		payload = append([]byte(nil), payload...) // the buffer is used again
	}
	p, err = m.decode(payload, text, in.MaxBody())
	if err == nil {
		in.Sign()
	}
	return p, err
}

// decode decodes a whole message, whose frame was of type text or binary. The type of
// the first message decides what the client speaks.
func (m *messages) decode(b []byte, text bool, maxBody int) (transport.Packet, error) {
	p, text, err := transport.DecodeMessage(b, text, maxBody)
	form := formBinary
	if text {
		form = formText
	}
	if !m.form.CompareAndSwap(formUnknown, form) && m.form.Load() != form {
		return transport.Packet{}, protocolError("mixed_forms", "JSON and binary packets on one connection")
	}
	return p, err
}

// control handles a control frame. It answers a close frame and returns io.EOF,
// and otherwise transport.ErrFrame.
func (m *messages) control(in socket.Input, op byte, payload []byte) error {
	switch op {
	case opPing:
		in.Sign()
		in.Urgent(append([]byte{framePong, byte(len(payload))}, payload...))
	case opPong:
		in.Sign()
	case opClose:
		if len(payload) > 0 {
			if len(payload) == 1 || !closeCode(binary.BigEndian.Uint16(payload)) {
				return protocolError("bad_frame", "a close frame with no valid code")
			}
			payload = payload[:2]
		}
		in.CloseWith(append([]byte{frameClose, byte(len(payload))}, payload...))
		return io.EOF
	}
	return transport.ErrFrame
}

// closeFrame returns a whole close frame.
func closeFrame(code protocol.CloseCode, reason string) []byte {
	if code == 0 {
		code = closeNormal
	}
	reason = clip(reason, maxControl-2)
	b := append(make([]byte, 0, 4+len(reason)), frameClose, byte(2+len(reason)))
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	return append(b, reason...)
}

// clip shortens s to at most n bytes of valid UTF-8, for a close frame.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// protocolError returns a client's mistake in WebSocket framing or in packets.
func protocolError(kind, reason string) *transport.ProtocolError {
	return &transport.ProtocolError{Code: protocol.CloseBadPacket, Kind: kind, Reason: reason}
}
