package growth_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"imgo/cluster/growth"
	"imgo/envelope"
	"imgo/internal/wait"
)

// partition is a Log of one partition in memory.
type partition struct {
	mu    sync.Mutex
	end   int64
	fence int64 // offset of the first fence; -1: none
	// slow returns how long an append takes before and after it is in the log; nil:
	// no time.
	slow func() (before, after time.Duration)
}

func (p *partition) Partitions() int32  { return 4 }
func (p *partition) Generation() uint16 { return 1 }

func (p *partition) append() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end++
	return p.end - 1
}

func (p *partition) AppendEssential(context.Context, int32, []byte) (int64, error) {
	var before, after time.Duration
	if p.slow != nil {
		before, after = p.slow()
	}
	time.Sleep(before)
	defer time.Sleep(after)
	return p.append(), nil
}

func (p *partition) AppendMany(ctx context.Context, entries []envelope.Entry) (err error) {
	for i := range entries {
		if entries[i].Offset, err = p.AppendEssential(ctx, 0, nil); err != nil {
			return err
		}
	}
	return nil
}

func (p *partition) appendFence() {
	at := p.append()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fence < 0 {
		p.fence = at
	}
}

// runSchedule runs nodes that append to fenced logs with this lease. Meanwhile the
// control topic is away from each node again and again, appends take any time, and
// the topic grows. It returns how many appends were reported, and how many of them
// are lost behind the fence.
func runSchedule(t *testing.T, seed uint64, lease time.Duration) (reported, lost int) {
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(seed, 7))
		var rngMu sync.Mutex
		upTo := func(d time.Duration) time.Duration {
			rngMu.Lock()
			defer rngMu.Unlock()
			return time.Duration(rng.Int64N(int64(d)))
		}
		topic := newTopic()
		log := &partition{fence: -1, slow: func() (time.Duration, time.Duration) {
			if upTo(4) == 0 {
				return upTo(30 * time.Second), upTo(30 * time.Second)
			}
			return upTo(time.Second), upTo(time.Second)
		}}
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		var mu sync.Mutex
		var offsets []int64
		for range 3 {
			v := topic.view()
			g := start(t, v, growth.Config{Lease: lease})
			fenced := g.FencedLog(log)
			running.Go(func() {
				defer v.cutOff(false)
				for ctx.Err() == nil {
					_ = wait.Sleep(ctx, upTo(10*time.Second))
					v.cutOff(true)
					_ = wait.Sleep(ctx, upTo(time.Minute))
					v.cutOff(false)
				}
			})
			for range 2 {
				running.Go(func() {
					for ctx.Err() == nil {
						appending, cancel := context.WithTimeout(ctx, time.Minute)
						at, err := fenced.AppendEssential(appending, 0, nil)
						cancel()
						if err == nil {
							mu.Lock()
							offsets = append(offsets, at)
							mu.Unlock()
						} else {
							_ = wait.Sleep(ctx, time.Second)
						}
					}
				})
			}
		}
		owner := start(t, topic.view(), growth.Config{})
		running.Go(func() {
			_ = wait.Sleep(ctx, upTo(30*time.Second))
			if _, err := owner.Grow(ctx, 7); err != nil {
				t.Error(err)
			}
			if _, err := owner.Moving(ctx, 1, prepared); err != nil {
				t.Error(err)
			}
			log.appendFence()
			_ = wait.Sleep(ctx, time.Minute)
			cancel()
		})
		running.Wait()
		reported = len(offsets)
		for _, at := range offsets {
			if at > log.fence {
				lost++
			}
		}
	})
	return reported, lost
}

// A reported append is before the fence, whatever the nodes know of the plan and
// however long anything takes.
func TestNothingReportedIsBehindTheFence(t *testing.T) {
	all := 0
	for seed := range uint64(60) {
		reported, lost := runSchedule(t, seed, 0)
		if all += reported; lost > 0 {
			t.Errorf("seed %d: %d of %d appends that were reported are behind the fence", seed, lost, reported)
		}
	}
	if all < 1000 {
		t.Errorf("only %d appends were reported: nothing is shown", all)
	}
}

// The same schedules lose appends with a lease that is too long. So it is the lease
// that TestNothingReportedIsBehindTheFence tests.
func TestWithoutTheLeaseSomeAre(t *testing.T) {
	all := 0
	for seed := range uint64(60) {
		_, lost := runSchedule(t, seed, time.Hour)
		all += lost
	}
	if all == 0 {
		t.Error("no schedule needs the lease: the test of it shows nothing")
	}
	t.Logf("%d appends would be lost", all)
}

// A fenced log appends or refuses as each state of the topic asks for.
func TestFencedLogInEachState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		topic := newTopic()
		v := topic.view()
		g := start(t, v, growth.Config{})
		other := start(t, topic.view(), growth.Config{})
		log := &partition{fence: -1}
		fenced := g.FencedLog(log)
		try := func(timeout time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			return fenced.AppendMany(ctx, make([]envelope.Entry, 2))
		}
		synctest.Wait()
		if err := try(time.Millisecond); err != nil {
			t.Errorf("open: %v", err)
		}
		v.cutOff(true)
		time.Sleep(14 * time.Second)
		if err := try(time.Millisecond); err != nil {
			t.Errorf("within the lease: %v", err)
		}
		time.Sleep(2 * time.Second)
		end := log.end
		if err := try(time.Second); !errors.Is(err, envelope.ErrUnavailable) {
			t.Errorf("the lease has run out: %v", err)
		}
		if log.end != end+2 {
			t.Error("it was not appended, though it might be before the fence")
		}
		v.cutOff(false)
		if err := try(5 * time.Second); err != nil {
			t.Errorf("certain again: %v", err)
		}

		if _, err := other.Grow(t.Context(), 7); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := try(time.Second); err != nil {
			t.Errorf("planned: %v", err)
		}
		v.cutOff(true)
		time.Sleep(3 * time.Second)
		if err := try(time.Second); !errors.Is(err, envelope.ErrUnavailable) {
			t.Errorf("the short lease has run out: %v", err)
		}
		v.cutOff(false)
		moving := make(chan error)
		go func() {
			_, err := other.Moving(t.Context(), 1, prepared)
			moving <- err
		}()
		time.Sleep(14 * time.Second) // 18 s since the plan: closed, and not moving
		synctest.Wait()
		if s, _ := g.State(); !s.Closed {
			t.Error("it is not closed")
		}
		end = log.end
		if err := try(time.Second); !errors.Is(err, envelope.ErrUnavailable) {
			t.Errorf("closed: %v", err)
		}
		if log.end != end {
			t.Error("it was appended although it is known that it may be behind the fence")
		}
		if err := <-moving; err != nil {
			t.Fatal(err)
		}
		waiting := make(chan error)
		go func() { waiting <- try(time.Minute) }()
		synctest.Wait()
		for p := range int32(4) {
			if err := other.Moved(t.Context(), 1, p); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-waiting; !errors.Is(err, envelope.ErrUnavailable) {
			t.Errorf("over: %v", err)
		}
		if log.end != end {
			t.Error("it was appended to a generation that is over")
		}
		next := g.FencedLog(&second{partition{fence: -1}})
		if at, err := next.AppendEssential(t.Context(), 0, nil); err != nil || at != 0 {
			t.Errorf("the next generation: %d, %v", at, err)
		}
	})
}

// A node that the control topic has not answered yet says so, and gives no time.
func TestFencedLogBeforeTheFirstAnswer(t *testing.T) {
	g := growth.New(growth.Config{}, newTopic().view(), zerolog.Nop())
	g.Base(1, 4)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := g.FencedLog(&partition{fence: -1}).AppendMany(ctx, make([]envelope.Entry, 1))
	if !errors.Is(err, envelope.ErrUnavailable) || !strings.Contains(err.Error(), "has not said yet") {
		t.Errorf("got %v", err)
	}
}

// second is a log of generation 2.
type second struct{ partition }

func (s *second) Generation() uint16 { return 2 }

// The error of a failed append is passed on.
// TestLeaseOutlivesASilence appends again long after the first append, just when the control topic has gone away.
func TestLeaseOutlivesASilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		topic := newTopic().view()
		log := start(t, topic, growth.Config{}).FencedLog(&partition{fence: -1})
		for _, silence := range []time.Duration{0, time.Hour} {
			time.Sleep(silence)
			topic.cutOff(silence > 0)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := log.AppendEssential(ctx, 0, nil); err != nil {
				t.Errorf("after %s: %v", silence, err)
			}
			cancel()
		}
	})
}

func TestFencedLogPassesErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := start(t, newTopic().view(), growth.Config{})
		synctest.Wait()
		broken := fmt.Errorf("broken")
		if err := g.FencedLog(&failing{err: broken}).AppendMany(t.Context(), nil); !errors.Is(err, broken) {
			t.Error(err)
		}
	})
}

type failing struct {
	partition
	err error
}

func (f *failing) AppendMany(context.Context, []envelope.Entry) error { return f.err }
