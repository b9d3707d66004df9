package router

import "imgo/store"

// claims are the idempotency keys of claims that the store does not have yet.
// The partition's mu guards them.
type claims struct {
	// pending are for the next flush; flushing are being written.
	pending, flushing map[string]store.MailboxClaim
}

// find returns the claim of a key. ok is false if the store may know.
func (c *claims) find(key string) (claim store.MailboxClaim, ok bool) {
	if claim, ok = c.pending[key]; ok {
		return claim, true
	}
	claim, ok = c.flushing[key]
	return claim, ok
}

func (c *claims) add(key string, id uint64, recordID []byte) {
	if c.pending == nil {
		c.pending = make(map[string]store.MailboxClaim)
	}
	claim := store.MailboxClaim{ID: id}
	copy(claim.Record[:], recordID)
	c.pending[key] = claim
}

// collect returns what is to be written. written must follow.
func (c *claims) collect() map[string]store.MailboxClaim {
	c.flushing, c.pending = c.pending, nil
	return c.flushing
}

// written notes that the store has what was taken, or with an error that it
// has not.
func (c *claims) written(err error) {
	if err != nil && c.flushing != nil {
		for key, claim := range c.pending {
			c.flushing[key] = claim
		}
		c.pending = c.flushing
	}
	c.flushing = nil
}
