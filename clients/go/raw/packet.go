package raw

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Packet is one packet. In a JSON frame the body is JSON.
type Packet struct {
	// Version is 2 in the packets of a version-2 session. A packet to write gets version 2 if it has
	// none.
	Version int16
	Op      int32
	// Seq is chosen by the client. A reply repeats it. 0 asks for no reply.
	Seq int32
	// ID is the message id, or 0 if the message is not kept. In a packet to write it is the client's own
	// id of a message for the backend, or the id up to which OpRead counts; 0 means none.
	ID   uint64
	Body []byte
	// Long reports whether a binary packet has the header with the message id. A packet to write
	// also has it if ID is not 0.
	Long bool
}

// FormatError means that bytes break the protocol.
type FormatError struct{ Reason string }

func (e *FormatError) Error() string { return "the packet breaks the protocol: " + e.Reason }

func bad(format string, args ...any) error { return &FormatError{fmt.Sprintf(format, args...)} }

// bodyStep bounds what is allocated for a body before any of it has arrived, in bytes.
const bodyStep = 4 << 10

// header is the part of a packet that all versions have.
type header struct {
	packet       Packet
	length, body int // bytes of the header, bytes of the body
}

// parseHeader parses the first HeaderV1 bytes of a packet, which b must have.
func parseHeader(b []byte, maxBody int) (h header, err error) {
	_ = b[HeaderV1-1] // one bounds check for all reads below
	total := int64(int32(binary.BigEndian.Uint32(b)))
	h.length = int(int16(binary.BigEndian.Uint16(b[4:])))
	h.packet = Packet{
		Version: int16(binary.BigEndian.Uint16(b[6:])),
		Op:      int32(binary.BigEndian.Uint32(b[8:])),
		Seq:     int32(binary.BigEndian.Uint32(b[12:])),
		Long:    h.length == HeaderV2,
	}
	body := total - int64(h.length)
	switch {
	case h.length != HeaderV1 && h.length != HeaderV2:
		return h, bad("its header length is %d, not %d or %d", h.length, HeaderV1, HeaderV2)
	case body < 0:
		return h, bad("its length %d is less than its header length %d", total, h.length)
	case body > int64(maxBody):
		return h, bad("its body of %d bytes is larger than %d bytes", body, maxBody)
	}
	h.body = int(body)
	return h, nil
}

// ReadPacket reads one binary packet. maxBody bounds its body, in bytes. The memory for the body grows
// only as bytes arrive. The error is io.EOF if r ends before the packet, io.ErrUnexpectedEOF if it ends
// within the packet, a *FormatError if the packet breaks the protocol, or r's own error.
func ReadPacket(r io.Reader, maxBody int) (Packet, error) {
	var b [HeaderV2]byte
	return readPacket(r, &b, maxBody)
}

func readPacket(r io.Reader, b *[HeaderV2]byte, maxBody int) (Packet, error) {
	if _, err := io.ReadFull(r, b[:HeaderV1]); err != nil {
		return Packet{}, err
	}
	h, err := parseHeader(b[:HeaderV1], maxBody)
	if err != nil {
		return Packet{}, err
	}
	p := h.packet
	if p.Long {
		if _, err := io.ReadFull(r, b[HeaderV1:]); err != nil {
			return Packet{}, unexpectedEOF(err)
		}
		p.ID = binary.BigEndian.Uint64(b[HeaderV1:])
	}
	if p.Body, err = readBody(r, h.body); err != nil {
		return Packet{}, unexpectedEOF(err)
	}
	return p, nil
}

// readBody reads exactly n bytes. It returns nil if n is 0.
func readBody(r io.Reader, n int) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	body := make([]byte, min(n, bodyStep))
	for have := 0; ; {
		if _, err := io.ReadFull(r, body[have:]); err != nil {
			return nil, err
		}
		if have = len(body); have == n {
			return body, nil
		}
		grown := make([]byte, min(n, 4*have))
		copy(grown, body)
		body = grown
	}
}

// unexpectedEOF turns io.EOF within a packet into io.ErrUnexpectedEOF.
func unexpectedEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// DecodePacket decodes the first binary packet of b and returns the bytes behind it. The packet's body is
// a part of b. The error is io.EOF if b is empty, and io.ErrUnexpectedEOF if the packet is incomplete.
func DecodePacket(b []byte, maxBody int) (p Packet, rest []byte, err error) {
	switch {
	case len(b) == 0:
		return Packet{}, nil, io.EOF
	case len(b) < HeaderV1:
		return Packet{}, nil, io.ErrUnexpectedEOF
	}
	h, err := parseHeader(b, maxBody)
	if err != nil {
		return Packet{}, nil, err
	}
	end := h.length + h.body
	if len(b) < end {
		return Packet{}, nil, io.ErrUnexpectedEOF
	}
	p = h.packet
	if p.Long {
		p.ID = binary.BigEndian.Uint64(b[HeaderV1:])
	}
	if h.body > 0 {
		p.Body = b[h.length:end:end]
	}
	return p, b[end:], nil
}

// AppendPacket appends a binary packet to dst. The body must be shorter than 2 GiB.
func AppendPacket(dst []byte, p Packet) []byte {
	if p.Version == 0 {
		p.Version = Version2
	}
	length := HeaderV1
	if p.Long || p.ID != 0 {
		length = HeaderV2
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(length+len(p.Body)))
	dst = binary.BigEndian.AppendUint16(dst, uint16(length))
	dst = binary.BigEndian.AppendUint16(dst, uint16(p.Version))
	dst = binary.BigEndian.AppendUint32(dst, uint32(p.Op))
	dst = binary.BigEndian.AppendUint32(dst, uint32(p.Seq))
	if length == HeaderV2 {
		dst = binary.BigEndian.AppendUint64(dst, p.ID)
	}
	return append(dst, p.Body...)
}
