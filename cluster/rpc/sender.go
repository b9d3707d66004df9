package rpc

import (
	"runtime"
	"sync"

	"imgo/envelope"
	"imgo/internal/wait"
)

// batchSize is about how much one message of a stream carries, in bytes.
const batchSize = 256 << 10

// outgoing is a request, a reply or a cancellation that is to be sent. The
// sender's lock guards its fields while it is queued.
type outgoing struct {
	part envelope.CallPart // what has yet to be sent
	// queued says that it is in the queue and was not dropped, and started that
	// a part of it was sent.
	queued, started bool
}

// sender is the sending half of a stream. Everything that waits goes in one
// message, up to batchSize: with many callers a call costs little more than its
// own bytes. Safe for concurrent use.
//
// A sender has no bound of its own. On the called side maxCalls is the bound. On
// the calling side each caller waits for its reply. A caller that gives up takes
// the data of its request back. Its entry stays in the queue, without data, until
// the stream sends again or ends.
type sender struct {
	ready wait.Signal
	// onSent is called after a message was sent, with the number of requests or
	// replies that it has finished. It is nil if nobody wants to know.
	onSent func(finished int)

	mu    sync.Mutex
	queue []*outgoing
}

func newSender(onSent func(finished int)) sender {
	return sender{ready: wait.NewSignal(), onSent: onSent}
}

// enqueue queues o, which the sender then owns.
func (s *sender) enqueue(o *outgoing) {
	s.mu.Lock()
	o.queued = true
	s.queue = append(s.queue, o)
	s.mu.Unlock()
	s.ready.Set()
}

// drop takes back what has not been sent of o, and frees its data. It reports
// whether a part of o was sent.
func (s *sender) drop(o *outgoing) (started bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.queued {
		o.queued, o.part.Data = false, nil
	}
	return o.started
}

// run sends what is queued until done is closed. After send has failed it goes
// on, and what is queued is lost with the stream.
func (s *sender) run(send func(message any) error, done <-chan struct{}) {
	for {
		select {
		case <-s.ready:
		case <-done:
			return
		}
		for {
			runtime.Gosched() // goroutines that are about to enqueue share the message
			parts, finished := s.next()
			if len(parts) == 0 {
				break
			}
			_ = send(&envelope.CallParts{Parts: parts}) // an error ends the stream's receiving half too
			if s.onSent != nil {
				s.onSent(finished)
			}
		}
	}
}

// next takes the parts of the next message out of the queue. It returns how many
// requests or replies end with it.
func (s *sender) next() (parts []*envelope.CallPart, finished int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return nil, 0
	}
	parts = make([]*envelope.CallPart, 0, len(s.queue))
	size, n := 0, 0
	for n < len(s.queue) && size < batchSize {
		o := s.queue[n]
		s.queue[n] = nil
		n++
		if !o.queued {
			continue // dropped
		}
		part := &o.part
		if !o.started && len(part.Data) > maxPart {
			part.Size = uint32(len(part.Data))
		}
		o.started = true
		if len(part.Data) > maxPart {
			part = splitPart(&o.part)
			s.queue = append(s.queue, o) // the rest, behind what others have queued
		} else {
			o.queued = false
			finished++
		}
		parts = append(parts, part)
		size += part.SizeVT()
	}
	if s.queue = s.queue[n:]; len(s.queue) == 0 {
		s.queue = nil
	}
	return parts, finished
}
