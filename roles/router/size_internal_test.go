package router

import (
	"testing"
	"unsafe"
)

// TestSizes checks that what a router has once for each user and client in memory keeps its size. The
// bounds are size classes of Go's allocator on a machine of 64 bits: one byte more costs a whole class.
func TestSizes(t *testing.T) {
	for _, test := range []struct {
		name        string
		size, bound uintptr
	}{
		{"account", unsafe.Sizeof(account{}), 208},
		{"session", unsafe.Sizeof(session{}), 80},
	} {
		t.Logf("%s: %d bytes", test.name, test.size)
		if test.size > test.bound {
			t.Errorf("%s has %d bytes, want at most %d", test.name, test.size, test.bound)
		}
	}
}
