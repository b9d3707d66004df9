package comet

import (
	"errors"
	"os"
	"sync"
	"time"

	"imgo/protocol"
)

// writeChunk is how many bytes go into one Write where frames are small: much
// for a system call, little for a slow client's timeout.
const writeChunk = 16 << 10

// maxPooledFrames bounds the queues that are kept for reuse.
const maxPooledFrames = 1024

// frame is one encoded frame on its way to the socket; id is the kept
// message's, or 0. Its bytes are shared with other sessions. (Or it is several
// of a backlog, one behind the other: see run.)
type frame struct {
	bytes []byte
	id    uint64
}

// queue is what waits to be written, and the room in which it is gathered.
// Queues are pooled: an idle session has none. Of a direct session whose socket
// has no room the first frames are the connection's already: left bytes of
// these are not in the kernel yet.
type queue struct {
	frames []frame
	batch  [][]byte
	taken  int
	left   int
	// stuckAt is comet's clock when the socket last had no room.
	stuckAt time.Duration
	// run is borrowed memory in which frames of it are; nil: none.
	run *[]byte
}

// The memory for a window's frames is borrowed where it is to be at least
// minPooledRun bytes large, and is then pooledRun large: that is a window of
// the default size in the largest form. Between one session's window and
// another's it stays in the processor's cache; new memory never is.
const (
	minPooledRun = 64 << 10
	pooledRun    = 144 << 10
)

// queues is a pool of empty queues, and one of memory for runs.
type queues struct{ pool, runs sync.Pool }

// run is empty memory for about n bytes of frames that q is to get.
func (p *queues) run(q *queue, n int) []byte {
	if n < minPooledRun || n > pooledRun || q.run != nil {
		return make([]byte, 0, n)
	}
	b, ok := p.runs.Get().(*[]byte)
	if !ok {
		mem := make([]byte, 0, pooledRun)
		b = &mem
	}
	q.run = b
	return *b
}

func (p *queues) take() *queue {
	if q, ok := p.pool.Get().(*queue); ok {
		return q
	}
	return &queue{}
}

// put takes a queue back whose frames nobody needs any more.
func (p *queues) put(q *queue) {
	if q.run != nil {
		p.runs.Put(q.run)
		q.run = nil
	}
	if cap(q.frames) > maxPooledFrames {
		return
	}
	clear(q.frames)
	clear(q.batch[:cap(q.batch)])
	q.frames, q.batch, q.taken, q.left = q.frames[:0], q.batch[:0], 0, 0
	p.pool.Put(q)
}

// fits says whether a frame of n bytes may wait in the session's queue; one
// that is larger than the bound may when nothing else does. Holds mu.
func (s *session) fits(n int) bool {
	return s.pending == 0 || int(s.pending)+n <= s.comet.cfg.PendingBytes
}

// enqueue sends a frame whatever its size: at once where that can be done
// without waiting, else by way of the queue. While the session is connecting or
// corked the frame is held. Holds mu.
func (s *session) enqueue(b []byte, id uint64) {
	if s.ready() {
		s.writeOne(b, id)
		return
	}
	s.append(b, id)
	s.startWriter()
}

// ready says whether a frame may be written at once, behind nothing that is
// queued or was noted. Holds mu.
func (s *session) ready() bool {
	s.catchUpNotes()
	return s.direct && s.queue == nil && !s.corked && s.state != stateConnecting
}

// append queues a frame. Holds mu.
func (s *session) append(b []byte, id uint64) {
	q := s.open()
	q.frames = append(q.frames, frame{b, id})
	s.account(len(b))
}

// open is the session's queue, made if there is none. Holds mu.
func (s *session) open() *queue {
	if s.queue == nil {
		s.queue = s.comet.queues.take()
	}
	return s.queue
}

// account adds n bytes to what is pending. Holds mu.
func (s *session) account(n int) {
	s.pending += int32(n)
	s.comet.table.shard(s.id).pendingBytes.Add(int64(n))
}

// startWriter has what is queued written, if that can be now. finish waits for
// it. Holds mu.
func (s *session) startWriter() {
	if s.writing || s.corked || s.queue == nil || s.state == stateConnecting {
		return
	}
	if s.direct {
		s.flush()
		return
	}
	s.writing = true
	s.comet.metrics.writers.Add(1)
	go s.write()
}

// discard drops what no writer has taken yet. Holds mu.
func (s *session) discard() {
	if s.queue == nil {
		return
	}
	n := s.queue.left
	for _, f := range s.queue.frames[s.queue.taken:] {
		n += len(f.bytes)
	}
	s.account(-n)
	s.queue.run = nil // the connection may have the rest of a frame yet
	s.comet.queues.put(s.queue)
	s.queue = nil
	if !s.direct {
		return
	}
	if s.writing {
		s.endBlock()
	}
	s.writerEnded()
}

// write empties the queue into the connection and ends. It closes a connection
// that took nothing for too long, and one that the server has said goodbye to.
func (s *session) write() {
	for {
		s.mu.Lock()
		q := s.queue
		if q == nil {
			s.endWriter()
			closing, code, reason := s.state == stateClosing, s.code, s.reason
			s.mu.Unlock()
			if closing {
				_ = s.conn.Close(code, reason)
			}
			return
		}
		s.queue = nil
		s.mu.Unlock()

		err := s.writeOut(q)
		s.comet.queues.put(q)
		if err != nil {
			s.giveUp(err)
			return
		}
	}
}

// endWriter ends the writer's part. Holds mu.
func (s *session) endWriter() {
	s.writing = false
	s.comet.metrics.writers.Add(-1)
	s.settle(false)
	s.writerEnded()
	s.maybeAsk()
}

// writerEnded tells who waits for that. Holds mu.
func (s *session) writerEnded() {
	if s.writerGone != nil {
		close(s.writerGone)
		s.writerGone = nil
	}
}

// writeOut writes q, a chunk at a time.
func (s *session) writeOut(q *queue) error {
	frames := q.frames
	for len(frames) > 0 {
		n, size := 0, 0
		q.batch = q.batch[:0]
		for n < len(frames) && (n == 0 || size+len(frames[n].bytes) <= writeChunk) {
			q.batch = append(q.batch, frames[n].bytes)
			size += len(frames[n].bytes)
			n++
		}
		err := s.conn.Write(time.Now().Add(s.comet.cfg.SlowTimeout), q.batch...)
		s.mu.Lock()
		s.account(-size)
		if err == nil {
			s.wrote(frames[:n])
		}
		s.mu.Unlock()
		frames = frames[n:]
		if err != nil {
			s.mu.Lock()
			for _, f := range frames {
				s.account(-len(f.bytes))
			}
			s.mu.Unlock()
			return err
		}
	}
	return nil
}

// wrote notes which kept messages are in the kernel now, for a session whose
// client does not acknowledge. Holds mu.
func (s *session) wrote(frames []frame) {
	if s.acks || len(frames) == 0 {
		return
	}
	s.settle(false)
	end := s.conn.Written()
	for _, f := range frames {
		if f.id != 0 {
			s.own()
			s.unsettled = append(s.unsettled, mark{f.id, end})
		}
	}
	if len(s.unsettled) > 0 {
		s.markBusy()
	}
}

// wroteID is wrote of one frame. Holds mu.
func (s *session) wroteID(id uint64) {
	if s.acks || id == 0 {
		return
	}
	s.settle(false)
	s.own()
	s.unsettled = append(s.unsettled, mark{id, s.conn.Written()})
	s.markBusy()
}

// giveUp ends the connection after a write failed.
func (s *session) giveUp(err error) {
	code, reason := protocol.CloseCode(0), ""
	if errors.Is(err, os.ErrDeadlineExceeded) {
		code, reason = protocol.CloseSlow, "the connection took nothing for too long"
	}
	s.mu.Lock()
	s.fail(code, reason)
	code, reason = s.code, s.reason
	s.endWriter()
	s.mu.Unlock()
	_ = s.conn.Close(code, reason)
}

// writerEnd is closed when the writer has ended; nil: there is none.
func (s *session) writerEnd() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.writing {
		return nil
	}
	if s.writerGone == nil {
		s.own()
		s.writerGone = make(chan struct{})
	}
	return s.writerGone
}
