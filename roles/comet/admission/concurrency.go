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
	// minAdmitting is the floor for slow answers. They may be the network's fault,
	// which fewer calls would not fix. Failures lower the limit below it.
	minAdmitting = 16
	// Bounds of the pause after a failure.
	minRetryPause, maxRetryPause = 50 * time.Millisecond, time.Second
)

// concurrencyLimit is how many clients may be admitted at a time. It adapts to
// logic: each answer raises it by one, a slow answer lowers it by a quarter, and
// a failure halves it. Several bad answers to calls that ran at the same time
// lower it once. It has no lock of its own.
type concurrencyLimit struct {
	limit     int
	inUse     int
	loweredAt time.Time

	// After a failure no call begins before resumeAt.
	failing  bool
	resumeAt time.Time
	backoff  wait.Backoff
}

func newConcurrencyLimit() concurrencyLimit {
	return concurrencyLimit{limit: firstAdmitting, backoff: wait.Backoff{Min: minRetryPause, Max: maxRetryPause}}
}

// full reports whether no slot is free, so that a call has to end first.
func (l *concurrencyLimit) full() bool { return l.inUse >= l.limit }

// succeeded takes note of an answer to a call that began at began. It reports
// whether this is the first answer after failures.
func (l *concurrencyLimit) succeeded(began, now time.Time, slow time.Duration) (recovered bool) {
	l.inUse--
	recovered = l.failing
	l.failing, l.resumeAt = false, time.Time{}
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
// whether this is the first failure after an answer.
func (l *concurrencyLimit) failed(began, now time.Time) (first bool) {
	l.inUse--
	first = !l.failing
	if !first && !began.After(l.loweredAt) {
		return false
	}
	l.limit, l.loweredAt = max(l.limit/2, 1), now
	l.failing, l.resumeAt = true, now.Add(l.backoff.Next())
	return first
}
