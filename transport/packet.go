package transport

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/go-json-experiment/json/jsontext"

	"imgo/protocol"
)

// Header is the fixed part of a packet. ParseHeader has checked it.
type Header struct {
	Version   int16
	Op        int32
	Seq       int32
	HeaderLen int // protocol.HeaderV1 or protocol.HeaderV2
	BodyLen   int // at most the limit given to ParseHeader; 0 if the packet's length is less than that of the short header
}

// ParseHeader decodes and checks the first protocol.HeaderV1 bytes of a packet,
// which b must have. maxBody bounds the announced body, in bytes. It returns a
// *ProtocolError for a header that breaks the protocol. The message id of a
// 24-byte header comes after these bytes and is not decoded.
func ParseHeader(b []byte, maxBody int) (Header, error) {
	_ = b[protocol.HeaderV1-1]
	length := int32(binary.BigEndian.Uint32(b))
	headerLen := int16(binary.BigEndian.Uint16(b[4:]))
	h := Header{
		Version:   int16(binary.BigEndian.Uint16(b[6:])),
		Op:        int32(binary.BigEndian.Uint32(b[8:])),
		Seq:       int32(binary.BigEndian.Uint32(b[12:])),
		HeaderLen: int(headerLen),
	}
	switch {
	case headerLen != protocol.HeaderV1 && headerLen != protocol.HeaderV2:
		return h, badPacket("bad_header", "header length %d is neither %d nor %d", headerLen, protocol.HeaderV1, protocol.HeaderV2)
	case length < protocol.HeaderV1 && headerLen == protocol.HeaderV1:
		return h, nil // an empty body for the old servers
	case length < int32(headerLen):
		return h, badPacket("bad_length", "package length %d is under the header length %d", length, headerLen)
	case int64(length)-int64(headerLen) > int64(maxBody):
		return h, tooLarge("body of %d bytes is over the limit of %d", int64(length)-int64(headerLen), maxBody)
	}
	h.BodyLen = int(length) - int(headerLen)
	return h, nil
}

// ReadPacket reads one packet from r. The header goes into buf, which the caller
// can use again. The body gets new memory, which grows only as bytes arrive.
// The error is io.EOF if r ends before the packet, io.ErrUnexpectedEOF if it ends
// within the packet, a *ProtocolError for a bad header, or else r's own error.
func ReadPacket(r io.Reader, buf *[protocol.HeaderV2]byte, maxBody int) (Packet, error) {
	if _, err := io.ReadFull(r, buf[:protocol.HeaderV1]); err != nil {
		return Packet{}, err
	}
	h, err := ParseHeader(buf[:protocol.HeaderV1], maxBody)
	if err != nil {
		return Packet{}, err
	}
	p := Packet{Version: h.Version, Op: h.Op, Seq: h.Seq}
	if h.HeaderLen == protocol.HeaderV2 {
		if _, err := io.ReadFull(r, buf[protocol.HeaderV1:]); err != nil {
			return Packet{}, unexpectedEOF(err)
		}
		p.ID, p.Long = binary.BigEndian.Uint64(buf[protocol.HeaderV1:]), true
	}
	if h.BodyLen > 0 {
		var body bytes.Buffer // grows as bytes arrive, whatever the header announces
		if _, err := io.CopyN(&body, r, int64(h.BodyLen)); err != nil {
			return Packet{}, unexpectedEOF(err)
		}
		p.Body = body.Bytes()
	}
	return p, nil
}

// DecodePacket decodes the first packet of b and returns the bytes behind it. The
// packet's body is a part of b. The error is io.ErrUnexpectedEOF if the packet is
// incomplete, and io.EOF if b is empty.
func DecodePacket(b []byte, maxBody int) (p Packet, rest []byte, err error) {
	switch {
	case len(b) == 0:
		return Packet{}, nil, io.EOF
	case len(b) < protocol.HeaderV1:
		return Packet{}, nil, io.ErrUnexpectedEOF
	}
	h, err := ParseHeader(b, maxBody)
	if err != nil {
		return Packet{}, nil, err
	}
	end := h.HeaderLen + h.BodyLen
	if len(b) < end {
		return Packet{}, nil, io.ErrUnexpectedEOF
	}
	p = Packet{Version: h.Version, Op: h.Op, Seq: h.Seq}
	if h.HeaderLen == protocol.HeaderV2 {
		p.ID, p.Long = binary.BigEndian.Uint64(b[protocol.HeaderV1:]), true
	}
	if h.BodyLen > 0 {
		p.Body = b[h.HeaderLen:end:end]
	}
	return p, b[end:], nil
}

// DecodeMessage decodes a WebSocket message of a client: a JSON text or a binary
// packet. The first byte shows which, whatever the type of the message's frame,
// since clients of the old servers send both in both. text is the frame's type and
// counts for a message that begins with neither. The packet's body is a part of b.
//
// A packet with the short header is read as goim read it: what follows it in the
// message is ignored, and a body ends where the message ends.
func DecodeMessage(b []byte, text bool, maxBody int) (p Packet, isJSON bool, err error) {
	// A packet begins with the high byte of its length, which is 0 for any length
	// within the limits.
	if len(b) > 0 && b[0] == 0 {
		text = false
	} else if kind := jsontext.Value(b).Kind(); kind == '{' || kind == '[' {
		text = true
	}
	if text {
		p, err = ParseJSON(b, maxBody)
		return p, true, err
	}
	p, rest, err := DecodePacket(b, maxBody)
	switch {
	case err == io.ErrUnexpectedEOF && len(b) >= protocol.HeaderV1 && binary.BigEndian.Uint16(b[4:]) == protocol.HeaderV1:
		h, _ := ParseHeader(b, maxBody) // DecodePacket found it valid
		return Packet{Version: h.Version, Op: h.Op, Seq: h.Seq, Body: b[protocol.HeaderV1:]}, false, nil
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return Packet{}, false, badPacket("bad_length", "a binary message ends within its packet")
	case err != nil:
		return Packet{}, false, err
	case len(rest) > 0 && p.Long:
		return Packet{}, false, badPacket("bad_length", "a binary message has more than one packet")
	}
	return p, false, nil
}

// AppendPacket appends one binary packet to dst. headerLen is protocol.HeaderV1,
// which has no id, or protocol.HeaderV2. The body must be shorter than 2 GiB.
func AppendPacket(dst []byte, version int16, headerLen int, op, seq int32, id uint64, body []byte) []byte {
	if headerLen != protocol.HeaderV1 && headerLen != protocol.HeaderV2 || len(body) > math.MaxInt32-protocol.HeaderV2 {
		panic(fmt.Sprintf("transport: packet with a header of %d and a body of %d bytes", headerLen, len(body)))
	}
	dst = appendHeader(dst, version, headerLen, op, seq, len(body))
	if headerLen == protocol.HeaderV2 {
		dst = binary.BigEndian.AppendUint64(dst, id)
	}
	return append(dst, body...)
}

// appendHeader appends the part of a header that all versions have, of a packet
// with a body of n bytes.
func appendHeader(dst []byte, version int16, headerLen int, op, seq int32, n int) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(headerLen+n))
	dst = binary.BigEndian.AppendUint16(dst, uint16(headerLen))
	dst = binary.BigEndian.AppendUint16(dst, uint16(version))
	dst = binary.BigEndian.AppendUint32(dst, uint32(op))
	return binary.BigEndian.AppendUint32(dst, uint32(seq))
}

func badPacket(kind, format string, args ...any) *ProtocolError {
	return &ProtocolError{Code: protocol.CloseBadPacket, Kind: kind, Reason: fmt.Sprintf(format, args...)}
}

func tooLarge(format string, args ...any) *ProtocolError {
	return &ProtocolError{Code: protocol.CloseTooLarge, Kind: "too_large", Reason: fmt.Sprintf(format, args...)}
}

// unexpectedEOF turns io.EOF within a packet into io.ErrUnexpectedEOF.
func unexpectedEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
