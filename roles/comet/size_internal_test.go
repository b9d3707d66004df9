package comet

import (
	"testing"
	"unsafe"
)

// TestSizes checks that what a comet has once for each client keeps its size. The bounds are
// size classes of Go's allocator on a machine of 64 bits: one byte more costs a whole class.
func TestSizes(t *testing.T) {
	for _, test := range []struct {
		name        string
		size, bound uintptr
	}{
		{"session", unsafe.Sizeof(session{}), 192},
		{"extras", unsafe.Sizeof(extras{}), 256},
		{"catchUp", unsafe.Sizeof(catchUp{}), 48},
		{"autoAck", unsafe.Sizeof(autoAck{}), 96},
	} {
		t.Logf("%s: %d bytes", test.name, test.size)
		if test.size > test.bound {
			t.Errorf("%s has %d bytes, want at most %d", test.name, test.size, test.bound)
		}
	}
}
