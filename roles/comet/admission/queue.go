package admission

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"imgo/internal/wait"
)

// maxPacketBytes bounds the auth packets of the waiting clients.
const maxPacketBytes = 64 << 20

// queue holds the clients that wait for a slot, in the order in which they
// came. A client gets a slot when the connect rate and the concurrency limit
// allow it, and has to leave the queue without one when it has waited for too
// long. Clients whose try failed have a part of the slots, because logic may be
// unable to decide about some clients only, those of one partition. They must not delay the others. Each of them is tried
// again when its pause ends, whenever it came: an older client may be of a partition that fails for longer.
// A waiting client costs its socket and its auth packet, but no goroutine.
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
	retries fifo[*handshake] // clients whose try failed, in the order in which their pauses end
	oldest  fifo[*handshake] // the clients of retries in the order in which they came
	bytes   int              // size of the auth packets of all
	// arrivals counts the clients that were queued.
	arrivals uint32
	limit    concurrencyLimit
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
	q.arrivals++
	h.Arrival = q.arrivals
	q.waiting.push(h)
	q.countLocked(h)
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

func (q *queue) countLocked(h *handshake) {
	q.bytes += len(h.Packet.Body)
	q.cfg.Metrics.Waiting.Inc()
}

// dispatchLocked takes every client out of the queue that may have a slot, or
// has to be refused, and gives it to a worker. If clients remain it sets the
// timer for the next of them.
func (q *queue) dispatchLocked() {
	now := time.Now()
	var next time.Time // zero: no client remains
	for _, from := range [...]*fifo[*handshake]{&q.retries, &q.waiting} {
		for from.len() > 0 {
			h, at := q.nextLocked(now, from)
			if now.Before(at) {
				if next.IsZero() || at.Before(next) {
					next = at
				}
				break
			}
			q.dequeueLocked(now, from, h)
		}
	}
	if next.IsZero() {
		q.timer.Stop()
		return
	}
	q.timer.Reset(next.Sub(now))
}

// dequeueLocked gives a client of from to a worker, with a slot or with the reason why it gets none.
func (q *queue) dequeueLocked(now time.Time, from *fifo[*handshake], h *handshake) {
	if from == &q.retries {
		q.retries.remove(h, byRetry)
		q.oldest.remove(h, byStart)
	} else {
		from.pop()
	}
	q.bytes -= len(h.Packet.Body)
	q.cfg.Metrics.Waiting.Dec()
	switch {
	case q.closed:
		h.Err = ErrStopping
	case now.After(q.latest(h)):
		h.Err = ErrWait
	default:
		q.limit.begin(h.failed())
		if from == &q.waiting {
			q.reserved = false // a client that is refused leaves its place to the next one
		}
	}
	if h.alone {
		q.workers.RunNear(h)
	} else {
		q.workers.Run(h)
	}
}

// latest returns until when a client may wait for a slot.
func (q *queue) latest(h *handshake) time.Time { return h.Started.Add(q.cfg.MaxWait) }

// nextLocked returns the client of from that leaves the queue next, and when it does so, unless the end of a call changes
// that. The client is then to get a slot, or to be refused.
func (q *queue) nextLocked(now time.Time, from *fifo[*handshake]) (*handshake, time.Time) {
	h := from.first()
	oldest := h
	if from == &q.retries {
		oldest = q.oldest.first()
	}
	refuseAt := q.latest(oldest).Add(1)
	switch {
	case q.closed:
		return h, now
	case !now.Before(refuseAt) || q.limit.full(h.failed()):
		return oldest, refuseAt
	}
	at := q.limit.resumeAt
	if h.retryAt.After(at) {
		at = h.retryAt
	}
	if from == &q.waiting && q.rate != nil {
		if !q.reserved {
			q.reserved = true
			q.reservedFor = now.Add(q.rate.ReserveN(now, 1).DelayFrom(now))
		}
		if q.reservedFor.After(at) {
			at = q.reservedFor
		}
	}
	if refuseAt.Before(at) {
		return oldest, refuseAt
	}
	return h, at
}

func byRetry(a, b *handshake) int { return a.retryAt.Compare(b.retryAt) }
func byStart(a, b *handshake) int { return a.Started.Compare(b.Started) }

// finish gives back the slot of a client whose try began at began. A client
// whose try failed, err is not nil, is queued again.
func (q *queue) finish(h *handshake, began time.Time, err error) {
	now := time.Now()
	var first, recovered bool
	q.mu.Lock()
	q.limit.end(h.failed())
	switch {
	case err != nil:
		since := began
		if h.failed() { // answers since about its last try count, too
			since = h.retryAt.Add(-maxRetryPause)
		}
		first = q.limit.failed(began, since, now)
		h.retryAt = now.Add(retryPause(now.Sub(h.Started)))
		q.retries.insert(h, byRetry)
		q.oldest.insert(h, byStart)
		q.countLocked(h)
	case h.Answered:
		recovered = q.limit.succeeded(began, now, q.cfg.CallTimeout/5)
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

// retryPause returns how long a client that has waited for so long waits for its next try. The pauses grow with it.
func retryPause(waited time.Duration) time.Duration {
	return wait.Jitter(min(max(waited, minRetryPause), maxRetryPause))
}

// close refuses the clients in the queue, and those that come later.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.dispatchLocked()
}
