package hooks

import "testing"

// Another node may have changed an entry between the moment when this process wrote it and the moment when the
// write returns. Then the older entry must not come back into the copy.
func TestMirrorKeepsTheNewestEntry(t *testing.T) {
	m := newMirror(nil)
	m.set(5, "k", []byte("another node's"))
	m.set(4, "k", []byte("this process's"))
	if got := string(m.get("k")); got != "another node's" {
		t.Errorf("the copy has %s entry", got)
	}
	m.set(6, "k", nil)
	m.set(7, "k", []byte("new"))
	if got := string(m.get("k")); got != "new" {
		t.Errorf("the copy has %q", got)
	}
	if m.next != 0 {
		t.Error("entries that were written count as followed: those before them would be missing")
	}
}
