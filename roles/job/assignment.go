package job

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Topic is one of the log's two.
type Topic string

// The topics.
const (
	Kept Topic = "kept"
	Live Topic = "live"
)

// Part is a partition of a topic, and a place in it.
type Part struct {
	Topic     Topic
	Partition int32
	// Next is the offset of the first record that was not carried; -1: no
	// position is stored.
	Next int64
}

// Group shares the partitions of both topics out among the jobs.
type Group interface {
	// Next waits for the next assignment, until ctx is done. Whoever calls it
	// has done with the one before. An error is logged, and Next called again
	// after a pause.
	Next(ctx context.Context) (Assignment, error)
}

// Assignment is what one job is to carry for a while.
type Assignment interface {
	// Parts are the partitions, with the positions that are stored.
	Parts() []Part
	// Done is closed when the assignment ends; nil: only with the job.
	Done() <-chan struct{}
	// Commit stores positions, some of those of Parts at a time.
	Commit(ctx context.Context, at []Part) error
}

const (
	// commitInterval is how often positions are stored.
	commitInterval = time.Second
	// commitTimeout bounds the call.
	commitTimeout = 2 * time.Second
	// maxFinish bounds (with Config.PushTimeout) how long the end of an
	// assignment waits for the pushes under way, so that one comet that hangs
	// does not keep a partition from its next job for long.
	maxFinish = 2 * time.Second
)

// alone is the assignment of a job that has no group: every partition, for as
// long as it runs, from where the log ended when the job was made.
type alone struct {
	parts []Part
	given bool
}

func newAlone(ctx context.Context, d *Deps) (*alone, error) {
	a := &alone{}
	for topic, log := range map[Topic]Log{Kept: d.Kept, Live: d.Live} {
		for p := range log.Partitions() {
			_, end, err := log.Bounds(ctx, p)
			if err != nil {
				return nil, fmt.Errorf("job: find the end of %s partition %d: %w", topic, p, err)
			}
			a.parts = append(a.parts, Part{topic, p, end})
		}
	}
	return a, nil
}

func (a *alone) Next(ctx context.Context) (Assignment, error) {
	if a.given {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	a.given = true
	return a, nil
}

func (a *alone) Parts() []Part                        { return a.parts }
func (a *alone) Done() <-chan struct{}                { return nil }
func (a *alone) Commit(context.Context, []Part) error { return nil }

// serve carries one assignment to its end: it is over when ctx is, or the
// assignment.
func (j *Job) serve(ctx context.Context, a Assignment) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	started := make(chan struct{}, 1)
	var readers []*reader
	for _, part := range a.Parts() {
		r, err := j.newReader(part, started)
		if err != nil {
			j.log.Error().Err(err).Msg("assigned what there is not: not carried")
			continue
		}
		readers = append(readers, r)
	}
	j.log.Info().Int("partitions", len(readers)).Msg("carrying")
	var running sync.WaitGroup
	for _, r := range readers {
		running.Go(func() { r.run(ctx) })
	}
	j.prompt(readers)
	c := &committer{j: j, a: a, readers: readers, stored: make([]int64, len(readers))}
	for i, r := range readers {
		c.stored[i] = r.stored
	}
	c.loop(ctx, started)
	cancel()
	running.Wait()
	j.unprompt(readers)
	j.finish(readers)
	c.commit()
	for _, r := range readers {
		r.end()
	}
}

// finish waits, but not for long, for the pushes that are under way.
func (j *Job) finish(readers []*reader) {
	timer := time.NewTimer(min(j.cfg.PushTimeout, maxFinish))
	defer timer.Stop()
	for _, r := range readers {
		select {
		case <-r.progress.idle():
		case <-timer.C:
			j.log.Info().Msg("pushes are still under way: the next job repeats them")
			return
		}
	}
}

// committer stores how far the readers of an assignment have come.
type committer struct {
	j       *Job
	a       Assignment
	readers []*reader
	stored  []int64
}

// loop commits now and then, and at once when a reader has found out where to
// start. It returns when the assignment ends.
func (c *committer) loop(ctx context.Context, started <-chan struct{}) {
	tick := time.NewTicker(commitInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.a.Done():
			return
		case <-started:
		case <-tick.C:
			for _, r := range c.readers {
				r.measure()
			}
		}
		c.commit()
	}
}

// commit stores what has changed. A position that could not be stored costs
// that its records are carried again, of which comets drop the kept ones.
func (c *committer) commit() {
	var at []Part
	var which []int
	for i, r := range c.readers {
		if next := r.progress.carried(); next != c.stored[i] && next >= 0 {
			at = append(at, Part{r.topic, r.partition, next})
			which = append(which, i)
		}
	}
	if len(at) == 0 {
		return
	}
	// Not the assignment's context: the last commit comes after its end.
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	if err := c.a.Commit(ctx, at); err != nil {
		c.j.often.Warn().Err(err).Int("partitions", len(at)).Msg("positions were not stored")
		return
	}
	for k, i := range which {
		c.stored[i] = at[k].Next
	}
}

// progress is how far a partition was carried: everything before a record has
// been pushed, or skipped for good. Safe for concurrent use.
type progress struct {
	mu    sync.Mutex
	next  int64
	spans []*span // that are not, oldest first
	quiet chan struct{}
}

// span is a batch that is being carried.
type span struct {
	of   *progress
	next int64
	left int // comets that have yet to be told, and the reader
}

// start says where the partition begins.
func (p *progress) start(next int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = next
}

// begin opens a span up to next; the caller ends it with done, once.
func (p *progress) begin(next int64) *span {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &span{of: p, next: next, left: 1}
	p.spans = append(p.spans, s)
	return s
}

// more has one more done to come.
func (s *span) more() {
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	s.left++
}

// cancel takes back the newest span, of which nothing was carried.
func (p *progress) cancel() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spans = p.spans[:len(p.spans)-1]
}

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

// carried is the position that may be stored; -1: none yet.
func (p *progress) carried() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.next
}

// idle is closed when nothing is under way; no span may be begun meanwhile.
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

var _ Assignment = (*alone)(nil)
