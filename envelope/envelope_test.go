package envelope_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"imgo/envelope"
	"imgo/protocol"
)

var update = flag.Bool("update", false, "write the golden files anew: only for a new format")

// wire is what the generated messages have.
type wire interface {
	proto.Message
	MarshalVT() ([]byte, error)
	UnmarshalVT([]byte) error
}

var recordID = []byte("0123456789ab")

// samples is one message of each kind that lies in a log.
func samples() map[string]wire {
	address := &envelope.Address{Comet: "c1", Session: 0x1_0000_0002}
	return map[string]wire{
		"record_push": &envelope.Record{Id: recordID, TimeMs: 1700000000000, Push: &envelope.Push{
			Users: []string{"123", "ünï"}, Op: 5, Body: []byte(`{"test":1}`), ExpiresMs: 1700600000000, IdempotencyKey: "caller/k"}},
		"record_acks": &envelope.Record{Id: recordID, TimeMs: 1700000000000, Acks: &envelope.Acks{Acks: []*envelope.Ack{
			{User: "123", Device: "phone", Ids: []uint64{1 << 48, 1<<48 | 7}}, {User: "4", Ids: []uint64{1<<48 | 9}}}}},
		"record_device": &envelope.Record{Id: recordID, TimeMs: 1700000000000, Device: &envelope.Device{
			User: "123", Device: "phone", SeenMs: 1700000000000}},
		"record_claim": &envelope.Record{Id: recordID, TimeMs: 1700000000000, Claim: &envelope.Claim{Key: "caller/k"}},
		"record_fence": &envelope.Record{Id: recordID, TimeMs: 1700000000000, Fence: &envelope.Fence{}},
		"record_membership": &envelope.Record{Id: recordID, TimeMs: 1700000000000, Membership: &envelope.Membership{
			User: "123", Room: "team", Member: true}},
		"record_presences": &envelope.Record{Id: recordID, TimeMs: 1700000000000, Presences: &envelope.Presences{Presences: []*envelope.Presence{
			{User: "123", Device: "phone", Online: true, SinceMs: 1699999999000, At: 1<<48 | 7}, {User: "4"}}}},
		"record_user_rooms": &envelope.Record{Id: recordID, TimeMs: 1700000000000, UserRooms: &envelope.UserRooms{
			User: "123", Rooms: &envelope.Memberships{At: 1<<48 | 7, Rooms: []string{"team", "live://1"}}}},
		"record_removal": &envelope.Record{Id: recordID, TimeMs: 1700000000000, Removal: &envelope.Removal{
			User: "123", Devices: []string{"phone"}, Messages: true, All: true}},
		"record_dues": &envelope.Record{Id: recordID, TimeMs: 1700000000000, Dues: &envelope.Dues{Dues: []*envelope.Due{
			{User: "123", Id: 1<<48 | 7, Step: envelope.Due_UNDELIVERED}, {User: "4", Id: 1<<48 | 9, Step: envelope.Due_LOST}}}},
		"record_read": &envelope.Record{Id: recordID, TimeMs: 1700000000000, Read: &envelope.Read{
			User: "123", Device: "phone", Ids: []uint64{1<<48 | 9}, UpTo: 1<<48 | 7, ByCaller: true}},
		"record_upstream": &envelope.Record{Id: recordID, TimeMs: 1700000000000, Upstream: &envelope.Upstream{
			User: "123", Device: "phone", Session: "c1-4294967298", Op: 1001, Body: []byte("x"), ClientId: 7}},
		"envelope_opened": &envelope.Envelope{TimeMs: 1700000000000, Opened: &envelope.RoomOpened{
			Comet: "c1", Room: "live://1", Seq: 3, Incarnation: 1700000000000}},
		"envelope_dismiss": &envelope.Envelope{Dismiss: &envelope.Dismiss{
			To: []*envelope.Address{address}, Ids: []uint64{1<<48 | 9}, UpTo: 1<<48 | 7}},
		"control_records": &envelope.RecordsVersion{Version: 3, TimeMs: 1700000000000},
		"token_change": &envelope.TokenChange{Id: recordID, Hash: []byte("h"), User: "123", ExpiresMs: 1700600000000,
			CreatedMs: 1700000000000, Revoked: true, Rooms: []string{"team-*"}},
		"envelope_session_rooms": &envelope.Envelope{SessionRooms: &envelope.SessionRooms{
			To: []*envelope.Address{address}, Rooms: &envelope.Memberships{At: 1<<48 | 7, Rooms: []string{"team"}}}},
		"record_moved": &envelope.Record{Id: recordID, TimeMs: 1700000000000, Moved: &envelope.Moved{From: 3,
			Mailboxes: []*envelope.MovedMailbox{{User: "123",
				Devices: []*envelope.MovedDevice{{Device: "phone", Since: 1 << 48, SeenMs: 1700000000000}, {}},
				Messages: []*envelope.MovedMessage{{Id: 1<<48 | 7, TimeMs: 1700000000000, ExpiresMs: 1700600000000, Op: 5,
					Body: []byte("x"), Waiting: 3, Acked: true, Unclaimed: true}},
				Last: true, LastMs: 1700000000001, Dropped: 2}},
			Keys:   []*envelope.MovedKey{{User: "123", Key: "caller/k", Id: 1<<48 | 7, ExpiresMs: 1700600000000}},
			Claims: []*envelope.MovedClaim{{Key: "caller/k", Id: 1<<48 | 8, Record: recordID, ExpiresMs: 1700600000000}}}},
		"control_plan":  &envelope.KeptPlan{Generation: 1, Partitions: 16, NextPartitions: 32, TimeMs: 1700000000000},
		"control_moved": &envelope.KeptMoved{Generation: 1, Partition: 15},
		"envelope_message": &envelope.Envelope{TimeMs: 1700000000000, Message: &envelope.Message{
			Op: 1000, Body: []byte("x"), To: []*envelope.Address{address}}},
		"envelope_room": &envelope.Envelope{TimeMs: 1700000000000, Message: &envelope.Message{Op: 5, Body: []byte("x"), Room: "live://1"}},
		"envelope_all":  &envelope.Envelope{TimeMs: 1700000000000, Message: &envelope.Message{Op: 5, Body: []byte("x"), All: true}},
		"envelope_backlog": &envelope.Envelope{Backlog: &envelope.Backlog{To: address, UpTo: 1 << 48, More: true, After: 3,
			Messages: []*envelope.Kept{{Id: 1 << 48, Op: 5, Body: []byte("x"), TimeMs: 1}}}},
		"envelope_kick":  &envelope.Envelope{Kick: &envelope.Kick{To: []*envelope.Address{address}, Code: 3506, Reason: "kicked"}},
		"envelope_nudge": &envelope.Envelope{Nudge: &envelope.Nudge{To: []*envelope.NudgeTarget{{To: address, Newest: 1 << 48}}}},
	}
}

// TestSamplesHaveEachKind fails if a kind of record or envelope has no sample.
func TestSamplesHaveEachKind(t *testing.T) {
	for _, of := range []proto.Message{&envelope.Record{}, &envelope.Envelope{}} {
		message := of.ProtoReflect().Descriptor()
		for i := range message.Fields().Len() {
			field := message.Fields().Get(i)
			if field.Message() == nil {
				continue
			}
			found := false
			for _, m := range samples() {
				sample := m.ProtoReflect()
				found = found || sample.Descriptor() == message && sample.Has(field)
			}
			if !found {
				t.Errorf("no sample has the field %s of %s", field.Name(), message.Name())
			}
		}
	}
}

// What lies in logs today is read tomorrow: the bytes never change.
func TestGolden(t *testing.T) {
	for name, m := range samples() {
		t.Run(name, func(t *testing.T) {
			got, err := m.MarshalVT()
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".hex")
			if *update {
				if err := os.WriteFile(file, []byte(hex.EncodeToString(got)+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want, err := hex.DecodeString(strings.TrimSpace(string(text)))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("encodes to\n%x, the golden file has\n%x", got, want)
			}
			back := m.ProtoReflect().New().Interface().(wire)
			if err := back.UnmarshalVT(want); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(m, back) {
				t.Errorf("decodes to %v, want %v", back, m)
			}
		})
	}
}

func TestID(t *testing.T) {
	for _, c := range []struct {
		generation uint16
		offset     int64
		id         uint64
	}{
		{1, 0, 281474976710656},
		{1, 1, 281474976710657},
		{2, 0, 562949953421312},
		{1<<16 - 1, envelope.MaxOffset, 1<<64 - 1},
	} {
		if got := envelope.ID(c.generation, c.offset); got != c.id {
			t.Errorf("ID(%d, %d) = %d, want %d", c.generation, c.offset, got, c.id)
		}
		if g, o := envelope.SplitID(c.id); g != c.generation || o != c.offset {
			t.Errorf("SplitID(%d) = %d, %d", c.id, g, o)
		}
	}
	if envelope.ID(2, 0) <= envelope.ID(1, envelope.MaxOffset) {
		t.Error("ids must grow over generations")
	}
}

// The hash is for ever: another one would scatter the mailboxes.
func TestPartition(t *testing.T) {
	for _, c := range []struct {
		key  string
		n    int
		want int32
	}{
		{"123", 8, 5}, {"123456", 8, 2}, {"", 8, 1}, {"ünï", 64, 9}, {"u1", 1, 0},
	} {
		if got := envelope.Partition(c.key, c.n); got != c.want {
			t.Errorf("Partition(%q, %d) = %d, want %d", c.key, c.n, got, c.want)
		}
	}
}

func TestRecordIDsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for range 10000 {
		id := envelope.NewRecordID()
		if len(id) != 12 || seen[string(id)] {
			t.Fatalf("id %x has %d bytes or came before", id, len(id))
		}
		seen[string(id)] = true
	}
}

func TestCheckName(t *testing.T) {
	for name, want := range map[string]string{
		"":                       "user must not be empty",
		"123":                    "",
		"-1":                     "",
		"a b":                    "",
		"ünï/code:@":             "",
		strings.Repeat("x", 128): "",
		strings.Repeat("x", 129): "user is 129 bytes long, at most 128 are allowed",
		"a\x00b":                 "user has the control character U+0000",
		"a\nb":                   "user has the control character U+000A",
		"a\x7f":                  "user has the control character U+007F",
		"a\u0085":                "user has the control character U+0085",
		"a\xff":                  "user is not valid UTF-8",
	} {
		err := envelope.CheckName("user", name)
		if got := fmt.Sprint(err); err == nil && want != "" || err != nil && got != want {
			t.Errorf("CheckName(%q) = %v, want %q", name, err, want)
		}
		if err != nil {
			var e *envelope.Error
			if !errors.Is(err, envelope.ErrInvalid) || !errors.As(err, &e) || e.Field != "user" {
				t.Errorf("CheckName(%q) does not name its field: %#v", name, err)
			}
		}
	}
}

func TestErrors(t *testing.T) {
	err := fmt.Errorf("push: %w", envelope.Errorf(envelope.CodeDiskFull, "%d bytes are free", 7))
	if !errors.Is(err, envelope.ErrDiskFull) || errors.Is(err, envelope.ErrInvalid) {
		t.Error("errors are told apart by their code")
	}
	for want, err := range map[envelope.Code]error{
		"":                    nil,
		envelope.CodeDiskFull: err,
		envelope.CodeInternal: errors.New("x"),
		envelope.CodeNotFound: envelope.ErrNotFound,
		envelope.CodeTooLarge: errors.Join(errors.New("x"), envelope.ErrTooLarge),
		envelope.CodeNotReady: envelope.ErrNotReady,
	} {
		if got := envelope.CodeOf(err); got != want {
			t.Errorf("CodeOf(%v) = %q, want %q", err, got, want)
		}
	}
	if got := envelope.ErrClosed.Error(); got != "closed" {
		t.Errorf("a sentinel says %q", got)
	}
}

func TestCloseCodes(t *testing.T) {
	for code, again := range map[protocol.CloseCode]bool{
		protocol.CloseShutdown: true, protocol.CloseSlow: true,
		protocol.CloseStaleHeartbeat: true, protocol.CloseOverload: true,
		protocol.CloseBadPacket: false, protocol.CloseAuthFailed: false, protocol.CloseHandshakeTimeout: false, 1000: false,
	} {
		if code.Reconnect() != again {
			t.Errorf("%d: reconnect is %v", code, !again)
		}
	}
}

// FuzzRecord: no bytes of a log may crash their reader, and what decodes
// encodes to something that decodes to the same.
func FuzzRecord(f *testing.F) {
	for _, m := range samples() {
		b, err := m.MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range []wire{&envelope.Record{}, &envelope.Envelope{}, &envelope.KeptPlan{}, &envelope.KeptMoved{}} {
			if m.UnmarshalVT(b) != nil {
				continue
			}
			again, err := m.MarshalVT()
			if err != nil {
				t.Fatal(err)
			}
			back := m.ProtoReflect().New().Interface().(wire)
			if err := back.UnmarshalVT(again); err != nil || !proto.Equal(m, back) {
				t.Fatalf("%v became %v (%v)", m, back, err)
			}
		}
	})
}
