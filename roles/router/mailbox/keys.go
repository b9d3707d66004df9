package mailbox

import "maps"

// Keys are the idempotency keys of a user that the store does not have yet.
type Keys struct{ *facts }

// Used returns the id of the message that used an idempotency key, or 0 if there is none. Of what
// the store says, messages from before Erased do not count.
// known is false if only the store can tell.
func (k Keys) Used(key string) (id uint64, known bool) {
	if id, ok := k.used[key]; ok {
		return id, true
	}
	return 0, k.noneStored
}

// Use notes that the message id used an idempotency key.
func (k Keys) Use(key string, id uint64) {
	if k.used == nil {
		k.used = make(map[string]uint64, 1)
	}
	k.used[key] = id
}

// Erased returns the id of the last record that erased the user, or 0 if none did since
// the mailbox is in memory. Idempotency keys of earlier messages are void.
func (k Keys) Erased() uint64 { return k.erased }

// erase drops the keys of messages from before the given record.
func (k Keys) erase(recordID uint64) {
	maps.DeleteFunc(k.used, func(_ string, id uint64) bool { return id < recordID })
	if recordID > k.erased {
		k.erased, k.erasedStored = recordID, false
	}
}

// collect adds the keys to the changes. Those that are used while these are written are for the next
// flush.
func (k Keys) collect(c *Changes) {
	c.Used = maps.Clone(k.used)
	if len(k.used) > 0 {
		k.noneStored = false
	}
	if !k.erasedStored {
		c.Erased = k.erased
	}
}

// written notes that the store has the changes.
func (k Keys) written(c *Changes) {
	for key, id := range c.Used {
		if k.used[key] == id { // else it was erased and used again meanwhile
			delete(k.used, key)
		}
	}
	if c.Erased == k.erased {
		k.erasedStored = true
	}
}
