package pipe

import (
	"io"
	"os"
	"sync"
	"time"
)

// half is one direction of a pipe: a bounded queue of chunks. A chunk is one
// whole message, or in a stream the bytes that one write had room for.
type half struct {
	max      int
	messages bool

	mu      sync.Mutex
	changed *sync.Cond
	chunks  [][]byte
	size    int   // bytes in chunks
	ended   error // a reader gets it once chunks is empty
	refused error // a writer gets it
	read    deadline
	write   deadline
}

// deadline wakes the waiters of its half when it passes.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func newHalf(max int, messages bool) *half {
	h := &half{max: max, messages: messages}
	h.changed = sync.NewCond(&h.mu)
	return h
}

// set replaces d, one of h's deadlines.
func (h *half) set(d *deadline, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d.stop()
	d.at = t
	if !t.IsZero() && h.ended == nil { // nobody waits on an ended half
		d.timer = time.AfterFunc(time.Until(t), func() {
			h.mu.Lock()
			h.changed.Broadcast()
			h.mu.Unlock()
		})
	}
	h.changed.Broadcast()
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// end makes readers get the error ended after the queued chunks, and writers the
// error refused. Only the first call counts. drop also discards the chunks.
func (h *half) end(ended, refused error, drop bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended == nil {
		h.ended, h.refused = ended, refused
	}
	if drop {
		h.chunks, h.size = nil, 0
		h.ended = ended
	}
	h.read.stop()
	h.write.stop()
	h.changed.Broadcast()
}

// put queues a copy of b, as one message or in the pieces that a stream has room
// for. It returns how many bytes were queued.
func (h *half) put(b []byte) (n int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for first := true; n < len(b) || first; first = false {
		room := h.max - h.size
		if h.messages && (room >= len(b) || h.size == 0) {
			room = len(b) // a message that is larger than the bound may go alone
		} else if h.messages {
			room = 0
		}
		switch {
		case h.refused != nil:
			return n, h.refused
		case h.write.passed():
			return n, os.ErrDeadlineExceeded
		case room <= 0 && len(b) > 0:
			h.changed.Wait()
			continue
		}
		piece := b[n:min(len(b), n+room)]
		h.chunks = append(h.chunks, append([]byte(nil), piece...))
		h.size += len(piece)
		n += len(piece)
		h.changed.Broadcast()
	}
	return n, nil
}

// waitLocked blocks until there is a chunk.
func (h *half) waitLocked() error {
	for {
		switch {
		case h.ended != nil && h.ended != io.EOF && len(h.chunks) == 0:
			return h.ended
		case h.read.passed():
			return os.ErrDeadlineExceeded
		case len(h.chunks) > 0:
			return nil
		case h.ended != nil:
			return h.ended
		}
		h.changed.Wait()
	}
}

// Read reads from a stream.
func (h *half) Read(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.waitLocked(); err != nil {
		return 0, err
	}
	n := copy(b, h.chunks[0])
	if h.chunks[0] = h.chunks[0][n:]; len(h.chunks[0]) == 0 {
		h.chunks = h.chunks[1:]
	}
	h.size -= n
	h.changed.Broadcast()
	return n, nil
}

// dequeue reads one message.
func (h *half) dequeue() ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.waitLocked(); err != nil {
		return nil, err
	}
	b := h.chunks[0]
	h.chunks = h.chunks[1:]
	h.size -= len(b)
	h.changed.Broadcast()
	return b, nil
}

// queued counts the bytes that were not read yet.
func (h *half) queued() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return int64(h.size)
}
