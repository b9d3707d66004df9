package events

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"maps"
	"slices"

	"imgo/envelope"
)

// Cursor is a place in the topic: a generation, and a position in each of its partitions. The zero
// Cursor is the oldest event of the generation in use.
type Cursor struct {
	// Generation is 0 if no event was read yet.
	Generation uint16
	// At has the positions. A partition that is absent has not been read.
	At map[int32]Position
	// Turn is the partition that comes first in the next page.
	Turn int32
}

// cursorFormat is the first byte of every cursor.
const cursorFormat = 1

// String returns the cursor as callers of the API have it: opaque to them.
func (c Cursor) String() string {
	b := []byte{cursorFormat}
	b = binary.AppendUvarint(b, uint64(c.Generation))
	b = binary.AppendUvarint(b, uint64(c.Turn))
	partition := int32(0)
	for _, p := range slices.Sorted(maps.Keys(c.At)) {
		at := c.At[p]
		b = binary.AppendUvarint(b, uint64(p-partition))
		partition = p
		b = binary.AppendUvarint(b, uint64(at.Offset))
		_, offset := envelope.SplitID(at.Last.Record)
		if at.Last == (ID{}) {
			offset = -1
		}
		b = binary.AppendUvarint(b, uint64(offset+1))
		b = binary.AppendUvarint(b, uint64(at.Last.N))
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// errCursor is the error of a text that is no cursor.
var errCursor = errors.New("is no cursor: take next from an answer, or leave it out to begin with the oldest event")

// ParseCursor reads the text of a cursor; "" is the zero Cursor.
func ParseCursor(text string) (c Cursor, err error) {
	if text == "" {
		return c, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) == 0 || b[0] != cursorFormat {
		return c, errCursor
	}
	b = b[1:]
	number := func(limit uint64) uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 || v > limit {
			err, b = errCursor, nil
			return 0
		}
		b = b[n:]
		return v
	}
	c.Generation, c.Turn, c.At = uint16(number(1<<16-1)), int32(number(1<<15)), make(map[int32]Position)
	for partition := int32(0); len(b) > 0; {
		partition += int32(number(1 << 15))
		at := Position{Offset: int64(number(1 << 62))}
		if offset := number(uint64(envelope.MaxOffset) + 1); offset > 0 {
			at.Last.Record = envelope.ID(c.Generation, int64(offset)-1)
		}
		at.Last.N = uint32(number(1<<32 - 1))
		c.At[partition] = at
	}
	if err == nil && c.Generation == 0 {
		err = errCursor
	}
	return c, err
}
