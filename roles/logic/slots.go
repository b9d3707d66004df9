package logic

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"imgo/envelope"
)

const (
	// largePush is the number of users from which on a push needs slots.
	largePush = 5000
	// slotUsers bounds the users of all large pushes under way. A user costs about
	// 500 bytes in questions, answers and records, so that is 50 MB.
	slotUsers = 100_000
	// maxWaitingPushes bounds the large pushes that wait. Each has its names and its
	// body in memory already.
	maxWaitingPushes = 16
	// usersPerTimeout is how many users of a push may take one call timeout.
	usersPerTimeout = 20_000
)

// slots limits the users of large pushes that run at the same time. More of them would only
// slow one another down, and need their memory at the same time. Safe for concurrent use.
type slots struct {
	free    *semaphore.Weighted // one for each user
	waiting atomic.Int32
}

func newSlots() *slots { return &slots{free: semaphore.NewWeighted(slotUsers)} }

// acquire waits within ctx until a push to a number of users may run. The caller must call
// release. Small pushes never wait. It returns envelope.ErrUnavailable if too many pushes wait,
// or the push waited too long.
func (s *slots) acquire(ctx context.Context, users int) (release func(), err error) {
	if users < largePush {
		return func() {}, nil
	}
	defer s.waiting.Add(-1)
	if s.waiting.Add(1) > maxWaitingPushes {
		return nil, envelope.Errorf(envelope.CodeUnavailable, "%d pushes to many users wait already: try again later", maxWaitingPushes)
	}
	n := int64(min(users, slotUsers))
	if err := s.free.Acquire(ctx, n); err != nil {
		return nil, envelope.Errorf(envelope.CodeUnavailable,
			"the push to %d users waited too long for other large pushes, and was not begun: try again later", users)
	}
	return func() { s.free.Release(n) }, nil
}

// timeoutFor returns a timeout that grows with the number of users: by itself once for each usersPerTimeout of them.
func timeoutFor(timeout time.Duration, users int) time.Duration {
	return timeout + timeout/usersPerTimeout*time.Duration(users)
}
