package envelope_test

import (
	"testing"

	"imgo/envelope"
)

func TestAddressKey(t *testing.T) {
	k := envelope.AddressKey{Comet: "laptop-10", Session: 0x1_0000_002a}
	if k.Name() != "laptop-10~000000010000002a" || !k.HasName(k.Name()) || k.HasName("laptop-10~000000010000002b") {
		t.Errorf("the name is %q", k.Name())
	}
	if got := k.Address().AsKey(); got != k {
		t.Errorf("the address became %v", got)
	}
	if got, ok := envelope.ParseSessionName(k.Name()); !ok || got != k {
		t.Errorf("the name is read as %v, %v", got, ok)
	}
	for _, name := range []string{
		"", "~", "c", "c~", "~000000010000002a", "c~000000010000002A", "c~+00000010000002a", "c~00000010000002a", "c-000000010000002a",
		"android-9774d56d682e549c", "c~0000000010000002a", "5f0c8a1e-2b7d-4c9a-9d3e-1a2b3c4d5e6f",
	} {
		if got, ok := envelope.ParseSessionName(name); ok {
			t.Errorf("%q is read as %v", name, got)
		}
	}
}
