package logic

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"imgo/envelope"
	"imgo/internal/wait"
)

const (
	// lookupChunk bounds the users of one Lookup, so that neither question nor
	// answer outgrows a gRPC message.
	lookupChunk = 5000
	// parallelCalls bounds the calls that one operation has under way.
	parallelCalls = 8
	// minRetry and maxRetry bound the pause before a router is asked again.
	minRetry = 5 * time.Millisecond
	maxRetry = 200 * time.Millisecond
)

// owners finds the router that owns a user and calls it. Safe for concurrent
// use.
type owners struct {
	routers Routers
	// partitions is how many the kept topic has.
	partitions int
}

// partition returns the partition of a user or an idempotency key in the kept
// topic.
func (o *owners) partition(key string) int32 { return envelope.Partition(key, o.partitions) }

// call calls the owner of a partition. It calls again, whichever router is the
// owner by then, while the answer is an error that may pass. ctx bounds all of
// it.
func (o *owners) call(ctx context.Context, partition int32, what string, call func(Router) error) error {
	return attempted(what, repeat(ctx, func() error {
		r, err := o.routers.Owner(partition)
		if err != nil {
			return err
		}
		return call(r)
	}))
}

// ask calls the owner of a key, as call does, and returns its answer.
func ask[Q, A any](
	ctx context.Context, o *owners, key, what string, method func(Router, context.Context, Q) (A, error), request Q,
) (answer A, err error) {
	err = o.call(ctx, o.partition(key), what, func(owner Router) (err error) {
		answer, err = method(owner, ctx, request)
		return err
	})
	return answer, err
}

// callAll calls every router at once and returns their errors joined. call must
// be safe for concurrent use.
func (o *owners) callAll(what string, call func(Router) error) error {
	all := o.routers.All()
	if len(all) == 0 {
		return fmt.Errorf("%s: %w", what, envelope.Errorf(envelope.CodeUnavailable, "there is no router"))
	}
	return callEach(what, all, call)
}

// callEach calls some routers at once and returns their errors joined.
func callEach(what string, routers []Router, call func(Router) error) error {
	return attempted(what, inParallel(len(routers), parallelCalls, func(i int) error { return call(routers[i]) }))
}

// inParallel calls fn with each number below n, at most limit at a time, and returns the errors joined.
func inParallel(n, limit int, fn func(i int) error) error {
	errs := make([]error, n)
	var g errgroup.Group
	g.SetLimit(limit)
	for i := range n {
		g.Go(func() error {
			errs[i] = fn(i)
			return nil
		})
	}
	_ = g.Wait() // the errors are in errs
	return errors.Join(errs...)
}

// repeat calls until there is an answer or an error that will not pass, or ctx
// is done.
func repeat(ctx context.Context, call func() error) error {
	pause := wait.Backoff{Min: minRetry, Max: maxRetry}
	for {
		if err := call(); !envelope.IsTemporary(err) || pause.Sleep(ctx) != nil {
			return err
		}
	}
}

// attempted wraps err with what was attempted. A deadline that passed becomes
// envelope.ErrUnavailable.
func attempted(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, asUnavailable(err))
}

// asUnavailable turns a deadline that passed into envelope.ErrUnavailable: to the
// caller it is a role that did not answer. It returns other errors as they are.
func asUnavailable(err error) error {
	if _, coded := errors.AsType[*envelope.Error](err); errors.Is(err, context.DeadlineExceeded) && !coded {
		return fmt.Errorf("%w (%w)", envelope.Errorf(envelope.CodeUnavailable, "no answer in time"), err)
	}
	return err
}

// appended wraps an append's error. A full disk stays as the log said it,
// because that text is for the operator.
func appended(what string, err error) error {
	if errors.Is(err, envelope.ErrDiskFull) {
		return err
	}
	return attempted(what, err)
}
