package job

import (
	"context"
	"errors"
	"sync"
	"time"

	"imgo/envelope"
)

// groups are a read's deliveries by comet, in the order of the partition.
type groups struct {
	order []string
	of    map[string]*group
}

type group struct {
	last  uint64 // key of the newest delivery
	items []item
}

// item is a delivery and, for a room's, who learns from the answer.
type item struct {
	d      *envelope.Delivery
	denial *denial
}

func newGroups() *groups { return &groups{of: make(map[string]*group)} }

// delivery is a comet's delivery for what key tells apart, made if it is new.
// Keys come in the order of the read.
func (g *groups) delivery(comet string, key uint64, make func() *envelope.Delivery) *envelope.Delivery {
	c := g.of[comet]
	if c == nil {
		c = &group{}
		g.of[comet] = c
		g.order = append(g.order, comet)
	}
	if c.last != key || len(c.items) == 0 {
		c.last = key
		c.items = append(c.items, item{d: make()})
	}
	return c.items[len(c.items)-1].d
}

// answers has e learn from what the comet answers to its newest delivery.
func (g *groups) answers(comet string, e *denial) {
	c := g.of[comet]
	c.items[len(c.items)-1].denial = e
}

// send puts each comet's deliveries into its queue. With now it claims the comets
// for which nothing is queued and nothing under way: those the caller is to tell.
func (g *groups) send(j *Job, r *reader, s *span, now bool) (mine []claimed) {
	for _, comet := range g.order {
		b := &batch{topic: r.topic, items: g.of[comet].items, span: s}
		for _, it := range b.items {
			b.size += deliverySize(it.d)
		}
		if c, ok := j.deliver(comet, b, now); ok {
			mine = append(mine, c)
		}
	}
	return mine
}

// claimed is a batch that its holder tells the comet, with tell, once.
type claimed struct {
	s  *sender
	in context.Context
	b  *batch
}

func (c claimed) tell() {
	defer c.s.j.sending.Done()
	defer c.s.release()
	c.s.push(c.in, []*batch{c.b})
}

// deliverySize is about how much memory a delivery holds, in bytes.
func deliverySize(d *envelope.Delivery) int {
	n := 128 + len(d.Body) + 32*len(d.To)
	if d.Backlog != nil {
		for _, k := range d.Backlog.Messages {
			n += 64 + len(k.Body)
		}
	}
	return n
}

// batch is what one read has for one comet.
type batch struct {
	topic Topic
	items []item
	size  int
	span  *span
}

// sender tells one comet, in the order of its queue. The queue is bounded in
// bytes; what does not fit is refused.
type sender struct {
	j     *Job
	comet string
	wake  chan struct{}
	gone  chan struct{}

	mu    sync.Mutex
	ended bool
	busy  bool // somebody is telling the comet: run, or who committed a record
	queue []*batch
	bytes int
}

func newSender(j *Job, comet string) *sender {
	return &sender{j: j, comet: comet, wake: make(chan struct{}, 1), gone: make(chan struct{})}
}

// put queues a batch, all of it or (false) nothing. It never waits.
func (s *sender) put(b *batch) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.bytes > 0 && s.bytes+b.size > s.j.cfg.QueueBytes {
		return false
	}
	b.span.more()
	s.queue = append(s.queue, b)
	s.bytes += b.size
	s.signal()
	return true
}

// signal wakes run.
func (s *sender) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// claim says that the caller may tell the comet of a batch itself, before
// anything that is put from now on; release is then due.
func (s *sender) claim(b *batch) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.busy || len(s.queue) > 0 {
		return false
	}
	s.busy = true
	b.span.more()
	return true
}

// claimNext is take, unless somebody is telling the comet; with batches release
// is due.
func (s *sender) claimNext(limit int) []*batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy {
		return nil
	}
	batches := s.takeLocked(limit)
	s.busy = len(batches) > 0
	return batches
}

// release lets the next one tell the comet.
func (s *sender) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = false
	if len(s.queue) > 0 {
		s.signal()
	}
}

// take removes the next batches from the queue, about as much as limit bytes;
// 0: all.
func (s *sender) take(limit int) (batches []*batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.takeLocked(limit)
}

// takeLocked is take; mu must be held.
func (s *sender) takeLocked(limit int) (batches []*batch) {
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

// end drops the queue: the comet is gone. Called once.
func (s *sender) end() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	close(s.gone)
}

func (s *sender) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.gone:
			s.skip("gone", s.take(0))
			return
		case <-s.wake:
		}
		for ctx.Err() == nil {
			batches := s.claimNext(s.j.cfg.PushBytes)
			if len(batches) == 0 {
				break // release wakes us if there is more
			}
			s.push(ctx, batches)
			s.release()
		}
	}
}

// push tells the comet, once.
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
	defer s.look(pctx, c, cancel).Stop()
	reply, err := c.Push(pctx, req)
	switch {
	case err == nil:
		s.told(c, reply, batches)
	case ctx.Err() != nil: // the job ends; the next one carries them again
	default:
		s.j.often.Warn().Err(err).Str("comet", s.comet).Int("deliveries", len(req.Deliveries)).Msg("comet was not told: skipped")
		s.skip("failed", batches)
		if errors.Is(pctx.Err(), context.DeadlineExceeded) {
			// It hangs: what waits behind is as late already.
			s.skip("failed", s.take(0))
		}
	}
}

// goneLook is how often, during a call that takes long, it is looked whether
// there still is somebody to answer it.
const goneLook = time.Second

// look calls cancel, unless ctx has ended, once the comet that is being told is
// not the one of that name any more: it is gone, or has come back as another.
func (s *sender) look(ctx context.Context, c Comet, cancel func()) *time.Timer {
	return time.AfterFunc(goneLook, func() {
		switch {
		case ctx.Err() != nil:
		case s.j.d.Comets.Comet(s.comet) != c:
			cancel()
		default:
			s.look(ctx, c, cancel)
		}
	})
}

// told is for what the comet has answered to.
func (s *sender) told(c Comet, reply *envelope.PushReply, batches []*batch) {
	now := time.Now()
	var empty map[string]struct{}
	if n := len(reply.GetEmptyRooms()); n > 0 {
		empty = make(map[string]struct{}, n)
		for _, room := range reply.GetEmptyRooms() {
			empty[room] = struct{}{}
		}
	}
	for _, b := range batches {
		age := s.j.metrics.age[b.topic]
		for _, it := range b.items {
			if it.d.TimeMs > 0 {
				age.Observe(max(now.Sub(time.UnixMilli(it.d.TimeMs)).Seconds(), 0))
			}
			if it.denial == nil {
				continue
			}
			if _, ok := empty[it.d.Room]; ok {
				it.denial.learn(c, reply, it.d.Room)
			}
		}
		b.span.done()
	}
}

// skip gives batches up.
func (s *sender) skip(reason string, batches []*batch) {
	for _, b := range batches {
		s.j.metrics.skipped.WithLabelValues(reason).Add(float64(len(b.items)))
		b.span.done()
	}
}
