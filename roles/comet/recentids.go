package comet

import "sync"

// maxRecentIDs is how many messages that are not kept are remembered. A job that
// takes over from one that died carries some again: those of a second, or of as
// long as Kafka took no positions. An append that was repeated brings one twice.
const maxRecentIDs = 1 << 15

// recentIDs are the ids of the last messages that are not kept. Clients do not see
// these ids, so they cannot tell that such a message has come twice. The zero value
// is ready for use. When full it takes about 2 MB. Safe for concurrent use.
type recentIDs struct {
	mu   sync.Mutex
	has  map[string]struct{}
	ring []string
	next int // in ring, the oldest id
}

// add reports whether an id is new. It remembers the id in place of the oldest.
func (r *recentIDs) add(id []byte) bool {
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
	if len(r.ring) < maxRecentIDs {
		r.ring = append(r.ring, key)
		return true
	}
	delete(r.has, r.ring[r.next])
	r.ring[r.next] = key
	r.next = (r.next + 1) % maxRecentIDs
	return true
}
