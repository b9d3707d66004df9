//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"imgo/internal/wait"
)

// fault is one kind of fault. do injects it, and has undone it when it returns.
type fault struct {
	name string
	do   func(ctx context.Context, st *stage) error
	// brokers is the number of brokers that the fault needs.
	brokers int
}

// pause waits for d times scale.
func (st *stage) pause(ctx context.Context, d time.Duration) error {
	return wait.Sleep(ctx, time.Duration(float64(d)*st.s.scale))
}

// randomNode returns a random node of a role.
func (st *stage) randomNode(role string) *node {
	nodes := st.c.of(role)
	return nodes[st.rng.IntN(len(nodes))]
}

// killNode returns a fault that kills a node and starts it again after a while. wipe
// also removes the disk of the node.
func killNode(role string, wipe bool) func(ctx context.Context, st *stage) error {
	return func(ctx context.Context, st *stage) error {
		n := st.randomNode(role)
		st.say("kill -9 of %s", n.Name)
		if err := n.Kill(); err != nil {
			return err
		}
		if wipe {
			st.say("its disk is gone")
			if err := n.wipe(); err != nil {
				return err
			}
		}
		if err := st.pause(ctx, 5*time.Second); err != nil {
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
	{name: "kill-broker", do: killBroker, brokers: 3},
	{name: "gossip-partition", do: partition},
	{name: "routers-join-and-leave", do: joinAndLeave},
	{name: "rolling-restart", do: rollingRestart},
}

// hang returns a fault that suspends a process of a role for d, and then resumes it.
func hang(role string, d time.Duration) func(ctx context.Context, st *stage) error {
	return func(ctx context.Context, st *stage) error {
		n := st.randomNode(role)
		st.say("SIGSTOP of %s", n.Name)
		if err := n.Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		err := st.pause(ctx, d)
		return errors.Join(err, n.Signal(syscall.SIGCONT))
	}
}

func kafkaAway(ctx context.Context, st *stage) error {
	if err := st.kafka.Stop(); err != nil {
		return err
	}
	st.say("Kafka has stopped")
	err := st.pause(ctx, 20*time.Second)
	return errors.Join(err, st.kafkaBack(ctx))
}

func killBroker(ctx context.Context, st *stage) error {
	i := st.rng.IntN(st.kafka.Count())
	st.say("kill -9 of broker %d", i+1)
	if err := st.kafka.Kill(i); err != nil {
		return err
	}
	err := st.pause(ctx, 10*time.Second)
	return errors.Join(err, st.kafkaBack(ctx))
}

// kafkaBack starts the brokers that do not run.
func (st *stage) kafkaBack(ctx context.Context) error {
	if err := st.kafka.Start(ctx); err != nil {
		return err
	}
	st.say("Kafka serves again, with all brokers")
	return nil
}

// partition separates the nodes into two halves, each with nodes of every role. It
// cuts only the gossip between them.
func partition(ctx context.Context, st *stage) error {
	var some, others []*node
	for i, n := range st.c.nodes {
		if i%2 == 0 {
			some = append(some, n)
		} else {
			others = append(others, n)
		}
	}
	st.c.relay.cut(some, others)
	defer st.c.relay.fix()
	return st.pause(ctx, 20*time.Second)
}

// joinAndLeave adds two routers, one after the other, and removes them again.
func joinAndLeave(ctx context.Context, st *stage) error {
	was := len(st.c.nodes)
	defer func() {
		for _, n := range st.c.nodes[was:] {
			_ = n.Kill() // it still runs only after an error
		}
		st.c.nodes = st.c.nodes[:was]
	}()
	for i := range 2 {
		n := st.c.node("router", st.c.o.each+1+i)
		st.c.nodes = append(st.c.nodes, n)
		if err := st.c.begin(ctx, n); err != nil {
			return err
		}
		if err := n.Ready(ctx); err != nil {
			return err
		}
		if err := st.pause(ctx, 3*time.Second); err != nil {
			return err
		}
	}
	for _, n := range st.c.nodes[was:] {
		if err := n.Stop(); err != nil {
			return err
		}
		if err := st.pause(ctx, 3*time.Second); err != nil {
			return err
		}
	}
	return nil
}

// rollingRestart restarts every node, one after the other.
func rollingRestart(ctx context.Context, st *stage) error {
	for _, n := range st.c.nodes {
		if err := n.Stop(); err != nil {
			return err
		}
		if err := n.StartReady(ctx); err != nil {
			return fmt.Errorf("restart: %w", err)
		}
	}
	return nil
}
