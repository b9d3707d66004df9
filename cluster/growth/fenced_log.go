package growth

import (
	"context"
	"time"

	"imgo/envelope"
)

// Log is one generation of the kept topic, to append to.
type Log interface {
	Partitions() int32
	Generation() uint16
	AppendMany(ctx context.Context, entries []envelope.Entry) error
	AppendEssential(ctx context.Context, partition int32, value []byte) (int64, error)
}

// FencedLog is a generation of the kept topic that loses no record when the topic
// grows. An append waits while the records of the generation move. A record is
// reported as appended only if it is before the fence of its partition. Safe for
// concurrent use.
//
// The rule: a node reports an append only if it has written into the control topic less
// than a lease ago, and up to there the generation was not closed. The lease is
// Config.Lease for a node that has not read a plan, and Config.Short for one that
// has.
//
// The generation is closed only after Lease has run out for every node that has not
// read the plan. It is fenced only after Short has run out for every node that has
// not read that it is closed. So all reported appends are before the fence.
type FencedLog struct {
	Log
	growth *Growth
}

// FencedLog returns log with the rule of FencedLog.
func (g *Growth) FencedLog(log Log) *FencedLog { return &FencedLog{log, g} }

// AppendMany is Log.AppendMany. It returns an envelope.ErrUnavailable, too, if the
// topic grows. In that case the entries may have been appended.
func (l *FencedLog) AppendMany(ctx context.Context, entries []envelope.Entry) error {
	return l.fenced(ctx, func() error { return l.Log.AppendMany(ctx, entries) })
}

// AppendEssential is Log.AppendEssential with the errors of AppendMany.
func (l *FencedLog) AppendEssential(ctx context.Context, partition int32, value []byte) (offset int64, err error) {
	err = l.fenced(ctx, func() error {
		offset, err = l.Log.AppendEssential(ctx, partition, value)
		return err
	})
	return offset, err
}

// fenced calls appendRecords, and returns nil only if what it appended is before
// the fence.
func (l *FencedLog) fenced(ctx context.Context, appendRecords func() error) error {
	if err := l.waitWhileClosed(ctx); err != nil {
		return err
	}
	if err := appendRecords(); err != nil {
		return err
	}
	return l.waitForLease(ctx)
}

// waitWhileClosed returns once the generation takes records. It returns an error
// if the generation is over.
func (l *FencedLog) waitWhileClosed(ctx context.Context) error {
	for {
		s, changed := l.growth.State()
		switch {
		case s.Generation != l.Generation():
			return errOver(l.Generation())
		case !s.Closed:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return unavailable("the kept topic grows from %d to %d partitions, %d of them have moved: try again in a moment",
				s.Partitions, s.Next, s.Moved)
		}
	}
}

// waitForLease returns nil once the lease proves that an append before the call is
// before the fence. It returns an error if that can no longer be known.
func (l *FencedLog) waitForLease(ctx context.Context) error {
	for {
		l.growth.mu.Lock()
		s, confirmed, changed, lease := l.growth.state, l.growth.confirmed, l.growth.changed, l.growth.leaseLocked()
		l.growth.mu.Unlock()
		if s.Generation != l.Generation() || s.Closed {
			return unavailable("the kept topic began to grow meanwhile; " + unknownOutcome)
		}
		old := age(confirmed)
		if old >= lease/renewals {
			l.growth.renew.Set()
		}
		if old < lease {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if confirmed.IsZero() {
				return unavailable("the control topic has not said yet whether the kept topic grows; " + unknownOutcome)
			}
			return unavailable("the control topic has not said for %s whether the kept topic grows; "+unknownOutcome,
				old.Round(time.Second))
		}
	}
}

// renewals is how often a lease is renewed in its time, while there are appends.
const renewals = 5

// leaseLocked returns how long a confirmation counts now.
func (g *Growth) leaseLocked() time.Duration {
	if g.state.Growing() {
		return g.cfg.Short
	}
	return g.cfg.Lease
}

// unknownOutcome tells a caller what to do after an append that may have happened.
const unknownOutcome = "the push may have been carried out: repeat it with the same idempotency key"

// age returns how long ago t was. It takes the longer of the monotonic and the wall
// clock, because the monotonic clock may stand still while the machine sleeps.
func age(t time.Time) time.Duration {
	now := time.Now()
	return max(now.Sub(t), now.Round(0).Sub(t.Round(0)))
}
