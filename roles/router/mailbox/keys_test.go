package mailbox_test

import (
	"testing"

	"imgo/roles/router/mailbox"
)

func TestIdempotencyKeys(t *testing.T) {
	blank, loaded := mailbox.New("u"), mailbox.Load("u", nil, nil)
	if id, known := blank.Keys().Used("k"); id != 0 || !known {
		t.Errorf("a new mailbox: %d, %v", id, known)
	}
	if id, known := loaded.Keys().Used("k"); id != 0 || known {
		t.Errorf("of a loaded mailbox only the store can tell: %d, %v", id, known)
	}
	blank.Keys().Use("k", 7)
	if id, known := blank.Keys().Used("k"); id != 7 || !known {
		t.Errorf("a used key: %d, %v", id, known)
	}
	c, _ := blank.CollectChanges(10)
	blank.Keys().Use("later", 8) // while the others are written
	blank.Written(&c, nil)
	if id, known := blank.Keys().Used("k"); id != 0 || known || !blank.Dirty() {
		t.Errorf("a key that was written: %d, %v", id, known)
	}
	if id, known := blank.Keys().Used("later"); id != 8 || !known {
		t.Errorf("a key that was used meanwhile: %d, %v", id, known)
	}
	c, _ = blank.CollectChanges(10)
	blank.Erase(11, nil)
	blank.Keys().Use("later", 12)
	blank.Written(&c, nil)
	if id, known := blank.Keys().Used("later"); id != 12 || !known || !blank.Dirty() {
		t.Errorf("a key that was erased and used again meanwhile: %d, %v", id, known)
	}
}
