package bus_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"imgo/cluster/bus"
	"imgo/envelope"
)

// member is in a group until leave, and records its assignments.
type member struct {
	g *bus.Group

	mu     sync.Mutex
	parts  []bus.Part
	now    *bus.Assignment
	failed int // calls of Next that failed
	done   chan struct{}
}

func join(t *testing.T, b *bus.Bus, logs ...*bus.Log) *member {
	t.Helper()
	g, err := b.Group(testContext(t), bus.GroupOptions{Name: "job", Logs: logs})
	if err != nil {
		t.Fatalf("Group: %v", err)
	}
	m := &member{g: g, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		for {
			a, err := g.Next(context.Background())
			if errors.Is(err, envelope.ErrClosed) {
				return
			}
			if err != nil { // there is no coordinator yet, or it is away
				m.mu.Lock()
				m.failed++
				m.mu.Unlock()
				continue
			}
			m.mu.Lock()
			m.parts, m.now = a.Parts(), a
			m.mu.Unlock()
			<-a.Done()
			m.mu.Lock()
			m.parts = nil
			m.mu.Unlock()
		}
	}()
	t.Cleanup(m.leave)
	return m
}

func (m *member) leave() {
	_ = m.g.Close() // never fails
	<-m.done
}

func (m *member) has() []bus.Part {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.parts
}

func (m *member) failures() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failed
}

func (m *member) assignment() *bus.Assignment {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

func twoLogs(t *testing.T, b *bus.Bus) (kept, live *bus.Log) {
	t.Helper()
	for name, l := range map[string]**bus.Log{"kept": &kept, "live": &live} {
		var err error
		if *l, err = b.Log(testContext(t), bus.TopicOptions{Name: name, Partitions: 3}); err != nil {
			t.Fatal(err)
		}
	}
	return kept, live
}

func testGroup(t *testing.T, brokers []string) {
	p := prefix()
	b := open(t, options(brokers, p))
	kept, live := twoLogs(t, b)
	first := join(t, b, kept, live)
	eventually(t, "all partitions", func() bool { return len(first.has()) == 6 })
	for i, got := range first.has() {
		want := bus.Part{Topic: "kept", Partition: int32(i % 3), Next: -1}
		if i >= 3 {
			want.Topic = "live"
		}
		if got != want {
			t.Errorf("part %d is %+v, want %+v", i, got, want)
		}
	}
	old := first.assignment()
	if err := old.Commit(testContext(t), []bus.Part{{"kept", 0, 10}, {"kept", 1, 11}, {"live", 2, 12}}); err != nil {
		t.Fatalf("Commit: %v", err)
	}
	if err := old.Commit(testContext(t), []bus.Part{{"kept", 7, 1}}); !errors.Is(err, envelope.ErrInvalid) {
		t.Errorf("a position of a partition of another member: %v", err)
	}

	// A second process gets a part of the partitions, with the positions of the first.
	b2 := open(t, options(brokers, p))
	kept2, live2 := twoLogs(t, b2)
	second := join(t, b2, kept2, live2)
	eventually(t, "shares", func() bool {
		return len(first.has()) > 0 && len(first.has())+len(second.has()) == 6 && len(second.has()) > 1
	})
	next := map[bus.Part]int64{}
	for _, p := range append(first.has(), second.has()...) {
		next[bus.Part{Topic: p.Topic, Partition: p.Partition}] = p.Next
	}
	for part, want := range map[bus.Part]int64{
		{Topic: "kept", Partition: 0}: 10, {Topic: "kept", Partition: 1}: 11, {Topic: "kept", Partition: 2}: -1,
		{Topic: "live", Partition: 0}: -1, {Topic: "live", Partition: 2}: 12,
	} {
		if got, ok := next[part]; !ok || got != want {
			t.Errorf("%+v goes on at %d, want %d", part, got, want)
		}
	}

	// The first can store positions only of the partitions that it still has.
	if err := old.Commit(testContext(t), []bus.Part{{"kept", 0, 1}}); !errors.Is(err, envelope.ErrUnavailable) {
		t.Errorf("a position of an assignment that is over: %v", err)
	}
	mine := first.has()[0]
	mine.Next = 20
	if err := first.assignment().Commit(testContext(t), []bus.Part{mine}); err != nil {
		t.Errorf("Commit: %v", err)
	}

	// The first does not wait for a member that leaves.
	started := time.Now()
	second.leave()
	eventually(t, "the first has all again", func() bool { return len(first.has()) == 6 })
	t.Logf("after the member has left it took %v", time.Since(started).Round(time.Millisecond))
	for _, p := range first.has() {
		if p.Topic == mine.Topic && p.Partition == mine.Partition && p.Next != 20 {
			t.Errorf("%+v goes on at %d, want 20", mine, p.Next)
		}
	}
}

func TestGroup(t *testing.T) { testGroup(t, fake(t).Brokers()) }

// While Kafka is away, assignments end and there are no new ones. Afterwards the group
// goes on.
func TestGroupOutlastsAnOutage(t *testing.T) {
	f := fake(t)
	b := open(t, options(f.Brokers(), prefix()))
	kept, live := twoLogs(t, b)
	m := join(t, b, kept, live)
	eventually(t, "all partitions", func() bool { return len(m.has()) == 6 })
	if err := m.assignment().Commit(testContext(t), []bus.Part{{"kept", 0, 10}}); err != nil {
		t.Fatal(err)
	}
	// The coordinator is not ready for the first requests to leave.
	f.Cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.LeaveGroup}, TopLevel: true, Err: kerr.CoordinatorLoadInProgress, Count: 2})
	leaves := f.Cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.LeaveGroup}, Observe: true, Count: -1})
	f.Stop()
	eventually(t, "the assignment ends", func() bool { return len(m.has()) == 0 })
	// The member id stays if Kafka is back at the first try to join again.
	before := m.failures()
	eventually(t, "it cannot join again", func() bool { return m.failures() > before })
	f.Resume()
	// The others need not wait for the old member id.
	if err := leaves.Wait(testContext(t), 1); err != nil {
		t.Fatalf("the old member id has not left: %v", err)
	}
	eventually(t, "all partitions again", func() bool { return len(m.has()) == 6 })
	if got := m.has()[0]; got != (bus.Part{Topic: "kept", Partition: 0, Next: 10}) {
		t.Errorf("it goes on at %+v", got)
	}
}

// When a member ends while it joins, the others have its partitions at the latest at
// the end of its session.
func TestGroupLosesAJoiningMember(t *testing.T) {
	f := fake(t)
	b := open(t, options(f.Brokers(), prefix()))
	kept, live := twoLogs(t, b)
	group := func() *bus.Group {
		g, err := b.Group(testContext(t), bus.GroupOptions{Name: "job", Logs: []*bus.Log{kept, live}})
		if err != nil {
			t.Fatalf("Group: %v", err)
		}
		return g
	}
	stays, goes := group(), group()
	next := func() *bus.Assignment {
		t.Helper()
		for {
			a, err := stays.Next(testContext(t))
			if err == nil {
				return a
			}
			if errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("Next: %v", err)
			}
		}
	}
	waitForEnd := func(a *bus.Assignment) {
		t.Helper()
		select {
		case <-a.Done():
		case <-testContext(t).Done():
			t.Fatalf("it keeps %d partitions of 6", len(a.Parts()))
		}
	}
	a := next()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = goes.Next(context.Background())
	}()
	waitForEnd(a) // the other member waits until this one joins again
	_ = goes.Close()
	<-gone
	for a = next(); len(a.Parts()) < 6; a = next() {
		waitForEnd(a)
	}
	_ = stays.Close()
}

// A member that is closed while it waits for the others is no longer in the group.
func TestGroupClosesWhileItJoins(t *testing.T) {
	f := fake(t)
	p := prefix()
	b := open(t, options(f.Brokers(), p))
	kept, live := twoLogs(t, b)
	closes := join(t, b, kept, live)
	eventually(t, "all partitions", func() bool { return len(closes.has()) == 6 })
	slow, err := b.Group(testContext(t), bus.GroupOptions{Name: "job", Logs: []*bus.Log{kept, live}})
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	var held *bus.Assignment
	eventually(t, "an assignment of two", func() bool {
		held, err = slow.Next(testContext(t))
		return err == nil && len(held.Parts()) < 6
	})
	third := join(t, b, kept, live)
	<-held.Done() // slow goes on with it, so all wait
	eventually(t, "it joins", func() bool { return len(closes.has()) == 0 })
	closes.leave()
	transport := &kafka.Transport{}
	defer transport.CloseIdleConnections()
	client := &kafka.Client{Addr: kafka.TCP(f.Brokers()...), Transport: transport}
	described, err := client.DescribeGroups(testContext(t), &kafka.DescribeGroupsRequest{GroupIDs: []string{p + ".job"}})
	// On a slow machine the group may have given up waiting for slow.
	if err != nil || len(described.Groups) != 1 || len(described.Groups[0].Members) > 2 {
		t.Errorf("the group has %+v, %v; want two members", described, err)
	}
	third.leave()
}

// Commit does not wait for a slow Kafka for longer than its caller.
func TestCommitEndsWithItsContext(t *testing.T) {
	f := fake(t)
	b := open(t, options(f.Brokers(), prefix()))
	kept, live := twoLogs(t, b)
	m := join(t, b, kept, live)
	eventually(t, "all partitions", func() bool { return len(m.has()) == 6 })
	f.Slow(time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := m.assignment().Commit(ctx, []bus.Part{{"kept", 0, 10}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Commit: %v", err)
	}
	f.Slow(0)
	f.Stop() // the answers under way are late
	f.Resume()
	m.leave()
}

// Close does not wait for a Kafka that is away.
func TestGroupClosesWithoutKafka(t *testing.T) {
	f := fake(t)
	b := open(t, options(f.Brokers(), prefix()))
	kept, live := twoLogs(t, b)
	m := join(t, b, kept, live)
	eventually(t, "all partitions", func() bool { return len(m.has()) == 6 })
	f.Stop()
	m.leave()
	f.Resume()
}
