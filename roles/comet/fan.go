package comet

import (
	"runtime"
	"sync"
	"sync/atomic"

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
	case s.comet.window != nil:
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
