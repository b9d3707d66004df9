package logic

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"imgo/envelope"
)

// failedParts are the partitions for which a part of a call failed. It is safe for concurrent use.
type failedParts struct {
	mu   sync.Mutex
	errs map[int32]error
}

// add notes why the call failed for a partition.
func (f *failedParts) add(partition int32, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.errs == nil {
		f.errs = make(map[int32]error)
	}
	f.errs[partition] = err
}

// reply returns what the caller is told. A part that no repetition would change is an error of the whole call.
func (f *failedParts) reply(h *shared, what string) (*envelope.PartsReply, error) {
	partitions := slices.Sorted(maps.Keys(f.errs))
	var errs []error
	for _, p := range partitions {
		errs = append(errs, fmt.Errorf("partition %d: %w", p, f.errs[p]))
	}
	err := attempted(what, errors.Join(errs...))
	switch {
	case err == nil:
		return &envelope.PartsReply{}, nil
	case errors.Is(err, envelope.ErrInvalid), errors.Is(err, envelope.ErrTooLarge):
		return nil, err
	}
	h.warn.log(err, "a call was done for some partitions only; the comet repeats it for the others")
	return &envelope.PartsReply{Failed: partitions, Partitions: int32(h.owners.partitions)}, nil
}

// beginParts is begin for a call that tells which parts of it failed. Its context ends before the caller's, so that the
// reply is in time although a part hangs.
func (l *lifecycle) beginParts(ctx context.Context) (callCtx context.Context, end func(), err error) {
	timeout := l.callTimeout
	if by, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(by))
	}
	return l.beginWithin(ctx, timeout*3/4)
}
