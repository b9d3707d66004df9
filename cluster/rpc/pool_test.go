package rpc_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"imgo/cluster/rpc"
	"imgo/envelope"
	"imgo/internal/wait/waittest"
)

func TestSameNodeSameValues(t *testing.T) {
	pool := newPool(t, rpc.PoolOptions{})
	a, b := pool.Node("127.0.0.1:1"), pool.Node("127.0.0.1:2")
	if a != pool.Node("127.0.0.1:1") || a == b {
		t.Error("a node is not the same every time")
	}
	if a.Router() != a.Router() || a.Logic() != a.Logic() || a.Comet() != a.Comet() || a.Status() != a.Status() {
		t.Error("a node's role is not the same every time")
	}
	if a.Router() == b.Router() || a.Comet() == b.Comet() {
		t.Error("two nodes have one role")
	}
	pool.Keep(map[string]int64{b.Addr(): 1})
	if pool.Node(b.Addr()) != b {
		t.Error("a node that was to be kept is gone")
	}
	if pool.Node("127.0.0.1:1") == a {
		t.Error("a node that was dropped is still there")
	}
}

func TestOneConnectionPerNode(t *testing.T) {
	addr, _ := serve(t, rpc.ServerOptions{}, roles{ready}.services())
	var dials atomic.Int32
	pool := newPool(t, rpc.PoolOptions{Faults: rpc.Faults{Dial: func(ctx context.Context, addr string) (net.Conn, error) {
		dials.Add(1)
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}}})
	pool.Node(addr)
	if dials.Load() != 0 {
		t.Error("connected before there was anything to say")
	}
	for range 10 {
		askStatus(t, pool.Node(addr))
	}
	if dials.Load() != 1 {
		t.Errorf("%d connections", dials.Load())
	}
}

func TestDeadNodeFailsAtOnce(t *testing.T) {
	peer := newPool(t, rpc.PoolOptions{}).Node(waittest.FreeAddress(t))
	for range 3 {
		_, err := peer.Status().Status(within(t, waitLimit), &envelope.StatusRequest{})
		// A call that waits for the node would end with its deadline.
		if !errors.Is(err, envelope.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a node that is not there: %v", err)
		}
	}
}

func TestNodeGoneAndBack(t *testing.T) {
	addr, stop := serve(t, rpc.ServerOptions{}, roles{ready}.services())
	peer := newPool(t, rpc.PoolOptions{}).Node(addr)
	askStatus(t, peer)
	stop()
	// This is long enough for the pauses between tries to grow.
	for until := time.Now().Add(2500 * time.Millisecond); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		_, err := peer.Status().Status(within(t, waitLimit), &envelope.StatusRequest{})
		if !errors.Is(err, envelope.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("while the node is gone: %v", err)
		}
	}
	serve(t, rpc.ServerOptions{Listen: addr}, roles{ready}.services())
	t.Logf("calls work %v after the node is back", askStatus(t, peer))
}

// TestNodeStartedAgain checks that a node that was started again at its address is called at once, though its connection
// waits for its next try to connect.
func TestNodeStartedAgain(t *testing.T) {
	addr, _ := serve(t, rpc.ServerOptions{}, roles{ready}.services())
	var dials atomic.Int32
	var up atomic.Bool
	pool := newPool(t, rpc.PoolOptions{Faults: rpc.Faults{Dial: func(ctx context.Context, addr string) (net.Conn, error) {
		dials.Add(1)
		if !up.Load() {
			return nil, errors.New("connection refused")
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}}})
	status := func() error {
		_, err := pool.Node(addr).Status().Status(within(t, waitLimit), &envelope.StatusRequest{})
		return err
	}
	pool.Keep(map[string]int64{addr: 1})
	first := pool.Node(addr)
	for dials.Load() < 6 { // by now the pauses between tries are long
		if err := status(); !errors.Is(err, envelope.ErrUnavailable) {
			t.Fatalf("while the node is away: %v", err)
		}
		pool.Keep(map[string]int64{addr: 1})
	}
	if pool.Node(addr) != first {
		t.Error("a node that was not started again is another value")
	}
	up.Store(true)
	pool.Keep(map[string]int64{addr: 2})
	if err := status(); err != nil {
		t.Errorf("the first call after the start: %v", err)
	}
	if pool.Node(addr) == first {
		t.Error("another process is the same value")
	}
}

func TestDroppedNodeLetsCallsEnd(t *testing.T) {
	began, end := make(chan struct{}), make(chan struct{})
	addr, _ := serve(t, rpc.ServerOptions{}, roles{func(context.Context, string, proto.Message) (proto.Message, error) {
		close(began)
		<-end
		return &envelope.StatusReply{Ready: true}, nil
	}}.services())
	pool := newPool(t, rpc.PoolOptions{})
	peer := pool.Node(addr)
	result := make(chan error, 1)
	go func() {
		_, err := peer.Status().Status(within(t, waitLimit), &envelope.StatusRequest{})
		result <- err
	}()
	<-began
	pool.Keep(nil)
	if _, err := peer.Status().Status(within(t, waitLimit), &envelope.StatusRequest{}); !errors.Is(err, envelope.ErrUnavailable) ||
		!strings.Contains(err.Error(), "left") {
		t.Errorf("a new call of a dropped node: %v", err)
	}
	close(end)
	if err := <-result; err != nil {
		t.Errorf("the call that ran: %v", err)
	}
}

func TestClosedPool(t *testing.T) {
	began := make(chan struct{}, 2)
	addr, _ := serve(t, rpc.ServerOptions{}, roles{func(ctx context.Context, _ string, _ proto.Message) (proto.Message, error) {
		began <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}}.services())
	pool := newPool(t, rpc.PoolOptions{})
	peer := pool.Node(addr)
	result := make(chan error, 1)
	go func() {
		_, err := peer.Status().Status(within(t, waitLimit), &envelope.StatusRequest{})
		result <- err
	}()
	<-began
	pool.Close()
	if err := <-result; !errors.Is(err, envelope.ErrUnavailable) || errors.Is(err, context.Canceled) {
		t.Errorf("the call that ran: %v", err)
	}
	for _, p := range []*rpc.Peer{peer, pool.Node(addr)} {
		if _, err := p.Status().Status(within(t, waitLimit), &envelope.StatusRequest{}); !errors.Is(err, envelope.ErrUnavailable) {
			t.Errorf("after Close: %v", err)
		}
	}
}

func TestServerLetsCallsEnd(t *testing.T) {
	began, end := make(chan struct{}), make(chan struct{})
	addr, stop := serve(t, rpc.ServerOptions{}, roles{func(context.Context, string, proto.Message) (proto.Message, error) {
		close(began)
		<-end
		return &envelope.StatusReply{Ready: true}, nil
	}}.services())
	peer := newPool(t, rpc.PoolOptions{}).Node(addr)
	result := make(chan error, 1)
	go func() {
		_, err := peer.Status().Status(within(t, waitLimit), &envelope.StatusRequest{})
		result <- err
	}()
	<-began
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	// The server is stopping once it no longer takes connections.
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			break
		}
		c.Close()
		if time.Since(began) > waitLimit {
			t.Fatal("the server takes connections although it stops")
		}
	}
	close(end)
	if err := <-result; err != nil {
		t.Errorf("the call that ran: %v", err)
	}
	<-stopped
}

func TestServerStarting(t *testing.T) {
	server, err := rpc.NewServer(rpc.ServerOptions{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	peer := newPool(t, rpc.PoolOptions{}).Node(server.Addr().String())
	if _, err := peer.Status().Status(within(t, waitLimit), &envelope.StatusRequest{}); !errors.Is(err, envelope.ErrUnavailable) ||
		!strings.Contains(err.Error(), "starting") {
		t.Errorf("before Register: %v", err)
	}
	server.Register(roles{ready}.services())
	askStatus(t, peer)
	if _, err := rpc.NewServer(rpc.ServerOptions{Listen: server.Addr().String()}); err == nil {
		t.Error("two servers at one port")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	other, err := rpc.NewServer(rpc.ServerOptions{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	other.Close() // This server never ran.
}
