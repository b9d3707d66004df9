package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"imgo/cluster/rpc"
	"imgo/envelope"
)

// serveNothing listens at the returned address. It takes connections and never writes.
func serveNothing(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		var conns []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			conns = append(conns, c)
		}
		for _, c := range conns {
			c.Close()
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return l.Addr().String()
}

func TestHungNode(t *testing.T) {
	for name, s := range map[string]rpc.Security{"plain": {}, "secret": {Secret: "a long and random secret"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			peer := newPool(t, rpc.PoolOptions{Security: s}).Node(serveNothing(t))
			_, err := peer.Status().Status(within(t, 50*time.Millisecond), &envelope.StatusRequest{})
			if !errors.Is(err, envelope.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a call with a deadline: %v", err)
			}
			ended := make(chan error, 1)
			go func() {
				_, err := peer.Status().Status(context.Background(), &envelope.StatusRequest{})
				ended <- err
			}()
			select {
			case err = <-ended:
			case <-time.After(waitLimit):
				t.Fatal("a call without a deadline does not end")
			}
			if !errors.Is(err, envelope.ErrUnavailable) {
				t.Errorf("a call without a deadline: %v", err)
			}
		})
	}
}

// TestNodeStopsAnswering checks a node that no longer answers while its connection is open. A call
// takes until its deadline at most. Dropping the node ends the calls in progress.
func TestNodeStopsAnswering(t *testing.T) {
	var frozen frozen
	addr, _ := serve(t, rpc.ServerOptions{}, roles{ready}.services())
	pool := newPool(t, rpc.PoolOptions{Faults: rpc.Faults{Dial: frozen.dial}})
	peer := pool.Node(addr)
	askStatus(t, peer)
	frozen.set(true)
	defer frozen.set(false)
	for range 3 {
		_, err := peer.Status().Status(within(t, 50*time.Millisecond), &envelope.StatusRequest{})
		if !errors.Is(err, envelope.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a node that stopped: %v", err)
		}
	}
	ended := make(chan error, 1)
	go func() {
		_, err := peer.Status().Status(context.Background(), &envelope.StatusRequest{})
		ended <- err
	}()
	pool.Keep(nil)
	select {
	case err := <-ended:
		if !errors.Is(err, envelope.ErrUnavailable) {
			t.Errorf("the call that ran: %v", err)
		}
	case <-time.After(waitLimit):
		t.Error("the call that ran does not end")
	}
	if _, err := peer.Status().Status(within(t, waitLimit), &envelope.StatusRequest{}); !errors.Is(err, envelope.ErrUnavailable) ||
		errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after its removal: %v", err)
	}
}

// frozen makes connections that lose their writes while it is set.
type frozen struct {
	mu sync.Mutex
	on bool
}

func (f *frozen) set(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.on = on
}

func (f *frozen) dial(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	return &frozenConn{c, f}, err
}

type frozenConn struct {
	net.Conn
	f *frozen
}

// Write loses the data while the other side is frozen.
func (c *frozenConn) Write(b []byte) (int, error) {
	c.f.mu.Lock()
	on := c.f.on
	c.f.mu.Unlock()
	if on {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// TestManyLargeReplies checks that large replies share a connection with small calls and with each
// other.
func TestManyLargeReplies(t *testing.T) {
	body := string(bytes.Repeat([]byte("0123456789abcdef"), 3<<20/16))
	addr, _ := serve(t, rpc.ServerOptions{}, roles{func(_ context.Context, method string, _ proto.Message) (proto.Message, error) {
		if method == "Comet.Push" {
			return &envelope.PushReply{EmptyRooms: []string{body}}, nil
		}
		return &envelope.StatusReply{Ready: true}, nil
	}}.services())
	peer := newPool(t, rpc.PoolOptions{}).Node(addr)
	var large, small sync.WaitGroup
	done := make(chan struct{})
	small.Go(func() {
		for {
			if _, err := peer.Status().Status(within(t, waitLimit), &envelope.StatusRequest{}); err != nil {
				t.Errorf("a small call: %v", err)
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for range 8 {
		large.Go(func() {
			for range 3 {
				rep, err := peer.Comet().Push(within(t, waitLimit), &envelope.PushRequest{})
				if err != nil || len(rep.EmptyRooms) != 1 || rep.EmptyRooms[0] != body {
					t.Errorf("a large reply: %v", err)
				}
			}
		})
	}
	large.Wait()
	close(done)
	small.Wait()
}

// TestReplyOverTheLimit checks that the caller also limits the size of replies.
func TestReplyOverTheLimit(t *testing.T) {
	addr, _ := serve(t, rpc.ServerOptions{}, roles{func(context.Context, string, proto.Message) (proto.Message, error) {
		return &envelope.PushReply{EmptyRooms: []string{string(make([]byte, 2<<20))}}, nil
	}}.services())
	peer := newPool(t, rpc.PoolOptions{MaxMessage: 1 << 20}).Node(addr)
	if _, err := peer.Comet().Push(within(t, waitLimit), &envelope.PushRequest{}); !errors.Is(err, envelope.ErrTooLarge) {
		t.Errorf("a reply over the limit: %v", err)
	}
}
