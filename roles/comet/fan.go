package comet

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"imgo/transport"
)

// This file is how a delivery reaches its sessions: their list is copied out of
// the table, and then whoever pushes writes to them, on a large list together
// with as many helpers as there are processors. No session is woken, and no
// lock of the table is held meanwhile. Push returns when all is done, so what
// one caller pushes in one call after another keeps its order, and a comet that
// has enough to do holds its callers up in place of a queue.

const (
	// spreadFrom is from how many sessions on helpers are worth their start.
	spreadFrom = 256
	// spreadStep is how many sessions a helper takes at a time.
	spreadStep = 64
)

// fan is one goroutine's part of a Push.
type fan struct {
	comet *Comet
	// cork: more is coming for the same sessions, which are to be written to
	// at the end, once; corked are those that wait for it.
	cork   bool
	corked []*session
	tally  tally
	_      [64]byte // so that helpers do not share a cache line
}

// list is a borrowed list of sessions.
type list struct{ sessions []*session }

func (l *list) add(s *session) { l.sessions = append(l.sessions, s) }

// lists is a pool of empty lists.
type lists struct{ pool sync.Pool }

func (p *lists) take() *list {
	if l, ok := p.pool.Get().(*list); ok {
		return l
	}
	return &list{}
}

func (p *lists) put(l *list) {
	clear(l.sessions) // or it would keep sessions that have ended
	l.sessions = l.sessions[:0]
	p.pool.Put(l)
}

// spread calls do for 0 … n-1, in no order, and returns when all is done.
func (f *fan) spread(n int, do func(i int, f *fan)) {
	helpers := min(runtime.GOMAXPROCS(0), (n+spreadStep-1)/spreadStep) - 1
	if n < spreadFrom || helpers < 1 {
		for i := range n {
			do(i, f)
		}
		return
	}
	var next atomic.Int64
	work := func(f *fan) {
		for {
			to := int(next.Add(spreadStep))
			if to-spreadStep >= n {
				return
			}
			for i := to - spreadStep; i < min(to, n); i++ {
				do(i, f)
			}
		}
	}
	parts := make([]fan, helpers)
	var wg sync.WaitGroup
	for i := range parts {
		parts[i] = fan{comet: f.comet, cork: f.cork}
		wg.Go(func() { work(&parts[i]) })
	}
	work(f)
	wg.Wait()
	for i := range parts {
		f.corked = append(f.corked, parts[i].corked...)
		f.tally.add(&parts[i].tally)
	}
}

// give delivers one message that is not kept to a list.
func (f *fan) give(l *list, m *transport.Message, room bool) {
	f.spread(len(l.sessions), func(i int, f *fan) { l.sessions[i].deliver(m, 0, room, f) })
}

// flush writes to those that were corked.
func (f *fan) flush() {
	corked := f.corked
	f.corked = nil
	f.spread(len(corked), func(i int, _ *fan) {
		s := corked[i]
		s.mu.Lock()
		s.uncork()
		s.mu.Unlock()
	})
}

// hold has the session keep what it is given from now on: until the flush
// window ends, where there is one, or until the end of the Push. Holds mu.
func (s *session) hold(f *fan) {
	switch {
	case s.comet.cfg.FlushInterval > 0:
		s.corked = true
		s.waitForWindow()
	case f.cork && !s.corked:
		s.corked = true
		f.corked = append(f.corked, s)
	}
}

// uncork writes what was held. Holds mu.
func (s *session) uncork() {
	s.corked = false
	s.startWriter()
}

// waitForWindow has the flush window of its shard end the session's wait. Holds mu.
func (s *session) waitForWindow() {
	if s.windowed {
		return
	}
	s.windowed = true
	sh := s.comet.table.shard(s.id)
	sh.windowMu.Lock()
	sh.window = append(sh.window, s)
	sh.windowMu.Unlock()
}

// endWindow writes to those of the shard for which something came.
func (sh *shard) endWindow() {
	sh.windowMu.Lock()
	sessions := sh.window
	sh.window = sh.spare
	sh.windowMu.Unlock()
	for _, s := range sessions {
		s.mu.Lock()
		s.windowed = false
		s.uncork()
		s.mu.Unlock()
	}
	clear(sessions)
	sh.spare = sessions[:0]
}

// minWindowTick is how often shards are looked at whose window has ended.
const minWindowTick = 2 * time.Millisecond

// flushWindows ends the windows of every parts-th shard, from the first on, one
// after the other, each once an interval: the work is spread over it.
func (c *Comet) flushWindows(first, parts int, stop <-chan struct{}) {
	interval := c.cfg.FlushInterval
	ticker := time.NewTicker(max(interval/shardCount, minWindowTick))
	defer ticker.Stop()
	begun, ended := time.Now(), 0
	for {
		select {
		case <-ticker.C:
		case <-stop:
			return
		}
		due := int(int64(time.Since(begun)) * shardCount / int64(interval))
		ended = max(ended, due-shardCount)
		for ; ended < due; ended++ {
			if i := ended % shardCount; i%parts == first {
				c.table.shards[i].endWindow()
			}
		}
	}
}
