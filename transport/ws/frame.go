package ws

import (
	"encoding/binary"
	"math"
)

// Opcodes (RFC 6455, 5.2).
const (
	opContinuation byte = 0x0
	opText         byte = 0x1
	opBinary       byte = 0x2
	opClose        byte = 0x8
	opPing         byte = 0x9
	opPong         byte = 0xa
)

// frame is the header of a client's frame.
type frame struct {
	fin  bool
	op   byte
	head int // bytes of header
	size int // bytes of payload
	mask [4]byte
}

func (f frame) data() bool { return f.op < opClose }

// parseFrame reads the header of the frame that b begins with. It is a client's
// frame and must be masked. need is 0 if the whole frame is there. Otherwise b
// needs at least need bytes for the frame, or for the rest of its header. An
// error is returned as soon as the bytes show it.
func parseFrame(b []byte) (f frame, need int, err error) {
	const shortest = 6 // with a mask
	if len(b) == 0 {
		return frame{op: opPong}, shortest, nil
	}
	f.fin, f.op = b[0]&0x80 != 0, b[0]&0xf
	switch {
	case b[0]&0x70 != 0:
		return f, 0, protocolError("bad_frame", "a reserved bit is set")
	case f.op > opBinary && f.op < opClose || f.op > opPong:
		return f, 0, protocolError("bad_frame", "an unknown opcode")
	case !f.data() && !f.fin:
		return f, 0, protocolError("bad_frame", "a control frame in fragments")
	case len(b) == 1:
		return f, shortest, nil
	case b[1]&0x80 == 0:
		return f, 0, protocolError("bad_frame", "a client's frame that is not masked")
	}
	size := uint64(b[1] & 0x7f)
	f.head = shortest
	switch {
	case size > maxControl && !f.data():
		return f, 0, protocolError("bad_frame", "a control frame that is too long")
	case size == 126:
		f.head += 2
		if len(b) < f.head {
			return f, f.head, nil
		}
		size = uint64(binary.BigEndian.Uint16(b[2:]))
	case size == 127:
		f.head += 8
		if len(b) < f.head {
			return f, f.head, nil
		}
		size = binary.BigEndian.Uint64(b[2:])
	}
	if size > math.MaxInt32 { // far over any limit
		if size > math.MaxInt64 {
			return f, 0, protocolError("bad_frame", "a negative length")
		}
		size = math.MaxInt32
	}
	f.size = int(size)
	if len(b) < f.head+f.size {
		return f, f.head + f.size, nil
	}
	copy(f.mask[:], b[f.head-4:])
	return f, 0, nil
}

// unmask removes the mask of a whole payload, in place.
func unmask(b []byte, mask [4]byte) {
	m := uint64(binary.LittleEndian.Uint32(mask[:]))
	m |= m << 32
	i := 0
	for ; i+8 <= len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], binary.LittleEndian.Uint64(b[i:])^m)
	}
	for ; i < len(b); i++ {
		b[i] ^= mask[i%4]
	}
}

// closeCode reports whether a client may close with code (RFC 6455, 7.4).
func closeCode(code uint16) bool {
	switch code {
	case 1004, 1005, 1006:
		return false
	}
	return code >= 1000 && code <= 1014 || code >= 3000 && code <= 4999
}
