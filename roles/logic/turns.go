package logic

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"imgo/envelope"
)

const (
	// largePush is the number of users from which on a push takes a turn.
	largePush = 5000
	// turnUsers bounds the users of all large pushes under way. A user costs about
	// 500 bytes in questions, answers and records, so that is 50 MB.
	turnUsers = 100_000
	// maxWaitingTurns bounds the large pushes that wait. Each has its names and its
	// body in memory already.
	maxWaitingTurns = 16
	// usersPerTimeout is how many users of a push may take one call timeout.
	usersPerTimeout = 20_000
)

// turns lets large pushes run one after another, as far as they do not fit side by side.
// They would only slow one another down, and need their memory at the same time. Safe for
// concurrent use.
type turns struct {
	room    *semaphore.Weighted // users
	waiting atomic.Int32
}

func newTurns() *turns { return &turns{room: semaphore.NewWeighted(turnUsers)} }

// take waits for the turn of a push to a number of users, within ctx. The caller must call
// done. Small pushes never wait.
func (t *turns) take(ctx context.Context, users int) (done func(), err error) {
	if users < largePush {
		return func() {}, nil
	}
	defer t.waiting.Add(-1)
	if t.waiting.Add(1) > maxWaitingTurns {
		return nil, envelope.Errorf(envelope.CodeUnavailable, "%d pushes to many users wait already: try again later", maxWaitingTurns)
	}
	n := int64(min(users, turnUsers))
	if err := t.room.Acquire(ctx, n); err != nil {
		return nil, envelope.Errorf(envelope.CodeUnavailable,
			"the push to %d users waited too long for other large pushes, and was not begun: try again later", users)
	}
	return func() { t.room.Release(n) }, nil
}

// scaled returns a timeout for a number of users.
func scaled(timeout time.Duration, users int) time.Duration {
	return timeout + timeout/usersPerTimeout*time.Duration(users)
}
