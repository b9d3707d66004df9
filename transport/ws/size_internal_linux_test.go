package ws

import (
	"testing"
	"unsafe"
)

// TestSize checks that a connection keeps its size class of Go's allocator on a machine of 64 bits. There are
// very many of them, and one byte more costs a whole class.
func TestSize(t *testing.T) {
	if size := unsafe.Sizeof(polled{}); size > 176 {
		t.Errorf("a connection has %d bytes, want at most 176", size)
	}
}
