package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"imgo/envelope"
	"imgo/internal/wait"
)

const (
	// heartbeat is the interval of a member's heartbeats. Kafka waits for them for
	// sessionTimeout, which is the shortest that brokers allow by default
	// (group.min.session.timeout.ms).
	heartbeat      = time.Second
	sessionTimeout = 6 * time.Second
	// rebalanceTimeout is how long the other members wait for a member that has yet
	// to end its assignment. maxFinish is shorter, to leave it time to join again.
	rebalanceTimeout = 10 * time.Second
	// maxFinish is how long an assignment may be used after it is Done. A member that
	// uses it for longer counts as dead.
	maxFinish = 8 * time.Second
	// rejoinPause is the pause before a member joins again after an error.
	rejoinPause = 500 * time.Millisecond
	// leaveTimeout bounds how long Close waits for kafka-go to leave the group, and then
	// its own request to leave.
	leaveTimeout = 2 * time.Second
)

// GroupOptions are the options of Bus.Group.
type GroupOptions struct {
	// Name is the name of the group. Its name in Kafka is the prefix, a dot, and Name.
	// All members of a group must have the same Logs.
	Name string
	// Logs are the topics whose partitions the group distributes.
	Logs []*Log
}

// Group is this process's membership in a group that distributes partitions among its
// members, with a position for each partition in Kafka. It is a kafka.ConsumerGroup. A
// position is stored for the group's generation that an assignment belongs to, and
// Kafka refuses it in a later generation. So a member that has lost a partition cannot
// move its position backwards.
//
// Next is for one goroutine at a time. Close is safe for concurrent use.
type Group struct {
	bus    *Bus
	id     string
	topics []string
	names  map[string]string // topic → the log's name
	config kafka.ConsumerGroupConfig
	dialer *dialer
	stop   sync.Once

	ctx    context.Context // of requests to leave; ends with Close
	cancel context.CancelFunc
	calls  sync.WaitGroup // goroutines that leave or store positions

	mu      sync.Mutex
	current *Assignment          // nil: the newest one is over
	group   *kafka.ConsumerGroup // nil before the first Next
	member  string               // this member's id in the last generation. It is "" if it has left
	// stopLeaving ends the requests to take an earlier member id out of the group.
	stopLeaving func()
}

// Part is a partition of a log, by the log's name, and a position in it.
type Part struct {
	Topic     string
	Partition int32
	// Next is the offset of the next record to read. It is -1 if no position is stored.
	Next int64
}

// Assignment has the partitions that a member is to read until Done.
type Assignment struct {
	group *Group
	gen   *kafka.Generation
	parts []Part

	done     chan struct{} // closed when the generation ends
	released chan struct{} // closed when the assignment is no longer used
}

// Group makes a membership. It joins the group at the first Next, which tells of errors of Kafka. Group itself
// returns an error only for options that cannot be used.
func (b *Bus) Group(_ context.Context, o GroupOptions) (*Group, error) {
	if o.Name == "" || len(o.Logs) == 0 {
		return nil, errors.New("join a group: a name and at least one log must be given")
	}
	g := &Group{
		bus: b, id: b.o.Prefix + "." + o.Name, names: make(map[string]string), dialer: &dialer{tls: b.o.TLS}, stopLeaving: func() {},
	}
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
			ClientID: b.o.ClientID, Timeout: dialTimeout, DialFunc: g.dialer.dial, SASLMechanism: b.mechanism,
		},
		// Round robin gives each member an even share of each topic.
		GroupBalancers:    []kafka.GroupBalancer{kafka.RoundRobinGroupBalancer{}},
		HeartbeatInterval: heartbeat, SessionTimeout: sessionTimeout, RebalanceTimeout: rebalanceTimeout,
		JoinGroupBackoff: rejoinPause, Timeout: callTimeout,
		StartOffset: kafka.LastOffset, // -1, as for Part.Next
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

// Next waits for the next assignment, until ctx is done. The caller must no longer use
// the assignment before. It returns an error while Kafka is away or the group changes:
// call Next again. The error is envelope.ErrClosed after Close.
func (g *Group) Next(ctx context.Context) (*Assignment, error) {
	g.release()
	group, err := g.join()
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
		if !errors.Is(err, kafka.RebalanceInProgress) { // the member id stays in a rebalance
			g.leave()
		}
		return nil, envelope.Errorf(envelope.CodeUnavailable, "join the group %s at %s: %v",
			g.id, strings.Join(g.bus.o.Brokers, ", "), explain(err))
	}
	a := &Assignment{group: g, gen: gen, done: make(chan struct{}), released: make(chan struct{})}
	for topic, parts := range gen.Assignments {
		for _, p := range parts {
			a.parts = append(a.parts, Part{Topic: g.names[topic], Partition: int32(p.ID), Next: max(p.Offset, -1)})
		}
	}
	slices.SortFunc(a.parts, func(x, y Part) int {
		return cmp.Or(strings.Compare(x.Topic, y.Topic), cmp.Compare(x.Partition, y.Partition))
	})
	// The member joins again only after this function has returned. Until then Kafka
	// takes positions of this generation.
	gen.Start(func(ctx context.Context) {
		select {
		case <-ctx.Done():
		case <-a.released:
		}
		close(a.done)
		timer := time.NewTimer(maxFinish)
		defer timer.Stop()
		select {
		case <-a.released:
		case <-timer.C:
		}
	})
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopLeaving() // an earlier member id is not in this generation
	g.current, g.member = a, gen.MemberID
	return a, nil
}

// leave takes the last generation's member id out of the group, as soon as Kafka can
// be reached. After an error, kafka-go joins with a new member id, and asks only once
// to remove the old one. If that request is lost, as when a broker is away, all
// members wait for the old id until its session ends.
func (g *Group) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.member == "" || g.ctx.Err() != nil {
		return
	}
	member := g.member
	g.member = ""
	var ctx context.Context
	ctx, g.stopLeaving = context.WithCancel(g.ctx)
	g.calls.Go(func() { g.remove(ctx, member) })
}

// remove takes a member id out of the group. It tries until ctx is done.
func (g *Group) remove(ctx context.Context, member string) {
	t := g.bus.transport(metadataTTL, g.topics...)
	defer t.CloseIdleConnections()
	client := g.bus.client(callTimeout, t)
	backoff := wait.Backoff{Min: rejoinPause / 2, Max: rejoinPause}
	for ctx.Err() == nil {
		res, err := client.LeaveGroup(ctx, &kafka.LeaveGroupRequest{
			GroupID: g.id, Members: []kafka.LeaveGroupRequestMember{{ID: member}},
		})
		// A coordinator that has just taken over answers that it is not ready.
		// kafka-go v0.4.51 swaps the first two fields of the answer, so the error
		// is in the lower half of the throttle time.
		if err == nil && res.Error == nil && res.Throttle.Milliseconds()&0xffff == 0 && len(res.Members) == 1 &&
			(res.Members[0].Error == nil || errors.Is(res.Members[0].Error, kafka.UnknownMemberId)) {
			return
		}
		_ = backoff.Sleep(ctx) // the loop looks at ctx
	}
}

// join makes the member, if there is none. A member joins at once. It makes the others
// wait at every change while Next is not called, so it is made by the first Next.
func (g *Group) join() (*kafka.ConsumerGroup, error) {
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

// release ends the current assignment, if there is one.
func (g *Group) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.current != nil {
		close(g.current.released)
		g.current = nil
	}
}

// Parts returns the partitions, in order, with their stored positions. The caller must
// not change the slice.
func (a *Assignment) Parts() []Part { return a.parts }

// Done is closed when the assignment ends. Other members may read its partitions soon,
// or do so already. Positions can be stored for another 8 s.
func (a *Assignment) Done() <-chan struct{} { return a.done }

// Commit stores positions of some of Parts. It returns an error, and changes nothing,
// if the partitions belong to other members already. If ctx is done first, it returns
// ctx's error, and the positions may still be stored.
func (a *Assignment) Commit(ctx context.Context, positions []Part) error {
	topics := make(map[string]string, len(a.group.names))
	for topic, name := range a.group.names {
		topics[name] = topic
	}
	offsets := make(map[string]map[int]int64)
	for _, p := range positions {
		if !slices.ContainsFunc(a.parts, func(own Part) bool { return own.Topic == p.Topic && own.Partition == p.Partition }) {
			return envelope.Errorf(envelope.CodeInvalid, "store a position of %s partition %d: it is not of this assignment",
				p.Topic, p.Partition)
		}
		topic := topics[p.Topic]
		if offsets[topic] == nil {
			offsets[topic] = make(map[int]int64)
		}
		offsets[topic][int(p.Partition)] = p.Next
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	stored, err := a.startCommit(offsets)
	if err == nil {
		select {
		case err = <-stored:
		case <-ctx.Done():
			return fmt.Errorf("store positions of the group %s (they may still be stored): %w", a.group.id, ctx.Err())
		}
	}
	if err != nil {
		return envelope.Errorf(envelope.CodeUnavailable, "store positions of the group %s: %v", a.group.id, explain(err))
	}
	return nil
}

// startCommit stores positions on a goroutine, because kafka-go does not look at a context. Close waits for it.
func (a *Assignment) startCommit(offsets map[string]map[int]int64) (stored <-chan error, err error) {
	a.group.mu.Lock() // so that the goroutine begins before release and Close, or not at all
	defer a.group.mu.Unlock()
	select {
	case <-a.released:
		return nil, errors.New("the assignment is over")
	default:
	}
	result := make(chan error, 1)
	a.group.calls.Go(func() { result <- a.gen.CommitOffsets(offsets) })
	return result, nil
}

// Close leaves the group, so that the others need not wait until this member counts as
// dead, and ends its assignment. A second call waits for the first.
func (g *Group) Close() error {
	g.stop.Do(func() {
		g.cancel()
		defer g.bus.forget(g)
		defer g.calls.Wait()
		defer g.dialer.close()
		g.mu.Lock()
		group, current := g.group, g.current
		g.mu.Unlock()
		if group == nil {
			return // it has never joined
		}
		if g.closeGroup(group, current) {
			return
		}
		// The member may be in the group, and all others would wait for it until its session ends.
		g.mu.Lock()
		member := g.member
		g.mu.Unlock()
		if member != "" {
			ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
			defer cancel()
			g.remove(ctx, member)
		}
	})
	return nil
}

// closeGroup ends the assignment and closes kafka-go's member. left is false if that could not leave the group in
// time: a broker does not answer, or it has joined again and waits for other members.
func (g *Group) closeGroup(group *kafka.ConsumerGroup, current *Assignment) (left bool) {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_ = group.Close() // never fails
	}()
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	if current != nil {
		// kafka-go must learn that it is closed before it learns that the assignment is over: it would join again.
		select {
		case <-current.done:
		case <-ctx.Done():
		}
	}
	g.release()
	select {
	case <-closed:
		return true
	case <-ctx.Done():
		g.dialer.close()
		<-closed
		return false
	}
}
