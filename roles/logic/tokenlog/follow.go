package tokenlog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"imgo/envelope"
	"imgo/store"
)

const (
	// queued is how many entries may wait to be applied; Follow waits when it
	// is full. batch is how many share a transaction.
	queued = 1024
	batch  = 256

	// strikes is how many answers in a row must put the topic's end before our
	// position for the topic to be a new one: one that has just changed its
	// leader may say so for a moment.
	strikes = 5
	// stall is how many answers in a row may find the node behind and not
	// moving before it writes a mark of its own: the last entries before the
	// end may have been compacted away.
	stall = 5

	// dueBatch is how many dead tokens are removed between two looks.
	dueBatch = 500
)

// markKey is the key of marks, which mean nothing but that the reader of one
// has read all before it.
var markKey = []byte("mark")

// Run follows the topic until ctx is done. It runs once.
func (t *Tokens) Run(ctx context.Context) error {
	var beside sync.WaitGroup
	beside.Go(func() { t.watch(ctx) })
	beside.Go(func() { t.housekeep(ctx) })
	backoff := t.cfg.MinBackoff
	for ctx.Err() == nil {
		from := t.at()
		err := t.follow(ctx)
		if ctx.Err() != nil {
			break
		}
		t.trouble(err, "the tokens topic cannot be followed; tokens are checked by what is known")
		if t.at() > from {
			backoff = t.cfg.MinBackoff
		}
		pause(ctx, backoff)
		backoff = min(2*backoff, t.cfg.MaxBackoff)
	}
	beside.Wait()
	t.mu.Lock()
	t.stopped = true
	close(t.moved)
	t.moved = make(chan struct{})
	t.mu.Unlock()
	return nil
}

// trouble counts and logs, sparsely.
func (t *Tokens) trouble(err error, what string) {
	t.errors.Inc()
	if t.warn.Allow() {
		t.log.Warn().Err(err).Msg(what)
	}
}

// pause waits, or until ctx is done.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (t *Tokens) at() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.position
}

// moveTo says that everything before next is in the view.
func (t *Tokens) moveTo(next int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.position = next
	t.caughtUp = t.caughtUp || t.target >= 0 && next >= t.target
	close(t.moved)
	t.moved = make(chan struct{})
}

// follow reads the topic from the stored position until that fails.
func (t *Tokens) follow(parent context.Context) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	next, err := t.begin(ctx, func() { cancel(errors.New("the topic was made anew")) })
	if err != nil {
		return err
	}
	entries := make(chan entry, queued)
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
	// What was read is applied although the topic has failed: one that fails
	// after every few entries must not keep the node where it is.
	close(entries)
	applying.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if errors.Is(err, envelope.ErrOutOfRange) {
		end, endErr := t.topicEnd(parent)
		if endErr == nil && end >= t.at() {
			t.setAnew() // the topic begins after our position
		}
	}
	if err == nil {
		err = errors.New("the topic ended")
	}
	return fmt.Errorf("follow the tokens topic from %d: %w", next, err)
}

// begin is where to follow from; a view that is not this topic's is cleared.
func (t *Tokens) begin(ctx context.Context, restart func()) (int64, error) {
	next, ok, err := t.view.Position()
	if err != nil {
		return 0, err
	}
	t.mu.Lock()
	anew := t.anew
	t.mu.Unlock()
	if anew || !ok {
		if anew {
			t.log.Warn().Int64("position", next).Msg("the tokens topic is not the one that was followed: it is read from its beginning")
		}
		if err := t.view.Clear(ctx); err != nil {
			return 0, err
		}
		next = 0
	}
	t.mu.Lock()
	if anew {
		t.anew, t.target, t.caughtUp = false, -1, false
	}
	t.restart = restart
	t.mu.Unlock()
	t.moveTo(next)
	return next, nil
}

func (t *Tokens) setAnew() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.anew = true
	if t.restart != nil {
		t.restart()
	}
}

// entry is what the topic gave; one that is not a token's is only passed by.
type entry struct {
	store.TokenEntry
	token bool
}

func decode(offset int64, key, value []byte) entry {
	e := entry{TokenEntry: store.TokenEntry{Offset: offset}}
	const hash, id = len(store.TokenHash{}), len(store.TokenID{})
	if len(key) != hash+id {
		return e
	}
	e.Key = store.TokenKey{Hash: store.TokenHash(key[:hash]), ID: store.TokenID(key[hash:])}
	if len(value) == 0 {
		e.token = true
		return e
	}
	change := &envelope.TokenChange{}
	// One that cannot be read, or names no possible user, is nobody's token.
	if change.UnmarshalVT(value) == nil && envelope.CheckName("user", change.GetUser()) == nil {
		e.Change, e.token = change, true
	}
	return e
}

// apply puts entries into the view, as many at a time as are there, until they
// end, ctx is done or the view fails.
func (t *Tokens) apply(ctx context.Context, entries <-chan entry, next int64) error {
	several := make([]store.TokenEntry, 0, batch)
	for {
		several = several[:0]
		from := next
		take := func(e entry) {
			if e.Offset < next {
				return // again
			}
			next = e.Offset + 1
			if e.token {
				several = append(several, e.TokenEntry)
			}
		}
		select {
		case e, more := <-entries:
			if !more {
				return nil
			}
			take(e)
		case <-ctx.Done():
			return nil
		}
		for more := true; more && len(several) < batch; {
			select {
			case e, ok := <-entries:
				if more = ok; ok {
					take(e)
				}
			default:
				more = false
			}
		}
		if next == from {
			continue
		}
		if err := t.view.Apply(ctx, several, next); err != nil {
			return fmt.Errorf("apply entries %d to %d of the tokens topic: %w", from, next-1, err)
		}
		t.moveTo(next)
	}
}

// topicEnd asks for the end, within its time.
func (t *Tokens) topicEnd(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	return t.topic.End(ctx)
}

// watch compares the topic's end with the position, again and again.
func (t *Tokens) watch(ctx context.Context) {
	beyond, still, last := 0, 0, int64(-1)
	for ; ctx.Err() == nil; pause(ctx, t.cfg.Check) {
		// In this order: a position read later may be past the end.
		t.mu.Lock()
		position, known := t.position, t.restart != nil
		t.mu.Unlock()
		if !known {
			continue
		}
		end, err := t.topicEnd(ctx)
		if err != nil {
			if ctx.Err() == nil {
				t.trouble(err, "the tokens topic does not say where it ends")
			}
			continue
		}
		t.saw(end)
		if beyond++; position <= end {
			beyond = 0
		}
		if still++; position >= end || position != last {
			still = 0
		}
		last = position
		switch {
		case beyond >= strikes:
			beyond = 0
			t.setAnew()
		case still >= stall:
			still = 0
			t.mark(ctx)
		}
	}
}

// saw notes the topic's end; the first one is what Ready waits for.
func (t *Tokens) saw(end int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = end
	if t.target < 0 && !t.anew {
		t.target = end
		t.caughtUp = t.position >= end
	}
}

// mark appends an entry whose reading shows that all before it was read.
func (t *Tokens) mark(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	if _, err := t.topic.Put(ctx, markKey, []byte{0}); err != nil && !errors.Is(ctx.Err(), context.Canceled) {
		t.trouble(err, "nothing can be written to the tokens topic")
	}
}

// housekeep removes from the topic what has been dead for a day. Every node
// does, at times of its own; what one removed the others find gone.
func (t *Tokens) housekeep(ctx context.Context) {
	for {
		pause(ctx, t.cfg.Housekeep/2+rand.N(t.cfg.Housekeep))
		if ctx.Err() != nil {
			return
		}
		if t.Ready() != nil {
			continue
		}
		if err := t.removeDue(ctx); err != nil && ctx.Err() == nil {
			t.trouble(err, "dead tokens stay in the tokens topic for now")
		}
	}
}

// removeDue removes one after the other, in the order that store.SharedTokens
// wants.
func (t *Tokens) removeDue(ctx context.Context) error {
	for {
		keys, err := t.view.Due(time.Now(), dueBatch)
		if err != nil || len(keys) == 0 {
			return err
		}
		offset := int64(-1)
		for _, key := range keys {
			if offset, err = t.remove(ctx, key); err != nil {
				return err
			}
		}
		waiting, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
		err = t.wait(waiting, offset)
		cancel()
		if err != nil {
			return err
		}
	}
}

func (t *Tokens) remove(ctx context.Context, key store.TokenKey) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	offset, err := t.append(ctx, key, nil)
	if err != nil {
		return 0, fmt.Errorf("remove a dead token from the topic: %w", err)
	}
	return offset, nil
}
