package comet

import "testing"

// TestTableEach checks that no lock of the table is held while sessions are looked at, and that no
// session is kept after that.
func TestTableEach(t *testing.T) {
	table := newTable()
	for id := range uint64(3 * shardCount) {
		table.insert(&session{id: id})
	}
	seen := 0
	table.each(func(s *session) {
		seen++
		sh := table.shard(s.id)
		if !sh.mu.TryLock() {
			t.Fatal("the shard is locked")
		}
		sh.mu.Unlock()
		table.remove(s)
	})
	var l sessionList
	table.all(&l)
	if seen != 3*shardCount || len(l.sessions) != 0 {
		t.Errorf("saw %d sessions, want %d; %d are left", seen, 3*shardCount, len(l.sessions))
	}
	sh := table.shard(1)
	table.insert(&session{id: 1})
	sh.each(&l, func(*session) {})
	if len(l.sessions) != 0 || l.sessions[:1][0] != nil {
		t.Error("the list keeps a session")
	}
}
