package router

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

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
		setSample(t, info.ProtoReflect(), field)
		if info.GlobalKey {
			info.Key = "k" // without a key it says nothing
		}
		if info.Key == "" {
			info.Key = envelope.AddressKey{Comet: "c", Session: 7}.Name()
		}
		if got := new(sessionKinds).newSession(info).describe("u"); !proto.Equal(got, info) {
			t.Errorf("%s: the session is described as %v, want %v", field.Name(), got, info)
		}
	}
}

// setSample sets a scalar field, or a list of scalars, to a value other than zero.
func setSample(t *testing.T, m protoreflect.Message, field protoreflect.FieldDescriptor) {
	var value protoreflect.Value
	switch field.Kind() {
	case protoreflect.BoolKind:
		value = protoreflect.ValueOfBool(true)
	case protoreflect.StringKind:
		value = protoreflect.ValueOfString("u")
	case protoreflect.Int32Kind:
		value = protoreflect.ValueOfInt32(7)
	case protoreflect.Int64Kind:
		value = protoreflect.ValueOfInt64(7)
	case protoreflect.Uint64Kind:
		value = protoreflect.ValueOfUint64(7)
	default:
		t.Fatalf("%s has no sample: add one for %s", field.Name(), field.Kind())
	}
	if field.IsList() {
		m.Mutable(field).List().Append(value)
		return
	}
	m.Set(field, value)
}
