package tokenlog

import (
	"context"
	"errors"
	"time"

	"imgo/internal/wait"
	"imgo/store"
)

const (
	// recreatedAfter is how many answers in a row must put the topic's end before
	// the position until the topic counts as recreated. A topic that has just
	// changed its leader may do so for a moment.
	recreatedAfter = 5
	// stalledAfter is how many answers in a row may find the node behind and not moving
	// before it appends a mark. The last entries before the end may have been compacted
	// away.
	stalledAfter = 5
)

// markKey is the key of marks. A mark means only that a node which has read it
// has read everything before it.
const markKey = "mark"

// topicEnd asks for the topic's end, within Config.Timeout.
func (f *follower) topicEnd(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, f.cfg.Timeout)
	defer cancel()
	return f.topic.End(ctx)
}

// watch compares the topic's end with the position, again and again.
func (f *follower) watch(ctx context.Context) {
	// These count answers in a row: the end is before the position, or the node is
	// behind and does not move.
	before, stalled := 0, 0
	last := int64(-1)
	for ; ctx.Err() == nil; _ = wait.Sleep(ctx, f.cfg.Check) {
		// The position is read before the end: a later position may be past it.
		position, ok := f.progress.at()
		if !ok {
			continue
		}
		end, err := f.topicEnd(ctx)
		if err != nil {
			if ctx.Err() == nil {
				f.failed(err, "the tokens topic does not say where it ends")
			}
			continue
		}
		f.progress.sawEnd(end)
		if position >= end {
			f.current()
		}
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
			f.progress.setRecreated()
		case stalled >= stalledAfter:
			stalled = 0
			f.mark(ctx)
		}
	}
}

// currentEvery is how often a view that is current is noted as such.
const currentEvery = time.Hour

// current notes that the view has all of the topic. A view that was not current for too long, since the node was
// suspended or cut off, is to be read again.
func (f *follower) current() {
	now := time.Now()
	switch age, err := f.view.Age(now); {
	case err != nil:
		f.failed(err, "the age of the known tokens cannot be read")
	case age > store.TokenMemory:
		f.progress.setRecreated()
	case age > currentEvery:
		if err := f.view.SetCurrent(now); err != nil {
			f.failed(err, "the age of the known tokens cannot be noted")
		}
	}
}

// mark appends a mark.
func (f *follower) mark(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, f.cfg.Timeout)
	defer cancel()
	if _, err := f.topic.Put(ctx, []byte(markKey), []byte{0}); err != nil && !errors.Is(ctx.Err(), context.Canceled) {
		f.failed(err, "nothing can be written to the tokens topic")
	}
}
