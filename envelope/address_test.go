package envelope_test

import (
	"testing"

	"imgo/envelope"
)

func TestAddressKey(t *testing.T) {
	k := envelope.AddressKey{Comet: "laptop-10", Session: 0x1_0000_002a}
	if k.Name() != "laptop-10-10000002a" || !k.HasName(k.Name()) || k.HasName("laptop-10-10000002b") {
		t.Errorf("the name is %q", k.Name())
	}
	if got := k.Address().AsKey(); got != k {
		t.Errorf("the address became %v", got)
	}
	if got, ok := envelope.ParseSessionName(k.Name()); !ok || got != k {
		t.Errorf("the name is read as %v, %v", got, ok)
	}
	for _, name := range []string{"", "-", "c", "c-", "c-x", "c-0a", "c-A", "c-+a", "c-11111111111111111"} {
		if got, ok := envelope.ParseSessionName(name); ok {
			t.Errorf("%q is read as %v", name, got)
		}
	}
}
