package imgoclient

import (
	"context"
	"slices"
	"sync"
)

// Outbox keeps the messages of Client.Publish until they have arrived. It belongs to one device and to one
// Client at a time. The Client does not call its methods concurrently.
//
// Do not restore an outbox from a back-up: its numbers are used already.
//
// SetBase, Add and Remove return nil only after their change is durable. If they return an error, the change is done
// completely or not at all.
type Outbox interface {
	// Load returns what the outbox has.
	Load(ctx context.Context) (OutboxContent, error)
	// SetBase keeps the base of the ids, in place of an earlier one. The base only grows.
	SetBase(ctx context.Context, base uint64) error
	// Add adds a message. Its number is one above the number of the message before it.
	Add(ctx context.Context, m OutboxMessage) error
	// Remove removes all messages with numbers up to upTo. The last number stays known.
	Remove(ctx context.Context, upTo uint64) error
}

// OutboxMessage is a message in an Outbox.
type OutboxMessage struct {
	// Number is 1 for the first message of the outbox, and grows by 1.
	Number uint64
	Op     int32
	Body   []byte
}

// OutboxContent is what an Outbox has.
type OutboxContent struct {
	// Base is the base of the ids: a message is sent with the id Base + Number. It is nil before SetBase.
	Base *uint64
	// Last is the number of the last message that was added, also if it was removed. It is 0 if there was none.
	Last uint64
	// Messages are those that were not removed, oldest first.
	Messages []OutboxMessage
}

// clone returns a copy that shares only the bodies.
func (c OutboxContent) clone() OutboxContent {
	c.Messages = slices.Clone(c.Messages)
	return c
}

// number returns the number of the message with an id. It is 0 for an id up to the base, and without a base.
func (c OutboxContent) number(id uint64) uint64 {
	if c.Base == nil || id <= *c.Base {
		return 0
	}
	return id - *c.Base
}

func (c *OutboxContent) add(m OutboxMessage) {
	c.Messages = append(c.Messages, m)
	c.Last = max(c.Last, m.Number)
}

func (c *OutboxContent) remove(upTo uint64) {
	n := 0
	for n < len(c.Messages) && c.Messages[n].Number <= upTo {
		n++
	}
	c.Messages = slices.Delete(c.Messages, 0, n)
}

// MemoryOutbox is an Outbox in memory. It serves the next Client of the same process.
type MemoryOutbox struct {
	mu      sync.Mutex
	content OutboxContent
}

// NewMemoryOutbox returns an empty MemoryOutbox.
func NewMemoryOutbox() *MemoryOutbox { return &MemoryOutbox{} }

// Load returns what the outbox has.
func (o *MemoryOutbox) Load(context.Context) (OutboxContent, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.content.clone(), nil
}

// SetBase keeps the base of the ids.
func (o *MemoryOutbox) SetBase(_ context.Context, base uint64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.content.Base = &base
	return nil
}

// Add adds a message.
func (o *MemoryOutbox) Add(_ context.Context, m OutboxMessage) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.content.add(m)
	return nil
}

// Remove removes all messages with numbers up to upTo.
func (o *MemoryOutbox) Remove(_ context.Context, upTo uint64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.content.remove(upTo)
	return nil
}
