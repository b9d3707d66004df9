package tokenlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"imgo/envelope"
	"imgo/internal/collectors"
	"imgo/internal/wait"
	"imgo/store"
)

// Topic is the tokens topic: one partition, compacted by key. Safe for
// concurrent use.
type Topic interface {
	// Put appends an entry and returns its offset once it is durable. A nil
	// value lets compaction forget the key.
	Put(ctx context.Context, key, value []byte) (offset int64, err error)
	// Follow calls fn, from one goroutine and in order, for the entries from an offset on,
	// and for those that come later. 0 means from the oldest. It returns when ctx is done,
	// fn fails or the topic cannot be read. It returns envelope.ErrOutOfRange if there is no
	// such offset.
	Follow(ctx context.Context, from int64, fn func(offset int64, key, value []byte) error) error
	// End is the offset that the next entry gets.
	End(ctx context.Context) (int64, error)
}

const (
	// maxQueued is how many entries may wait to be applied. Follow waits while
	// there are so many.
	maxQueued = 1024
	// maxBatch is how many entries share a transaction.
	maxBatch = 256
)

// follower writes changes to the tokens topic and follows it into a view. Other nodes
// write to the topic as well, so no lock helps.
type follower struct {
	cfg   Config
	topic Topic
	view  *store.Tokens
	log   zerolog.Logger
	// warn bounds the log lines about a topic that cannot be read.
	warn   *rate.Limiter
	errors prometheus.Counter

	progress *progress
}

func newFollower(cfg Config, topic Topic, view *store.Tokens, log zerolog.Logger, reg prometheus.Registerer) (*follower, error) {
	if topic == nil || view == nil {
		return nil, errors.New("follow the tokens topic: the topic and the view must not be nil")
	}
	f := &follower{
		cfg: cfg, topic: topic, view: view, log: log.With().Str("role", "logic").Logger(),
		warn: rate.NewLimiter(rate.Every(10*time.Second), 1), progress: newProgress(),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "imgo_logic_tokens_errors_total", Help: "How often following the tokens topic, or asking for its end, failed."}),
	}
	lag := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "imgo_logic_tokens_lag_records", Help: "Entries of the tokens topic that this node has not applied yet.",
	}, func() float64 { return float64(f.progress.lag()) })
	if _, err := collectors.Register(reg, f.errors, lag); err != nil {
		return nil, fmt.Errorf("register the metrics of the tokens topic: %w", err)
	}
	return f, nil
}

// Lock does nothing.
func (f *follower) Lock() {}

// Unlock does nothing.
func (f *follower) Unlock() {}

func (f *follower) ready() error { return f.progress.ready() }

func (f *follower) put(ctx context.Context, made store.TokenEntry, more func(offset int64) ([]store.TokenEntry, error)) error {
	first := []store.TokenEntry{made}
	if err := f.append(ctx, first, 1); err != nil {
		return err
	}
	switch stored, err := f.view.Token(ctx, made.Key.Hash); {
	case err != nil:
		return err
	case stored != nil && stored.Offset < first[0].Offset:
		return envelope.Errorf(envelope.CodeUnavailable, "another logic, whose clock is ahead, has just made the token too; try again")
	}
	entries, err := more(first[0].Offset)
	if err != nil {
		return err
	}
	return f.append(ctx, entries, parallelPuts)
}

func (f *follower) append(ctx context.Context, entries []store.TokenEntry, parallel int) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i := range entries {
		group.Go(func() error { return f.appendOne(groupCtx, &entries[i]) })
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("put a change into the tokens topic: %w", err)
	}
	last := int64(-1)
	for _, e := range entries {
		last = max(last, e.Offset)
	}
	ctx, cancel := context.WithTimeout(ctx, f.cfg.Timeout)
	defer cancel()
	if err := f.progress.wait(ctx, last); err != nil {
		return fmt.Errorf("wait for a change to come back from the tokens topic: %w", err)
	}
	return nil
}

// appendOne appends an entry and notes its offset.
func (f *follower) appendOne(ctx context.Context, e *store.TokenEntry) (err error) {
	if err := ctx.Err(); err != nil {
		return err // the one before it failed
	}
	var value []byte
	if e.Change != nil {
		if value, err = e.Change.MarshalVT(); err != nil {
			return fmt.Errorf("encode a token: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, f.cfg.Timeout)
	defer cancel()
	e.Offset, err = f.topic.Put(ctx, slices.Concat(e.Key.Hash[:], e.Key.ID[:]), value)
	return err
}

// sync waits until the view has everything that is in the topic now.
func (f *follower) sync(ctx context.Context) error {
	end, err := f.topic.End(ctx)
	if err != nil {
		return fmt.Errorf("ask for the end of the tokens topic: %w", err)
	}
	if err := f.progress.wait(ctx, end-1); err != nil {
		return fmt.Errorf("read the tokens topic to its end: %w", err)
	}
	return nil
}

// run follows the topic until ctx is done.
func (f *follower) run(ctx context.Context) {
	var background sync.WaitGroup
	background.Go(func() { f.watch(ctx) })
	pause := wait.Backoff{Min: f.cfg.MinBackoff, Max: f.cfg.MaxBackoff}
	for ctx.Err() == nil {
		from, _ := f.progress.at()
		err := f.follow(ctx)
		if ctx.Err() != nil {
			break
		}
		f.failed(err, "the tokens topic cannot be followed; tokens are checked by what is known")
		if now, _ := f.progress.at(); now > from {
			pause.Reset()
		}
		_ = pause.Sleep(ctx) // the loop asks ctx
	}
	background.Wait()
	f.progress.stop()
}

// failed counts an error of the topic and logs it, at most once in ten seconds.
func (f *follower) failed(err error, message string) {
	f.errors.Inc()
	if f.warn.Allow() {
		f.log.Warn().Err(err).Msg(message)
	}
}

// follow reads the topic from the stored position until that fails.
func (f *follower) follow(parent context.Context) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	next, err := f.begin(ctx, func() { cancel(errors.New("the topic was recreated")) })
	if err != nil {
		return err
	}
	entries := make(chan entry, maxQueued)
	var applying sync.WaitGroup
	applying.Go(func() {
		if err := f.apply(ctx, entries, next); err != nil {
			cancel(err)
		}
	})
	err = f.topic.Follow(ctx, next, func(offset int64, key, value []byte) error {
		select {
		case entries <- decode(offset, key, value):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	// The entries that were read are applied although the topic has failed: a topic that fails
	// after every few entries must not keep the node where it is.
	close(entries)
	applying.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if errors.Is(err, envelope.ErrOutOfRange) {
		end, endErr := f.topicEnd(parent)
		if position, _ := f.progress.at(); endErr == nil && end >= position {
			f.progress.setRecreated() // it begins after the position
		}
	}
	if err == nil {
		err = errors.New("the topic ended")
	}
	return fmt.Errorf("follow the tokens topic from %d: %w", next, err)
}

// begin returns the offset to follow from. It clears a view of another topic, and one that is too old.
func (f *follower) begin(ctx context.Context, restart func()) (int64, error) {
	next, ok, err := f.view.Position()
	if err != nil {
		return 0, err
	}
	age, err := f.view.Age(time.Now())
	if err != nil {
		return 0, err
	}
	recreated, old := f.progress.wasRecreated(), ok && age > store.TokenMemory
	switch {
	case old:
		// The known tokens are better than none while the topic cannot be read.
		if _, err := f.topicEnd(ctx); err != nil {
			return 0, err
		}
		f.progress.setRecreated() // not ready from here on
		f.log.Warn().Int64("position", next).Dur("age", age).
			Msg("the tokens topic has been out of reach for long and may have forgotten revocations: it is read from its beginning")
	case recreated:
		f.log.Warn().Int64("position", next).
			Msg("the tokens topic is not the one that was followed: it is read from its beginning")
	}
	if recreated || old || !ok {
		if err := f.view.Clear(ctx); err != nil {
			return 0, err
		}
		next = 0
	}
	f.progress.begin(next, recreated || old, restart)
	return next, nil
}

// entry is an entry of the topic. One that is no token's only moves the
// position.
type entry struct {
	store.TokenEntry
	isToken bool
}

func decode(offset int64, key, value []byte) entry {
	e := entry{TokenEntry: store.TokenEntry{Offset: offset}}
	const hash, id = len(store.TokenHash{}), len(store.TokenID{})
	if len(key) != hash+id {
		return e
	}
	e.Key = store.TokenKey{Hash: store.TokenHash(key[:hash]), ID: store.TokenID(key[hash:])}
	if len(value) == 0 {
		e.isToken = true
		return e
	}
	change := &envelope.TokenChange{}
	// An entry that cannot be read, or names no possible user, is no token's.
	if change.UnmarshalVT(value) == nil && envelope.CheckName("user", change.GetUser()) == nil {
		e.Change, e.isToken = change, true
	}
	return e
}

// apply puts entries into the view, as many at a time as are queued, until the
// channel is closed, ctx is done or the view fails.
func (f *follower) apply(ctx context.Context, entries <-chan entry, next int64) error {
	batch := make([]store.TokenEntry, 0, maxBatch)
	for {
		batch = batch[:0]
		from := next
		add := func(e entry) {
			if e.Offset < next {
				return // the topic gave it twice
			}
			next = e.Offset + 1
			if e.isToken {
				batch = append(batch, e.TokenEntry)
			}
		}
		select {
		case e, more := <-entries:
			if !more {
				return nil
			}
			add(e)
		case <-ctx.Done():
			return nil
		}
		for more := true; more && len(batch) < maxBatch; {
			select {
			case e, ok := <-entries:
				if more = ok; ok {
					add(e)
				}
			default:
				more = false
			}
		}
		if next == from {
			continue
		}
		if err := f.view.Apply(ctx, batch, next); err != nil {
			return fmt.Errorf("apply entries %d to %d of the tokens topic: %w", from, next-1, err)
		}
		f.progress.moveTo(next)
	}
}
