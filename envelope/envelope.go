// Package envelope has everything that crosses a process boundary: the records of the log, and the
// messages between roles (envelope.proto, from which envelope.pb.go is generated). It also has the id of
// a kept message, the address of a session, and the hash that maps a user to a partition. Its errors keep
// their code from node to node.
//
// Later versions can decode what this version encodes. Field numbers and the hash never change, and golden
// files test that. The package does no I/O and has no state. Of imgo it imports package protocol only.
package envelope

//go:generate protoc -I . --go_out=.. --go_opt=module=imgo --go-vtproto_out=.. --go-vtproto_opt=module=imgo,features=marshal+unmarshal+size envelope.proto

import (
	"context"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
	"github.com/rs/xid"

	"imgo/protocol"
)

// OffsetBits is the number of low bits of a kept message's id that are its offset. The 16 bits above
// them are the generation of the log.
const OffsetBits = 48

// RecordVersion is the highest version of kept records that this program reads. A record has version 1,
// unless a comment in envelope.proto says another one. A router of a lower version would derive another
// mailbox from it, so no node appends a record of a version before every node reads it.
const RecordVersion = 3

// The versions of records, by what they brought.
const (
	// RecordVersionReports is the version of records with reports and deadlines.
	RecordVersionReports = 2
	// RecordVersionClients is the version of what clients read and send, and of their presence.
	RecordVersionClients = 3
)

// ClientProtocolV2 is SessionInfo.generation of a client that knows the operations of version 2.
const ClientProtocolV2 = "v2"

// MaxOffset is the largest offset that an id has room for.
const MaxOffset = int64(1)<<OffsetBits - 1

// ID returns the id of a kept message. generation is that of the log and begins at 1, so that no id is
// 0. offset is that of the record in its partition, 0 to MaxOffset.
func ID(generation uint16, offset int64) uint64 {
	return uint64(generation)<<OffsetBits | uint64(offset)
}

// SplitID returns the generation and the offset of an id.
func SplitID(id uint64) (generation uint16, offset int64) {
	return uint16(id >> OffsetBits), int64(id & uint64(MaxOffset))
}

// Partition returns the partition of a user or any other key, of n: xxhash64 of its bytes modulo n. It
// must never change, because mailboxes would then be in the wrong partitions.
func Partition(key string, n int) int32 {
	return int32(xxhash.Sum64String(key) % uint64(n))
}

// RepeatKey returns a key for an envelope to a comet of which repetitions are sent until the comet has it, and whose
// order does not matter. The key changes with the time, so that a repetition goes by another partition of the live
// log, and by another job, than the envelope before it. A job that cannot call the comet does not get all of them.
func RepeatKey(comet string, timeMS int64) string {
	return comet + "/" + strconv.FormatInt(timeMS, 10)
}

// NewRecordID returns an id for a record. It has 12 bytes and is unique in all processes.
func NewRecordID() []byte {
	id := xid.New()
	return id[:]
}

// CheckName returns an error unless name has 1 to protocol.MaxNameBytes bytes of valid UTF-8
// without control characters. field names it in the error, which is an *Error with CodeInvalid.
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

// maxArrivals is more than the clients that come to a comet while it tries to admit one.
const maxArrivals = 1 << 20

// ArrivedAfter reports whether the client with the arrival a came shortly after the one with the arrival b. It is false if
// that is not known. Both are SessionInfo.Arrival of one incarnation of a comet. They wrap around, so a session that is
// far ahead may be one of long ago.
func ArrivedAfter(a, b uint32) bool { return a != 0 && b != 0 && a-b-1 < maxArrivals }

// CheckKey returns an error unless a client may choose a session key. The key must be a name, as in
// CheckRoom, and must not have the form of the server's own names of sessions.
func CheckKey(field, key string) error {
	if _, ok := ParseSessionName(key); ok {
		return Invalid(field, "has the form of a session's name, which only the server gives; choose another key")
	}
	return checkName(field, key, protocol.MaxRoomBytes)
}

// Entry is one record of a partition of the log. Value does not change after the record was appended or
// read.
type Entry struct {
	Partition int32
	Offset    int64
	Value     []byte
	// TimeMS is when the record was appended, by the log's own clock, in Unix milliseconds;
	// 0: the log has no other clock than the process that appends.
	TimeMS int64
}

// Log is a topic of the log, as its readers need it. It is safe for concurrent use.
type Log interface {
	// Partitions is how many partitions there are. It never changes.
	Partitions() int32
	// Generation is the high part of the ids of the records (ID).
	Generation() uint16
	// Read waits until there is a record at or after from. It returns at least one, and about maxBytes at most. The
	// error is ErrOutOfRange if from was trimmed or is behind the end, and ErrClosed after the log was closed.
	Read(ctx context.Context, partition int32, from int64, maxBytes int) ([]Entry, error)
	// Bounds returns the offset of the first record that is there, and the one after the last.
	Bounds(ctx context.Context, partition int32) (begin, end int64, err error)
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
		if r := rec.Push.Report; r != nil && r.DeadlineMs > 0 {
			r.DeadlineMs += e.TimeMS - rec.TimeMs
		}
	}
	rec.TimeMs = e.TimeMS
	return nil
}
