package logic

import (
	"context"
	"slices"
	"sync"

	"imgo/envelope"
)

// maxClaims bounds the claims that are remembered.
const maxClaims = 10_000

// claims takes idempotency keys for pushes that have no mailbox to hold the
// key. The first claim in the kept log's order wins, whichever logic made it.
//
// It remembers the claims of this logic whose push failed, or whose outcome it did not
// learn. A repeated push may lose against its own first try, and the caller must not be
// told that it was done. So the repetition goes on with the first claim. The oldest is
// forgotten first. Safe for concurrent use.
type claims struct {
	owners *owners
	kept   *keptWriter

	mu    sync.Mutex
	byKey map[string]claim
	order []string // the keys of byKey, oldest first
}

// claim is a record that claims an idempotency key.
type claim struct {
	record []byte // Record.id
	id     uint64 // its place in the log. It is 0 if it is not known: it may not be there
}

// claim claims a key and reports whether the claim won.
func (s *claims) claim(ctx context.Context, key string) (c claim, won bool, err error) {
	c, again := s.recall(key)
	if !again {
		c.record = envelope.NewRecordID()
	}
	if c.id == 0 {
		record := &envelope.Record{Id: c.record, Claim: &envelope.Claim{Key: key}}
		if c.id, err = s.kept.append(ctx, key, "append the claim of the idempotency key", record, false); err != nil {
			// It may be in the log all the same. The repetition appends the same
			// record, and two of them are one claim.
			s.remember(key, c)
			return c, false, err
		}
	}
	request := &envelope.ClaimRequest{Partition: uint32(s.owners.partition(key)), Id: c.id, Key: key, RecordId: c.record}
	reply, err := ask(ctx, s.owners, key, "claim the idempotency key", Router.Claim, request)
	if err != nil {
		s.remember(key, c)
		return c, false, err
	}
	return c, reply.GetWon(), nil
}

// remember keeps a claim for the repetition of its push.
func (s *claims) remember(key string, c claim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, has := s.byKey[key]; !has {
		if len(s.order) == maxClaims {
			delete(s.byKey, s.order[0])
			s.order = s.order[1:]
		}
		s.order = append(s.order, key)
	}
	s.byKey[key] = c
}

// recall gives a remembered claim to one caller.
func (s *claims) recall(key string) (c claim, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok = s.byKey[key]; ok {
		delete(s.byKey, key)
		s.order = slices.DeleteFunc(s.order, func(k string) bool { return k == key })
	}
	return c, ok
}
