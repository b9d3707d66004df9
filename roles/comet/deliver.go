package comet

import (
	"imgo/envelope"
	"imgo/roles/comet/outbox"
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
	if !s.out.MakeRoomLocked(s, len(frame)) {
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
	case s.catchUp != nil:
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
	if !s.out.MakeRoomLocked(s, len(frame)) || s.auto.fullLocked() || s.pacedLocked() && !s.autoLocked().paced.addLocked(frame, id) {
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
	case behind == (s.catchUp != nil):
	case behind:
		s.catchUp = &catchUp{}
		s.comet.metrics.behind.Add(1)
	default:
		s.catchUp = nil
		s.comet.metrics.behind.Add(-1)
	}
}

// nudge tells the session the newest id that is still pending for it.
func (s *session) nudge(newest uint64) {
	s.out.Lock()
	defer s.out.Unlock()
	if s.state > stateLive || newest <= s.last {
		return
	}
	if s.catchUp == nil {
		s.fallBehindLocked(newest)
		return
	}
	s.catchUp.saw(newest)
	s.askIfDueLocked()
}

// deliverBacklog takes the answer to a catch-up.
func (s *session) deliverBacklog(answer *envelope.Backlog, t *tally) {
	s.out.Lock()
	defer s.out.Unlock()
	b := backlog{session: s, answer: answer}
	b.writeAnswerLocked()
	t.add(&b.tally)
}

// backlog is an answer to a catch-up on its way to the client: what is pending after
// answer.After, in order.
type backlog struct {
	*session
	answer *envelope.Backlog
	run    outbox.Run // unused if the messages are paced
	tally  tally
}

// writeAnswerLocked writes as much of the answer as the queue has room for. The rest is asked
// for again when the queue has drained, and so is the next backlog if there is
// more. In this way a slow client sets its own pace.
func (b *backlog) writeAnswerLocked() {
	messages, after := b.answer.GetMessages(), b.answer.GetAfter()
	if b.state > stateLive {
		b.tally[kindBacklog][outGone] += uint32(len(messages))
		return
	}
	if after > b.last {
		// This session did not ask for it: what lies between last and After would
		// be lost.
		b.tally[kindBacklog][outBehind] += uint32(len(messages))
		return
	}
	before := b.last
	whole := b.writeLocked(messages)
	b.out.FlushLocked(b.session)
	if !whole && b.catchUp == nil {
		b.fallBehindLocked(messages[len(messages)-1].GetId())
	}
	if whole && !b.answer.GetMore() {
		b.last = max(b.last, b.answer.GetUpTo())
		if b.catchUp != nil && (b.catchUp.seen <= b.last || b.comet.cfg.Faults.NoSeen) {
			b.setBehindLocked(false)
		}
	}
	// An answer that was asked for again may come twice. The second must not lead
	// to two catch-ups at a time.
	if progress := b.last > before; b.catchUp != nil && (progress || after == b.catchUp.after) {
		b.catchUp.answered(progress, b.comet.now())
	}
	b.askIfDueLocked()
}

// writeLocked queues the messages after last and reports whether all had room. They
// are held until FlushLocked.
func (b *backlog) writeLocked(messages []*envelope.Kept) (whole bool) {
	if !b.pacedLocked() {
		b.enqueueBroadcastsLocked()
		size := 0
		for _, k := range messages {
			if k.GetId() > b.last {
				size += b.form.FrameSize(len(k.GetBody()))
			}
		}
		if size == 0 {
			b.tally[kindBacklog][outDuplicate] += uint32(len(messages))
			return true
		}
		b.run = b.out.StartRunLocked(b.form, size)
		defer b.run.EndLocked()
	}
	for i, k := range messages {
		id := k.GetId()
		switch {
		case id <= b.last:
			b.tally[kindBacklog][outDuplicate]++
			continue
		case !b.wantsLocked(k.GetOp(), false):
			b.last = id
			b.tally[kindBacklog][outFiltered]++
			continue
		case b.auto.fullLocked() || !b.addLocked(k):
			b.tally[kindBacklog][outBehind] += uint32(len(messages) - i)
			return false
		}
		b.last = id
		b.noteSentLocked(id)
		b.tally[kindBacklog][outWritten]++
	}
	return true
}

// addLocked queues one message. It reports whether there was room for it.
func (b *backlog) addLocked(k *envelope.Kept) bool {
	if b.pacedLocked() {
		frame := transport.AppendMessage(nil, b.form, k.GetOp(), k.GetId(), k.GetBody())
		return b.autoLocked().paced.addLocked(frame, k.GetId())
	}
	return b.run.AddLocked(k.GetOp(), k.GetId(), k.GetBody())
}

// askIfDueLocked asks for a catch-up if the session needs one, none is under way,
// and all that was queued has gone out. Otherwise the goroutine that removes the
// last obstacle calls it again: the outbox when it is idle, the pacer, a backlog, the
// sweep.
func (s *session) askIfDueLocked() {
	if s.catchUp == nil || s.state != stateLive {
		return
	}
	s.markBusyLocked()
	if !s.out.EmptyLocked() || s.auto.pacer().waitsLocked() || s.auto.fullLocked() || !s.catchUp.due(s.comet.now()) {
		return
	}
	s.catchUp.state = catchUpQueued
	s.comet.catchUps.add(s)
}
