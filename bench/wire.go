//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"imgo/transport"
)

// Kinds of connections that a holder makes.
const (
	kindTCP = "tcp"
	kindWS  = "ws"
	kindRaw = "raw" // to the limit's writer: no protocol at all
)

const maxBody = 1 << 20

// The header of a client's binary WebSocket frame of up to 125 bytes; its
// mask is 0, so the payload follows as it is.
func appendFrame(dst, payload []byte) []byte {
	dst = append(dst, 0x82, 0x80|byte(len(payload)), 0, 0, 0, 0)
	return append(dst, payload...)
}

// request is a client's packet of version 2 for a kind of connection; body is
// short.
func request(kind string, op int32, body []byte) []byte {
	p := transport.AppendPacket(nil, transport.Version2, transport.HeaderV2, op, 0, 0, body)
	if kind == kindWS {
		return appendFrame(nil, p)
	}
	return p
}

// stream takes a server's byte stream apart.
type stream struct {
	ws bool
	// rest is the beginning of a packet or frame; nil while there is none,
	// which is nearly always: 10,000 of these cost next to nothing.
	rest []byte
}

var errClosed = errors.New("the server closed the connection")

// feed calls packet for each packet that b completes. b and the packets' bodies
// are only good during the call.
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

// next takes the first packet or frame off b.
func (s *stream) next(b []byte, packet func(transport.Packet)) ([]byte, error) {
	if !s.ws {
		p, rest, err := transport.DecodePacket(b, maxBody)
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
			p, more, err := transport.DecodePacket(payload, maxBody)
			if err != nil {
				return nil, fmt.Errorf("packet in a WebSocket message: %w", err)
			}
			packet(p)
			payload = more
		}
	case 8:
		return nil, errClosed
	}
	return rest, nil
}

// splitFrame takes a server's WebSocket frame off b.
func splitFrame(b []byte) (op byte, payload, rest []byte, err error) {
	if len(b) < 2 {
		return 0, nil, nil, io.ErrUnexpectedEOF
	}
	n, head := uint64(b[1]), 2
	switch n {
	case 126:
		if len(b) < 4 {
			return 0, nil, nil, io.ErrUnexpectedEOF
		}
		n, head = uint64(binary.BigEndian.Uint16(b[2:])), 4
	case 127:
		if len(b) < 10 {
			return 0, nil, nil, io.ErrUnexpectedEOF
		}
		n, head = binary.BigEndian.Uint64(b[2:]), 10
	}
	if n > maxBody {
		return 0, nil, nil, fmt.Errorf("a WebSocket frame of %d bytes", n)
	}
	if uint64(len(b)-head) < n {
		return 0, nil, nil, io.ErrUnexpectedEOF
	}
	end := head + int(n)
	return b[0] & 0x0f, b[head:end], b[end:], nil
}
