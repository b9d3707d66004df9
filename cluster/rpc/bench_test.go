//go:build unix

package rpc_test

import (
	"context"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"imgo/cluster/rpc"
	"imgo/envelope"
)

// BenchmarkConnect measures the calls of one client's connect in a cluster:
// comet calls logic on another node, and logic calls router on a third. All
// three run in this process, so cpu-µs/connect is the CPU time of both sides of
// both calls, by getrusage.
func BenchmarkConnect(b *testing.B) {
	for _, kind := range []struct {
		name     string
		security rpc.Security
	}{{"plain", rpc.Security{}}, {"secret", rpc.Security{Secret: "a long and random secret"}}} {
		for _, callers := range []struct {
			name  string
			count int
		}{{"callers=1", 1}, {"callers=64", 64}} {
			b.Run(kind.name+"/"+callers.name, func(b *testing.B) {
				benchmarkConnect(b, kind.security, callers.count)
			})
		}
	}
}

func benchmarkConnect(b *testing.B, security rpc.Security, callers int) {
	token := strings.Repeat("t", 180)
	attachReply := &envelope.AttachReply{Backlog: &envelope.Backlog{}, Floor: 1 << 48}
	routerAddr, _ := serve(b, rpc.ServerOptions{Security: security}, rpc.Services{Router: attachingRouter{reply: attachReply}})
	router := newPool(b, rpc.PoolOptions{Security: security}).Node(routerAddr).RouterOf(1)
	logicAddr, _ := serve(b, rpc.ServerOptions{Security: security}, rpc.Services{Logic: connectingLogic{router: router}})
	logic := newPool(b, rpc.PoolOptions{Security: security}).Node(logicAddr).Logic()
	connect := func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		req := &envelope.ConnectRequest{Token: token, Session: &envelope.SessionInfo{
			Address: &envelope.Address{Comet: "comet-1", Session: 1 << 40}, Device: "phone", Platform: "android",
			Remote: "10.0.0.1:4242", Generation: "imgo", Transport: "tcp", Accepts: []int32{1005, 1007},
		}}
		if _, err := logic.Connect(ctx, req); err != nil {
			b.Error(err)
		}
	}
	connect() // The first call opens both connections.

	b.ReportAllocs()
	b.ResetTimer()
	began := cpuTime(b)
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			for range (b.N + callers - 1 - i) / callers {
				connect()
			}
		})
	}
	all.Wait()
	b.StopTimer()
	b.ReportMetric(float64((cpuTime(b)-began).Nanoseconds())/1000/float64(b.N), "cpu-µs/connect")
}

// attachingRouter answers Attach without work.
type attachingRouter struct {
	rpc.Router
	reply *envelope.AttachReply
}

func (r attachingRouter) Attach(context.Context, *envelope.AttachRequest) (*envelope.AttachReply, error) {
	return r.reply, nil
}

// connectingLogic answers Connect as logic does: it attaches the session.
type connectingLogic struct {
	rpc.Logic
	router rpc.Router
}

func (l connectingLogic) Connect(ctx context.Context, q *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
	session := q.Session
	session.User = "user-1"
	attached, err := l.router.Attach(ctx, &envelope.AttachRequest{Session: session, MaxMessages: 64, MaxBytes: 64 << 10})
	if err != nil {
		return nil, err
	}
	return &envelope.ConnectReply{User: "user-1", Backlog: attached.Backlog, Floor: attached.Floor}, nil
}

// pushedComet answers Push without work.
type pushedComet struct{ rpc.Comet }

func (pushedComet) Push(context.Context, *envelope.PushRequest) (*envelope.PushReply, error) {
	return &envelope.PushReply{}, nil
}

// cpuTime returns the CPU time that this process has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
