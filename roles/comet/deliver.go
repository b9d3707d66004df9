package comet

import (
	"time"

	"imgo/envelope"
	"imgo/transport"
)

// This file is comet's rule of the delivery design: what a session does with
// a kept message, a backlog and a nudge. Between the log and here any of them
// may be missing, late, doubled or out of order.

// deliver gives the session a message; prev is the id of the user's pending
// message before a kept one, room says that it is for a room's members. It
// never blocks.
func (s *session) deliver(m *transport.Message, prev uint64, room bool, f *fan) {
	t := &f.tally
	f.lock(s)
	defer f.unlock(s)
	kind := kindLive
	if m.ID() != 0 {
		kind = kindKept
	}
	if s.state > stateLive {
		t[kind][outGone]++
		return
	}
	if kind == kindKept {
		t[kind][s.deliverKept(m, prev, f)]++
		return
	}
	if !s.wants(m.Op(), room) {
		t[kind][outFiltered]++
		return
	}
	b := m.Frame(s.form)
	if !s.fits(len(b)) {
		t[kind][outDropped]++
		return
	}
	s.hold(f)
	f.enqueue(s, b, 0)
	t[kind][outWritten]++
}

// deliverKept applies the rule and says what came of the message. Holds mu.
func (s *session) deliverKept(m *transport.Message, prev uint64, f *fan) (outcome int) {
	id, faults := m.ID(), &s.comet.cfg.Faults
	switch {
	case id <= s.last && !faults.NoDuplicate:
		return outDuplicate
	case s.behind:
		s.seen = max(s.seen, id)
		s.maybeAsk()
		return outBehind
	case prev > s.last && !faults.NoPrev:
		s.fallBehind(id)
		return outBehind
	case !s.wants(m.Op(), false):
		// It stays in the mailbox for a session that accepts it; this one has
		// dealt with it.
		s.last = max(s.last, id)
		return outFiltered
	}
	b := m.Frame(s.form)
	if !s.fits(len(b)) || s.tooUnsettled() {
		s.fallBehind(id)
		return outBehind
	}
	s.hold(f)
	s.last = max(s.last, id)
	f.enqueue(s, b, id)
	return outWritten
}

// tooUnsettled says whether so much of what was written has not arrived that
// no more kept messages are to be written. Holds mu.
func (s *session) tooUnsettled() bool {
	if len(s.unsettled) < maxUnsettled {
		return false
	}
	s.settle(false)
	return len(s.unsettled) >= maxUnsettled
}

// fallBehind is for a live session that misses something up to id. Holds mu.
func (s *session) fallBehind(id uint64) {
	s.setBehind(true)
	s.seen = max(s.seen, id)
	s.ask, s.askAt, s.fails, s.again = askNone, 0, 0, 0
	s.maybeAsk()
}

// setBehind keeps the count of those that are. Holds mu.
func (s *session) setBehind(behind bool) {
	if s.behind != behind {
		s.behind = behind
		n := int64(1)
		s.pursuit = &pursuit{}
		if !behind {
			n = -1
			s.pursuit = &s.comet.noPursuit
		}
		s.comet.metrics.behind.Add(n)
	}
}

// nudge tells the session the newest id that is still pending for it.
func (s *session) nudge(newest uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state > stateLive || newest <= s.last {
		return
	}
	if !s.behind {
		s.fallBehind(newest)
		return
	}
	s.seen = max(s.seen, newest)
	s.maybeAsk()
}

// backlog is the answer to a catch-up: what is pending after b.After, in
// order. As much of it as the queue has room for is written; the rest is asked
// for again when that has drained, like the next window of an answer that has
// more, so that a slow client sets its own pace.
func (s *session) backlog(b *envelope.Backlog, t *tally) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takeBacklog(b, t)
}

// takeBacklog is backlog; holds mu.
func (s *session) takeBacklog(b *envelope.Backlog, t *tally) {
	if s.state > stateLive {
		t[kindBacklog][outGone]++
		return
	}
	if b.GetAfter() > s.last {
		// Not an answer to anything that this session asked: what lies between
		// last and After would be lost.
		t[kindBacklog][outBehind] += uint32(len(b.GetMessages()))
		return
	}
	before := s.last
	whole := s.writeBacklog(b.GetMessages(), t)
	s.uncork()
	if n := len(b.GetMessages()); !whole && !s.behind {
		s.fallBehind(b.GetMessages()[n-1].GetId())
	}
	if whole && !b.GetMore() {
		s.last = max(s.last, b.GetUpTo())
		if s.seen <= s.last || s.comet.cfg.Faults.NoSeen {
			s.setBehind(false)
		}
	}
	// An answer that was asked for again may come twice; the second must not
	// make for two catch-ups at a time.
	if progress := s.last > before; s.behind && (progress || b.GetAfter() == s.askedAfter) {
		s.ask, s.again = askNone, 0
		s.pace(progress)
	}
	s.maybeAsk()
}

// writeBacklog queues messages after last and says whether all had room. Their
// frames lie one behind the other in one piece of memory, which is held until
// the last of them is written: a window, or what may be pending. Holds mu.
func (s *session) writeBacklog(messages []*envelope.Kept, t *tally) (whole bool) {
	s.catchUpNotes()
	room := 0
	for _, k := range messages {
		if k.GetId() > s.last {
			room += s.form.FrameSize(len(k.GetBody()))
		}
	}
	if room == 0 {
		return true
	}
	r := run{s: s, buf: s.comet.queues.run(s.open(), min(room, s.comet.cfg.PendingBytes))}
	defer r.queue()
	for _, k := range messages {
		id := k.GetId()
		switch {
		case id <= s.last:
			t[kindBacklog][outDuplicate]++
			continue
		case !s.wants(k.GetOp(), false):
			s.last = id
			t[kindBacklog][outFiltered]++
			continue
		case !r.add(k):
			t[kindBacklog][outBehind]++
			return false
		}
		s.last = id
		t[kindBacklog][outWritten]++
	}
	return true
}

// run encodes messages for one session into one piece of memory. Where it need
// not be known of each whether it is in the kernel, several go as one frame.
type run struct {
	s    *session
	buf  []byte
	from int    // where in buf the frame begins that is put together
	id   uint64 // of the last message in it
}

// add encodes a message and says whether it had room. Holds mu.
func (r *run) add(k *envelope.Kept) bool {
	s, at := r.s, len(r.buf)
	r.buf = transport.AppendMessage(r.buf, s.form, k.GetOp(), k.GetId(), k.GetBody())
	// A connection that is written to with Write frames each frame itself.
	if join := s.direct && s.acks && len(r.buf)-r.from <= writeChunk; at > r.from && !join {
		r.cut(at)
	}
	if pending := int(s.pending) + at - r.from; pending > 0 && pending+len(r.buf)-at > s.comet.cfg.PendingBytes || s.tooUnsettled() {
		r.buf = r.buf[:at]
		return false
	}
	r.id = k.GetId()
	return true
}

// cut queues what is in buf up to an end. Holds mu.
func (r *run) cut(end int) {
	r.s.append(r.buf[r.from:end], r.id)
	r.from = end
}

// queue queues the last frame. Holds mu.
func (r *run) queue() {
	if len(r.buf) > r.from {
		r.cut(len(r.buf))
	}
}

// Pauses before a catch-up that follows one without progress: the owner's
// mailbox is not as far as what passed by, or logic failed.
const (
	firstAskPause = 20 * time.Millisecond
	lastAskPause  = time.Second
)

// pace sets when the next catch-up may be asked: at once after one that made
// progress and after the first that made none, then ever later. Holds mu.
func (s *session) pace(progress bool) {
	if progress {
		s.fails, s.askAt = 0, 0
		return
	}
	if s.fails > 0 {
		s.askAt = s.comet.now() + min(firstAskPause<<min(s.fails-1, 6), lastAskPause)
	}
	s.fails = min(s.fails+1, 10)
}

// maybeAsk asks for a catch-up if the session needs one, none is under way,
// and all that was queued has gone out. Otherwise whoever removes the last
// obstacle calls it again: the writer as it ends, a backlog, the sweep. Holds mu.
func (s *session) maybeAsk() {
	if !s.behind || s.state != stateLive {
		return
	}
	s.markBusy()
	if s.ask != askNone || s.writing || s.queue != nil || s.tooUnsettled() || s.comet.now() < s.askAt {
		return
	}
	s.ask = askQueued
	s.comet.askers.add(s)
}

// askAgain forgets a catch-up whose answer is late. Holds mu.
func (s *session) askAgain() {
	timeout := s.comet.cfg.CatchUpTimeout << min(s.again, 2)
	if s.ask != askSent || s.comet.now()-s.askedAt < timeout || s.comet.cfg.Faults.NoAskAgain {
		return
	}
	s.ask = askNone
	s.again = min(s.again+1, 10)
	s.comet.metrics.catchUps.WithLabelValues("again").Inc()
}
