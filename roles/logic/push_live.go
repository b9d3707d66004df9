package logic

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"imgo/envelope"
)

// pushUsers pushes to whoever of the users is connected at the moment.
func (l *Logic) pushUsers(ctx context.Context, c *PushCommand) (*PushResult, error) {
	users := unique(c.Users)
	// All questions come before the first effect: a push that fails for an
	// owner that does not answer has reached nobody and may be repeated.
	found, err := l.lookup(ctx, users, "", false)
	if err != nil {
		return nil, err
	}
	result := &PushResult{Users: make([]UserResult, len(users))}
	var to []*envelope.Address
	for i, user := range users {
		sessions := found[user].GetSessions()
		result.Users[i] = UserResult{User: user, Sessions: len(sessions)}
		to = append(to, sessions...)
	}
	result.Sessions = len(to)
	if err := l.once(ctx, c.IdempotencyKey, result, l.toAddresses(c, to)); err != nil {
		return nil, err
	}
	for i := range result.Users {
		result.Users[i].Duplicate = result.Duplicate
	}
	return result, nil
}

// pushKeys pushes to named sessions. Any router may have them, so all are
// asked, and all must answer.
func (l *Logic) pushKeys(ctx context.Context, c *PushCommand) (*PushResult, error) {
	var mu sync.Mutex
	var to []*envelope.Address
	err := l.everyRouter("look up session keys", func(r Router) error {
		for keys := range slices.Chunk(unique(c.Keys), lookupChunk) {
			var reply *envelope.LookupReply
			err := repeat(ctx, func() (err error) {
				reply, err = r.Lookup(ctx, &envelope.LookupRequest{Keys: keys})
				return err
			})
			if err != nil {
				return err
			}
			mu.Lock()
			for _, s := range reply.GetKeyed() {
				to = append(to, s.GetAddress())
			}
			mu.Unlock()
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	result := &PushResult{}
	all := l.toAddresses(c, to)
	for _, t := range all {
		result.Sessions += len(t.envelope.GetMessage().GetTo())
	}
	if err := l.once(ctx, c.IdempotencyKey, result, all); err != nil {
		return nil, err
	}
	return result, nil
}

// pushOpen pushes to a room or to everyone: only the comets know who that is,
// so nobody is asked and no session is counted. That there may be no comet at
// all is none of its business.
func (l *Logic) pushOpen(ctx context.Context, c *PushCommand) (*PushResult, error) {
	result := &PushResult{}
	message := &envelope.Message{Id: envelope.NewRecordID(), Op: c.Op, Body: c.Body, Room: c.Room, All: c.All}
	all := []thrown{{by: c.Room, envelope: &envelope.Envelope{Message: message}}}
	if err := l.once(ctx, c.IdempotencyKey, result, all); err != nil {
		return nil, err
	}
	return result, nil
}

func (l *Logic) toAddresses(c *PushCommand, to []*envelope.Address) []thrown {
	return addressed(to, func(to []*envelope.Address) *envelope.Envelope {
		return &envelope.Envelope{Message: &envelope.Message{Id: envelope.NewRecordID(), Op: c.Op, Body: c.Body, To: to}}
	})
}

// once throws envelopes, unless the idempotency key was used before: then the
// result becomes that of a duplicate.
func (l *Logic) once(ctx context.Context, key string, result *PushResult, all []thrown) error {
	if key == "" {
		return l.throw(ctx, "throw the push", all...)
	}
	claim, won, err := l.claim(ctx, key)
	if err != nil {
		return err
	}
	if !won {
		result.Duplicate, result.Sessions = true, 0
		return nil
	}
	if err := l.throw(ctx, "throw the push", all...); err != nil {
		l.unsettled.put(key, claim)
		return err
	}
	return nil
}

// claim is a claim record that this logic made.
type claim struct {
	record []byte // Record.id
	id     uint64 // its place in the log; 0: not known, it may not be there
}

// claim takes an idempotency key for a push that has no mailbox to hold it:
// the first claim in the log's order wins, wherever it was made.
func (l *Logic) claim(ctx context.Context, key string) (c claim, won bool, err error) {
	partition := l.partition(key)
	c, mine := l.unsettled.take(key)
	if !mine {
		c.record = envelope.NewRecordID()
	}
	if c.id == 0 {
		record := &envelope.Record{Id: c.record, TimeMs: l.nowMS(), Claim: &envelope.Claim{Key: key}}
		value, err := record.MarshalVT()
		if err != nil {
			return c, false, fmt.Errorf("encode the claim: %w", err)
		}
		entries := []envelope.Entry{{Partition: partition, Value: value}}
		if err := l.kept.AppendMany(ctx, entries); err != nil {
			// It may be in the log all the same: the repetition appends the
			// same record, and two of them are one claim.
			l.unsettled.put(key, c)
			return c, false, appending("append the claim of the idempotency key", err)
		}
		c.id = envelope.ID(l.kept.Generation(), entries[0].Offset)
	}
	err = l.askOwner(ctx, partition, "claim the idempotency key", func(owner Router) error {
		reply, err := owner.Claim(ctx, &envelope.ClaimRequest{Partition: uint32(partition), Id: c.id, Key: key, RecordId: c.record})
		won = reply.GetWon()
		return err
	})
	if err != nil {
		l.unsettled.put(key, c)
		return c, false, err
	}
	return c, won, nil
}

// maxUnsettled bounds the claims that are remembered.
const maxUnsettled = 10_000

// unsettled remembers claims that this logic made and whose push then failed,
// or whose outcome it did not learn. A caller that repeats the push must not
// be told that it was done because it lost against its own first try: the
// repetition goes on with the first claim. The oldest is forgotten first.
// Safe for concurrent use.
type unsettled struct {
	mu     sync.Mutex
	claims map[string]claim
	order  []string
}

func newUnsettled() *unsettled { return &unsettled{claims: make(map[string]claim)} }

func (u *unsettled) put(key string, c claim) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, has := u.claims[key]; !has {
		if len(u.order) == maxUnsettled {
			delete(u.claims, u.order[0])
			u.order = u.order[1:]
		}
		u.order = append(u.order, key)
	}
	u.claims[key] = c
}

// take gives a claim to one caller.
func (u *unsettled) take(key string) (c claim, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if c, ok = u.claims[key]; ok {
		delete(u.claims, key)
		u.order = slices.DeleteFunc(u.order, func(k string) bool { return k == key })
	}
	return c, ok
}
