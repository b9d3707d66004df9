package growth

import (
	"context"
	"time"

	"imgo/envelope"
)

// Log is a generation of the kept topic as it is appended to.
type Log interface {
	Partitions() int32
	Generation() uint16
	AppendMany(ctx context.Context, entries []envelope.Entry) error
	AppendEssential(ctx context.Context, partition int32, value []byte) (int64, error)
}

// Gate is a generation of the kept topic behind which nothing is lost: an
// append waits while what there is moves, and one that is reported is before
// the fence of its partition. Safe for concurrent use.
//
// The rule: an append is reported only by a node that has asked the control
// topic less than a lease ago and learned that the generation was not closed.
// The lease is Lease for one that has not read of a plan, and Short for one
// that has. A generation is closed only once Lease has run out for whoever has
// not read the plan, and fenced once Short has for whoever has not read that it
// is closed. So whatever is reported was appended before the fence.
type Gate struct {
	Log
	growth *Growth
}

// Gate puts a gate before a log.
func (g *Growth) Gate(log Log) *Gate { return &Gate{log, g} }

// AppendMany is Log.AppendMany. It is envelope.ErrUnavailable, too, when the
// topic grows: before anything was appended when that is known by then, else
// it is not known whether the entries are there.
func (g *Gate) AppendMany(ctx context.Context, entries []envelope.Entry) error {
	return g.through(ctx, func() error { return g.Log.AppendMany(ctx, entries) })
}

// AppendEssential is Log.AppendEssential; see AppendMany.
func (g *Gate) AppendEssential(ctx context.Context, partition int32, value []byte) (offset int64, err error) {
	err = g.through(ctx, func() error {
		offset, err = g.Log.AppendEssential(ctx, partition, value)
		return err
	})
	return offset, err
}

func (g *Gate) through(ctx context.Context, appends func() error) error {
	if err := g.open(ctx); err != nil {
		return err
	}
	if err := appends(); err != nil {
		return err
	}
	return g.sure(ctx)
}

// open waits while nothing new goes to the generation.
func (g *Gate) open(ctx context.Context) error {
	for {
		s, changed := g.growth.State()
		switch {
		case s.Generation != g.Generation():
			return errOver(g.Generation())
		case !s.Closed:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return unavailable("the kept topic grows from %d to %d partitions, %d of them have moved: try again in a moment", s.Partitions, s.Next, s.Moved)
		}
	}
}

// sure waits until it is certain on which side of the fence an append is that
// was made before the call.
func (g *Gate) sure(ctx context.Context) error {
	for {
		g.growth.mu.Lock()
		s, confirmed, changed := g.growth.state, g.growth.confirmed, g.growth.changed
		g.growth.mu.Unlock()
		lease := g.growth.cfg.Lease
		if s.Growing() {
			lease = g.growth.cfg.Short
		}
		switch {
		case s.Generation != g.Generation() || s.Closed:
			return unavailable("the kept topic began to grow meanwhile; whether it was done is not known, so try again with the same idempotency key")
		case !confirmed.IsZero() && age(confirmed) < lease:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return unavailable("the control topic has not said for %s whether the kept topic grows; whether it was done is not known, so try again with the same idempotency key", age(confirmed).Round(time.Second))
		}
	}
}

// age is how long ago a time was, by the clock that does not jump or, should
// that one have stood still while the machine slept, by the wall clock.
func age(t time.Time) time.Duration {
	now := time.Now()
	return max(now.Sub(t), now.Round(0).Sub(t.Round(0)))
}
