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
// packets. It is nil until the session gets its first kept message. The lock of the
// session's outbox guards it.
type pacer struct {
	session *session
	waiting []pacedFrame
	timer   *time.Timer // nil until the first message comes
	// written is how many bytes were written when the pacer looked last.
	written int64
	// since is when the current pause began, on comet's clock. It is in the future if the
	// pause is to be longer than packetPause.
	since  time.Duration
	bytes  int32 // size of the waiting frames
	pauses uint8 // how many pauses the first waiting message has waited for
}

// pacedFrame is a kept message in its frame.
type pacedFrame struct {
	bytes []byte
	id    uint64
}

// pacedLocked reports whether the session's kept messages are paced.
func (s *session) pacedLocked() bool { return s.speaks != protocolV2 && s.out.Conn().Traits().Stream }

// waitsLocked reports whether kept messages wait for their pause.
func (p *pacer) waitsLocked() bool { return p != nil && len(p.waiting) > 0 }

// startLocked begins with what waits for the auth reply, which was written just now.
func (p *pacer) startLocked() {
	if p.waitsLocked() {
		p.beginLocked(authPause)
		p.timer.Reset(authPause)
	}
}

// beginLocked sets the pause before the next message.
func (p *pacer) beginLocked(pause time.Duration) {
	p.written, p.since = p.session.out.Conn().Written(), p.session.comet.now()+pause-packetPause
}

// addLocked writes a frame after those that wait, once there is a pause. It reports
// whether there was room for it. The first one of all waits for the pause that follows an
// auth reply.
func (p *pacer) addLocked(frame []byte, id uint64) bool {
	if p.timer == nil {
		p.timer = time.AfterFunc(time.Hour, p.write)
		p.timer.Stop()
		p.beginLocked(authPause)
	}
	if !p.fits(len(frame), p.session.comet.cfg.PendingBytes) {
		return false
	}
	if len(p.waiting) == 0 && p.quietLocked() {
		p.writeAloneLocked(pacedFrame{frame, id})
		return true
	}
	p.waiting = append(p.waiting, pacedFrame{frame, id})
	p.bytes += int32(len(frame))
	if len(p.waiting) == 1 && p.session.state == stateLive { // else the session's activation starts it
		p.timer.Reset(max(p.since+packetPause-p.session.comet.now(), 0))
	}
	return true
}

// fits reports whether a frame of n bytes may wait.
func (p *pacer) fits(n, bound int) bool {
	return len(p.waiting) == 0 || len(p.waiting) < maxPaced && int(p.bytes)+n <= bound
}

// quietLocked reports whether nothing has been written for a pause.
func (p *pacer) quietLocked() bool {
	s := p.session
	now := s.comet.now()
	if written := s.out.Conn().Written(); written != p.written {
		p.written, p.since = written, max(p.since, now)
	}
	return s.state == stateLive && s.out.EmptyLocked() && now-p.since >= packetPause
}

func (p *pacer) writeAloneLocked(f pacedFrame) {
	p.pauses = 0
	p.session.out.EnqueueLocked(p.session, f.bytes, f.id)
	p.session.out.FlushLocked(p.session)
	p.beginLocked(packetPause)
}

// write writes the first waiting message if there was a pause. It is the timer's
// function.
func (p *pacer) write() {
	s := p.session
	s.out.Lock()
	defer s.out.Unlock()
	if s.state != stateLive || !p.waitsLocked() {
		return
	}
	if p.pauses++; p.quietLocked() || p.pauses > maxPauses {
		first := p.waiting[0]
		p.waiting = p.waiting[1:]
		p.bytes -= int32(len(first.bytes))
		p.writeAloneLocked(first)
	}
	if len(p.waiting) > 0 {
		p.timer.Reset(packetPause)
		return
	}
	p.waiting = nil
	s.askIfDueLocked()
}

// flushLocked queues what waits for a pause at once, because the session ends. A
// client that loses it gets it again at its next session.
func (p *pacer) flushLocked() {
	if p == nil || p.timer == nil {
		return
	}
	p.timer.Stop()
	for _, f := range p.waiting {
		p.session.out.EnqueueLocked(p.session, f.bytes, f.id)
	}
	p.waiting, p.bytes = nil, 0
}
