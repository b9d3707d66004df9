package tokenlog

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"imgo/envelope"
	"imgo/internal/wait"
	"imgo/store"
)

const (
	// maxQueued is how many entries may wait to be applied. Follow waits while
	// there are so many.
	maxQueued = 1024
	// maxBatch is how many entries share a transaction.
	maxBatch = 256
)

// Run follows the topic until ctx is done. It runs once.
func (t *Tokens) Run(ctx context.Context) error {
	var background sync.WaitGroup
	background.Go(func() { t.watch(ctx) })
	background.Go(func() { t.housekeep(ctx) })
	pause := wait.Backoff{Min: t.cfg.MinBackoff, Max: t.cfg.MaxBackoff}
	for ctx.Err() == nil {
		from, _ := t.progress.at()
		err := t.follow(ctx)
		if ctx.Err() != nil {
			break
		}
		t.failed(err, "the tokens topic cannot be followed; tokens are checked by what is known")
		if now, _ := t.progress.at(); now > from {
			pause.Reset()
		}
		_ = pause.Sleep(ctx) // the loop asks ctx
	}
	background.Wait()
	t.progress.stop()
	return nil
}

// failed counts an error of the topic and logs it, at most once in ten seconds.
func (t *Tokens) failed(err error, message string) {
	t.errors.Inc()
	if t.warn.Allow() {
		t.log.Warn().Err(err).Msg(message)
	}
}

// follow reads the topic from the stored position until that fails.
func (t *Tokens) follow(parent context.Context) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	next, err := t.begin(ctx, func() { cancel(errors.New("the topic was recreated")) })
	if err != nil {
		return err
	}
	entries := make(chan entry, maxQueued)
	var applying sync.WaitGroup
	applying.Go(func() {
		if err := t.apply(ctx, entries, next); err != nil {
			cancel(err)
		}
	})
	err = t.topic.Follow(ctx, next, func(offset int64, key, value []byte) error {
		select {
		case entries <- decode(offset, key, value):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	// What was read is applied although the topic has failed: a topic that fails
	// after every few entries must not keep the node where it is.
	close(entries)
	applying.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if errors.Is(err, envelope.ErrOutOfRange) {
		end, endErr := t.topicEnd(parent)
		if position, _ := t.progress.at(); endErr == nil && end >= position {
			t.progress.setRecreated() // it begins after the position
		}
	}
	if err == nil {
		err = errors.New("the topic ended")
	}
	return fmt.Errorf("follow the tokens topic from %d: %w", next, err)
}

// begin returns the offset to follow from. It clears a view of another topic.
func (t *Tokens) begin(ctx context.Context, restart func()) (int64, error) {
	next, ok, err := t.view.Position()
	if err != nil {
		return 0, err
	}
	recreated := t.progress.wasRecreated()
	if recreated {
		t.log.Warn().Int64("position", next).
			Msg("the tokens topic is not the one that was followed: it is read from its beginning")
	}
	if recreated || !ok {
		if err := t.view.Clear(ctx); err != nil {
			return 0, err
		}
		next = 0
	}
	t.progress.begin(next, recreated, restart)
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
func (t *Tokens) apply(ctx context.Context, entries <-chan entry, next int64) error {
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
		if err := t.view.Apply(ctx, batch, next); err != nil {
			return fmt.Errorf("apply entries %d to %d of the tokens topic: %w", from, next-1, err)
		}
		t.progress.moveTo(next)
	}
}
