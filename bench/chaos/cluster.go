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

// roleNames are the roles, in the order in which they are started.
var roleNames = []string{"router", "job", "logic", "comet"}

// options are a cluster's.
type options struct {
	binary string
	dir    string
	// net is what the addresses of the nodes begin with, such as "127.0.0".
	net     string
	brokers []string
	prefix  string
	// each is how many nodes a role has.
	each int
	// relayed sends gossip through a relay that can cut it.
	relayed bool
	// args are for every node.
	args []string
}

// cluster is processes of imgo, one role each.
type cluster struct {
	o     options
	nodes []*node
	relay *relay // nil: gossip goes straight
}

const secret = "only-for-this-machine-and-this-test"

// newCluster makes the nodes and starts none.
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

// node makes the i-th node of a role, from 1.
func (c *cluster) node(role string, i int) *node {
	ip := fmt.Sprintf("%s.%d", c.o.net, 10*(len(roleNames)-slices.Index(roleNames, role))+i)
	n := &node{name: fmt.Sprintf("%s-%d", role, i), role: role, ip: ip, dir: c.o.dir, binary: c.o.binary}
	at := func(port string) string { return ip + ":" + port }
	var join []string
	port := gossipPort
	if c.relay != nil {
		port = relayPort
	}
	for k := range 2 {
		join = append(join, fmt.Sprintf("%s.%d:%s", c.o.net, 10*len(roleNames)-10*slices.Index(roleNames, "router")+k+1, port))
	}
	n.args = append([]string{
		"--roles", role, "--node-id", n.name, "--data-dir", n.data(), "--log-format", "json",
		"--join", strings.Join(join, ","), "--kafka", strings.Join(c.o.brokers, ","), "--kafka-prefix", c.o.prefix,
		"--cluster-secret", secret, "--gossip", at(gossipPort), "--rpc", at(rpcPort),
		"--http", at(httpPort), "--tcp", at(tcpPort), "--ws", at(wsPort),
	}, c.o.args...)
	if c.relay != nil {
		n.args = append(n.args, "--cluster-gossip-address", at(relayPort))
	}
	return n
}

// begin starts a node's first process.
func (c *cluster) begin(ctx context.Context, n *node) error {
	if c.relay != nil {
		if err := c.relay.add(ctx, n.ip); err != nil {
			return err
		}
	}
	return n.start()
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

// ready waits until all nodes that run are ready.
func (c *cluster) ready(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range c.nodes {
		if n.running() {
			g.Go(func() error { return n.ready(ctx) })
		}
	}
	return g.Wait()
}

// stop ends all nodes in good order, those that are called last.
func (c *cluster) stop() error {
	var err error
	for _, n := range slices.Backward(c.nodes) {
		err = errors.Join(err, n.stop())
	}
	return err
}

// kill ends what still runs.
func (c *cluster) kill() {
	for _, n := range c.nodes {
		_ = n.kill() // it is only to be gone
	}
	if c.relay != nil {
		c.relay.close()
	}
}

// of are the nodes of a role.
func (c *cluster) of(role string) []*node {
	return slices.DeleteFunc(slices.Clone(c.nodes), func(n *node) bool { return n.role != role })
}

// at are the addresses of a role's nodes with a port.
func (c *cluster) at(role, port string) []string {
	var out []string
	for _, n := range c.of(role) {
		out = append(out, n.ip+":"+port)
	}
	return out
}
