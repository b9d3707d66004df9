//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"imgo/internal/wait"
)

// brokers are the Kafka brokers of the cluster.
type brokers interface {
	// Stop stops all brokers in an orderly way. Start starts those that do not run, and
	// waits until all of them serve.
	Stop() error
	Start(ctx context.Context) error
	// Kill kills one of several brokers.
	Kill(i int) error
	// Count returns the number of brokers.
	Count() int
}

// world is everything that a fault can act on.
type world struct {
	c     *cluster
	kafka brokers
	rng   *rand.Rand
	// scale is the factor on the duration of every fault. 1 is the full duration.
	scale float64
	say   func(format string, args ...any)
}

// fault is one kind of fault. do injects it, and has undone it when it returns.
type fault struct {
	name string
	// needs, if not nil, returns an error that says why the fault is impossible here.
	needs func(w *world) error
	do    func(ctx context.Context, w *world) error
}

// pause waits for d times scale.
func (w *world) pause(ctx context.Context, d time.Duration) error {
	return wait.Sleep(ctx, time.Duration(float64(d)*w.scale))
}

// randomNode returns a random node of a role.
func (w *world) randomNode(role string) *node {
	nodes := w.c.of(role)
	return nodes[w.rng.IntN(len(nodes))]
}

// killNode returns a fault that kills a node and starts it again after a while. wipe
// also removes the disk of the node.
func killNode(role string, wipe bool) func(ctx context.Context, w *world) error {
	return func(ctx context.Context, w *world) error {
		n := w.randomNode(role)
		w.say("kill -9 of %s", n.Name)
		if err := n.Kill(); err != nil {
			return err
		}
		if wipe {
			w.say("its disk is gone")
			if err := n.wipe(); err != nil {
				return err
			}
		}
		if err := w.pause(ctx, 5*time.Second); err != nil {
			return err
		}
		return n.StartReady(ctx)
	}
}

// faults are all faults, in the order in which they are injected.
var faults = []fault{
	{name: "kill-comet", do: killNode("comet", false)},
	{name: "kill-logic", do: killNode("logic", false)},
	{name: "kill-job", do: killNode("job", false)},
	{name: "kill-router", do: killNode("router", false)},
	{name: "kill-router-lose-disk", do: killNode("router", true)},
	{name: "hang-comet", do: hang("comet", 30*time.Second)},
	{name: "hang-router", do: hang("router", 10*time.Second)},
	{name: "hang-job", do: hang("job", 10*time.Second)},
	{name: "kafka-away", do: kafkaAway},
	{name: "kill-broker", needs: func(w *world) error {
		if w.kafka.Count() < 3 {
			return errors.New("needs three brokers")
		}
		return nil
	}, do: killBroker},
	{name: "gossip-partition", needs: func(w *world) error {
		if w.c.relay == nil {
			return errors.New("gossip does not go through the relay")
		}
		return nil
	}, do: partition},
	{name: "routers-join-and-leave", do: joinAndLeave},
	{name: "rolling-restart", do: rollingRestart},
}

// hang returns a fault that suspends a process of a role for d, and then resumes it.
func hang(role string, d time.Duration) func(ctx context.Context, w *world) error {
	return func(ctx context.Context, w *world) error {
		n := w.randomNode(role)
		w.say("SIGSTOP of %s", n.Name)
		if err := n.Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		err := w.pause(ctx, d)
		return errors.Join(err, n.Signal(syscall.SIGCONT))
	}
}

func kafkaAway(ctx context.Context, w *world) error {
	if err := w.kafka.Stop(); err != nil {
		return err
	}
	w.say("Kafka has stopped")
	err := w.pause(ctx, 20*time.Second)
	return errors.Join(err, w.kafkaBack(ctx))
}

func killBroker(ctx context.Context, w *world) error {
	i := w.rng.IntN(w.kafka.Count())
	w.say("kill -9 of broker %d", i+1)
	if err := w.kafka.Kill(i); err != nil {
		return err
	}
	err := w.pause(ctx, 10*time.Second)
	return errors.Join(err, w.kafkaBack(ctx))
}

// kafkaBack starts the brokers that do not run.
func (w *world) kafkaBack(ctx context.Context) error {
	if err := w.kafka.Start(ctx); err != nil {
		return err
	}
	w.say("Kafka serves again, with all brokers")
	return nil
}

// partition separates the nodes into two halves, each with nodes of every role. It
// cuts only the gossip between them.
func partition(ctx context.Context, w *world) error {
	var some, others []*node
	for i, n := range w.c.nodes {
		if i%2 == 0 {
			some = append(some, n)
		} else {
			others = append(others, n)
		}
	}
	w.c.relay.cut(some, others)
	defer w.c.relay.mend()
	return w.pause(ctx, 20*time.Second)
}

// joinAndLeave adds two routers, one after the other, and removes them again.
func joinAndLeave(ctx context.Context, w *world) error {
	was := len(w.c.nodes)
	defer func() {
		for _, n := range w.c.nodes[was:] {
			_ = n.Kill() // it still runs only after an error
		}
		w.c.nodes = w.c.nodes[:was]
	}()
	for i := range 2 {
		n := w.c.node("router", w.c.o.each+1+i)
		w.c.nodes = append(w.c.nodes, n)
		if err := w.c.begin(ctx, n); err != nil {
			return err
		}
		if err := n.Ready(ctx); err != nil {
			return err
		}
		if err := w.pause(ctx, 3*time.Second); err != nil {
			return err
		}
	}
	for _, n := range w.c.nodes[was:] {
		if err := n.Stop(); err != nil {
			return err
		}
		if err := w.pause(ctx, 3*time.Second); err != nil {
			return err
		}
	}
	return nil
}

// rollingRestart restarts every node, one after the other.
func rollingRestart(ctx context.Context, w *world) error {
	for _, n := range w.c.nodes {
		if err := n.Stop(); err != nil {
			return err
		}
		if err := n.StartReady(ctx); err != nil {
			return fmt.Errorf("restart: %w", err)
		}
	}
	return nil
}
