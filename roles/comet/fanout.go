package comet

import (
	"runtime"
	"sync"
	"sync/atomic"

	"imgo/roles/comet/outbox"
	"imgo/transport"
)

// This file is how a delivery reaches its sessions. Their list is copied out of
// the table. Then the goroutine that pushes writes to them, on a large list with
// the help of one goroutine for each other processor. No goroutine of a session
// is woken, and no lock of the table is held meanwhile. Push returns when all is
// done, so that the pushes of one caller keep their order. A busy comet needs no
// queue for pushes: its callers wait.

const (
	// parallelFrom is the smallest number of sessions for which helpers are started.
	parallelFrom = 256
	// parallelStep is how many sessions a helper takes at a time.
	parallelStep = 64
)

// fanoutWorker is the part of one goroutine in a Push.
type fanoutWorker struct {
	outbox.Worker
	comet *Comet
	// hold says that more messages for the same sessions follow. Their frames are held
	// until flush. held lists the sessions that have such frames.
	hold  bool
	held  []*session
	tally tally
	_     [64]byte // so that helpers do not share a cache line
}

func (c *Comet) newFanout(hold bool) *fanoutWorker {
	return &fanoutWorker{Worker: outbox.NewWorker(c.outboxes), comet: c, hold: hold}
}

// sessionList is a borrowed list of sessions.
type sessionList struct{ sessions []*session }

// empty keeps the list's memory, but no session: it may have ended.
func (l *sessionList) empty() {
	clear(l.sessions)
	l.sessions = l.sessions[:0]
}

func (l *sessionList) add(s *session) { l.sessions = append(l.sessions, s) }

// sessionLists is a pool of empty lists.
type sessionLists struct{ pool sync.Pool }

func (p *sessionLists) get() *sessionList {
	if l, ok := p.pool.Get().(*sessionList); ok {
		return l
	}
	return &sessionList{}
}

func (p *sessionLists) put(l *sessionList) {
	l.empty()
	p.pool.Put(l)
}

// each calls do for 0 … n-1, in no order, and returns when all is done. do may
// run on several goroutines, each with a worker of its own.
func (f *fanoutWorker) each(n int, do func(i int, f *fanoutWorker)) {
	helpers := min(runtime.GOMAXPROCS(0), (n+parallelStep-1)/parallelStep) - 1
	if n < parallelFrom || helpers < 1 {
		f.Begin(n)
		defer f.End()
		for i := range n {
			do(i, f)
		}
		return
	}
	var next atomic.Int64
	work := func(f *fanoutWorker) {
		f.Begin(n)
		defer f.End()
		for {
			to := int(next.Add(parallelStep))
			if to-parallelStep >= n {
				return
			}
			for i := to - parallelStep; i < min(to, n); i++ {
				do(i, f)
			}
		}
	}
	parts := make([]fanoutWorker, helpers)
	var wg sync.WaitGroup
	for i := range parts {
		parts[i] = fanoutWorker{Worker: outbox.NewWorker(f.comet.outboxes), comet: f.comet, hold: f.hold}
		wg.Go(func() { work(&parts[i]) })
	}
	work(f)
	wg.Wait()
	for i := range parts {
		f.held = append(f.held, parts[i].held...)
		f.tally.add(&parts[i].tally)
	}
}

// deliverLive delivers one message that is not kept to a list.
func (f *fanoutWorker) deliverLive(l *sessionList, m *transport.Message, room bool) {
	f.each(len(l.sessions), func(i int, f *fanoutWorker) { l.sessions[i].deliver(m, 0, room, f) })
}

// flush writes what is held.
func (f *fanoutWorker) flush() {
	held := f.held
	f.held = nil
	f.each(len(held), func(i int, f *fanoutWorker) {
		s := held[i]
		f.Lock(&s.out)
		defer f.Unlock(&s.out)
		f.FlushLocked(s)
	})
}

// enqueueLocked sends a frame by way of the batch. The session holds it until the
// flush window or the push ends, if there is a window or more is to come.
func (f *fanoutWorker) enqueueLocked(s *session, frame []byte, id uint64) {
	switch {
	case f.comet.window != nil:
		s.enqueueBroadcastsLocked()
		f.comet.window.addLocked(s)
	case f.hold && s.out.HoldLocked():
		f.held = append(f.held, s)
	}
	f.EnqueueLocked(s, frame, id)
}
