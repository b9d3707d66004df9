package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"imgo/cluster/rpc"
	"imgo/envelope"
)

// TestHangingCallsDelayNoOther checks that calls with hanging handlers delay no other call of their
// stream. The handlers end when their callers give up.
func TestHangingCallsDelayNoOther(t *testing.T) {
	const hang, quick = 20, 2000
	var hanging sync.WaitGroup
	hanging.Add(hang)
	addr, _ := serve(t, rpc.ServerOptions{}, roles{func(ctx context.Context, _ string, req proto.Message) (proto.Message, error) {
		q := req.(*envelope.ConnectRequest)
		if q.Token == "hang" {
			<-ctx.Done()
			hanging.Done()
			return nil, ctx.Err()
		}
		return &envelope.ConnectReply{User: q.Token}, nil
	}}.services())
	logic := newPool(t, rpc.PoolOptions{}).Node(addr).Logic()
	ctx, giveUp := context.WithCancel(within(t, waitLimit))
	var callers sync.WaitGroup
	for range hang {
		callers.Go(func() {
			if _, err := logic.Connect(ctx, &envelope.ConnectRequest{Token: "hang"}); !errors.Is(err, context.Canceled) {
				t.Errorf("a call whose caller has given up: %v", err)
			}
		})
	}
	var others sync.WaitGroup
	for i := range quick {
		others.Go(func() {
			user := fmt.Sprint(i)
			reply, err := logic.Connect(within(t, waitLimit), &envelope.ConnectRequest{Token: user})
			if err != nil || reply.User != user {
				t.Errorf("call %d: %v, %v", i, reply, err)
			}
		})
	}
	others.Wait()
	giveUp()
	callers.Wait()
	hanging.Wait()
}

// TestCallsFailWhenTheirNodeDies checks that calls fail at once when their node dies, so that another
// node can be asked.
func TestCallsFailWhenTheirNodeDies(t *testing.T) {
	const calls = 50
	began := make(chan struct{}, calls)
	release := make(chan struct{})
	var served atomic.Int64
	handle := roles{func(ctx context.Context, _ string, _ proto.Message) (proto.Message, error) {
		if served.Add(1) > calls {
			return &envelope.ConnectReply{}, nil
		}
		began <- struct{}{}
		select {
		case <-ctx.Done():
		case <-release:
		}
		return nil, ctx.Err()
	}}.services()
	wire := &cuttable{}
	addr, _ := serve(t, rpc.ServerOptions{}, handle)
	logic := newPool(t, rpc.PoolOptions{Faults: rpc.Faults{Dial: wire.dial}}).Node(addr).Logic()
	errs := make(chan error)
	for range calls {
		go func() {
			_, err := logic.Connect(within(t, waitLimit), &envelope.ConnectRequest{Token: "x"})
			errs <- err
		}()
	}
	for range calls {
		<-began
	}
	wire.cut()
	for range calls {
		if err := <-errs; !errors.Is(err, envelope.ErrUnavailable) {
			t.Errorf("a call of a node that is gone: %v", err)
		}
	}
	close(release)
	for {
		_, err := logic.Connect(within(t, waitLimit), &envelope.ConnectRequest{Token: "x"})
		if err == nil {
			return
		}
		if !errors.Is(err, envelope.ErrUnavailable) {
			t.Fatalf("after the node is back: %v", err)
		}
	}
}

// cuttable makes connections that a test can cut.
type cuttable struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (c *cuttable) dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err == nil {
		c.mu.Lock()
		c.conns = append(c.conns, conn)
		c.mu.Unlock()
	}
	return conn, err
}

func (c *cuttable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.conns = nil
}

// TestNodeOfAnotherVersion checks that a node of an older version, without the stream of calls, does
// not block a caller.
func TestNodeOfAnotherVersion(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	other := grpc.NewServer()
	done := make(chan error)
	go func() { done <- other.Serve(l) }()
	t.Cleanup(func() {
		other.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	logic := newPool(t, rpc.PoolOptions{}).Node(l.Addr().String()).Logic()
	for range 3 {
		_, err := logic.Connect(within(t, waitLimit), &envelope.ConnectRequest{})
		if !errors.Is(err, envelope.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a call of a node of another version: %v", err)
		}
	}
}
