//go:build linux

package load

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"imgo/protocol"
	"imgo/transport"
)

// Kinds of connections.
const (
	TCP = "tcp"
	WS  = "ws"
	TLS = "tls" // TCP with TLS
	WSS = "wss"
	Raw = "raw" // to limit.Writer, without any protocol
)

// MaxBody bounds a packet's body, in bytes.
const MaxBody = 1 << 20

// appendFrame appends a binary WebSocket frame of a client with a payload of up to
// 65,535 bytes. The mask is 0, so the payload is unchanged.
func appendFrame(dst, payload []byte) []byte {
	if n := len(payload); n < 126 {
		dst = append(dst, 0x82, 0x80|byte(n), 0, 0, 0, 0)
	} else {
		dst = append(dst, 0x82, 0x80|126, byte(n>>8), byte(n), 0, 0, 0, 0)
	}
	return append(dst, payload...)
}

// ServerFrame returns a binary WebSocket frame of a server with a payload of up to 125
// bytes.
func ServerFrame(payload []byte) []byte {
	return append([]byte{0x82, byte(len(payload))}, payload...)
}

// Request returns a client's packet of version 2 for a kind of connection. The body
// may have up to 60,000 bytes.
func Request(kind string, op int32, body []byte) []byte {
	p := transport.AppendPacket(nil, protocol.Version2, protocol.HeaderV2, op, 0, 0, body)
	if kind == WS || kind == WSS {
		return appendFrame(nil, p)
	}
	return p
}

// stream splits the byte stream of a server into packets.
type stream struct {
	ws bool
	// rest is the beginning of an incomplete packet or frame. It is nil most of the time,
	// which keeps the memory of 10,000 streams small.
	rest []byte
}

var errClosed = errors.New("the server closed the connection")

// feed calls packet for each packet that b completes. b and the bodies of the packets
// are valid only during the call.
func (s *stream) feed(b []byte, packet func(transport.Packet)) error {
	if len(s.rest) > 0 {
		b = append(s.rest, b...)
	}
	for len(b) > 0 {
		rest, err := s.next(b, packet)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return err
		}
		b = rest
	}
	if len(b) == 0 {
		s.rest = nil
		return nil
	}
	s.rest = append(s.rest[:0], b...)
	return nil
}

// admission takes what arrives before a client is admitted. admitted reports whether the server has accepted the
// client. Messages that arrived with the answer are counted, and ids are those to acknowledge.
func (s *stream) admission(b []byte, messages *atomic.Int64) (admitted bool, ids []byte, err error) {
	var refused []byte
	err = s.feed(b, func(p transport.Packet) {
		switch p.Op {
		case protocol.OpAuthReply:
			admitted = true
		case protocol.OpDisconnect:
			refused = bytes.Clone(p.Body)
		case protocol.OpMessage:
			messages.Add(1)
			if p.ID != 0 {
				ids = binary.BigEndian.AppendUint64(ids, p.ID)
			}
		}
	})
	if refused != nil {
		err = fmt.Errorf("refused: %s", refused)
	}
	if err != nil {
		return false, nil, fmt.Errorf("authenticate: %w", err)
	}
	return admitted, ids, nil
}

// next removes the first packet or frame from b and returns the rest.
func (s *stream) next(b []byte, packet func(transport.Packet)) ([]byte, error) {
	if !s.ws {
		p, rest, err := transport.DecodePacket(b, MaxBody)
		if err == nil {
			packet(p)
		}
		return rest, err
	}
	op, payload, rest, err := splitFrame(b)
	if err != nil {
		return nil, err
	}
	switch op {
	case 2:
		for len(payload) > 0 {
			p, more, err := transport.DecodePacket(payload, MaxBody)
			if err != nil {
				// A packet cannot continue in the next WebSocket message, so the stream cannot
				// recover.
				return nil, fmt.Errorf("packet in a WebSocket message of %d bytes: %v", len(payload),
					err) //nolint:errorlint // the result must not match io.ErrUnexpectedEOF
			}
			packet(p)
			payload = more
		}
	case 8:
		return nil, errClosed
	}
	return rest, nil
}

// splitFrame splits the first WebSocket frame of a server off b.
func splitFrame(b []byte) (op byte, payload, rest []byte, err error) {
	if len(b) < 2 {
		return 0, nil, nil, io.ErrUnexpectedEOF
	}
	n, head := uint64(b[1]), 2
	switch {
	case n == 126:
		if len(b) < 4 {
			return 0, nil, nil, io.ErrUnexpectedEOF
		}
		n, head = uint64(binary.BigEndian.Uint16(b[2:])), 4
	case n == 127:
		if len(b) < 10 {
			return 0, nil, nil, io.ErrUnexpectedEOF
		}
		n, head = binary.BigEndian.Uint64(b[2:]), 10
	case n > 127:
		return 0, nil, nil, errors.New("a WebSocket frame of a server with a mask")
	}
	if n > MaxBody {
		return 0, nil, nil, fmt.Errorf("a WebSocket frame of %d bytes", n)
	}
	if uint64(len(b)-head) < n {
		return 0, nil, nil, io.ErrUnexpectedEOF
	}
	end := head + int(n)
	return b[0] & 0x0f, b[head:end], b[end:], nil
}
