package admission

import (
	"time"

	"imgo/internal/wait"
)

const (
	// maxAdmitting bounds the calls of Config.Admit at a time, and with them the
	// stacks that a reconnect of all clients at once takes.
	maxAdmitting = 256
	// firstAdmitting is the limit before anything is known about logic.
	firstAdmitting = maxAdmitting / 4
	// minAdmitting is the floor of the limit. Slow answers and failures may be the fault of the network,
	// or of one partition, which fewer calls would not fix.
	minAdmitting = 16
	// retryShare is the divisor of the limit for the clients whose try failed.
	retryShare = 4
	// Bounds of the pause after a failure.
	minRetryPause, maxRetryPause = 50 * time.Millisecond, time.Second
)

// concurrencyLimit is how many clients may be admitted at a time. It adapts to
// logic: each answer raises it by one, a slow answer lowers it by a quarter, and
// a failure halves it. Several bad answers to calls that ran at the same time
// lower it once. A failure does not count if logic answered another call
// meanwhile, or since the client's last try: then it is the client, or its partition, that cannot be admitted. It has no
// lock of its own.
type concurrencyLimit struct {
	limit      int
	inUse      int
	retrying   int // those in use by clients whose try has failed before
	loweredAt  time.Time
	answeredAt time.Time

	// After a failure no call begins before resumeAt.
	failing  bool
	resumeAt time.Time
	backoff  wait.Backoff
}

func newConcurrencyLimit() concurrencyLimit {
	return concurrencyLimit{limit: firstAdmitting, backoff: wait.Backoff{Min: minRetryPause, Max: maxRetryPause}}
}

// full reports whether there is no slot for a client, so that a call has to end first. again says
// that a try of the client has failed before.
func (l *concurrencyLimit) full(again bool) bool {
	return l.inUse >= l.limit || again && l.retrying >= l.limit/retryShare
}

// begin takes a slot, and end gives it back.
func (l *concurrencyLimit) begin(again bool) {
	l.inUse++
	if again {
		l.retrying++
	}
}

func (l *concurrencyLimit) end(again bool) {
	l.inUse--
	if again {
		l.retrying--
	}
}

// succeeded takes note of an answer to a call that began at began. It reports
// whether this is the first answer after failures.
func (l *concurrencyLimit) succeeded(began, now time.Time, slow time.Duration) (recovered bool) {
	recovered = l.failing
	l.failing, l.resumeAt, l.answeredAt = false, time.Time{}, now
	l.backoff.Reset()
	switch {
	case now.Sub(began) <= slow:
		l.limit = min(l.limit+1, maxAdmitting)
	case l.limit > minAdmitting && began.After(l.loweredAt):
		l.limit, l.loweredAt = max(l.limit*3/4, minAdmitting), now
	}
	return recovered
}

// failed takes note of a call that began at began and failed. It reports
// whether this is the first failure after an answer. It ignores the failure if logic answered another call after since.
func (l *concurrencyLimit) failed(began, since, now time.Time) (first bool) {
	if l.answeredAt.After(since) {
		return false
	}
	first = !l.failing
	if !first && !began.After(l.loweredAt) {
		return false
	}
	l.limit, l.loweredAt = max(l.limit/2, minAdmitting), now
	l.failing, l.resumeAt = true, now.Add(l.backoff.Next())
	return first
}
