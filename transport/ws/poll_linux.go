package ws

import (
	"encoding/binary"
	"io"
	"sync/atomic"
	"time"

	"imgo/protocol"
	"imgo/transport"
	"imgo/transport/internal/socket"
)

// polled is a transport.Pollable over one upgraded socket.
type polled struct {
	socket.Polled
	form atomic.Uint32
	part *message // the reader's: a message with fragments to come
}

// message is a message of several fragments.
type message struct {
	text bool
	b    []byte
}

var _ transport.Pollable = (*polled)(nil)

// serve calls handle for an upgraded connection.
func (c *polled) serve(handle func(transport.Conn)) {
	handle(c)
	c.Handled(c.Release)
}

func (c *polled) ReadPacket() (transport.Packet, error) { return c.ReadWith(c.TryReadPacket) }

func (c *polled) TryReadPacket() (transport.Packet, error) {
	if err := c.Err(); err != nil {
		return transport.Packet{}, err
	}
	limit := transport.JSONLimit(c.MaxBody())
	for {
		have := 0 // bytes of the message in earlier fragments
		if c.part != nil {
			have = len(c.part.b)
		}
		f, need, err := parseFrame(c.Buffered())
		if err == nil && f.data() {
			err = c.begins(f)
			if err == nil && f.size > limit-have {
				err = &transport.ProtocolError{Code: protocol.CloseTooLarge, Kind: "too_large", Reason: "message is over the limit"}
			}
		}
		if err != nil {
			return transport.Packet{}, err
		}
		if need > 0 {
			if err := c.Fill(need); err != nil {
				if err == io.EOF && (len(c.Buffered()) > 0 || c.part != nil) {
					err = io.ErrUnexpectedEOF
				}
				return transport.Packet{}, err
			}
			continue
		}
		payload := c.Buffered()[f.head : f.head+f.size]
		unmask(payload, f.mask)
		var p transport.Packet
		done := false
		if f.data() {
			p, done, err = c.data(f, payload)
		} else {
			err = c.control(f.op, payload)
		}
		c.Take(f.head + f.size) // payload is not valid any more
		if done || err != nil {
			return p, err
		}
	}
}

// begins checks a data frame as soon as its header has arrived.
func (c *polled) begins(f frame) error {
	switch {
	case f.op == opContinuation && c.part == nil:
		return protocolError("bad_frame", "a continuation of nothing")
	case f.op == opContinuation:
		return nil
	case c.part != nil:
		return protocolError("bad_frame", "a message within a message")
	}
	form := formBinary
	if f.op == opText {
		form = formText
	}
	if !c.form.CompareAndSwap(formUnknown, form) && c.form.Load() != form {
		return protocolError("mixed_forms", "text and binary messages on one connection")
	}
	return nil
}

// data handles a data frame. done says that the frame ends a message.
func (c *polled) data(f frame, payload []byte) (p transport.Packet, done bool, err error) {
	if !f.fin && c.part == nil {
		c.part = &message{text: f.op == opText}
	}
	text := f.op == opText
	if m := c.part; m != nil {
		m.b = append(m.b, payload...)
		switch {
		case f.fin:
		case !m.text && len(m.b) > protocol.HeaderV2+c.MaxBody():
			_, err := c.packet(m.b) // it is too long to be one packet
			return p, true, err
		default:
			return p, false, nil
		}
		payload, text, c.part = m.b, m.text, nil
	} else {
		payload = append([]byte(nil), payload...) // the buffer is used again
	}
	if text {
		p, err = transport.ParseJSON(payload)
	} else {
		p, err = c.packet(payload)
	}
	if err == nil {
		c.Sign()
	}
	return p, true, err
}

// packet decodes a message, which must be exactly one packet.
func (c *polled) packet(b []byte) (transport.Packet, error) {
	p, rest, err := transport.DecodePacket(b, c.MaxBody())
	switch {
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return transport.Packet{}, protocolError("bad_length", "a binary message ends within its packet")
	case err != nil:
		return transport.Packet{}, err
	case len(rest) > 0:
		return transport.Packet{}, protocolError("bad_length", "a binary message has more than one packet")
	}
	return p, nil
}

// control handles a control frame. It answers a close frame and returns io.EOF.
func (c *polled) control(op byte, payload []byte) error {
	switch op {
	case opPing:
		c.Sign()
		c.Urgent(append([]byte{framePong, byte(len(payload))}, payload...))
	case opPong:
		c.Sign()
	case opClose:
		if len(payload) > 0 {
			if len(payload) == 1 || !closeCode(binary.BigEndian.Uint16(payload)) {
				return protocolError("bad_frame", "a close frame with no valid code")
			}
			payload = payload[:2]
		}
		c.CloseWith(append([]byte{frameClose, byte(len(payload))}, payload...))
		return io.EOF
	}
	return nil
}

func (c *polled) Write(deadline time.Time, frames ...[]byte) error {
	head := binaryHead
	if c.Text() {
		head = textHead
	}
	return c.Send(deadline, frames, head)
}

func (c *polled) Text() bool { return c.form.Load() == formText }
func (c *polled) Traits() transport.Traits {
	return transport.Traits{Scheme: Scheme, ClientPicksForm: true, Framed: true}
}

func (c *polled) Close(code protocol.CloseCode, reason string) error {
	c.CloseWith(closeFrame(code, reason))
	return nil
}

// TryRelease implements transport.Pollable.
func (c *polled) TryRelease() bool {
	_ = c.Close(0, "")
	return c.Polled.TryRelease()
}

// Release implements transport.Pollable.
func (c *polled) Release() {
	_ = c.Close(0, "")
	c.Polled.Release()
}
