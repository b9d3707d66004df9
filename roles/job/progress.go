package job

import (
	"context"
	"sync"
	"time"

	"imgo/internal/wait"
)

// progress is how far a partition was carried: everything before the position was
// pushed or skipped. It is safe for concurrent use.
type progress struct {
	mu    sync.Mutex
	next  int64
	spans []*span       // unfinished ones, oldest first
	quiet chan struct{} // closed when the last span has finished. It is nil if nobody waits
}

// span is a batch of records that is being carried.
type span struct {
	of   *progress
	next int64
	left int // pushes that have not ended, and 1 for the reader
}

// start sets the position at which the partition begins.
func (p *progress) start(next int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = next
}

// begin opens a span up to next. The caller must call done once.
func (p *progress) begin(next int64) *span {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &span{of: p, next: next, left: 1}
	p.spans = append(p.spans, s)
	return s
}

// add announces one more call of done.
func (s *span) add() {
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	s.left++
}

// cancelNewest removes the newest span, of which nothing was carried.
func (p *progress) cancelNewest() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spans = p.spans[:len(p.spans)-1]
}

// done ends one push of the span, or the reader's part. The position moves on when the
// oldest spans have finished.
func (s *span) done() {
	p := s.of
	p.mu.Lock()
	defer p.mu.Unlock()
	s.left--
	n := 0
	for n < len(p.spans) && p.spans[n].left == 0 {
		p.next = p.spans[n].next
		n++
	}
	if p.spans = p.spans[n:]; len(p.spans) == 0 {
		p.spans = nil
		if p.quiet != nil {
			close(p.quiet)
			p.quiet = nil
		}
	}
}

// position returns the position that may be stored. It is -1 if there is none yet.
func (p *progress) position() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.next
}

// idle returns a channel that is closed when no span is open. No span may be begun
// meanwhile.
func (p *progress) idle() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	quiet := make(chan struct{})
	if len(p.spans) == 0 {
		close(quiet)
	} else {
		p.quiet = quiet
	}
	return quiet
}

// committer stores the positions of the readers of an assignment.
type committer struct {
	j       *Job
	a       Assignment
	readers []*reader
	stored  []int64 // of each reader
}

func newCommitter(j *Job, a Assignment, readers []*reader) *committer {
	c := &committer{j: j, a: a, readers: readers, stored: make([]int64, len(readers))}
	for i, r := range readers {
		c.stored[i] = r.assigned
	}
	return c
}

// run commits once an interval, and at once when a reader has found its first position.
// It returns when the assignment or ctx ends.
func (c *committer) run(ctx context.Context, found wait.Signal) {
	tick := time.NewTicker(commitInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.a.Done():
			return
		case <-found:
		case <-tick.C:
			for _, r := range c.readers {
				r.measureLag()
			}
		}
		c.commit()
	}
}

// commit stores the positions that have changed. If that fails, a later job may carry
// some records again; comets drop the kept ones as duplicates.
func (c *committer) commit() {
	var at []Part
	var changed []int
	for i, r := range c.readers {
		if next := r.progress.position(); next != c.stored[i] && next >= 0 {
			at = append(at, Part{r.topic, r.partition, next})
			changed = append(changed, i)
		}
	}
	if len(at) == 0 {
		return
	}
	// Not the assignment's context: the last commit comes after its end.
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	if err := c.a.Commit(ctx, at); err != nil {
		c.j.sampled.Warn().Err(err).Int("partitions", len(at)).Msg("positions were not stored")
		return
	}
	for k, i := range changed {
		c.stored[i] = at[k].Next
	}
}
