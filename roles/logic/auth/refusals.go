package auth

import (
	"crypto/sha256"
	"sync"
	"time"

	"imgo/envelope"
)

const (
	// refusalSlots bounds the refused tokens that are remembered (about 300 KB).
	refusalSlots = 4096
	// refusalTime is how long a refused token is remembered.
	refusalTime = time.Minute
)

// refusals remembers the hashes of refused JWTs, so that a client that sends
// the same bad token in a loop does not cost a signature each time. A token has
// one slot, which another token may take. A refusal is void once the keys
// change. Safe for concurrent use.
type refusals struct {
	mu    sync.Mutex
	slots []refusal
}

type refusal struct {
	hash    [sha256.Size]byte
	version uint64 // of the keys
	until   time.Time
	err     *envelope.Error
}

func newRefusals() *refusals { return &refusals{slots: make([]refusal, refusalSlots)} }

func (r *refusals) slot(hash [sha256.Size]byte) *refusal {
	return &r.slots[(int(hash[0])<<8|int(hash[1]))%refusalSlots]
}

// find returns why a token was refused, or nil.
func (r *refusals) find(hash [sha256.Size]byte, version uint64, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.slot(hash)
	if s.err == nil || s.hash != hash || s.version != version || now.After(s.until) {
		return nil
	}
	return s.err
}

func (r *refusals) add(hash [sha256.Size]byte, version uint64, now time.Time, err *envelope.Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*r.slot(hash) = refusal{hash: hash, version: version, until: now.Add(refusalTime), err: err}
}
