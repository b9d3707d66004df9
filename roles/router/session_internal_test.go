package router

import (
	"testing"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"

	"imgo/envelope"
)

// TestSessionsKeepEachField checks that no field of SessionInfo is lost if a session has no other rare field.
// A session keeps rare fields apart, and only if it has one.
func TestSessionsKeepEachField(t *testing.T) {
	fields := (&envelope.SessionInfo{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if field.Name() == "address" {
			continue
		}
		info := &envelope.SessionInfo{Address: &envelope.Address{Comet: "c", Session: 7}, User: "u"}
		set(t, info.ProtoReflect(), field, 7)
		if info.GlobalKey {
			info.Key = "k" // without a key it says nothing
		}
		if info.Key == "" {
			info.Key = envelope.AddressKey{Comet: "c", Session: 7}.Name()
		}
		if got := new(sessionKinds).newSession(info).describe(info.User); !proto.Equal(got, info) {
			t.Errorf("%s: the session is described as %v, want %v", field.Name(), got, info)
		}
	}
}

// TestKindsOfACometGo checks that what the sessions of a comet have in common is forgotten when the comet
// restarts, or is silent. Each of its lives has another incarnation.
func TestKindsOfACometGo(t *testing.T) {
	now := time.Unix(1000, 0)
	res := &resources{cfg: DefaultConfig(), now: func() time.Time { return now }, log: zerolog.Nop()}
	parts := &ownership{resources: res}
	parts.table.Store(new([]*partition))
	pr := newPresence(parts)
	for incarnation := range uint64(10) {
		info := &envelope.SessionInfo{Address: &envelope.Address{Comet: "c", Session: 1}, Incarnation: incarnation + 1}
		if s := res.kinds.newSession(info); s.kind != res.kinds.newSession(info).kind {
			t.Error("two sessions do not share their kind")
		}
		pr.announce(t.Context(), &envelope.AnnounceRequest{Comet: "c", Incarnation: incarnation + 1})
	}
	res.kinds.newSession(&envelope.SessionInfo{Address: &envelope.Address{Comet: "c", Session: 1}})
	if n := len(res.kinds.all); n != 1 {
		t.Errorf("%d kinds of a comet that has restarted", n)
	}
	now = now.Add(time.Minute)
	pr.expireComets(now)
	if n := len(res.kinds.all); n != 0 {
		t.Errorf("%d kinds of a comet that is silent", n)
	}
}
