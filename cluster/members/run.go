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
	// maxLost bounds how many addresses of nodes that died are remembered, and
	// lostFor for how long: that is how long a partition of the network may
	// last for its halves to find each other without cluster.join.
	maxLost = 256
	lostFor = time.Hour
	// joinEvery is how often an address is tried that answers and is none of a
	// node that is known: that of a load balancer, say.
	joinEvery = 10 * time.Second
	// lostEvery is how often an address of a node that died long ago is tried.
	lostEvery = 30 * time.Second
	// atOnce is how many addresses are tried at the same time.
	atOnce = 8
	// settleTime is how long after its start a node gives way to an older one of
	// its name, and replacedTime how long after that one's start an older one
	// lives on.
	settleTime   = 10 * time.Second
	replacedTime = 15 * time.Second
)

// Run looks for other nodes until ctx is done or Close is called, and then ends
// gossip, without leaving: call Leave first. It returns an error when another
// living node has this node's name. It may be called once.
func (m *Members) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, m.Close()) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { m.seek(gctx); return nil })
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

// seek joins the nodes that should be there and are not.
func (m *Members) seek(ctx context.Context) {
	tick := time.NewTicker(m.o.RejoinInterval)
	defer tick.Stop()
	next := make(map[string]time.Time) // when an address is worth another try
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

// join exchanges states with the nodes that should be there and are not known
// to be, and counts those that it reached.
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
		mu sync.Mutex // of what the attempts find
		g  errgroup.Group
	)
	g.SetLimit(atOnce)
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
				if lost { // the longer ago the less hope
					next[addr] = time.Now().Add(min(time.Since(died)/10, lostEvery))
				}
				return nil
			}
			reached++
			// A node that was thought dead has yet to say that it is not, which
			// takes a second exchange.
			if !lost {
				next[addr] = time.Now().Add(joinEvery)
			}
			return nil
		})
	}
	g.Wait() //nolint:errcheck // the functions give none
	return reached, errs
}

// died says when a node at addr died; ok: one did.
func (m *Members) died(addr string) (since time.Time, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	since, ok = m.lost[addr]
	return since, ok
}

// missing are the addresses of Join, and of nodes that died, at which no living
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

// watch says what is wrong with the cluster, and ends when this node's name is
// another's.
func (m *Members) watch(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	began := time.Now()
	said := map[string]bool{}
	seen := map[string]time.Time{} // when a namesake was first seen
	for {
		v := m.Snapshot()
		for _, text := range v.Mismatches {
			if !said[text] {
				said[text] = true
				m.log.Error().Msg(text)
			}
		}
		if err := m.namesakes(ctx, began, seen); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-v.Next():
		case <-tick.C:
		}
	}
}

// namesakes looks at the other nodes with this one's name. Such a node is
// nearly always this one's last life, not yet known to be dead. One that
// answers is not: then the later of the two gives way, if it has only just
// started, or else the older one, which had been away and was replaced.
func (m *Members) namesakes(ctx context.Context, began time.Time, seen map[string]time.Time) error {
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
		// Without a clock in common only the order of the starts is known.
		justStarted := seen[o.gossip].Sub(began) < settleTime
		switch {
		case self.later(&o) && justStarted && m.answers(ctx, &o):
			return fmt.Errorf("another node with the name %q is alive at %s: give each node a node.name of its own, or stop that one first", o.name, o.addr)
		case o.later(&self) && time.Since(seen[o.gossip]) > replacedTime && m.answers(ctx, &o):
			return fmt.Errorf("this node was replaced while it was away by another with the name %q at %s: give each node a node.name of its own", o.name, o.addr)
		}
	}
	return nil
}

// answers says whether a node is really there.
func (m *Members) answers(ctx context.Context, l *life) bool {
	addr, err := net.ResolveUDPAddr("udp", l.addr)
	if err != nil || ctx.Err() != nil {
		return false
	}
	_, err = m.list.Ping(l.gossip, addr)
	return err == nil
}
