package router

import (
	"container/list"
	"sync/atomic"

	"imgo/envelope"
	"imgo/roles/router/mailbox"
)

// cache bounds the bodies that a partition holds in memory though the store has them. A
// client that comes back soon, or that reads on, is answered without the disk. A body
// comes here when it was written behind and when it was read for a backlog. It goes when
// its message goes, or with all others of its account: that of the account used longest
// ago, when there is no room.
//
// The partition's mu guards it.
type cache struct {
	// limit is how many bytes the partition may hold.
	limit *atomic.Int64
	// accounts hold bodies; the one that was used last is first.
	accounts list.List // of *account
	bytes    int
}

// add keeps the body of a message that the store has, unless its account would
// have more than half of the room, which may be none. The caller calls trim when it has given all.
func (c *cache) add(a *account, e *mailbox.Entry, message *envelope.Kept) {
	if int64(a.Messages.Held()+e.Cost()) > c.limit.Load()/2 {
		return
	}
	a.Messages.Hold(e, message)
	if a.Messages.Place() == nil {
		a.Messages.SetPlace(c.accounts.PushFront(a))
	}
	c.bytes += e.Cost()
}

// trim drops what there is no room for.
func (c *cache) trim() {
	for limit := int(c.limit.Load()); c.bytes > limit; {
		c.release(c.accounts.Back().Value.(*account))
	}
}

// release drops what an account holds.
func (c *cache) release(a *account) {
	place := a.Messages.Place()
	if place == nil {
		return
	}
	c.bytes -= a.Messages.Held()
	a.Messages.Release()
	c.accounts.Remove(place)
}

// use notes that an account was used now.
func (c *cache) use(a *account) {
	if place := a.Messages.Place(); place != nil {
		c.accounts.MoveToFront(place)
	}
}
