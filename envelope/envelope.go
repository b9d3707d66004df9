// Package envelope owns everything of imgo that crosses a process boundary:
// the records of the log's topics and the messages that roles say to one
// another (envelope.proto, generated into envelope.pb.go), the identity of a
// kept message, the address of a session, the hash that maps a user to a
// partition and the errors whose identity survives a hop.
//
// It guarantees that what it encodes today is decoded tomorrow: field numbers
// and the hash never change (golden files hold them). It does no I/O, keeps no
// state, and of imgo it imports package protocol alone.
package envelope

//go:generate protoc -I . --go_out=.. --go_opt=module=imgo --go-vtproto_out=.. --go-vtproto_opt=module=imgo,features=marshal+unmarshal+size envelope.proto

import (
	"fmt"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
	"github.com/rs/xid"

	"imgo/protocol"
)

// OffsetBits is how many low bits of a kept message's id are its offset; the
// 16 above them are the log's generation.
const OffsetBits = 48

// MaxOffset is the largest offset that an id has room for.
const MaxOffset = int64(1)<<OffsetBits - 1

// ID makes a kept message's id of the log's generation (from 1, so that no id
// is 0) and the record's offset in its partition (0 … MaxOffset).
func ID(generation uint16, offset int64) uint64 {
	return uint64(generation)<<OffsetBits | uint64(offset)
}

// SplitID takes an id apart into generation and offset.
func SplitID(id uint64) (generation uint16, offset int64) {
	return uint16(id >> OffsetBits), int64(id & uint64(MaxOffset))
}

// Partition maps a user (or any other key) to one of n partitions: xxhash64
// of its bytes modulo n. It is for ever: changing it would scatter mailboxes.
func Partition(key string, n int) int32 {
	return int32(xxhash.Sum64String(key) % uint64(n))
}

// NewRecordID makes a record's id: 12 bytes, unique over processes.
func NewRecordID() []byte {
	id := xid.New()
	return id[:]
}

// CheckName says what is wrong with a user or a device: it must be 1 to
// protocol.MaxNameBytes bytes of valid UTF-8 without control characters.
// field names it in the error, which is an *Error with CodeInvalid.
func CheckName(field, name string) error { return checkName(field, name, protocol.MaxNameBytes) }

// CheckRoom is CheckName for a room, with the bound protocol.MaxRoomBytes.
func CheckRoom(field, room string) error { return checkName(field, room, protocol.MaxRoomBytes) }

func checkName(field, name string, most int) error {
	switch {
	case name == "":
		return Invalid(field, "must not be empty")
	case len(name) > most:
		return Invalid(field, fmt.Sprintf("is %d bytes long, at most %d are allowed", len(name), most))
	case !utf8.ValidString(name):
		return Invalid(field, "is not valid UTF-8")
	}
	for _, r := range name {
		if r < 0x20 || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return Invalid(field, fmt.Sprintf("has the control character %U", r))
		}
	}
	return nil
}

// CheckKey says what is wrong with a session key that a client chose: it is a name
// as CheckRoom says, and not of the form that the server's own names of sessions have.
func CheckKey(field, key string) error {
	if _, ok := ParseSessionName(key); ok {
		return Invalid(field, "has the form of a session's name, which only the server gives; choose another key")
	}
	return checkName(field, key, protocol.MaxRoomBytes)
}

// Entry is one record of a partition of the log. Value never changes once it was
// appended or read.
type Entry struct {
	Partition int32
	Offset    int64
	Value     []byte
	// TimeMS is when the record was appended, by the log's own clock, in Unix milliseconds;
	// 0: the log has no other clock than the process that appends.
	TimeMS int64
}

// Record decodes the entry into rec. Its times are those of the log's clock: a producer whose
// clock is wrong must not make a message live longer or shorter than its ttl.
func (e *Entry) Record(rec *Record) error {
	if err := rec.UnmarshalVT(e.Value); err != nil {
		return err
	}
	if e.TimeMS == 0 {
		return nil
	}
	if rec.Push != nil {
		rec.Push.ExpiresMs += e.TimeMS - rec.TimeMs
	}
	rec.TimeMs = e.TimeMS
	return nil
}
