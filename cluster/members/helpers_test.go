package members_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"imgo/cluster/members"
	"imgo/envelope"
	"imgo/internal/wait/waittest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testLimit = waittest.Limit

// node is a running Members.
type node struct {
	*members.Members
	log  *waittest.Log
	done chan struct{} // closed when Run has returned
	err  error         // the result of Run, valid once done is closed
	stop func()        // ends Run and waits for it
}

// start starts a node. Options that are not set get values for loopback.
func start(t *testing.T, o members.Options) *node {
	t.Helper()
	n := &node{log: &waittest.Log{}, done: make(chan struct{})}
	if o.Bind == "" {
		o.Bind = "127.0.0.1:0"
	}
	o.Log = zerolog.New(n.log)
	if o.RejoinInterval == 0 {
		o.RejoinInterval = 200 * time.Millisecond
	}
	var err error
	if n.Members, err = members.New(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(n.done)
		n.err = n.Run(ctx)
	}()
	n.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case <-n.done:
		case <-time.After(testLimit):
			t.Errorf("%s does not end", o.Name)
		}
	})
	t.Cleanup(n.stop)
	return n
}

// kill ends a node as kill -9 does.
func (n *node) kill(t *testing.T) {
	t.Helper()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n.stop()
}

func names(v *members.View) string {
	var out []string
	for _, n := range v.Nodes {
		out = append(out, n.Name)
	}
	return strings.Join(out, " ")
}

// waitView waits until ok accepts the node's view, using the channel that announces changes. It returns
// how long that took.
func (n *node) waitView(t *testing.T, what string, ok func(*members.View) bool) time.Duration {
	t.Helper()
	began := time.Now()
	bound := time.After(testLimit)
	for {
		v := n.Snapshot()
		if ok(v) {
			return time.Since(began)
		}
		select {
		case <-v.Next():
		case <-bound:
			t.Fatalf("not %s: %s knows %q\n%s", what, n.Addr(), names(v), n.log)
		}
	}
}

// waitNodes waits until a node knows exactly the wanted nodes.
func (n *node) waitNodes(t *testing.T, want ...string) time.Duration {
	t.Helper()
	slices.Sort(want)
	return n.waitView(t, "all of "+fmt.Sprint(want), func(v *members.View) bool { return names(v) == strings.Join(want, " ") })
}

// hosts is a fake resolver.
type hosts struct {
	mu    sync.Mutex
	addrs map[string][]string
}

func (h *hosts) LookupHost(_ context.Context, host string) ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a := h.addrs[host]; a != nil {
		return a, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func (h *hosts) set(host string, addrs ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.addrs[host] = addrs
}

func meta(roles ...string) *envelope.NodeMeta { return &envelope.NodeMeta{Roles: roles} }

// counters returns the values of a counter by its label.
func counters(t *testing.T, reg *prometheus.Registry, name string) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.Metric {
			out[m.Label[0].GetValue()] = m.GetCounter().GetValue()
		}
	}
	return out
}
