package comet

import (
	"hash/maphash"
	"sync"
	"sync/atomic"

	"imgo/envelope"
)

// shardCount is how many locks the tables are spread over; a power of two.
const shardCount = 64

// table is who is connected: sessions by id, the members of each room, the
// sessions that a client named, how many there are of each partition.
//
// Locks are ordered: the shards' (all takes all of them in order, nobody else
// two), then a session's, then the leaves (busyMu and the queues of Comet). No
// lock is held while a socket is written to or logic is called, so nobody can
// hold one for longer than a walk over memory.
type table struct {
	seed   maphash.Seed
	shards [shardCount]shard
	rooms  [shardCount]roomShard

	keysMu sync.Mutex
	keys   map[userKey]*session

	partitionsMu sync.Mutex
	partitions   map[uint32]uint32
	of           int // how many partitions there are; 0: not known yet

	live atomic.Int64 // authenticated sessions
}

type shard struct {
	mu       sync.RWMutex
	sessions map[uint64]*session
	list     []*session // the same, to walk over

	windowMu sync.Mutex
	window   []*session // for whom something came in this flush window; each once

	busyMu sync.Mutex
	busy   []*session // that the sweep is to look at; each at most once

	_ [64]byte // so that shards do not share a cache line
}

type roomShard struct {
	mu    sync.RWMutex
	rooms map[string]map[*session]struct{}
	// denied are rooms that job was told nobody is in; see opener.
	denied map[string]*opening
}

// userKey is a session key as its user's client chose it.
type userKey struct{ user, key string }

func newTable() *table {
	t := &table{seed: maphash.MakeSeed(), keys: map[userKey]*session{}, partitions: map[uint32]uint32{}}
	for i := range shardCount {
		t.shards[i].sessions = map[uint64]*session{}
		t.rooms[i].rooms = map[string]map[*session]struct{}{}
		t.rooms[i].denied = map[string]*opening{}
	}
	return t
}

func (t *table) shard(id uint64) *shard { return &t.shards[id%shardCount] }

func (t *table) room(name string) *roomShard {
	return &t.rooms[maphash.String(t.seed, name)%shardCount]
}

func (t *table) insert(s *session) {
	sh := t.shard(s.id)
	sh.mu.Lock()
	sh.sessions[s.id] = s
	s.at = int32(len(sh.list))
	sh.list = append(sh.list, s)
	sh.mu.Unlock()
}

func (t *table) remove(s *session) {
	sh := t.shard(s.id)
	sh.mu.Lock()
	delete(sh.sessions, s.id)
	last := len(sh.list) - 1
	sh.list[s.at] = sh.list[last]
	sh.list[s.at].at = s.at
	sh.list[last] = nil
	sh.list = sh.list[:last]
	sh.mu.Unlock()
}

// find is nil where the session is not here.
func (t *table) find(id uint64) *session {
	sh := t.shard(id)
	sh.mu.RLock()
	s := sh.sessions[id]
	sh.mu.RUnlock()
	return s
}

// each calls f for every session; f must not wait for anything.
func (t *table) each(f func(*session)) {
	for i := range t.shards {
		t.shards[i].each(f)
	}
}

func (sh *shard) each(f func(*session)) {
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	for _, s := range sh.list {
		f(s)
	}
}

// all adds every session to l, about in the order in which they came: it is
// that of their objects in memory and of their sockets in the kernel, and a
// broadcast is to find those where the one before ended, not all over it.
func (t *table) all(l *sessionList) {
	longest := 0
	for i := range t.shards {
		t.shards[i].mu.RLock()
		longest = max(longest, len(t.shards[i].list))
	}
	for at := range longest {
		for i := range t.shards {
			if list := t.shards[i].list; at < len(list) {
				l.sessions = append(l.sessions, list[at])
			}
		}
	}
	for i := range t.shards {
		t.shards[i].mu.RUnlock()
	}
}

// takeWindowed moves those for whom something came in the flush window to l.
func (t *table) takeWindowed(l *sessionList) {
	for i := range t.shards {
		sh := &t.shards[i]
		sh.windowMu.Lock()
		l.sessions = append(l.sessions, sh.window...)
		clear(sh.window)
		sh.window = sh.window[:0]
		sh.windowMu.Unlock()
	}
}

func (t *table) join(room string, s *session) {
	rs := t.room(room)
	rs.mu.Lock()
	members := rs.rooms[room]
	if members == nil {
		members = map[*session]struct{}{}
		rs.rooms[room] = members
	}
	members[s] = struct{}{}
	rs.mu.Unlock()
}

func (t *table) leave(room string, s *session) {
	rs := t.room(room)
	rs.mu.Lock()
	members := rs.rooms[room]
	delete(members, s)
	if len(members) == 0 {
		delete(rs.rooms, room)
	}
	rs.mu.Unlock()
}

// members calls f for every session in room and counts them; f must not wait
// for anything.
func (t *table) members(room string, f func(*session)) int {
	rs := t.room(room)
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	for s := range rs.rooms[room] {
		f(s)
	}
	return len(rs.rooms[room])
}

func (t *table) roomSize(room string) uint32 {
	rs := t.room(room)
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	return uint32(len(rs.rooms[room]))
}

// roomSizes counts the sessions of every room.
func (t *table) roomSizes() map[string]uint32 {
	sizes := map[string]uint32{}
	for i := range t.rooms {
		rs := &t.rooms[i]
		rs.mu.RLock()
		for room, members := range rs.rooms {
			sizes[room] = uint32(len(members))
		}
		rs.mu.RUnlock()
	}
	return sizes
}

// claimKey makes s the session that its user calls key and returns the one
// that was, if any.
func (t *table) claimKey(k userKey, s *session) *session {
	t.keysMu.Lock()
	defer t.keysMu.Unlock()
	older := t.keys[k]
	t.keys[k] = s
	return older
}

// releaseKey forgets s's key, unless a newer session has it by now.
func (t *table) releaseKey(k userKey, s *session) {
	t.keysMu.Lock()
	defer t.keysMu.Unlock()
	if t.keys[k] == s {
		delete(t.keys, k)
	}
}

// place counts a session for the partition of its user: the one that it was
// told, unless the log has another number of partitions by now.
func (t *table) place(s *session, told uint32) {
	t.partitionsMu.Lock()
	defer t.partitionsMu.Unlock()
	s.partition = told
	if t.of > 0 {
		s.partition = uint32(envelope.Partition(s.user, t.of))
	}
	t.partitions[s.partition]++
}

// unplace undoes place.
func (t *table) unplace(s *session) {
	t.partitionsMu.Lock()
	defer t.partitionsMu.Unlock()
	t.uncount(s)
	s.partition = unplaced
}

func (t *table) uncount(s *session) {
	if t.partitions[s.partition]--; t.partitions[s.partition] == 0 {
		delete(t.partitions, s.partition)
	}
}

// repartition counts all sessions anew when the log has another number of
// partitions than it had.
func (t *table) repartition(of int) {
	t.partitionsMu.Lock()
	if of <= 0 || of == t.of {
		t.partitionsMu.Unlock()
		return
	}
	t.of = of
	t.partitionsMu.Unlock()
	// Who is placed from here on is placed rightly.
	t.each(func(s *session) {
		t.partitionsMu.Lock()
		defer t.partitionsMu.Unlock()
		if s.partition != unplaced {
			t.uncount(s)
			s.partition = uint32(envelope.Partition(s.user, t.of))
			t.partitions[s.partition]++
		}
	})
}

// partitionOf is the partition that a session is counted for.
func (t *table) partitionOf(s *session) uint32 {
	t.partitionsMu.Lock()
	defer t.partitionsMu.Unlock()
	return s.partition
}

// partitionSizes copies the sessions' counts of each partition.
func (t *table) partitionSizes() map[uint32]uint32 {
	t.partitionsMu.Lock()
	defer t.partitionsMu.Unlock()
	sizes := make(map[uint32]uint32, len(t.partitions))
	for p, n := range t.partitions {
		sizes[p] = n
	}
	return sizes
}
