package tokenlog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"imgo/internal/wait"
	"imgo/store"
)

const (
	// recreatedAfter is how many answers in a row must put the topic's end before
	// the position until the topic counts as recreated. A topic that has just
	// changed its leader may do so for a moment.
	recreatedAfter = 5
	// stalledAfter is how many answers in a row may find the node behind and not
	// moving before it appends a mark: the last entries before the end may have
	// been compacted away.
	stalledAfter = 5
	// maxDue is how many dead tokens are removed between two looks.
	maxDue = 500
)

// markKey is the key of marks. A mark means only that a node which has read it
// has read everything before it.
const markKey = "mark"

// topicEnd asks for the topic's end, within Config.Timeout.
func (t *Tokens) topicEnd(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	return t.topic.End(ctx)
}

// watch compares the topic's end with the position, again and again.
func (t *Tokens) watch(ctx context.Context) {
	// These count answers in a row: the end is before the position, or the node is
	// behind and does not move.
	before, stalled := 0, 0
	last := int64(-1)
	for ; ctx.Err() == nil; _ = wait.Sleep(ctx, t.cfg.Check) {
		// The position is read before the end: a later position may be past it.
		position, ok := t.progress.at()
		if !ok {
			continue
		}
		end, err := t.topicEnd(ctx)
		if err != nil {
			if ctx.Err() == nil {
				t.failed(err, "the tokens topic does not say where it ends")
			}
			continue
		}
		t.progress.sawEnd(end)
		if before++; position <= end {
			before = 0
		}
		if stalled++; position >= end || position != last {
			stalled = 0
		}
		last = position
		switch {
		case before >= recreatedAfter:
			before = 0
			t.progress.setRecreated()
		case stalled >= stalledAfter:
			stalled = 0
			t.mark(ctx)
		}
	}
}

// mark appends a mark.
func (t *Tokens) mark(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	if _, err := t.topic.Put(ctx, []byte(markKey), []byte{0}); err != nil && !errors.Is(ctx.Err(), context.Canceled) {
		t.failed(err, "nothing can be written to the tokens topic")
	}
}

// housekeep removes from the topic what has been dead for a day. Every node
// does so, at random times. What one node has removed the others find gone.
func (t *Tokens) housekeep(ctx context.Context) {
	for {
		if wait.Sleep(ctx, t.cfg.Housekeep/2+rand.N(t.cfg.Housekeep)) != nil {
			return
		}
		if t.Ready() != nil {
			continue
		}
		if err := t.removeDue(ctx); err != nil && ctx.Err() == nil {
			t.failed(err, "dead tokens stay in the tokens topic for now")
		}
	}
}

// removeDue removes one key after the other: the view's Due gives them in the
// order in which they must be removed.
func (t *Tokens) removeDue(ctx context.Context) error {
	for {
		keys, err := t.view.Due(time.Now(), maxDue)
		if err != nil || len(keys) == 0 {
			return err
		}
		offset := int64(-1)
		for _, key := range keys {
			if offset, err = t.remove(ctx, key); err != nil {
				return err
			}
		}
		waitCtx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
		err = t.progress.wait(waitCtx, offset)
		cancel()
		if err != nil {
			return err
		}
	}
}

func (t *Tokens) remove(ctx context.Context, key store.TokenKey) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	offset, err := t.append(ctx, key, nil, false)
	if err != nil {
		return 0, fmt.Errorf("remove a dead token from the topic: %w", err)
	}
	return offset, nil
}
