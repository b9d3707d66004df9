package store_test

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgo/store"
)

// TestMetaFields checks that a meta is read back as it was, whatever it has, and that a meta has the bytes that older
// versions read unless it has something that they do not know.
func TestMetaFields(t *testing.T) {
	devices := []store.MailboxDevice{{Name: "d", Bit: 3, Since: 5, SeenMS: 6, NotedMS: 7}}
	rooms := &store.MailboxRooms{At: 300, NotedMS: 2, Names: []string{"a", "", "b"}}
	reads := &store.MailboxReads{At: 1 << 60, UpTo: 1 << 50, IDs: []uint64{1<<50 + 1, 1<<50 + 400}}
	for _, c := range []struct {
		name string
		meta store.MailboxMeta
		want string // hex; empty: not compared
	}{
		{"nothing", store.MailboxMeta{}, "01000000"},
		{"devices", store.MailboxMeta{LastMS: 1, Dropped: 2, Devices: devices}, "0101020101640305" + "0607"},
		{"moved", store.MailboxMeta{Moved: 9}, "0100000009"},
		{"rooms", store.MailboxMeta{Rooms: rooms}, "0100000000ac0202016100" + "0162"},
		{"reads", store.MailboxMeta{Devices: devices, Reads: &store.MailboxReads{At: 9, UpTo: 4, IDs: []uint64{6, 8}}},
			"02000001016403050607" + "00" + "0204" + "09040202"},
		{"all", store.MailboxMeta{LastMS: 1, Dropped: 2, Devices: devices, Moved: 9, Rooms: rooms, Reads: reads,
			Presence: &store.MailboxPresence{At: 5, Online: true, SinceMS: 6, NotedMS: 7}}, ""},
		{"online", store.MailboxMeta{Presence: &store.MailboxPresence{At: 9, Online: true, SinceMS: 4, NotedMS: 300}},
			"0200000000" + "0305" + "010904ac02"},
		{"offline", store.MailboxMeta{Presence: &store.MailboxPresence{At: 1 << 60}}, ""},
		{"empty reads", store.MailboxMeta{Reads: &store.MailboxReads{}}, ""},
	} {
		b, _ := store.EncodeMailbox(&c.meta, &store.MailboxEntry{})
		if got := hex.EncodeToString(b); c.want != "" && got != c.want {
			t.Errorf("%s: stored as %s, want %s", c.name, got, c.want)
		}
		back, _, errs := store.DecodeMailbox(b)
		if errs[0] != nil {
			t.Errorf("%s: %v", c.name, errs[0])
		} else if diff := cmp.Diff(&c.meta, back); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
		for n := 4; n < len(b); n++ { // a part of it may be a whole meta, but nothing panics
			_, _, _ = store.DecodeMailbox(b[:n])
		}
	}
	for _, c := range []struct{ hex, want string }{
		{"0300000000", "format 3"}, {"02000000007f00", "field 127"}, {"020000000002ff", "cut off"}, {"0200000000030101", "cut off"},
	} {
		b, err := hex.DecodeString(c.hex)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, errs := store.DecodeMailbox(b); errs[0] == nil || !strings.Contains(errs[0].Error(), c.want) {
			t.Errorf("%s: %v", c.hex, errs[0])
		}
	}
}
