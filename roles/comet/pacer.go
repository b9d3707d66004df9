package comet

import "time"

// Some SDKs of the old servers take what one read of a TCP stream returns for one
// packet, and lose the packets behind it. Those servers wrote each packet by itself
// and far enough from the next. So kept messages for a session of theirs on TCP go
// out one at a time, each in a write of its own, with a pause before it.
const (
	// authPause is the pause after the auth reply.
	authPause = 100 * time.Millisecond
	// packetPause is the pause after any other packet.
	packetPause = 20 * time.Millisecond
	// maxPauses bounds the pauses of one message, on a connection with so many other
	// packets that there is no pause between them.
	maxPauses = 25
	// maxPaced bounds the messages that wait for their pause. The session falls
	// behind at more.
	maxPaced = 64
)

// pacer holds the kept messages of a session that wait for a pause between two
// packets. The lock of the outbox guards it.
type pacer struct {
	waiting []pacedFrame
	bytes   int
	timer   *time.Timer   // nil until the first message waits
	written int64         // bytes written when the pacer looked last
	since   time.Duration // from when on nothing more was written, on comet's clock
	pauses  int           // of the first waiting message
}

// pacedFrame is a kept message in its frame.
type pacedFrame struct {
	bytes []byte
	id    uint64
}

// pacedLocked reports whether the session's kept messages are paced.
func (s *session) pacedLocked() bool { return s.gen != genV2 && s.out.Conn().Traits().Stream }

// pacingLocked reports whether kept messages wait for their pause.
func (s *session) pacingLocked() bool { return s.auto != nil && len(s.auto.pace.waiting) > 0 }

// pacerLocked returns the session's pacer. A new one begins with the pause that
// follows an auth reply.
func (s *session) pacerLocked() *pacer {
	fresh := s.auto == nil || s.auto.pace.timer == nil
	p := &s.autoLocked().pace
	if fresh {
		p.timer = time.AfterFunc(time.Hour, s.writePaced)
		p.timer.Stop()
		p.beginLocked(s, authPause)
	}
	return p
}

// beginLocked sets the pause before the next message.
func (p *pacer) beginLocked(s *session, pause time.Duration) {
	p.written, p.since = s.out.Conn().Written(), s.comet.now()+pause-packetPause
}

// fits reports whether a frame of n bytes may wait.
func (p *pacer) fits(n, bound int) bool {
	return len(p.waiting) == 0 || len(p.waiting) < maxPaced && p.bytes+n <= bound
}

// paceLocked writes a frame after those that wait, once there is a pause. It
// reports whether there was room for it.
func (s *session) paceLocked(frame []byte, id uint64) bool {
	p := s.pacerLocked()
	if !p.fits(len(frame), s.comet.cfg.PendingBytes) {
		return false
	}
	if len(p.waiting) == 0 && s.quietLocked(p) {
		s.writeAloneLocked(p, frame, id)
		return true
	}
	p.waiting = append(p.waiting, pacedFrame{frame, id})
	p.bytes += len(frame)
	if len(p.waiting) == 1 && s.state == stateLive { // else activate starts it
		p.timer.Reset(max(p.since+packetPause-s.comet.now(), 0))
	}
	return true
}

// quietLocked reports whether nothing has been written for a pause.
func (s *session) quietLocked(p *pacer) bool {
	now := s.comet.now()
	if written := s.out.Conn().Written(); written != p.written {
		p.written, p.since = written, max(p.since, now)
	}
	return s.state == stateLive && s.out.EmptyLocked() && now-p.since >= packetPause
}

func (s *session) writeAloneLocked(p *pacer, frame []byte, id uint64) {
	p.pauses = 0
	s.out.EnqueueLocked(s, frame, id)
	s.out.FlushLocked(s)
	p.beginLocked(s, packetPause)
}

// writePaced writes the first waiting message if there was a pause. It is the
// timer's function.
func (s *session) writePaced() {
	s.out.Lock()
	defer s.out.Unlock()
	if s.state != stateLive || !s.pacingLocked() {
		return
	}
	p := &s.auto.pace
	if p.pauses++; s.quietLocked(p) || p.pauses > maxPauses {
		first := p.waiting[0]
		p.waiting = p.waiting[1:]
		p.bytes -= len(first.bytes)
		s.writeAloneLocked(p, first.bytes, first.id)
	}
	if len(p.waiting) > 0 {
		p.timer.Reset(packetPause)
		return
	}
	p.waiting = nil
	s.askIfDueLocked()
}

// startPacerLocked begins with what waits for the auth reply, which was written
// just now.
func (s *session) startPacerLocked() {
	if !s.pacedLocked() || !s.pacingLocked() {
		return
	}
	s.auto.pace.beginLocked(s, authPause)
	s.auto.pace.timer.Reset(authPause)
}

// flushPacedLocked queues what waits for a pause at once, because the session ends.
// A client that loses it gets it again at its next session.
func (s *session) flushPacedLocked() {
	if s.auto == nil || s.auto.pace.timer == nil {
		return
	}
	p := &s.auto.pace
	p.timer.Stop()
	for _, f := range p.waiting {
		s.out.EnqueueLocked(s, f.bytes, f.id)
	}
	p.waiting, p.bytes = nil, 0
}
