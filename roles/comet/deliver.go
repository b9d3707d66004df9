package comet

import (
	"imgo/envelope"
	"imgo/transport"
)

// This file is comet's rule of the delivery design: what a session does with
// a kept message, a backlog and a nudge. On the way from the log to here each of
// them may be lost, late, doubled or out of order.

// deliver gives the session a message. prev is the id of the user's pending
// message before a kept one. room says that the message is for a room's members.
// deliver never blocks.
func (s *session) deliver(m *transport.Message, prev uint64, room bool, f *fanoutWorker) {
	t := &f.tally
	f.Lock(&s.out)
	defer f.Unlock(&s.out)
	kind := kindLive
	if m.ID() != 0 {
		kind = kindKept
	}
	if s.state > stateLive {
		t[kind][outGone]++
		return
	}
	if kind == kindKept {
		t[kind][s.deliverKeptLocked(m, prev, f)]++
		return
	}
	if !s.wantsLocked(m.Op(), room) {
		t[kind][outFiltered]++
		return
	}
	frame := m.Frame(s.form)
	if !s.out.FitsLocked(len(frame)) {
		t[kind][outDropped]++
		return
	}
	f.enqueueLocked(s, frame, 0)
	t[kind][outWritten]++
}

// deliverKeptLocked applies the rule and returns what became of the message.
func (s *session) deliverKeptLocked(m *transport.Message, prev uint64, f *fanoutWorker) (outcome int) {
	id, faults := m.ID(), &s.comet.cfg.Faults
	switch {
	case id <= s.last && !faults.NoDuplicate:
		return outDuplicate
	case s.behind:
		s.catchUp.saw(id)
		s.askIfDueLocked()
		return outBehind
	case prev > s.last && !faults.NoPrev:
		s.fallBehindLocked(id)
		return outBehind
	case !s.wantsLocked(m.Op(), false):
		// The message stays in the mailbox for a session that accepts it. This
		// session has dealt with it.
		s.last = max(s.last, id)
		return outFiltered
	}
	frame := m.Frame(s.form)
	if !s.out.FitsLocked(len(frame)) || s.auto.fullLocked() || s.pacedLocked() && !s.autoLocked().pace.addLocked(frame, id) {
		s.fallBehindLocked(id)
		return outBehind
	}
	s.last = max(s.last, id)
	s.noteSentLocked(id)
	if !s.pacedLocked() {
		f.enqueueLocked(s, frame, id)
	}
	return outWritten
}

// fallBehindLocked is for a session that is not behind and misses something up
// to id.
func (s *session) fallBehindLocked(id uint64) {
	s.setBehindLocked(true)
	s.catchUp.saw(id)
	s.askIfDueLocked()
}

// setBehindLocked changes whether the session is behind, and the count of those
// that are.
func (s *session) setBehindLocked(behind bool) {
	switch {
	case s.behind == behind:
		return
	case behind:
		s.catchUp = &catchUp{}
		s.comet.metrics.behind.Add(1)
	default:
		s.catchUp = &s.comet.noCatchUp
		s.comet.metrics.behind.Add(-1)
	}
	s.behind = behind
}

// nudge tells the session the newest id that is still pending for it.
func (s *session) nudge(newest uint64) {
	s.out.Lock()
	defer s.out.Unlock()
	if s.state > stateLive || newest <= s.last {
		return
	}
	if !s.behind {
		s.fallBehindLocked(newest)
		return
	}
	s.catchUp.saw(newest)
	s.askIfDueLocked()
}

// backlog takes the answer to a catch-up: what is pending after b.After, in
// order. As much of it as the queue has room for is written. The rest is asked
// for again when the queue has drained, and so is the next window of an answer
// that has more. In this way a slow client sets its own pace.
func (s *session) backlog(b *envelope.Backlog, t *tally) {
	s.out.Lock()
	defer s.out.Unlock()
	s.backlogLocked(b, t)
}

func (s *session) backlogLocked(b *envelope.Backlog, t *tally) {
	if s.state > stateLive {
		t[kindBacklog][outGone]++
		return
	}
	if b.GetAfter() > s.last {
		// This session did not ask for it: what lies between last and After would
		// be lost.
		t[kindBacklog][outBehind] += uint32(len(b.GetMessages()))
		return
	}
	before := s.last
	whole := s.writeBacklogLocked(b.GetMessages(), t)
	s.out.FlushLocked(s)
	if n := len(b.GetMessages()); !whole && !s.behind {
		s.fallBehindLocked(b.GetMessages()[n-1].GetId())
	}
	if whole && !b.GetMore() {
		s.last = max(s.last, b.GetUpTo())
		if s.catchUp.seen <= s.last || s.comet.cfg.Faults.NoSeen {
			s.setBehindLocked(false)
		}
	}
	// An answer that was asked for again may come twice. The second must not lead
	// to two catch-ups at a time.
	if progress := s.last > before; s.behind && (progress || b.GetAfter() == s.catchUp.after) {
		s.catchUp.answered(progress, s.comet.now())
	}
	s.askIfDueLocked()
}

// writeBacklogLocked queues the messages after last and reports whether all had
// room. They are held until FlushLocked.
func (s *session) writeBacklogLocked(messages []*envelope.Kept, t *tally) (whole bool) {
	if s.pacedLocked() {
		return s.addBacklogLocked(messages, t, func(k *envelope.Kept) bool {
			return s.autoLocked().pace.addLocked(transport.AppendMessage(nil, s.form, k.GetOp(), k.GetId(), k.GetBody()), k.GetId())
		})
	}
	s.takeBroadcastsLocked()
	size := 0
	for _, k := range messages {
		if k.GetId() > s.last {
			size += s.form.FrameSize(len(k.GetBody()))
		}
	}
	if size == 0 {
		return true
	}
	run := s.out.StartRunLocked(s.form, size)
	defer run.EndLocked()
	return s.addBacklogLocked(messages, t, func(k *envelope.Kept) bool {
		return run.AddLocked(k.GetOp(), k.GetId(), k.GetBody())
	})
}

// addBacklogLocked passes the messages after last that the session wants to add, which
// reports whether there was room. It reports whether all had room.
func (s *session) addBacklogLocked(messages []*envelope.Kept, t *tally, add func(k *envelope.Kept) bool) (whole bool) {
	for _, k := range messages {
		id := k.GetId()
		switch {
		case id <= s.last:
			t[kindBacklog][outDuplicate]++
			continue
		case !s.wantsLocked(k.GetOp(), false):
			s.last = id
			t[kindBacklog][outFiltered]++
			continue
		case s.auto.fullLocked() || !add(k):
			t[kindBacklog][outBehind]++
			return false
		}
		s.last = id
		s.noteSentLocked(id)
		t[kindBacklog][outWritten]++
	}
	return true
}

// askIfDueLocked asks for a catch-up if the session needs one, none is under way,
// and all that was queued has gone out. Otherwise the goroutine that removes the
// last obstacle calls it again: the outbox when it is idle, the pacer, a backlog, the
// sweep.
func (s *session) askIfDueLocked() {
	if !s.behind || s.state != stateLive {
		return
	}
	s.markBusyLocked()
	if !s.out.EmptyLocked() || s.auto.pacer().waitsLocked() || s.auto.fullLocked() || !s.catchUp.due(s.comet.now()) {
		return
	}
	s.catchUp.state = catchUpQueued
	s.comet.catchUps.add(s)
}

// retryCatchUpLocked forgets a catch-up whose answer is late.
func (s *session) retryCatchUpLocked() {
	if !s.comet.cfg.Faults.NoAskAgain && s.catchUp.expire(s.comet.now(), s.comet.cfg.CatchUpTimeout) {
		s.comet.metrics.catchUps.WithLabelValues("again").Inc()
	}
}
