package outbox

import (
	"sync"
	"sync/atomic"
	"time"

	"imgo/transport/batch"
)

const (
	// maxPooledFrames bounds the queues that are kept for reuse.
	maxPooledFrames = 1024
	// The memory of a Run is borrowed if it is to be at least minPooledRun bytes
	// large, and is then pooledRun bytes large: a backlog of the default size in
	// the largest form. Memory that goes from one session to the next stays in the
	// processor's cache. New memory never is there.
	minPooledRun = 64 << 10
	pooledRun    = 144 << 10
	// counters is how many counters the pending bytes are spread over.
	counters = 64
)

// Config is what the outboxes of one server have in common.
type Config struct {
	// PendingBytes bounds the bytes that are queued for one connection.
	PendingBytes int
	// WriteTimeout is how long one write to a connection may take, see ErrSlow.
	WriteTimeout time.Duration
	// Batches lends batches to Workers. With nil each frame is written by itself.
	Batches *batch.Pool
}

// Shared is the memory and the counters that the outboxes of one server share.
// Safe for concurrent use.
type Shared struct {
	cfg     Config
	epoch   time.Time
	queues  sync.Pool
	runs    sync.Pool
	writing atomic.Int64
	// pending holds the bytes of all queues. A queue counts in one of the counters,
	// so that processors do not share a cache line.
	pending [counters]struct {
		atomic.Int64
		_ [56]byte
	}
	lastCounter atomic.Uint32
}

// NewShared makes a Shared.
func NewShared(cfg Config) *Shared { return &Shared{cfg: cfg, epoch: time.Now()} }

// PendingBytes returns how many bytes are queued or being written.
func (s *Shared) PendingBytes() (n int64) {
	for i := range s.pending {
		n += s.pending[i].Load()
	}
	return n
}

// Writing counts the outboxes that are being written, or whose socket has no room.
func (s *Shared) Writing() int64 { return s.writing.Load() }

// now is a clock that no step of the wall clock moves.
func (s *Shared) now() time.Duration { return time.Since(s.epoch) }

func (s *Shared) getQueue() *queue {
	if q, ok := s.queues.Get().(*queue); ok {
		return q
	}
	return &queue{pending: &s.pending[s.lastCounter.Add(1)%counters].Int64}
}

func (s *Shared) putQueue(q *queue) {
	if q.run != nil {
		s.runs.Put(q.run)
		q.run = nil
	}
	if cap(q.frames) > maxPooledFrames {
		return
	}
	clear(q.frames)
	clear(q.batch[:cap(q.batch)])
	q.frames, q.batch, q.taken, q.left = q.frames[:0], q.batch[:0], 0, 0
	s.queues.Put(q)
}

// runMemory returns empty memory for about n bytes of frames that q is to get.
func (s *Shared) runMemory(q *queue, n int) []byte {
	if n < minPooledRun || n > pooledRun || q.run != nil {
		return make([]byte, 0, n)
	}
	b, ok := s.runs.Get().(*[]byte)
	if !ok {
		mem := make([]byte, 0, pooledRun)
		b = &mem
	}
	q.run = b
	return *b
}
