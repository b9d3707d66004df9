package router

import (
	"testing"

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
