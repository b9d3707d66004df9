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
	"imgo/internal/race"
	"imgo/internal/wait/waittest"
	"imgo/roles"
	"imgo/test/harness"
	"imgo/verify/history"
)

func TestMain(m *testing.M) {
	// The tests wait more than they work, so more of them run at the same time than
	// there are cores. Under the race detector they need ten times the CPU time.
	_ = flag.Set("test.parallel", map[bool]string{false: "6", true: "2"}[race.Enabled])
	goleak.VerifyTestMain(m)
}

// waitLimit bounds every wait.
const waitLimit = waittest.Limit

var (
	eventually   = waittest.Eventually
	eventuallyIn = waittest.EventuallyIn
	call         = harness.Call
)

// secret is the cluster.secret of nodes. A world adds its own part: a node may get the port that a stopped
// node of another world had, and that world still calls it.
const secret = "0123456789abcdef0123456789abcdef"

// world is a cluster: a Kafka, nodes, callers, devices, and the history of what was
// pushed and received.
type world struct {
	t     *testing.T
	kafka *kafkatest.Fake
	h     *history.History
	dir   string
	// change changes the settings of each node before it starts; nil: it does not.
	change func(*config.Config)
	// ahead is how far the clocks of nodes are ahead, by name.
	ahead map[string]time.Duration
	// faults are those of nodes, by name.
	faults map[string]roles.Faults
	// times are those of growths; zero: the defaults.
	times growth.Config

	mu    sync.Mutex
	nodes map[string]*node // running nodes, by name
	// gossip and calls have the names of nodes by their addresses.
	gossip, calls map[string]string
	// apart has pairs of nodes that cannot reach each other, and hung has nodes that
	// take calls and do not answer.
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
		w.repair()
		// Roles that other roles call are stopped after these.
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
	*harness.Node
	w     *world
	name  string
	roles []string
}

// start starts a node and waits until it is ready.
func (w *world) start(name string, runs ...string) *node {
	w.t.Helper()
	n := w.begin(name, runs...)
	n.WaitReady()
	return n
}

// begin starts a node, with the disk of the last node of its name.
func (w *world) begin(name string, runs ...string) *node {
	w.t.Helper()
	cfg := harness.Settings(w.t)
	cfg.NodeID, cfg.Roles = name, runs
	cfg.DataDir = filepath.Join(w.dir, name)
	cfg.Cluster.Gossip, cfg.Cluster.RPC, cfg.Cluster.Secret = "127.0.0.1:0", "127.0.0.1:0", secret+w.dir
	cfg.Kafka.Brokers, cfg.Kafka.WriteTimeout = w.kafka.Brokers(), 3*time.Second
	if race.Enabled {
		cfg.Kafka.Compression = "none" // under the race detector it takes most of the CPU time
	}
	cfg.Kept.Partitions, cfg.Live.Partitions = 4, 2
	cfg.Disk.Reserve = 0
	cfg.Delivery.WatchAfter = time.Second
	cfg.Shutdown.DrainRate = 1000
	cfg.Cluster.Join = []string{"127.0.0.1:1"} // no node: the first node starts alone
	w.mu.Lock()
	for _, other := range w.nodes {
		cfg.Cluster.Join = append(cfg.Cluster.Join, other.GossipAddr())
	}
	w.mu.Unlock()
	if w.change != nil {
		w.change(&cfg)
	}
	n := &node{w: w, name: name, roles: runs}
	opts := roles.RunOptions{Faults: w.faults[name]}
	opts.Faults.Growth = w.times
	opts.Faults.Gossip.Cut = func(_, address string) bool { return w.isApart(name, address, w.gossip) }
	opts.Faults.RPC.Dial = func(ctx context.Context, address string) (net.Conn, error) { return w.dial(ctx, name, address) }
	if ahead := w.ahead[name]; ahead != 0 {
		opts.Faults.Clock = func() time.Time { return time.Now().Add(ahead) }
	}
	n.Node = harness.Begin(w.t, cfg, opts, nil)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gossip[n.GossipAddr()], w.calls[n.RPCAddr()] = name, name
	w.nodes[name] = n
	return n
}

// stop stops the node in good order, if it runs.
func (n *node) stop() {
	n.w.t.Helper()
	if n.remove() {
		_ = n.Stop() // the harness reports an error at the end of the test
	}
}

// kill ends the node. To other nodes and to clients it looks like a crash.
func (n *node) kill() {
	n.w.t.Helper()
	if !n.remove() {
		n.w.t.Fatalf("%s does not run", n.name)
	}
	n.Crash()
}

// remove removes the node from the running nodes. It reports whether it was one of them.
func (n *node) remove() bool {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	if n.w.nodes[n.name] != n {
		return false
	}
	delete(n.w.nodes, n.name)
	return true
}

// restart starts the node again, at other ports.
func (n *node) restart() *node { return n.w.start(n.name, n.roles...) }

// wipe removes the disk of a node that does not run.
func (n *node) wipe() {
	n.w.t.Helper()
	if err := os.RemoveAll(n.Config.DataDir); err != nil {
		n.w.t.Fatal(err)
	}
}

// of returns the running nodes that have a role, in the order of their names.
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

// cut cuts gossip and calls between each of some nodes and each of others.
func (w *world) cut(some, others []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range some {
		for _, b := range others {
			w.apart[[2]string{a, b}], w.apart[[2]string{b, a}] = true, true
		}
	}
}

// hang makes all calls to and from a node wait for ever, as if its process were stopped.
// Gossip goes on, so that the other nodes do not learn of it.
func (w *world) hang(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hung[name] = true
}

// repair undoes every cut and hang.
func (w *world) repair() {
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

var errApart = errors.New("the nodes are cut off from each other")

// dial connects one node to the address for calls of another. The connection breaks when
// the two are cut off.
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

// pass waits while one of the nodes hangs. It returns an error if the two are cut off.
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

// checkHistory stops the callers, waits until every device has all of its messages, and
// judges the history.
func (w *world) checkHistory() {
	w.t.Helper()
	w.pushes.stop()
	began := time.Now()
	for limit := began.Add(waitLimit); len(w.h.Lost(1)) > 0 && w.h.Stats().Violations == 0 && time.Now().Before(limit); {
		time.Sleep(10 * time.Millisecond)
	}
	if wrong := append(w.h.Violations(), w.h.Lost(0)...); len(wrong) > 0 {
		w.t.Fatal(wrong)
	}
	s := w.h.Stats()
	if s.Accepted == 0 || s.Received == 0 {
		w.t.Fatalf("nothing happened: %+v", s)
	}
	w.t.Logf("%d pushes accepted, %d received (%d again) in %d sessions; longest refusal %s; settled in %s",
		s.Accepted, s.Received, s.Repeated, s.Sessions, w.pushes.longestRefusal().Round(time.Millisecond),
		time.Since(began).Round(time.Millisecond))
}
