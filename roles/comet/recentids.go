package comet

import "sync"

// maxRecent is how many messages that are not kept are remembered: those of
// what a job carries again that took over from one that died (a second's worth,
// or as long as Kafka took no positions), and of appends that were repeated.
const maxRecent = 1 << 15

// recent knows the last messages that are not kept: clients cannot tell that
// one has come twice, since they have no id that clients see. The zero value is
// ready. Safe for concurrent use; it takes about 2 MB once it is full.
type recent struct {
	mu   sync.Mutex
	has  map[string]struct{}
	ring []string
	next int
}

// first says whether an id is new, and remembers it in the place of the oldest.
func (r *recent) first(id []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.has[string(id)]; ok {
		return false
	}
	if r.has == nil {
		r.has = make(map[string]struct{})
	}
	key := string(id)
	r.has[key] = struct{}{}
	if len(r.ring) < maxRecent {
		r.ring = append(r.ring, key)
		return true
	}
	delete(r.has, r.ring[r.next])
	r.ring[r.next] = key
	r.next = (r.next + 1) % maxRecent
	return true
}
