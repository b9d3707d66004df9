package comet

import (
	"runtime"
	"sync"
	"sync/atomic"

	"imgo/transport"
	"imgo/transport/batch"
)

// This file is how a delivery reaches its sessions: their list is copied out of
// the table, and then whoever pushes writes to them, on a large list together
// with as many helpers as there are processors. No session is woken, and no
// lock of the table is held meanwhile. Where the kernel has io_uring, 64 of these
// writes are one system call (transport/batch). Push returns when all is done, so what
// one caller pushes in one call after another keeps its order, and a comet that
// has enough to do holds its callers up in place of a queue.

const (
	// spreadFrom is from how many sessions on helpers are worth their start.
	spreadFrom = 256
	// spreadStep is how many sessions a helper takes at a time.
	spreadStep = 64
	// batchFrom is from how many sessions on their writes go in batches.
	batchFrom = 4
	// sendsPerProcessor bounds the batches that are under way, of all pushes;
	// who finds none left sends one at a time.
	sendsPerProcessor = 4
)

// fan is one goroutine's part of a Push.
type fan struct {
	comet *Comet
	// cork: more is coming for the same sessions, which are to be written to
	// at the end, once; corked are those that wait for it.
	cork   bool
	corked []*session
	// batch gathers writes that are sent together; nil: each goes by itself.
	// begun are those in it.
	batch *batch.Batch
	begun []begun
	tally tally
	_     [64]byte // so that helpers do not share a cache line
}

// begun is a write that is in a batch. Its session is locked, and so is its
// connection, until it was sent: nothing may come between it and what it is
// written behind.
type begun struct {
	s     *session
	frame []byte
	id    uint64
}

// lock is s.mu.Lock for one who may have others locked. It never waits while
// it has, or two who push to the same sessions in different order would wait
// for each other; so a session that somebody else works on ends the batch.
func (f *fan) lock(s *session) {
	if len(f.begun) == 0 {
		s.mu.Lock()
	} else if !s.mu.TryLock() {
		f.send()
		s.mu.Lock()
	}
}

// unlock is s.mu.Unlock, but for a session whose write is in the batch.
func (f *fan) unlock(s *session) {
	n := len(f.begun)
	if n == 0 || f.begun[n-1].s != s {
		s.mu.Unlock()
	} else if n == batch.Size {
		f.send()
	}
}

// write is session.writeOne, by way of the batch where there is one. The
// caller holds mu by lock, and does nothing more with the session.
func (f *fan) write(s *session, b []byte, id uint64) {
	if f.batch != nil && s.conn.(transport.Pollable).StartWrite(f.batch, b) {
		f.begun = append(f.begun, begun{s, b, id})
		return
	}
	s.writeOne(b, id)
}

// send sends what is in the batch and unlocks its sessions.
func (f *fan) send() {
	if len(f.begun) == 0 {
		return
	}
	results := f.batch.Send()
	for i := range f.begun {
		w := &f.begun[i]
		taken, left, err := w.s.conn.(transport.Pollable).FinishWrite(w.frame, results[i])
		w.s.wroteOne(w.frame, w.id, taken, left, err)
		w.s.mu.Unlock()
	}
	clear(f.begun)
	f.begun = f.begun[:0]
}

// begin borrows a batch for n sessions, if that is worth it; end sends what is
// in it and gives it back.
func (f *fan) begin(n int) {
	if n < batchFrom {
		return
	}
	if f.batch = f.comet.sends.Take(); f.batch != nil && f.begun == nil {
		f.begun = make([]begun, 0, min(n, batch.Size))
	}
}

func (f *fan) end() {
	f.send()
	f.comet.sends.Put(f.batch)
	f.batch = nil
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
		f.begin(n)
		defer f.end()
		for i := range n {
			do(i, f)
		}
		return
	}
	var next atomic.Int64
	work := func(f *fan) {
		f.begin(n)
		defer f.end()
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
	f.spread(len(corked), func(i int, f *fan) {
		s := corked[i]
		f.lock(s)
		defer f.unlock(s)
		if b, id, ok := s.takeLone(); ok {
			f.write(s, b, id)
		} else {
			s.uncork()
		}
	})
}

// enqueue is session.enqueue of what may go by way of the batch. Holds mu.
func (f *fan) enqueue(s *session, b []byte, id uint64) {
	if s.ready() {
		f.write(s, b, id)
	} else {
		s.append(b, id)
		s.startWriter()
	}
}

// takeLone takes the frame that was held, if it is the only one and can be
// written at once. Holds mu.
func (s *session) takeLone() (b []byte, id uint64, ok bool) {
	q := s.queue
	if q == nil || !s.direct || s.writing || len(q.frames) != 1 || s.state == stateConnecting {
		return nil, 0, false
	}
	lone := q.frames[0]
	s.account(-len(lone.bytes))
	s.comet.queues.put(q)
	s.queue, s.corked = nil, false
	return lone.bytes, lone.id, true
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
