//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// roleNames are the roles in the order of their start.
var roleNames = []string{"router", "job", "logic", "comet"}

// options are the settings of a cluster.
type options struct {
	binary string
	dir    string
	// net is the common beginning of the addresses of all nodes, such as "127.0.0".
	net     string
	brokers []string
	prefix  string
	// each is the number of nodes of each role.
	each int
	// relayed sends gossip through a relay, which can cut it off.
	relayed bool
	// args are command-line arguments for every node.
	args []string
}

// cluster is a set of imgo processes. Each has one role.
type cluster struct {
	o     options
	nodes []*node
	relay *relay // nil if gossip goes directly
}

const secret = "only-for-this-machine-and-this-test"

// newCluster creates the nodes and starts none of them.
func newCluster(o options) *cluster {
	c := &cluster{o: o}
	if o.relayed {
		c.relay = newRelay()
	}
	for _, role := range roleNames {
		for i := range o.each {
			c.nodes = append(c.nodes, c.node(role, i+1))
		}
	}
	return c
}

// node creates the i-th node of a role. i starts at 1.
func (c *cluster) node(role string, i int) *node {
	ip := fmt.Sprintf("%s.%d", c.o.net, 10*(len(roleNames)-slices.Index(roleNames, role))+i)
	n := newNode(c.o.binary, c.o.dir, fmt.Sprintf("%s-%d", role, i), role, ip)
	at := func(port string) string { return ip + ":" + port }
	var join []string
	port := gossipPort
	if c.relay != nil {
		port = relayPort
	}
	for k := range 2 {
		join = append(join, fmt.Sprintf("%s.%d:%s", c.o.net, 10*len(roleNames)-10*slices.Index(roleNames, "router")+k+1, port))
	}
	n.Args = append([]string{
		"--roles", role, "--node-id", n.Name, "--data-dir", n.data, "--log-format", "json",
		"--join", strings.Join(join, ","), "--kafka", strings.Join(c.o.brokers, ","), "--kafka-prefix", c.o.prefix,
		"--cluster-secret", secret, "--gossip", at(gossipPort), "--rpc", at(rpcPort),
		"--http", at(httpPort), "--tcp", at(tcpPort), "--ws", at(wsPort),
	}, c.o.args...)
	if c.relay != nil {
		n.Args = append(n.Args, "--cluster-gossip-address", at(relayPort))
	}
	return n
}

// begin starts the first process of a node.
func (c *cluster) begin(ctx context.Context, n *node) error {
	if c.relay != nil {
		if err := c.relay.add(ctx, n.ip); err != nil {
			return err
		}
	}
	return n.Start()
}

// start starts all nodes and waits until they are ready.
func (c *cluster) start(ctx context.Context) error {
	if err := os.MkdirAll(c.o.dir, 0o755); err != nil {
		return fmt.Errorf("make the folder of the cluster: %w", err)
	}
	for _, n := range c.nodes {
		if err := c.begin(ctx, n); err != nil {
			return err
		}
	}
	return c.ready(ctx)
}

// ready waits until all running nodes are ready.
func (c *cluster) ready(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range c.nodes {
		g.Go(func() error { return n.Ready(ctx) })
	}
	return g.Wait()
}

// stop stops all nodes in an orderly way, in reverse order of their start.
func (c *cluster) stop() error {
	var err error
	for _, n := range slices.Backward(c.nodes) {
		err = errors.Join(err, n.Stop())
	}
	return err
}

// kill kills all nodes that still run.
func (c *cluster) kill() {
	for _, n := range c.nodes {
		_ = n.Kill() // an error is of no interest in the cleanup
	}
	if c.relay != nil {
		c.relay.close()
	}
}

// of returns the nodes of a role.
func (c *cluster) of(role string) []*node {
	return slices.DeleteFunc(slices.Clone(c.nodes), func(n *node) bool { return n.role != role })
}

// at returns the addresses of the nodes of a role, with the given port.
func (c *cluster) at(role, port string) []string {
	var out []string
	for _, n := range c.of(role) {
		out = append(out, n.ip+":"+port)
	}
	return out
}
