package job

import (
	"context"
	"fmt"
	"sync"
	"time"

	"imgo/envelope"
	"imgo/internal/wait"
)

// Topic is one of the two topics of the log.
type Topic string

// The topics.
const (
	Kept Topic = "kept"
	Live Topic = "live"
)

// Part is a partition of a topic, and a position in it.
type Part struct {
	Topic     Topic
	Partition int32
	// Next is the offset of the first record that was not carried. It is -1 if no position is stored.
	Next int64
}

// Group distributes partitions among the jobs.
type Group interface {
	// Next waits for the next assignment, until ctx is done. The caller has finished the
	// one before. An error is logged, and Next is called again after a pause.
	Next(ctx context.Context) (Assignment, error)
}

// Assignment is the set of partitions that a job carries until the group changes.
type Assignment interface {
	// Parts returns the partitions with their stored positions.
	Parts() []Part
	// Done returns a channel that is closed when the assignment ends. It is nil if the assignment ends with
	// the job.
	Done() <-chan struct{}
	// Commit stores positions of some of the partitions.
	Commit(ctx context.Context, at []Part) error
}

const (
	// commitInterval is how often positions are stored.
	commitInterval = time.Second
	// commitTimeout bounds one call that stores positions.
	commitTimeout = 2 * time.Second
	// maxFinish (and Config.PushTimeout) bounds how long the end of an assignment waits
	// for pushes that are under way. One hanging comet must not keep a partition from
	// its next job for long.
	maxFinish = 2 * time.Second
)

// SoleGroup is the group of a process that has no others: one assignment of every partition
// for as long as the process runs. It is that assignment as well.
type SoleGroup struct {
	All []Part

	assigned bool
}

// newSoleGroup returns a group that begins where the log ends now.
func newSoleGroup(ctx context.Context, d *Deps) (*SoleGroup, error) {
	g := &SoleGroup{}
	for topic, log := range map[Topic]envelope.Log{Kept: d.Kept, Live: d.Live} {
		for p := range log.Partitions() {
			_, end, err := log.Bounds(ctx, p)
			if err != nil {
				return nil, fmt.Errorf("job: find the end of %s partition %d: %w", topic, p, err)
			}
			g.All = append(g.All, Part{topic, p, end})
		}
	}
	return g, nil
}

// Next returns the assignment once, and then waits until ctx is done.
func (g *SoleGroup) Next(ctx context.Context) (Assignment, error) {
	if g.assigned {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	g.assigned = true
	return g, nil
}

// Parts returns all partitions.
func (g *SoleGroup) Parts() []Part { return g.All }

// Done returns nil: the assignment ends with the process.
func (g *SoleGroup) Done() <-chan struct{} { return nil }

// Commit does nothing: a process without others stores no positions.
func (*SoleGroup) Commit(context.Context, []Part) error { return nil }

// serve carries one assignment until it or ctx ends.
func (j *Job) serve(ctx context.Context, a Assignment) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	found := wait.NewSignal()
	var readers []*reader
	for _, part := range a.Parts() {
		r, err := j.newReader(part, found)
		if err != nil {
			j.log.Error().Err(err).Msg("an assigned partition does not exist: not carried")
			continue
		}
		readers = append(readers, r)
	}
	j.log.Info().Int("partitions", len(readers)).Msg("carrying")
	var running sync.WaitGroup
	for _, r := range readers {
		running.Go(func() { r.run(ctx) })
	}
	j.enableFastPath(readers)
	c := newCommitter(j, a, readers)
	c.run(ctx, found)
	cancel()
	running.Wait()
	j.disableFastPath(readers)
	j.awaitPushes(readers)
	c.commit()
	for _, r := range readers {
		r.close()
	}
}

// awaitPushes waits a bounded time for the pushes that are under way.
func (j *Job) awaitPushes(readers []*reader) {
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
