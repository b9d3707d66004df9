package rpc_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"imgo/cluster/rpc"
	"imgo/envelope"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// waitLimit bounds every wait.
const waitLimit = 20 * time.Second

// roles implements all roles of a node. Every call is passed to handle.
type roles struct {
	handle func(ctx context.Context, method string, req proto.Message) (proto.Message, error)
}

// services returns the roles. They are the stubs of the package, whose calls go to handle.
func (r roles) services() rpc.Services {
	return rpc.StubServices(func(ctx context.Context, method string, req, rep proto.Message) error {
		got, err := r.handle(ctx, strings.ReplaceAll(strings.TrimPrefix(method, "/imgo.rpc.v1."), "/", "."), req)
		if err == nil && got != nil {
			proto.Merge(rep, got)
		}
		return err
	})
}

// ready is a handle that answers calls of Status.
func ready(context.Context, string, proto.Message) (proto.Message, error) {
	return &envelope.StatusReply{Ready: true}, nil
}

// serve starts a server. stop stops it and may be called twice.
func serve(t testing.TB, o rpc.ServerOptions, s rpc.Services) (addr string, stop func()) {
	t.Helper()
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	server, err := rpc.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	server.Register(s)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("server: %v", err)
			}
		case <-time.After(waitLimit):
			t.Error("the server does not end")
		}
	})
	t.Cleanup(stop)
	return server.Addr().String(), stop
}

func newPool(t testing.TB, o rpc.PoolOptions) *rpc.Pool {
	t.Helper()
	pool, err := rpc.NewPool(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// askStatus calls Status until it succeeds, and returns how long that took.
func askStatus(t testing.TB, peer *rpc.Peer) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		_, err := peer.Status().Status(within(t, waitLimit), &envelope.StatusRequest{})
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > waitLimit {
			t.Fatalf("no answer: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
