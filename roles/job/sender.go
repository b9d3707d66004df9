package job

import (
	"context"
	"errors"
	"sync"
	"time"

	"imgo/envelope"
	"imgo/internal/wait"
)

// batch is what one read has for one comet.
type batch struct {
	topic Topic
	items []item
	size  int // bytes
	span  *span
}

// sender pushes to one comet, in the order of its queue. The queue is bounded in bytes;
// batches that do not fit are refused. At any time one goroutine pushes: run, or one on
// the fast path that has the push slot.
type sender struct {
	j      *Job
	comet  string
	wake   wait.Signal
	closed chan struct{}

	mu    sync.Mutex
	ended bool
	busy  bool // a goroutine is pushing
	queue []*batch
	bytes int
}

// pushSlot is the right to push one batch, which must be used once.
type pushSlot struct {
	s   *sender
	ctx context.Context
	b   *batch
}

// push pushes the batch and releases the slot.
func (p pushSlot) push() {
	defer p.s.j.sending.Done()
	defer p.s.release()
	p.s.push(p.ctx, []*batch{p.b})
}

func newSender(j *Job, comet string) *sender {
	return &sender{j: j, comet: comet, wake: wait.NewSignal(), closed: make(chan struct{})}
}

// enqueue queues a batch without waiting. It reports whether the batch was queued.
func (s *sender) enqueue(b *batch) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.bytes > 0 && s.bytes+b.size > s.j.cfg.QueueBytes {
		return false
	}
	b.span.add()
	s.queue = append(s.queue, b)
	s.bytes += b.size
	s.wake.Set()
	return true
}

// acquireSlot makes the caller the pushing goroutine for one batch, ahead of everything that
// is queued from now on. It reports whether it did; the caller must then call release.
func (s *sender) acquireSlot(b *batch) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.busy || len(s.queue) > 0 {
		return false
	}
	s.busy = true
	b.span.add()
	return true
}

// acquireQueued makes the caller the pushing goroutine for the next batches of the queue,
// about as many as have limit bytes. It returns none if the queue is empty or another
// goroutine is pushing; otherwise the caller must call release.
func (s *sender) acquireQueued(limit int) []*batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy {
		return nil
	}
	batches := s.dequeueLocked(limit)
	s.busy = len(batches) > 0
	return batches
}

// release lets the next goroutine push.
func (s *sender) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = false
	if len(s.queue) > 0 {
		s.wake.Set()
	}
}

// dequeueAll empties the queue.
func (s *sender) dequeueAll() []*batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dequeueLocked(0)
}

// dequeueLocked removes the next batches, about as many as have limit bytes. 0 means all.
func (s *sender) dequeueLocked(limit int) (batches []*batch) {
	n, size := 0, 0
	for n < len(s.queue) && (n == 0 || limit == 0 || size+s.queue[n].size <= limit) {
		size += s.queue[n].size
		n++
	}
	batches = s.queue[:n:n]
	if s.queue = s.queue[n:]; len(s.queue) == 0 {
		s.queue = nil
	}
	s.bytes -= size
	return batches
}

// close ends the sender of a comet that is gone. It must be called once at most.
func (s *sender) close() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	close(s.closed)
}

func (s *sender) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.closed:
			s.skip("gone", s.dequeueAll())
			return
		case <-s.wake:
		}
		for ctx.Err() == nil {
			batches := s.acquireQueued(s.j.cfg.PushBytes)
			if len(batches) == 0 {
				break // release wakes this goroutine if there is more
			}
			s.push(ctx, batches)
			s.release()
		}
	}
}

// cometInterval is how often a push that takes long checks that the comet is still there
// to answer it.
const cometInterval = time.Second

// push makes one call to the comet.
func (s *sender) push(ctx context.Context, batches []*batch) {
	c := s.j.d.Comets.Comet(s.comet)
	if c == nil {
		s.skip("gone", batches)
		return
	}
	req := &envelope.PushRequest{}
	for _, b := range batches {
		for _, it := range b.items {
			req.Deliveries = append(req.Deliveries, it.d)
		}
	}
	pctx, cancel := context.WithTimeout(ctx, s.j.cfg.PushTimeout)
	defer cancel()
	defer cancelWhen(pctx, cometInterval, func() bool { return s.j.d.Comets.Comet(s.comet) != c }, cancel).Stop()
	reply, err := c.Push(pctx, req)
	switch {
	case err == nil:
		s.pushed(c, reply, batches)
	case ctx.Err() != nil: // the job ends; the next one repeats the batches
	default:
		s.j.sampled.Warn().Err(err).Str("comet", s.comet).Int("deliveries", len(req.Deliveries)).Msg("the push to a comet failed: skipped")
		s.skip("failed", batches)
		if errors.Is(pctx.Err(), context.DeadlineExceeded) {
			// The comet hangs, so the rest of the queue is as late already.
			s.skip("failed", s.dequeueAll())
		}
	}
}

// pushed ends batches that the comet has taken.
func (s *sender) pushed(c Comet, reply *envelope.PushReply, batches []*batch) {
	now := time.Now()
	empty := make(map[string]struct{}, len(reply.GetEmptyRooms()))
	for _, room := range reply.GetEmptyRooms() {
		empty[room] = struct{}{}
	}
	for _, b := range batches {
		age := s.j.metrics.age[b.topic]
		for _, it := range b.items {
			if it.d.TimeMs > 0 {
				age.Observe(max(now.Sub(time.UnixMilli(it.d.TimeMs)).Seconds(), 0))
			}
			if _, ok := empty[it.d.Room]; ok && it.denied != nil {
				it.denied.learn(c, reply, it.d.Room)
			}
		}
		b.span.done()
	}
}

// skip gives batches up.
func (s *sender) skip(reason string, batches []*batch) {
	for _, b := range batches {
		s.j.skipped(reason, len(b.items))
		b.span.done()
	}
}
