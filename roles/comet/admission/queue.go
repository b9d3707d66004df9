package admission

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxPacketBytes bounds the auth packets of the waiting clients.
const maxPacketBytes = 64 << 20

// queue holds the clients that wait for a slot, in the order in which they
// came. A client gets a slot when the connect rate and the concurrency limit
// allow it, and has to leave the queue without one when it has waited for too
// long. A waiting client costs its socket and its auth packet, but no goroutine.
// A queue is safe for concurrent use.
type queue struct {
	cfg     *Config
	rate    *rate.Limiter // nil: no bound
	workers *Workers
	// timer calls dispatch at the time at which the next client may get a slot or
	// has waited for too long.
	timer *time.Timer

	mu      sync.Mutex
	waiting fifo[*handshake] // clients that have not been tried yet
	retries fifo[*handshake] // clients whose try failed; they go before the others
	bytes   int              // size of the auth packets of both
	limit   concurrencyLimit
	// reserved says that the rate limiter has counted the first waiting client
	// already. The client may have its slot from reservedFor on.
	reserved    bool
	reservedFor time.Time
	closed      bool // no client is admitted any more
}

func newQueue(cfg *Config, workers *Workers) *queue {
	q := &queue{cfg: cfg, workers: workers, limit: newConcurrencyLimit()}
	if cfg.Rate > 0 {
		q.rate = rate.NewLimiter(rate.Limit(cfg.Rate), max(cfg.Burst, 1))
	}
	q.timer = time.AfterFunc(time.Hour, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.dispatchLocked()
	})
	q.timer.Stop()
	return q
}

// add queues a client. It returns an error if the client has to be refused at
// once.
func (q *queue) add(h *handshake) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return ErrStopping
	case q.bytes+len(h.Packet.Body) > maxPacketBytes:
		return ErrPacketBytes
	case q.tooManyLocked(h.Started):
		return ErrRate
	}
	h.latest = h.Started.Add(q.cfg.MaxWait)
	q.pushLocked(&q.waiting, h)
	q.dispatchLocked()
	h.alone = false // a later dispatch runs on another goroutine, which may have more to do
	return nil
}

// tooManyLocked reports whether the connect rate alone would make one more
// client wait for too long.
func (q *queue) tooManyLocked(now time.Time) bool {
	if q.rate == nil {
		return false
	}
	before := float64(q.waiting.len() + 1)
	if q.reserved {
		before--
	}
	wait := (before - q.rate.TokensAt(now)) / float64(q.rate.Limit())
	return wait > q.cfg.MaxWait.Seconds()
}

func (q *queue) pushLocked(to *fifo[*handshake], h *handshake) {
	to.push(h)
	q.bytes += len(h.Packet.Body)
	q.cfg.Metrics.Waiting.Inc()
}

// dispatchLocked takes every client out of the queue that may have a slot, or
// has to be refused, and gives it to a worker. If clients remain it sets the
// timer for the next of them.
func (q *queue) dispatchLocked() {
	for now := time.Now(); q.waiting.len()+q.retries.len() > 0; {
		from := &q.retries
		if from.len() == 0 {
			from = &q.waiting
		}
		h := from.first()
		switch {
		case q.closed:
			h.Err = ErrStopping
		case now.After(h.latest):
			h.Err = ErrWait
		default:
			if at, ok := q.nextSlotLocked(now, from == &q.waiting); !ok || now.Before(at) {
				if !ok || h.latest.Before(at) {
					at = h.latest.Add(1) // the end of a call dispatches, too
				}
				q.timer.Reset(at.Sub(now))
				return
			}
			q.limit.inUse++
			if from == &q.waiting {
				q.reserved = false // a client that is refused leaves its place to the next one
			}
		}
		from.pop()
		q.bytes -= len(h.Packet.Body)
		q.cfg.Metrics.Waiting.Dec()
		if h.alone {
			q.workers.RunNear(h)
		} else {
			q.workers.Run(h)
		}
	}
	q.timer.Stop()
}

// nextSlotLocked returns when the first client in the queue may have a slot. ok
// is false if a call has to end first. byRate says that the client has not been
// counted against the connect rate.
func (q *queue) nextSlotLocked(now time.Time, byRate bool) (at time.Time, ok bool) {
	if q.limit.full() {
		return time.Time{}, false
	}
	at = q.limit.resumeAt
	if byRate && q.rate != nil {
		if !q.reserved {
			q.reserved = true
			q.reservedFor = now.Add(q.rate.ReserveN(now, 1).DelayFrom(now))
		}
		if q.reservedFor.After(at) {
			at = q.reservedFor
		}
	}
	return at, true
}

// finish gives back the slot of a client whose try began at began. A client
// whose try failed, err is not nil, is queued again.
func (q *queue) finish(h *handshake, began time.Time, err error) {
	now := time.Now()
	var first, recovered bool
	q.mu.Lock()
	switch {
	case err != nil:
		first = q.limit.failed(began, now)
		q.pushLocked(&q.retries, h)
	case h.Answered:
		recovered = q.limit.succeeded(began, now, q.cfg.CallTimeout/5)
	default:
		q.limit.inUse--
	}
	waiting := q.waiting.len() + q.retries.len()
	q.dispatchLocked()
	q.mu.Unlock()
	if first {
		q.cfg.Log.Warn().Err(err).Int("waiting", waiting).Msg("logic does not say whom to let in, asking again until it does")
	}
	if recovered {
		q.cfg.Log.Info().Msg("logic lets clients in again")
	}
}

// close refuses the clients in the queue, and those that come later.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.dispatchLocked()
}
