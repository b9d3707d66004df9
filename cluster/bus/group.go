package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"imgo/envelope"
)

const (
	// heartbeat is how often a member says that it lives, and sessionTimeout how
	// long Kafka waits for it: the least that brokers allow unless told otherwise
	// (group.min.session.timeout.ms).
	heartbeat      = time.Second
	sessionTimeout = 6 * time.Second
	// rebalanceTimeout is how long the others wait for a member that has yet to
	// end its assignment; MaxFinish leaves it time to join again.
	rebalanceTimeout = 10 * time.Second
	// MaxFinish is how long whoever holds an assignment may still use it once it
	// is Done: its member is taken for dead otherwise.
	MaxFinish = 8 * time.Second
	// rejoinPause is how long a member waits before it joins again after an error.
	rejoinPause = 500 * time.Millisecond
	// leaveTimeout bounds a goodbye to the others.
	leaveTimeout = 2 * time.Second
)

// GroupOptions are a Group's.
type GroupOptions struct {
	// Name is the group's: the prefix and a dot come before it in Kafka. All
	// members of a group must follow the same logs.
	Name string
	// Logs are the topics whose partitions are shared out.
	Logs []*Log
}

// Group is a process's membership in a group that shares partitions out among
// its members, with a position for each partition in Kafka. It is a
// kafka.ConsumerGroup: a position is stored for the generation of the group
// that an assignment belongs to, and Kafka refuses it once there is another,
// so that a member that has lost a partition cannot move it backwards.
//
// Next is for one goroutine at a time; Close may be called from anywhere.
type Group struct {
	bus    *Bus
	id     string
	topics []string
	names  map[string]string // topic → the log's name
	config kafka.ConsumerGroupConfig
	dialer *dialer
	stop   sync.Once

	ctx    context.Context // of farewells, until Close
	cancel context.CancelFunc
	others sync.WaitGroup

	mu     sync.Mutex
	last   *Assignment          // the newest; nil: it is over
	group  *kafka.ConsumerGroup // nil: nobody has called Next yet
	member string               // who this was in the last generation; "": it has left
	join   func()               // ends the farewell to it
}

// Part is a partition of a log, by the log's name, and a place in it.
type Part struct {
	Topic     string
	Partition int32
	// Next is the offset of the next record to read; -1: none is stored.
	Next int64
}

// Assignment is what a member is to read until Done.
type Assignment struct {
	of    *Group
	gen   *kafka.Generation
	parts []Part

	done     chan struct{} // closed when the generation ends
	released chan struct{} // closed when nobody uses the assignment any more
}

// Group joins a group. It asks Kafka for nothing yet: Next does.
func (b *Bus) Group(_ context.Context, o GroupOptions) (*Group, error) {
	if o.Name == "" || len(o.Logs) == 0 {
		return nil, errors.New("join a group: a name and at least one log must be given")
	}
	g := &Group{bus: b, id: b.o.Prefix + "." + o.Name, names: make(map[string]string), dialer: newDialer(), join: func() {}}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	for _, l := range o.Logs {
		g.names[l.topic] = l.name
		g.topics = append(g.topics, l.topic)
	}
	slices.Sort(g.topics)
	log := b.log.With().Str("group", g.id).Logger()
	g.config = kafka.ConsumerGroupConfig{
		ID: g.id, Brokers: b.o.Brokers, Topics: g.topics,
		Dialer: &kafka.Dialer{
			ClientID: b.o.ClientID, Timeout: dialTimeout, DialFunc: g.dialer.dial, TLS: b.o.TLS, SASLMechanism: b.mechanism,
		},
		// Each topic is dealt out one partition at a time: its load is even.
		GroupBalancers:    []kafka.GroupBalancer{kafka.RoundRobinGroupBalancer{}},
		HeartbeatInterval: heartbeat, SessionTimeout: sessionTimeout, RebalanceTimeout: rebalanceTimeout,
		JoinGroupBackoff: rejoinPause, Timeout: callTimeout,
		StartOffset: kafka.LastOffset, // which is -1: no position is stored
		ErrorLogger: kafka.LoggerFunc(func(format string, args ...any) { log.Debug().Msgf(format, args...) }),
	}
	if err := g.config.Validate(); err != nil {
		return nil, fmt.Errorf("join the group %s: %w", g.id, err)
	}
	if err := b.register(g); err != nil {
		_ = g.Close()
		return nil, err
	}
	return g, nil
}

// Next waits for the next assignment, until ctx is done. Whoever calls it has
// done with the one before. An error while Kafka is away, or the group is being
// formed, is no reason to give up: call Next again. It is envelope.ErrClosed
// after Close.
func (g *Group) Next(ctx context.Context) (*Assignment, error) {
	g.release()
	group, err := g.begin()
	if err != nil {
		return nil, err
	}
	gen, err := group.Next(ctx)
	switch {
	case errors.Is(err, kafka.ErrGroupClosed):
		return nil, errClosed("the group " + g.id)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		if !errors.Is(err, kafka.RebalanceInProgress) { // then it stays who it is
			g.farewell()
		}
		return nil, envelope.Errorf(envelope.CodeUnavailable, "join the group %s at %s: %v", g.id, strings.Join(g.bus.o.Brokers, ", "), explain(err))
	}
	a := &Assignment{of: g, gen: gen, done: make(chan struct{}), released: make(chan struct{})}
	for topic, parts := range gen.Assignments {
		for _, p := range parts {
			a.parts = append(a.parts, Part{Topic: g.names[topic], Partition: int32(p.ID), Next: max(p.Offset, -1)})
		}
	}
	slices.SortFunc(a.parts, func(x, y Part) int {
		if c := strings.Compare(x.Topic, y.Topic); c != 0 {
			return c
		}
		return int(x.Partition - y.Partition)
	})
	// The member joins again only when this has returned: until then its
	// positions of this generation are taken.
	gen.Start(func(ctx context.Context) {
		select {
		case <-ctx.Done():
		case <-a.released:
		}
		close(a.done)
		timer := time.NewTimer(MaxFinish)
		defer timer.Stop()
		select {
		case <-a.released:
		case <-timer.C:
		}
	})
	g.mu.Lock()
	defer g.mu.Unlock()
	g.join() // whoever it waits for is not in this generation
	g.last, g.member = a, gen.MemberID
	return a, nil
}

// farewell takes who this was in the last generation out of the group, as soon
// as Kafka can be reached. After an error kafka-go joins as somebody new, and
// says goodbye for the old one only once: when that is lost with the error, as
// with a broker that is away, Kafka would have all wait for a member that
// nobody is, for the length of a session.
func (g *Group) farewell() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.member == "" || g.ctx.Err() != nil {
		return
	}
	member := g.member
	g.member = ""
	var ctx context.Context
	ctx, g.join = context.WithCancel(g.ctx)
	g.others.Go(func() {
		t := g.bus.transport(metadataTTL, g.topics...)
		defer t.CloseIdleConnections()
		client := g.bus.client(callTimeout, t)
		for {
			res, err := client.LeaveGroup(ctx, &kafka.LeaveGroupRequest{GroupID: g.id, Members: []kafka.LeaveGroupRequestMember{{ID: member}}})
			// A coordinator that has just taken over answers that it is not ready,
			// and kafka-go v0.4.51 reads the first two fields of the answer the
			// wrong way round: the lower half of its throttle time is the error.
			if err == nil && res.Error == nil && res.Throttle.Milliseconds()&0xffff == 0 && len(res.Members) == 1 &&
				(res.Members[0].Error == nil || errors.Is(res.Members[0].Error, kafka.UnknownMemberId)) {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(rejoinPause / 2):
			}
		}
	})
}

// begin makes the member, which joins at once and, while nobody calls Next, has
// the others wait for it at every change: so not before.
func (g *Group) begin() (*kafka.ConsumerGroup, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.group != nil:
		return g.group, nil
	case g.ctx.Err() != nil:
		return nil, errClosed("the group " + g.id)
	}
	group, err := kafka.NewConsumerGroup(g.config)
	if err != nil {
		return nil, fmt.Errorf("join the group %s: %w", g.id, err)
	}
	g.group = group
	return group, nil
}

// release ends the newest assignment, if there is one.
func (g *Group) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.last != nil {
		close(g.last.released)
		g.last = nil
	}
}

// Parts are the partitions, in order, with the positions that are stored.
// Nobody may change them.
func (a *Assignment) Parts() []Part { return a.parts }

// Done is closed when the assignment ends: others may read its partitions soon,
// or do so already. Positions may be stored for MaxFinish more.
func (a *Assignment) Done() <-chan struct{} { return a.done }

// Commit stores positions of some of Parts. One that comes too late, when the
// partitions are others', is refused with an error and changes nothing. When
// ctx is done first the call still ends by itself.
func (a *Assignment) Commit(ctx context.Context, at []Part) error {
	topics := make(map[string]string, len(a.of.names))
	for topic, name := range a.of.names {
		topics[name] = topic
	}
	offsets := make(map[string]map[int]int64)
	for _, p := range at {
		if !slices.ContainsFunc(a.parts, func(own Part) bool { return own.Topic == p.Topic && own.Partition == p.Partition }) {
			return envelope.Errorf(envelope.CodeInvalid, "store a position of %s partition %d: it is not of this assignment", p.Topic, p.Partition)
		}
		topic := topics[p.Topic]
		if offsets[topic] == nil {
			offsets[topic] = make(map[int]int64)
		}
		offsets[topic][int(p.Partition)] = p.Next
	}
	select {
	case <-a.released:
		return envelope.Errorf(envelope.CodeUnavailable, "store positions of the group %s: the assignment is over", a.of.id)
	default:
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := a.gen.CommitOffsets(offsets); err != nil {
		return envelope.Errorf(envelope.CodeUnavailable, "store positions of the group %s: %v", a.of.id, explain(err))
	}
	return nil
}

// Close leaves the group, so that the others need not wait for this member's
// death, and ends its assignment. A second call waits for the first.
func (g *Group) Close() error {
	g.stop.Do(func() {
		g.cancel()
		g.release()
		defer g.others.Wait()
		g.mu.Lock()
		group := g.group
		g.mu.Unlock()
		if group == nil {
			g.dialer.close() // it has never joined
			return
		}
		left := make(chan struct{})
		go func() {
			defer close(left)
			_ = group.Close() // never fails
		}()
		timer := time.NewTimer(leaveTimeout)
		defer timer.Stop()
		select {
		case <-left:
		case <-timer.C:
			g.dialer.close() // it hangs on a broker that does not answer
			<-left
		}
		g.dialer.close()
	})
	return nil
}

var _ closer = (*Group)(nil)
