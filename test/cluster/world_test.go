package cluster_test

import (
	"context"
	"errors"
	"flag"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"imgo/cluster/bus/kafkatest"
	"imgo/cluster/growth"
	"imgo/config"
	"imgo/roles"
	"imgo/verify/history"
)

func TestMain(m *testing.M) {
	// The tests wait for timeouts more than they work: more at once than there
	// are cores, unless each takes ten times as much.
	_ = flag.Set("test.parallel", map[bool]string{false: "6", true: "2"}[underRace])
	goleak.VerifyTestMain(m)
}

// patience bounds every wait: far more than anything takes that works.
const patience = 2 * time.Minute

// secret is what the nodes of a world share.
const secret = "0123456789abcdef0123456789abcdef"

// world is a cluster: a Kafka, nodes, and what was pushed and received.
type world struct {
	t     *testing.T
	kafka *kafkatest.Fake
	h     *history.History
	dir   string
	// change alters the settings of every node that starts; nil: nothing.
	change func(*config.Config)
	// times are of a growth; zero: the defaults.
	times growth.Config

	mu    sync.Mutex
	nodes map[string]*node // those that run, by name
	// gossip and calls are the names of nodes by where they are reached.
	gossip, calls map[string]string
	// apart has pairs of nodes that cannot reach one another, and hung nodes
	// that take calls and do not answer.
	apart map[[2]string]bool
	hung  map[string]bool

	pushes  pushes
	devices []*device
}

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, kafka: kafkatest.New(t, kafkatest.Options{}), h: history.New(), dir: t.TempDir(),
		nodes: make(map[string]*node), gossip: make(map[string]string), calls: make(map[string]string),
		apart: make(map[[2]string]bool), hung: make(map[string]bool),
	}
	w.pushes.w = w
	t.Cleanup(func() {
		w.pushes.stop()
		for _, d := range w.devices {
			d.leave()
		}
		w.mend()
		// Those that others need last.
		for _, role := range []string{config.RoleComet, config.RoleJob, config.RoleLogic, config.RoleRouter} {
			for _, n := range w.of(role) {
				n.stop()
			}
		}
	})
	return w
}

// node is one start of a node.
type node struct {
	*roles.Node
	w     *world
	name  string
	roles []string
	cfg   config.Config
	log   *tail
	end   func()
	done  chan struct{}
	err   error // valid once done is closed
}

// start starts a node and waits until it is ready.
func (w *world) start(name string, runs ...string) *node {
	w.t.Helper()
	n := w.begin(name, runs...)
	n.ready()
	return n
}

// begin starts a node. It has the disk that the last one of its name left.
func (w *world) begin(name string, runs ...string) *node {
	w.t.Helper()
	cfg := config.Default()
	cfg.NodeID, cfg.Roles = name, runs
	cfg.DataDir = filepath.Join(w.dir, name)
	cfg.Comet.TCP, cfg.Comet.WS, cfg.HTTP.Listen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Auth.Mode = "none"
	cfg.Cluster.Gossip, cfg.Cluster.RPC, cfg.Cluster.Secret = "127.0.0.1:0", "127.0.0.1:0", secret
	cfg.Kafka.Brokers, cfg.Kafka.WriteTimeout = w.kafka.Brokers(), 3*time.Second
	if underRace {
		cfg.Kafka.Compression = "none" // the race detector makes it all that they do
	}
	cfg.Kept.Partitions, cfg.Live.Partitions = 4, 2
	cfg.Disk.Reserve = 0
	cfg.Delivery.WatchAfter = time.Second
	cfg.Shutdown.DrainRate, cfg.Shutdown.Timeout = 1000, time.Minute
	cfg.Cluster.Join = []string{"127.0.0.1:1"} // nobody: the first one joins itself
	w.mu.Lock()
	for _, other := range w.nodes {
		cfg.Cluster.Join = append(cfg.Cluster.Join, other.GossipAddr())
	}
	w.mu.Unlock()
	if w.change != nil {
		w.change(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		w.t.Fatal(err)
	}
	n := &node{w: w, name: name, roles: runs, cfg: cfg, log: &tail{}, done: make(chan struct{})}
	opts := roles.RunOptions{Stderr: n.log, Version: "test", Growth: w.times, Network: roles.Network{
		Gossip: func(address string) bool { return w.isApart(name, address, w.gossip) },
		Dial:   func(ctx context.Context, address string) (net.Conn, error) { return w.dial(ctx, name, address) },
	}}
	var err error
	if n.Node, err = roles.New(w.t.Context(), cfg, opts); err != nil {
		w.t.Fatalf("start %s: %v\n%s", name, err, n.log)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.end = cancel
	w.mu.Lock()
	w.gossip[n.GossipAddr()], w.calls[n.RPCAddr()] = name, name
	w.nodes[name] = n
	w.mu.Unlock()
	go func() {
		defer close(n.done)
		n.err = n.Run(ctx)
	}()
	w.t.Cleanup(func() {
		n.stop()
		if w.t.Failed() {
			w.t.Logf("log of %s:\n%s", name, n.log)
		}
	})
	return n
}

// ready waits until the node is.
func (n *node) ready() {
	n.w.t.Helper()
	eventually(n.w.t, n.name+" is ready", func() bool {
		select {
		case <-n.done:
			n.w.t.Fatalf("%s ended with: %v\n%s", n.name, n.err, n.log)
		default:
		}
		return get("http://"+n.HTTPAddr().String()+"/readyz", nil) == nil
	})
}

// stop ends the node in good order; one that has ended already is left alone.
func (n *node) stop() {
	n.w.t.Helper()
	if !n.gone() {
		return
	}
	n.end()
	<-n.done
	if n.err != nil {
		n.w.t.Errorf("%s ended with: %v", n.name, n.err)
	}
}

// kill ends the node as a crash looks to everybody else.
func (n *node) kill() {
	n.w.t.Helper()
	if !n.gone() {
		n.w.t.Fatalf("%s does not run", n.name)
	}
	n.Kill()
	<-n.done
	n.end()
}

// gone takes the node from those that run; it says whether it was one.
func (n *node) gone() bool {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	if n.w.nodes[n.name] != n {
		return false
	}
	delete(n.w.nodes, n.name)
	return true
}

// again starts the node's next life, at other ports.
func (n *node) again() *node { return n.w.start(n.name, n.roles...) }

// wipe removes the disk of a node that does not run.
func (n *node) wipe() {
	n.w.t.Helper()
	if err := os.RemoveAll(n.cfg.DataDir); err != nil {
		n.w.t.Fatal(err)
	}
}

// of are the nodes that run a role, by name.
func (w *world) of(role string) []*node {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []*node
	for _, n := range w.nodes {
		if slices.Contains(n.roles, role) {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b *node) int {
		if a.name < b.name {
			return -1
		}
		return 1
	})
	return out
}

// cut cuts each of some nodes off from each of some others, gossip and calls.
func (w *world) cut(some, others []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range some {
		for _, b := range others {
			w.apart[[2]string{a, b}], w.apart[[2]string{b, a}] = true, true
		}
	}
}

// hang has a node's calls, those to it and its own, wait for ever from now on,
// as a process that is stopped in the middle does. Gossip goes on: it is the
// harder case.
func (w *world) hang(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hung[name] = true
}

// mend undoes every cut and hang.
func (w *world) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.apart)
	clear(w.hung)
}

func (w *world) isApart(from, address string, names map[string]string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.apart[[2]string{from, names[address]}]
}

func (w *world) isHung(a, b string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.hung[a] || w.hung[b]
}

var errApart = errors.New("the nodes are cut off from one another")

// dial connects one node to where another is called. The connection breaks
// when the two are cut off.
func (w *world) dial(ctx context.Context, from, address string) (net.Conn, error) {
	if w.isApart(from, address, w.calls) {
		return nil, errApart
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	to := w.calls[address]
	w.mu.Unlock()
	return &wire{Conn: c, w: w, from: from, to: to, address: address, closed: make(chan struct{})}, nil
}

// wire is a connection between two nodes.
type wire struct {
	net.Conn
	w                 *world
	from, to, address string
	once              sync.Once
	closed            chan struct{}
}

func (c *wire) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// pass waits while an end hangs, and fails when the two are cut off.
func (c *wire) pass() error {
	for {
		if c.w.isApart(c.from, c.address, c.w.calls) {
			_ = c.Close()
			return errApart
		}
		if !c.w.isHung(c.from, c.to) {
			return nil
		}
		select {
		case <-c.closed:
			return net.ErrClosed
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (c *wire) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if perr := c.pass(); perr != nil {
		return 0, perr
	}
	return n, err
}

func (c *wire) Write(p []byte) (int, error) {
	if err := c.pass(); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// tail keeps the last part of a log. Safe for concurrent use.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (l *tail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.b = append(l.b, p...); len(l.b) > 1<<18 {
		l.b = append([]byte(nil), l.b[len(l.b)-1<<14:]...)
	}
	return len(p), nil
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b)
}

// eventually polls cond until it holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	within(t, patience, what, cond)
}

func within(t *testing.T, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// settle stops pushing, waits until everybody has everything, and judges.
func (w *world) settle() {
	w.t.Helper()
	w.pushes.stop()
	began := time.Now()
	for limit := began.Add(patience); len(w.h.Lost(1)) > 0 && w.h.Stats().Violations == 0 && time.Now().Before(limit); {
		time.Sleep(10 * time.Millisecond)
	}
	if err := w.h.Verdict(); err != nil {
		w.t.Fatal(err)
	}
	s := w.h.Stats()
	if s.Accepted == 0 || s.Received == 0 {
		w.t.Fatalf("nothing happened: %+v", s)
	}
	w.t.Logf("%d pushes accepted, %d received (%d again) in %d sessions; longest refusal %s; settled in %s",
		s.Accepted, s.Received, s.Repeated, s.Sessions, w.pushes.longestRefusal().Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
}
