package members_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/testing/protocmp"

	"imgo/cluster/members"
	"imgo/envelope"
	"imgo/internal/wait/waittest"
)

func TestNodesFindOneAnotherAndMissTheDead(t *testing.T) {
	var nodes []*node
	var all []string
	for i := range 5 {
		o := members.Options{Name: fmt.Sprintf("n%d", i), Meta: meta("comet")}
		if i > 0 {
			o.Join = []string{nodes[0].Addr()}
		}
		nodes = append(nodes, start(t, o))
		all = append(all, o.Name)
	}
	for _, n := range nodes {
		n.waitNodes(t, all...)
	}
	nodes[3].kill(t)
	began := time.Now()
	for _, i := range []int{0, 1, 2, 4} {
		nodes[i].waitNodes(t, "n0", "n1", "n2", "n4")
	}
	t.Logf("a dead node was missed by all after %v", time.Since(began))

	began = time.Now()
	if err := nodes[0].Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	told := time.Since(began)
	for _, i := range []int{1, 2, 4} {
		nodes[i].waitNodes(t, "n1", "n2", "n4")
	}
	t.Logf("a node that left was missed by all after %v; Leave took %v", time.Since(began), told)
	if err := nodes[0].Leave(t.Context()); err != nil {
		t.Errorf("left twice: %v", err)
	}
	nodes[0].stop()
	if nodes[0].err != nil {
		t.Errorf("Run: %v", nodes[0].err)
	}
	if err := nodes[0].Leave(t.Context()); err != nil {
		t.Errorf("left after the end: %v", err)
	}
	if err := nodes[0].UpdateMeta(meta("comet")); !errors.Is(err, envelope.ErrClosed) {
		t.Errorf("news after the end: %v", err)
	}
}

// TestLeaveThatFails leaves when no gossip goes out: a second call must not say that the others know.
func TestLeaveThatFails(t *testing.T) {
	a := start(t, members.Options{Name: "a"})
	b := start(t, members.Options{Name: "b", Join: []string{a.Addr()}, GossipInterval: time.Hour})
	b.waitNodes(t, "a", "b")
	for range 2 {
		if err := b.Leave(t.Context()); err == nil {
			t.Error("it has left, though nothing was sent")
		}
	}
}

func TestView(t *testing.T) {
	reg := prometheus.NewRegistry()
	a := start(t, members.Options{Name: "a",
		Meta: &envelope.NodeMeta{Roles: []string{"comet", "logic", "comet"}, Rpc: "127.0.0.1:1"}, Metrics: reg})
	own := a.Snapshot()
	if n, ok := own.Node("a"); !ok || !n.Self || n.Addr != a.Addr() || n.Meta.Rpc != "127.0.0.1:1" || n.Meta.StartMs == 0 {
		t.Errorf("before it found anybody a node knows %+v", own.Nodes)
	}
	if got := len(own.Role("comet")); got != 1 {
		t.Errorf("%d comets", got)
	}
	b := start(t, members.Options{Name: "b", Join: []string{a.Addr()}, Meta: meta("router")})
	a.waitNodes(t, "a", "b")
	b.waitNodes(t, "a", "b")
	if len(own.Nodes) != 1 {
		t.Error("an old view changed")
	}
	v := b.Snapshot()
	if n := v.Role("logic"); len(n) != 1 || n[0].Name != "a" || n[0].Self {
		t.Errorf("logic: %+v", n)
	}
	if len(v.Role("job")) != 0 {
		t.Errorf("job: %+v", v.Role("job"))
	}
	if _, ok := v.Node("c"); ok {
		t.Error("there is no c")
	}

	// The changed values arrive and the start time stays. A node that leaves has no role any more.
	began, _ := v.Node("a")
	news := &envelope.NodeMeta{Roles: []string{"comet", "logic"}, Rpc: "127.0.0.1:2", Leaving: true}
	if err := a.UpdateMeta(news); err != nil {
		t.Fatal(err)
	}
	b.waitView(t, "news of a", func(v *members.View) bool { n, _ := v.Node("a"); return n.Meta.GetLeaving() })
	n, _ := b.Snapshot().Node("a")
	news.StartMs = began.Meta.StartMs
	if diff := cmp.Diff(news, n.Meta, protocmp.Transform()); diff != "" {
		t.Errorf("news of a:\n%s", diff)
	}
	if got := b.Snapshot().Role("logic"); len(got) != 0 {
		t.Errorf("a leaves and is still %+v", got)
	}
	if n, _ := a.Snapshot().Node("a"); !n.Meta.Leaving {
		t.Error("a node does not know its own news")
	}
	families, err := reg.Gather()
	if err != nil || len(families) != 3 {
		t.Errorf("%d metrics, %v", len(families), err)
	}
}

func TestMetaTooLong(t *testing.T) {
	long := &envelope.NodeMeta{Roles: []string{"comet"},
		Endpoints: []*envelope.Endpoint{{Scheme: "ws", Address: strings.Repeat("w", 500)}}, Zone: "here"}
	if _, err := members.New(members.Options{Name: "a", Bind: "127.0.0.1:0", Meta: long}); !errors.Is(err, envelope.ErrTooLarge) ||
		!strings.Contains(err.Error(), "ws (500)") {
		t.Errorf("at the start: %v", err)
	}
	a := start(t, members.Options{Name: "a", Meta: meta("comet")})
	if err := a.UpdateMeta(long); !errors.Is(err, envelope.ErrTooLarge) {
		t.Errorf("later: %v", err)
	}
	if err := a.UpdateMeta(meta("logic")); err != nil {
		t.Errorf("after one that was too long: %v", err)
	}
}

func TestBackAtOnce(t *testing.T) {
	for _, same := range []bool{true, false} {
		t.Run(fmt.Sprintf("same address %v", same), func(t *testing.T) {
			reg := prometheus.NewRegistry()
			a := start(t, members.Options{Name: "a", Meta: meta("router"), Metrics: reg})
			b := start(t, members.Options{Name: "b", Join: []string{a.Addr()}, Meta: meta("router")})
			a.waitNodes(t, "a", "b")
			old, _ := a.Snapshot().Node("b")
			addr := b.Addr()
			b.kill(t)
			o := members.Options{Name: "b", Join: []string{a.Addr()},
				Meta: &envelope.NodeMeta{Roles: []string{"comet"}, StartMs: old.Meta.StartMs + 1}}
			if same {
				o.Bind = addr
			}
			b = start(t, o)
			isNew := func(v *members.View) bool {
				n, ok := v.Node("b")
				return ok && n.Meta.StartMs > old.Meta.StartMs && n.Addr == b.Addr() && len(v.Role("comet")) == 1 && len(v.Role("router")) == 1
			}
			took := a.waitView(t, "the new b", isNew)
			t.Logf("the new b was known after %v", took)
			// Every later view has b, while the old b is found dead and afterwards. The test looks for
			// longer than a new b would take to answer a false report of its death.
			dead := func() bool { return counters(t, reg, "imgo_members_changes_total")["leave"] > 0 }
			var enough <-chan time.Time
			look := time.NewTicker(5 * time.Millisecond)
			defer look.Stop()
			for began, over := time.Now(), false; !over; {
				v := a.Snapshot()
				if !isNew(v) {
					t.Fatalf("%v after the new b was known a knows %+v\n%s", time.Since(began), v.Nodes, a.log)
				}
				if enough == nil && dead() {
					enough = time.After(2500 * time.Millisecond)
				}
				if enough == nil && time.Since(began) > testLimit {
					t.Fatalf("the old b was not found dead\n%s", a.log)
				}
				select {
				case <-enough:
					over = true
				case <-v.Next():
				case <-look.C:
				case <-b.done:
					t.Fatalf("the new b ended: %v", b.err)
				}
			}
			b.waitNodes(t, "a", "b")
		})
	}
}

// TestTwoLivingNodesOfOneName expects the second node to leave. The other nodes find no dead node within
// testLimit, since they do not probe.
func TestTwoLivingNodesOfOneName(t *testing.T) {
	a := start(t, members.Options{Name: "a", ProbeInterval: time.Hour})
	first := start(t, members.Options{Name: "b", Join: []string{a.Addr()}, Meta: &envelope.NodeMeta{StartMs: 1000}, ProbeInterval: time.Hour})
	a.waitNodes(t, "a", "b")
	second := start(t, members.Options{Name: "b", Join: []string{a.Addr()}, Meta: &envelope.NodeMeta{StartMs: 2000}})
	select {
	case <-second.done:
	case <-time.After(testLimit):
		t.Fatal("the second node of one name goes on")
	}
	if second.err == nil || !strings.Contains(second.err.Error(), first.Addr()) || !strings.Contains(second.err.Error(), "node.name") {
		t.Errorf("the second node of one name: %v", second.err)
	}
	a.waitView(t, "the first b", func(v *members.View) bool { n, _ := v.Node("b"); return n.Addr == first.Addr() })
	select {
	case <-first.done:
		t.Errorf("the first ended: %v", first.err)
	default:
	}
}

func TestSecrets(t *testing.T) {
	began := time.Now()
	a := start(t, members.Options{Name: "a", Secret: "right"})
	start(t, members.Options{Name: "b", Secret: "right", Join: []string{a.Addr()}})
	a.waitNodes(t, "a", "b")
	wrong := start(t, members.Options{Name: "wrong", Secret: "left", Join: []string{a.Addr()}})
	none := start(t, members.Options{Name: "none", Join: []string{a.Addr()}})
	for _, n := range []*node{a, wrong, none} {
		n.log.WaitFor(t, "give all nodes of the cluster the same")
	}
	// Ten more attempts add at most one log line in ten seconds. No node was admitted.
	tried := func() int { return strings.Count(none.log.String(), "nodes that do not answer") }
	for from := tried(); tried() < from+10; time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > testLimit {
			t.Fatalf("a refused node does not try on\n%s", none.log)
		}
	}
	if n, most := strings.Count(a.log.String(), "give all nodes"), 1+int(time.Since(began)/(10*time.Second)); n > most {
		t.Errorf("%d lines in %v", n, time.Since(began))
	}
	a.waitNodes(t, "a", "b")
	wrong.waitNodes(t, "wrong")
	none.waitNodes(t, "none")
}

// split is a network partition between groups of addresses.
type split struct {
	mu   sync.Mutex
	side map[string]int
	on   bool
}

func (s *split) cut(side int) func(string, string) bool {
	return func(_, to string) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.on && s.side[to] != side
	}
}

func (s *split) set(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.on = on
}

func TestHalvesFindOneAnotherAgain(t *testing.T) {
	s := &split{side: map[string]int{}}
	var nodes []*node
	var seed []string
	for i := range 4 {
		// Only the first node is named in Join, so the nodes must remember the others.
		n := start(t, members.Options{Name: fmt.Sprintf("n%d", i), Join: seed, Faults: members.Faults{Cut: s.cut(i / 2)}})
		s.mu.Lock()
		s.side[n.Addr()] = i / 2
		s.mu.Unlock()
		seed = []string{nodesOr(nodes, n).Addr()}
		nodes = append(nodes, n)
	}
	for _, n := range nodes {
		n.waitNodes(t, "n0", "n1", "n2", "n3")
	}
	s.set(true)
	for i, n := range nodes {
		if i < 2 {
			n.waitNodes(t, "n0", "n1")
		} else {
			n.waitNodes(t, "n2", "n3")
		}
	}
	s.set(false)
	began := time.Now()
	for _, n := range nodes {
		n.waitNodes(t, "n0", "n1", "n2", "n3")
	}
	t.Logf("one cluster again after %v", time.Since(began))
}

// TestChangeReachesAllDespiteLostPackets loses an eighth of the packets. States are not exchanged, so
// only gossip can tell the nodes what has changed.
func TestChangeReachesAllDespiteLostPackets(t *testing.T) {
	var lossy atomic.Bool
	cut := func(network, _ string) bool { return lossy.Load() && (network == "tcp" || rand.IntN(8) == 0) }
	var nodes []*node
	for i := range 5 {
		// A probe that is lost would have the nodes exchange other news.
		o := members.Options{
			Name: fmt.Sprintf("n%d", i), Meta: meta("comet"), Faults: members.Faults{Cut: cut},
			ProbeInterval: time.Hour, GossipInterval: 10 * time.Millisecond,
		}
		if i > 0 {
			o.Join = []string{nodes[0].Addr()}
		}
		nodes = append(nodes, start(t, o))
	}
	for _, n := range nodes {
		n.waitNodes(t, "n0", "n1", "n2", "n3", "n4")
	}
	lossy.Store(true)
	for round := range 20 {
		changed := meta("comet")
		changed.Zone = fmt.Sprintf("z%d", round)
		for _, n := range nodes {
			if err := n.UpdateMeta(changed); err != nil {
				t.Fatal(err)
			}
		}
		for _, n := range nodes {
			n.waitView(t, "told of all changes", func(v *members.View) bool {
				return !slices.ContainsFunc(v.Nodes, func(o members.Node) bool { return o.Meta.GetZone() != changed.Zone })
			})
		}
	}
}

func nodesOr(nodes []*node, n *node) *node {
	if len(nodes) > 0 {
		return nodes[0]
	}
	return n
}

func TestSeedThatComesBack(t *testing.T) {
	// The node starts before its seed, and is alone when the seed dies.
	seed := waittest.FreeAddress(t)
	b := start(t, members.Options{Name: "b", Join: []string{seed}})
	b.log.WaitFor(t, "no other node found yet")
	a := start(t, members.Options{Name: "a", Bind: seed})
	b.waitNodes(t, "a", "b")
	a.kill(t)
	b.waitNodes(t, "b")
	a = start(t, members.Options{Name: "a", Bind: seed})
	b.waitNodes(t, "a", "b")
	a.waitNodes(t, "a", "b")
}

func TestJoinByName(t *testing.T) {
	dns := &hosts{addrs: map[string][]string{"nodes.example": {"127.0.0.2"}}}
	a := start(t, members.Options{Name: "a", Bind: "127.0.0.3:0"})
	_, port, err := net.SplitHostPort(a.Addr())
	if err != nil {
		t.Fatal(err)
	}
	b := start(t, members.Options{Name: "b", Resolver: dns, Join: []string{"unknown.example", "nodes.example:" + port}})
	b.log.WaitFor(t, "unknown.example")
	b.waitNodes(t, "b")
	// The name now has more addresses.
	dns.set("nodes.example", "127.0.0.2", "127.0.0.3")
	b.waitNodes(t, "a", "b")
	a.waitNodes(t, "a", "b")
}

func TestAddresses(t *testing.T) {
	dns := &hosts{addrs: map[string][]string{"me.example": {"127.0.0.4"}}}
	a := start(t, members.Options{Name: "a", Bind: "127.0.0.1:0", Advertise: "me.example:7", Resolver: dns})
	if a.Advertised() != "127.0.0.4:7" {
		t.Errorf("advertised %s", a.Advertised())
	}
	if n, _ := a.Snapshot().Node("a"); n.Addr != "127.0.0.4:7" {
		t.Errorf("told as %s", n.Addr)
	}
	b := start(t, members.Options{Name: "b", Bind: "me.example:0", Advertise: "127.0.0.4", Resolver: dns})
	if b.Advertised() != b.Addr() || !strings.HasPrefix(b.Addr(), "127.0.0.4:") {
		t.Errorf("bound to %s, advertised %s", b.Addr(), b.Advertised())
	}
	for name, o := range map[string]members.Options{
		"no name":          {Bind: "127.0.0.1:0"},
		"a taken port":     {Name: "c", Bind: b.Addr()},
		"an unknown host":  {Name: "c", Bind: "nowhere.example:0", Resolver: dns},
		"an unknown place": {Name: "c", Bind: "127.0.0.1:0", Advertise: "nowhere.example", Resolver: dns},
		"no port":          {Name: "c", Bind: "127.0.0.1:no-such-service"},
	} {
		if m, err := members.New(o); err == nil {
			t.Errorf("%s: no error", name)
			m.Close()
		}
	}
}

func TestNodesThatDisagree(t *testing.T) {
	with := func(kept, live, generation uint32) *envelope.NodeMeta {
		return &envelope.NodeMeta{KeptPartitions: kept, LivePartitions: live, Generation: generation}
	}
	a := start(t, members.Options{Name: "a", Meta: with(16, 8, 3)})
	b := start(t, members.Options{Name: "b", Meta: with(32, 8, 4), Join: []string{a.Addr()}})
	start(t, members.Options{Name: "c", Meta: with(16, 8, 3), Join: []string{a.Addr()}})
	start(t, members.Options{Name: "d", Join: []string{a.Addr()}}) // This node does not know the log yet.
	a.waitNodes(t, "a", "b", "c", "d")
	if got := a.Snapshot().Mismatches; len(got) != 1 || !strings.Contains(got[0], "node b") ||
		!strings.Contains(got[0], "kept topic 16 here, 32 there") ||
		!strings.Contains(got[0], "generation of the log 3 here, 4 there") || strings.Contains(got[0], "live topic") {
		t.Errorf("a: %q", got)
	}
	a.log.WaitFor(t, "kept topic 16 here, 32 there")
	b.log.WaitFor(t, "kept topic 32 here, 16 there")
	if err := b.UpdateMeta(with(16, 8, 3)); err != nil {
		t.Fatal(err)
	}
	a.waitView(t, "agreed", func(v *members.View) bool { return len(v.Mismatches) == 0 })
	b.waitView(t, "agreed", func(v *members.View) bool { return len(v.Mismatches) == 0 })
}

// TestSnapshotWhileNodesComeAndGo checks that Snapshot never blocks and that each view is complete.
func TestSnapshotWhileNodesComeAndGo(t *testing.T) {
	a := start(t, members.Options{Name: "a", Meta: meta("comet")})
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for ctx.Err() == nil {
				v := a.Snapshot()
				for _, n := range v.Nodes {
					if got, ok := v.Node(n.Name); !ok || got.Addr != n.Addr || n.Meta == nil {
						t.Errorf("%+v is not %+v", got, n)
						return
					}
				}
				if len(v.Role("comet")) != len(v.Nodes) {
					t.Errorf("%d comets among %d", len(v.Role("comet")), len(v.Nodes))
					return
				}
				<-time.After(time.Millisecond)
			}
		})
	}
	for i := range 4 {
		n := start(t, members.Options{Name: fmt.Sprintf("b%d", i), Meta: meta("comet"), Join: []string{a.Addr()}})
		n.waitNodes(t, "a", fmt.Sprintf("b%d", i))
		a.waitNodes(t, "a", fmt.Sprintf("b%d", i))
		if err := n.Leave(ctx); err != nil {
			t.Fatal(err)
		}
		a.waitNodes(t, "a")
		n.stop()
	}
	cancel()
	readers.Wait()
}
