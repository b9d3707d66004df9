package members

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// maxLost bounds how many addresses of dead nodes are remembered, and
	// lostFor for how long. A network partition may last for lostFor: its halves then
	// find each other without cluster.join.
	maxLost = 256
	lostFor = time.Hour
	// joinInterval is the time between two tries of an address that answers but is not
	// that of a known node, such as the address of a load balancer.
	joinInterval = 10 * time.Second
	// maxLostInterval is the longest time between two tries of a dead node's address.
	maxLostInterval = 30 * time.Second
	// maxJoins is how many addresses are tried at the same time.
	maxJoins = 8
	// A node that has run for less than newNodeTime ends if an older node with its
	// name is alive. An older node ends after replacedTime.
	newNodeTime  = 10 * time.Second
	replacedTime = 15 * time.Second
)

// Run looks for other nodes until ctx is done or Close is called. Then it ends gossip
// without leaving: call Leave first. If another living node has this node's name, Run
// leaves and returns an error. It may be called once.
func (m *Members) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, m.Close()) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { m.joinMissing(gctx); return nil })
	g.Go(func() error { return m.watch(gctx) })
	g.Go(func() error {
		select {
		case <-gctx.Done():
		case <-m.closeDone:
			cancel()
		}
		m.transport.abort()
		return nil
	})
	return g.Wait()
}

// joinMissing tries again and again to join nodes that are missing, until ctx is done.
func (m *Members) joinMissing(ctx context.Context) {
	tick := time.NewTicker(m.o.RejoinInterval)
	defer tick.Stop()
	next := make(map[string]time.Time) // earliest time of the next try, by address
	var warned time.Time
	for {
		reached, errs := m.join(ctx, next)
		if ctx.Err() != nil {
			return
		}
		alone := len(m.Snapshot().Nodes) < 2
		switch {
		case alone && len(m.o.Join) > 0 && time.Since(warned) > time.Minute:
			warned = time.Now()
			m.log.Warn().Errs("errors", errs).Strs("join", m.o.Join).Msg("no other node found yet; trying on")
		case len(errs) > 0:
			m.log.Debug().Errs("errors", errs).Int("reached", reached).Msg("nodes that do not answer")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// join exchanges states with the missing nodes whose time in next has come. It returns
// how many it reached.
func (m *Members) join(ctx context.Context, next map[string]time.Time) (reached int, errs []error) {
	addrs, errs := m.missing(ctx)
	for addr := range next {
		if !slices.Contains(addrs, addr) {
			delete(next, addr)
		}
	}
	now := time.Now()
	addrs = slices.DeleteFunc(addrs, func(addr string) bool { return now.Before(next[addr]) })
	var (
		mu sync.Mutex // guards next, reached and errs
		g  errgroup.Group
	)
	g.SetLimit(maxJoins)
	for _, addr := range addrs {
		g.Go(func() error {
			if ctx.Err() != nil {
				return nil
			}
			_, err := m.list.Join([]string{addr})
			mu.Lock()
			defer mu.Unlock()
			died, lost := m.died(addr)
			if err != nil {
				errs = append(errs, err)
				if lost { // the longer a node is dead, the rarer the tries
					next[addr] = time.Now().Add(min(time.Since(died)/10, maxLostInterval))
				}
				return nil
			}
			reached++
			// A node that counts as dead needs a second exchange to refute that, so
			// its address is tried again soon.
			if !lost {
				next[addr] = time.Now().Add(joinInterval)
			}
			return nil
		})
	}
	g.Wait() //nolint:errcheck // the functions give none
	return reached, errs
}

// died returns when the node at addr died. ok is false if none did.
func (m *Members) died(addr string) (since time.Time, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	since, ok = m.lost[addr]
	return since, ok
}

// missing returns the addresses of Options.Join and of dead nodes at which no living
// node is known.
func (m *Members) missing(ctx context.Context) (addrs []string, errs []error) {
	for _, j := range m.o.Join {
		host, port := splitPort(j)
		if port == "" {
			port = strconv.Itoa(DefaultPort)
		}
		hosts := []string{host}
		if net.ParseIP(host) == nil {
			lctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			found, err := m.o.Resolver.LookupHost(lctx, host)
			cancel()
			if err != nil {
				errs = append(errs, fmt.Errorf("look up %s: %w", host, err))
				continue
			}
			hosts = found
		}
		for _, h := range hosts {
			addrs = append(addrs, net.JoinHostPort(h, port))
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for addr, since := range m.lost {
		if time.Since(since) > lostFor {
			delete(m.lost, addr)
			continue
		}
		addrs = append(addrs, addr)
	}
	slices.Sort(addrs)
	addrs = slices.Compact(addrs)
	here := map[string]bool{m.advertise: true, m.bound: true}
	for _, l := range m.known {
		here[l.addr] = true
	}
	return slices.DeleteFunc(addrs, func(a string) bool { return here[a] }), errs
}

// watch logs what is wrong with the cluster. If another living node has this node's name
// and this one has to end, watch leaves and returns an error.
func (m *Members) watch(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	began := time.Now()
	logged := map[string]bool{}
	seen := map[string]time.Time{} // when nodes with this name were first seen, by gossip name
	for {
		v := m.Snapshot()
		for _, text := range v.Mismatches {
			if !logged[text] {
				logged[text] = true
				m.log.Error().Msg(text)
			}
		}
		if err := m.checkName(ctx, began, seen); err != nil {
			// The others call the other node with this name only when this one has left.
			return errors.Join(err, m.Leave(ctx))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-v.Next():
		case <-tick.C:
		}
	}
}

// checkName looks at the other nodes with this node's name. Such a node is nearly always
// an earlier start of this node that is not yet known to be dead. If it answers, one of
// the two has to end: the later one if it has only just started, or else the older one,
// which was away and was replaced. checkName returns an error if it is this one.
func (m *Members) checkName(ctx context.Context, began time.Time, seen map[string]time.Time) error {
	self := m.self()
	var others []life
	m.mu.Lock()
	for _, l := range m.known {
		if l.name == self.name && l.gossip != self.gossip {
			others = append(others, *l)
		}
	}
	m.mu.Unlock()
	for _, o := range others {
		if seen[o.gossip].IsZero() {
			seen[o.gossip] = time.Now()
		}
		// The nodes' clocks differ, so this node's clock measures both times.
		justStarted := seen[o.gossip].Sub(began) < newNodeTime
		switch {
		case self.later(&o) && justStarted && m.answers(ctx, &o):
			return fmt.Errorf("another node with the name %q is alive at %s: give each node a node.name of its own, or stop that one first",
				o.name, o.addr)
		case o.later(&self) && time.Since(seen[o.gossip]) > replacedTime && m.answers(ctx, &o):
			return fmt.Errorf("this node was replaced while it was away by another with the name %q at %s: give each node a node.name of its own",
				o.name, o.addr)
		}
	}
	return nil
}

// answers reports whether a node answers a ping.
func (m *Members) answers(ctx context.Context, l *life) bool {
	addr, err := net.ResolveUDPAddr("udp", l.addr)
	if err != nil || ctx.Err() != nil {
		return false
	}
	_, err = m.list.Ping(l.gossip, addr)
	return err == nil
}
