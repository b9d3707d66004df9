package comet

import (
	"hash/maphash"
	"maps"
	"sync"
	"sync/atomic"

	"imgo/envelope"
)

// shardCount is how many locks the sessions and rooms are spread over.
const shardCount = 64

// table holds the sessions: by id, by room, by the key that a client chose, and as
// counts for each partition.
//
// Locks are taken in this order: roomsMu, those of shards, then a session's, then all others
// (busyMu, windowMu, and the queues of Comet). Only all holds several shards, in
// order. No lock of the table is held while a socket is written to or logic is
// called.
type table struct {
	seed   maphash.Seed
	shards [shardCount]shard
	rooms  [shardCount]roomShard

	keysMu sync.Mutex
	keys   map[userKey]*session

	partitionsMu sync.Mutex
	partitions   map[uint32]uint32
	count        int // how many partitions there are. It is 0 if it is not known yet

	live atomic.Int64 // authenticated sessions
}

type shard struct {
	// roomsMu is the lock under which the rooms of the sessions change. It is taken before the
	// lock of any shard, and never held while something is waited for.
	roomsMu  sync.Mutex
	mu       sync.RWMutex
	sessions map[uint64]*session
	list     []*session // the same, to walk over

	windowMu sync.Mutex
	window   []*session // that have something in this flush window, each once

	busyMu sync.Mutex
	busy   []*session // that the sweeper is to look at, each once

	_ [64]byte // so that shards do not share a cache line
}

type roomShard struct {
	mu    sync.RWMutex
	rooms map[string]map[*session]struct{}
	// denied are the rooms that job knows to have no member here; see roomOpener.
	denied map[string]*opening
}

// userKey is a session key that a client of a user chose.
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

// find returns nil if the session is not here.
func (t *table) find(id uint64) *session {
	sh := t.shard(id)
	sh.mu.RLock()
	s := sh.sessions[id]
	sh.mu.RUnlock()
	return s
}

// each calls f for every session that is there when its shard is copied, without a lock
// of the table. A session may have ended by then.
func (t *table) each(f func(*session)) {
	var l sessionList
	for i := range t.shards {
		t.shards[i].each(&l, f)
	}
}

// each is table.each for one shard. It uses the memory of l, which is empty before and after.
func (sh *shard) each(l *sessionList, f func(*session)) {
	sh.mu.RLock()
	l.sessions = append(l.sessions, sh.list...)
	sh.mu.RUnlock()
	for _, s := range l.sessions {
		f(s)
	}
	l.empty()
}

// collectBusy returns the sessions that the sweeper is to look at, and forgets them.
func (sh *shard) collectBusy() []*session {
	sh.busyMu.Lock()
	defer sh.busyMu.Unlock()
	busy := sh.busy
	sh.busy = nil
	return busy
}

// all adds every session to l, about in the order in which they came. Their objects
// lie in memory in that order, and so do their sockets in the kernel, so that a
// broadcast walks through memory in one direction.
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

// collectWindowed moves the sessions that have something in the flush window to l.
func (t *table) collectWindowed(l *sessionList) {
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

// members calls f for every session in a room and counts them. f must not wait for
// anything.
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

// claimKey gives a key to s, unless a newer session has it. It returns the session that must go, or nil. That is the
// session that had the key, or s.
func (t *table) claimKey(k userKey, s *session) *session {
	t.keysMu.Lock()
	defer t.keysMu.Unlock()
	other := t.keys[k]
	if other != nil && envelope.ArrivedAfter(other.arrival, s.arrival) {
		return s
	}
	t.keys[k] = s
	return other
}

// releaseKey forgets the key of s, unless a newer session has it by now.
func (t *table) releaseKey(k userKey, s *session) {
	t.keysMu.Lock()
	defer t.keysMu.Unlock()
	if t.keys[k] == s {
		delete(t.keys, k)
	}
}

// place counts a session for the partition of its user. That is the partition that
// logic told, unless the log has another number of partitions by now.
func (t *table) place(s *session, told uint32) {
	t.partitionsMu.Lock()
	defer t.partitionsMu.Unlock()
	s.partition = told
	if t.count > 0 {
		s.partition = uint32(envelope.Partition(s.user, t.count))
	}
	t.partitions[s.partition]++
}

// unplace undoes place.
func (t *table) unplace(s *session) {
	t.partitionsMu.Lock()
	defer t.partitionsMu.Unlock()
	t.uncountLocked(s)
	s.partition = unplaced
}

func (t *table) uncountLocked(s *session) {
	if t.partitions[s.partition]--; t.partitions[s.partition] == 0 {
		delete(t.partitions, s.partition)
	}
}

// repartition counts all sessions anew if the log has another number of partitions
// than before.
func (t *table) repartition(count int) {
	t.partitionsMu.Lock()
	if count <= 0 || count == t.count {
		t.partitionsMu.Unlock()
		return
	}
	t.count = count
	t.partitionsMu.Unlock()
	// A session that is placed from here on is counted for the right partition.
	t.each(func(s *session) {
		t.partitionsMu.Lock()
		defer t.partitionsMu.Unlock()
		if s.partition != unplaced {
			t.uncountLocked(s)
			s.partition = uint32(envelope.Partition(s.user, t.count))
			t.partitions[s.partition]++
		}
	})
}

// partitionOf returns the partition that a session is counted for.
func (t *table) partitionOf(s *session) uint32 {
	t.partitionsMu.Lock()
	defer t.partitionsMu.Unlock()
	return s.partition
}

// partitionSizes counts the sessions of each partition.
func (t *table) partitionSizes() map[uint32]uint32 {
	t.partitionsMu.Lock()
	defer t.partitionsMu.Unlock()
	return maps.Clone(t.partitions)
}
