package growth_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"imgo/cluster/growth"
	"imgo/envelope"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// topic is a control topic in memory. Each node has its own view of it, which can be
// cut off.
type topic struct {
	mu      sync.Mutex
	entries []entry
	grown   chan struct{}
}

type entry struct {
	offset     int64
	key, value []byte
}

func newTopic() *topic { return &topic{grown: make(chan struct{})} }

// compact drops all but the newest entry of each key, as Kafka's compaction may.
func (t *topic) compact() {
	t.mu.Lock()
	defer t.mu.Unlock()
	var left []entry
	for i, e := range t.entries {
		newest := true
		for _, later := range t.entries[i+1:] {
			newest = newest && !bytes.Equal(e.key, later.key)
		}
		if newest {
			left = append(left, e)
		}
	}
	t.entries = left
}

func (t *topic) end() int64 {
	if len(t.entries) == 0 {
		return 0
	}
	return t.entries[len(t.entries)-1].offset + 1
}

// view is one node's access to the topic.
type view struct {
	*topic
	mu       sync.Mutex
	cut      bool
	restored chan struct{} // closed by cutOff(false)
}

func (t *topic) view() *view { return &view{topic: t, restored: make(chan struct{})} }

// cutOff sets whether all calls wait.
func (v *view) cutOff(cut bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.cut && !cut {
		close(v.restored)
		v.restored = make(chan struct{})
	}
	v.cut = cut
}

// wait waits while the view is cut off.
func (v *view) wait(ctx context.Context) error {
	for {
		v.mu.Lock()
		cut, restored := v.cut, v.restored
		v.mu.Unlock()
		if !cut {
			return ctx.Err()
		}
		select {
		case <-restored:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (v *view) Put(ctx context.Context, key, value []byte) (int64, error) {
	if err := v.wait(ctx); err != nil {
		return 0, err
	}
	t := v.topic
	t.mu.Lock()
	defer t.mu.Unlock()
	at := t.end()
	t.entries = append(t.entries, entry{at, bytes.Clone(key), bytes.Clone(value)})
	close(t.grown)
	t.grown = make(chan struct{})
	return at, nil
}

func (v *view) Follow(ctx context.Context, from int64, fn func(int64, []byte, []byte) error) error {
	for {
		if err := v.wait(ctx); err != nil {
			return err
		}
		t := v.topic
		t.mu.Lock()
		var next *entry
		for i := range t.entries {
			if t.entries[i].offset >= from {
				next = &t.entries[i]
				break
			}
		}
		grown := t.grown
		var e entry
		if next != nil {
			e = *next
		}
		t.mu.Unlock()
		if next != nil {
			if err := fn(e.offset, e.key, e.value); err != nil {
				return err
			}
			from = e.offset + 1
			continue
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (v *view) End(ctx context.Context) (int64, error) {
	if err := v.wait(ctx); err != nil {
		return 0, err
	}
	v.topic.mu.Lock()
	defer v.topic.mu.Unlock()
	return v.topic.end(), nil
}

// start starts a node that follows the topic until the test ends.
func start(t *testing.T, topic growth.Topic, cfg growth.Config) *growth.Growth {
	t.Helper()
	g := growth.New(cfg, topic, zerolog.Nop())
	if err := g.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s, _ := g.State(); s.Generation == 0 {
		g.Base(1, 4)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := g.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return g
}

func state(g *growth.Growth) string {
	s, _ := g.State()
	out := fmt.Sprintf("%d of %d", s.Generation, s.Partitions)
	if s.Growing() {
		out += fmt.Sprintf(", to %d, %d moved", s.Next, s.Moved)
	}
	if s.Closed {
		out += ", closed"
	}
	return out
}

// prepared is for records that can move.
func prepared(growth.State) error { return nil }

// moveAll does the part of all owners of partitions.
func moveAll(t *testing.T, g *growth.Growth, generation uint16) {
	t.Helper()
	s, err := g.Moving(t.Context(), generation, prepared)
	if err != nil {
		t.Fatal(err)
	}
	for p := range s.Partitions {
		if g.HasMoved(generation, p) {
			t.Errorf("partition %d has moved before it has", p)
		}
		if err := g.Moved(t.Context(), generation, p); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !g.HasMoved(generation, p) {
			t.Errorf("partition %d has not moved", p)
		}
	}
}

// Every node derives the same state from the control topic at every moment, also a
// node that starts late and reads a compacted topic.
func TestAllNodesAgree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		topic := newTopic()
		a, b := start(t, topic.view(), growth.Config{}), start(t, topic.view(), growth.Config{})
		over := b.Over(1)
		agree := func(want string) {
			t.Helper()
			synctest.Wait()
			topic.compact()
			lateNode := start(t, topic.view(), growth.Config{})
			for name, g := range map[string]*growth.Growth{"a": a, "b": b, "a node that starts late": lateNode} {
				if got := state(g); got != want {
					t.Errorf("%s: %s, want %s", name, got, want)
				}
			}
		}
		agree("1 of 4")
		if s, err := a.Grow(t.Context(), 7); err != nil || s.Next != 7 {
			t.Fatal(s, err)
		}
		agree("1 of 4, to 7, 0 moved")
		began := time.Now()
		moveAll(t, b, 1)
		if took := time.Since(began); took != 19*time.Second {
			t.Errorf("it moves after %v, not after both leases and margins", took)
		}
		agree("2 of 7")
		if !isClosed(over) || !isClosed(a.Over(1)) || isClosed(a.Over(2)) {
			t.Error("the wrong generations are over")
		}
		// A late owner of the generation before says something known.
		if err := b.Moved(t.Context(), 1, 0); err != nil {
			t.Fatal(err)
		}
		agree("2 of 7")
		if _, err := b.Grow(t.Context(), 9); err != nil {
			t.Fatal(err)
		}
		if err := b.Moved(t.Context(), 1, 3); err != nil {
			t.Fatal(err)
		}
		agree("2 of 7, to 9, 0 moved")
		moveAll(t, a, 2)
		agree("3 of 9")
		if _, err := a.Moving(t.Context(), 1, prepared); !errors.Is(err, envelope.ErrUnavailable) {
			t.Errorf("generation 1 moves: %v", err)
		}
	})
}

// A generation whose records cannot move is not closed.
func TestNotPreparedIsNotClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := start(t, newTopic().view(), growth.Config{})
		if _, err := g.Grow(t.Context(), 7); err != nil {
			t.Fatal(err)
		}
		failed := errors.New("no topic")
		s, err := g.Moving(t.Context(), 1, func(growth.State) error { return failed })
		synctest.Wait()
		if got := state(g); !errors.Is(err, failed) || s.Next != 7 || got != "1 of 4, to 7, 0 moved" {
			t.Fatalf("%s, %v; want it open", got, err)
		}
		moveAll(t, g, 1)
	})
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Of two plans at the same time one counts, the same on all nodes, and the caller of
// the other one gets an error.
func TestTwoPlansAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		topic := newTopic()
		va, vb := topic.view(), topic.view()
		a, b := start(t, va, growth.Config{}), start(t, vb, growth.Config{})
		synctest.Wait()
		errs := make([]error, 2)
		var both sync.WaitGroup
		both.Go(func() { _, errs[0] = a.Grow(t.Context(), 7) })
		both.Go(func() { _, errs[1] = b.Grow(t.Context(), 9) })
		both.Wait()
		synctest.Wait()
		if (errs[0] == nil) == (errs[1] == nil) {
			t.Errorf("errors %v", errs)
		}
		if state(a) != state(b) || (errs[0] == nil) != strings.Contains(state(a), "to 7") {
			t.Errorf("%s, and %s; %v", state(a), state(b), errs)
		}
		for _, err := range errs {
			if err != nil && (!errors.Is(err, envelope.ErrConflict) || !strings.Contains(err.Error(), "already")) {
				t.Errorf("the second caller got %v", err)
			}
		}
	})
}

func TestGrowRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		topic := newTopic()
		v := topic.view()
		g := start(t, v, growth.Config{})
		for partitions, want := range map[int]string{
			4: "must be more", 3: "must be more", 0: "must be more", -1: "must be more", growth.MaxPartitions + 1: "at most 1024"} {
			_, err := g.Grow(t.Context(), partitions)
			var e *envelope.Error
			code := envelope.CodeConflict
			if partitions > growth.MaxPartitions {
				code = envelope.CodeInvalid
			}
			if !errors.As(err, &e) || e.Code != code || e.Field != "kept" || !strings.Contains(e.Message, want) {
				t.Errorf("%d: %v", partitions, err)
			}
		}
		if got := state(g); got != "1 of 4" {
			t.Errorf("after refusals it is %s", got)
		}
		v.cutOff(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.Grow(ctx, 7); !errors.Is(err, envelope.ErrUnavailable) {
			t.Errorf("without Kafka: %v", err)
		}
		v.cutOff(false)
	})
}

// Entries that cannot be right are skipped.
func TestInvalidEntriesAreSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		topic := newTopic()
		v := topic.view()
		plan := func(p *envelope.KeptPlan) []byte {
			b, err := p.MarshalVT()
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		for _, e := range [][2]string{
			{"", "x"}, {"p", ""}, {"p", "\xff"}, {"m", "\xff"}, {"c", "\xff"}, {"z", "z"},
			{"p1", string(plan(&envelope.KeptPlan{}))},
			{"p2", string(plan(&envelope.KeptPlan{Generation: 1, Partitions: 4, NextPartitions: 4}))},
			{"p3", string(plan(&envelope.KeptPlan{Generation: 1, Partitions: 4, NextPartitions: 1 << 20}))},
			{"p4", string(plan(&envelope.KeptPlan{Generation: 1 << 20, Partitions: 4, NextPartitions: 8}))},
			{"c1", string(plan(&envelope.KeptPlan{Generation: 1 << 20}))},
		} {
			if _, err := v.Put(t.Context(), []byte(e[0]), []byte(e[1])); err != nil {
				t.Fatal(err)
			}
		}
		g := start(t, v, growth.Config{})
		if got := state(g); got != "1 of 4" {
			t.Error(got)
		}
		if _, err := g.Grow(t.Context(), 5); err != nil {
			t.Error(err)
		}
	})
}
