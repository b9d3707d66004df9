package comet

import (
	"imgo/protocol"
	"imgo/transport"
)

// This file is how a session writes whose connection takes what it takes at
// once: whoever has something for the client writes it, under the session's
// mu. What the socket has no room for waits in the queue until the connection
// says that there is room; nobody waits with it.

// writeOne writes a frame of a session with nothing queued. Holds mu.
func (s *session) writeOne(b []byte, id uint64) {
	taken, left, err := s.conn.(transport.Pollable).TryWriteOne(b)
	s.wroteOne(b, id, taken, left, err)
}

// wroteOne goes on after a frame was given to the connection. Holds mu.
func (s *session) wroteOne(b []byte, id uint64, taken, left int, err error) {
	switch {
	case err != nil:
		s.writeFailed()
	case left == 0 && taken == 1:
		s.wroteID(id)
		if s.state == stateClosing {
			s.flushed()
		}
	default:
		q := s.comet.queues.take()
		q.frames = append(q.frames, frame{b, id})
		s.queue = q
		if taken == 0 {
			s.account(len(b))
		}
		s.block(q, taken, left)
	}
}

// flush writes what is queued. Holds mu.
func (s *session) flush() {
	s.corked = false
	q := s.queue
	if q == nil || s.writing || s.state == stateConnecting {
		return
	}
	q.batch = q.batch[:0]
	for _, f := range q.frames {
		q.batch = append(q.batch, f.bytes)
	}
	for done := 0; done < len(q.frames); {
		taken, left, err := s.conn.(transport.Pollable).TryWrite(q.batch[done:])
		if err != nil {
			q.taken = done
			s.writeFailed()
			return
		}
		n := 0
		for _, f := range q.frames[done : done+taken] {
			n += len(f.bytes)
		}
		s.account(-n)
		if left > 0 {
			s.wrote(q.frames[:done])
			q.frames = q.frames[:copy(q.frames, q.frames[done:])]
			s.block(q, taken, left)
			return
		}
		done += taken
	}
	s.wrote(q.frames)
	s.comet.queues.put(q)
	s.queue = nil
	s.flushed()
}

// block leaves q to Writable. Holds mu.
func (s *session) block(q *queue, taken, left int) {
	q.taken, q.left = taken, 0
	if taken > 0 { // what is left otherwise is the connection's own
		q.left = left
		s.account(left)
	}
	q.stuckAt = s.comet.now()
	if !s.writing {
		s.writing = true
		s.comet.metrics.writers.Add(1)
	}
	s.markBusy() // the sweep sees whether it goes on
}

// Writable goes on where the socket had no room.
func (s *session) Writable() {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queue
	if !s.writing || q == nil {
		return // given up meanwhile
	}
	s.account(-q.left)
	s.wrote(q.frames[:q.taken])
	rest := copy(q.frames, q.frames[q.taken:])
	clear(q.frames[rest:])
	q.frames, q.taken, q.left = q.frames[:rest], 0, 0
	s.endBlock()
	if rest > 0 {
		s.flush()
		return
	}
	s.comet.queues.put(q)
	s.queue = nil
	s.flushed()
}

// endBlock is for a socket that has room. Holds mu.
func (s *session) endBlock() {
	s.writing = false
	s.comet.metrics.writers.Add(-1)
}

// flushed is for a session with nothing queued any more. Holds mu.
func (s *session) flushed() {
	if s.state == stateClosing {
		_ = s.conn.Close(s.code, s.reason)
	}
	s.settle(false)
	s.writerEnded()
	s.maybeAsk()
}

// stuck says whether the socket has had no room for too long. Holds mu.
func (s *session) stuck() bool {
	return s.direct && s.writing && s.comet.now()-s.queue.stuckAt >= s.comet.cfg.SlowTimeout
}

// writeFailed ends a session whose connection takes nothing more. Its reader
// finds that out. Holds mu.
func (s *session) writeFailed() {
	s.fail(0, "")
	_ = s.conn.Close(s.code, s.reason)
}

// closeSlow ends a session that took nothing for too long. Holds mu.
func (s *session) closeSlow() {
	s.fail(protocol.CloseSlow, "the connection took nothing for too long")
	_ = s.conn.Close(s.code, s.reason)
}
