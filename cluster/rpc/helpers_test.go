package rpc_test

import (
	"context"
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

func (r roles) services() rpc.Services {
	return rpc.Services{Router: routerRole{r}, Logic: logicRole{r}, Comet: cometRole{r}, Status: statusRole{r}}
}

// reply returns the reply of handle as the type of the method's reply.
func reply[R proto.Message](ctx context.Context, r roles, method string, req proto.Message) (R, error) {
	rep, err := r.handle(ctx, method, req)
	if err != nil {
		var none R
		return none, err
	}
	return rep.(R), nil
}

// noReply is like reply, for methods that return only an error.
func noReply(ctx context.Context, r roles, method string, req proto.Message) error {
	_, err := r.handle(ctx, method, req)
	return err
}

type routerRole struct{ roles }

func (r routerRole) Attach(ctx context.Context, q *envelope.AttachRequest) (*envelope.AttachReply, error) {
	return reply[*envelope.AttachReply](ctx, r.roles, "Router.Attach", q)
}
func (r routerRole) Detach(ctx context.Context, q *envelope.DetachRequest) error {
	return noReply(ctx, r.roles, "Router.Detach", q)
}
func (r routerRole) CatchUp(ctx context.Context, q *envelope.CatchUpRequest) (*envelope.Backlog, error) {
	return reply[*envelope.Backlog](ctx, r.roles, "Router.CatchUp", q)
}
func (r routerRole) Lookup(ctx context.Context, q *envelope.LookupRequest) (*envelope.LookupReply, error) {
	return reply[*envelope.LookupReply](ctx, r.roles, "Router.Lookup", q)
}
func (r routerRole) Announce(ctx context.Context, q *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
	return reply[*envelope.AnnounceReply](ctx, r.roles, "Router.Announce", q)
}
func (r routerRole) User(ctx context.Context, q *envelope.UserRequest) (*envelope.UserReply, error) {
	return reply[*envelope.UserReply](ctx, r.roles, "Router.User", q)
}
func (r routerRole) Take(ctx context.Context, q *envelope.TakeRequest) (*envelope.TakeReply, error) {
	return reply[*envelope.TakeReply](ctx, r.roles, "Router.Take", q)
}
func (r routerRole) Claim(ctx context.Context, q *envelope.ClaimRequest) (*envelope.ClaimReply, error) {
	return reply[*envelope.ClaimReply](ctx, r.roles, "Router.Claim", q)
}
func (r routerRole) Forget(ctx context.Context, q *envelope.ForgetRequest) (*envelope.ForgetReply, error) {
	return reply[*envelope.ForgetReply](ctx, r.roles, "Router.Forget", q)
}

func (r routerRole) Remove(ctx context.Context, q *envelope.RemoveRequest) (*envelope.RemoveReply, error) {
	return reply[*envelope.RemoveReply](ctx, r.roles, "Router.Remove", q)
}
func (r routerRole) Resolve(ctx context.Context, q *envelope.ResolveRequest) (*envelope.ResolveReply, error) {
	return reply[*envelope.ResolveReply](ctx, r.roles, "Router.Resolve", q)
}

func (r routerRole) Memberships(ctx context.Context, q *envelope.MembershipsRequest) (*envelope.MembershipsReply, error) {
	return reply[*envelope.MembershipsReply](ctx, r.roles, "Router.Memberships", q)
}

func (r routerRole) Messages(ctx context.Context, q *envelope.MessagesRequest) (*envelope.MessagesReply, error) {
	return reply[*envelope.MessagesReply](ctx, r.roles, "Router.Messages", q)
}

type logicRole struct{ roles }

func (r logicRole) Connect(ctx context.Context, q *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
	return reply[*envelope.ConnectReply](ctx, r.roles, "Logic.Connect", q)
}
func (r logicRole) CatchUp(ctx context.Context, q *envelope.CatchUpRequest) error {
	return noReply(ctx, r.roles, "Logic.CatchUp", q)
}
func (r logicRole) Ack(ctx context.Context, q *envelope.AckRequest) error {
	return noReply(ctx, r.roles, "Logic.Ack", q)
}
func (r logicRole) Read(ctx context.Context, q *envelope.ReadRequest) (*envelope.ReadReply, error) {
	return reply[*envelope.ReadReply](ctx, r.roles, "Logic.Read", q)
}
func (r logicRole) Detach(ctx context.Context, q *envelope.DetachRequest) error {
	return noReply(ctx, r.roles, "Logic.Detach", q)
}
func (r logicRole) Announce(ctx context.Context, q *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
	return reply[*envelope.AnnounceReply](ctx, r.roles, "Logic.Announce", q)
}
func (r logicRole) RoomOpened(ctx context.Context, q *envelope.RoomOpened) error {
	return noReply(ctx, r.roles, "Logic.RoomOpened", q)
}

func (r logicRole) Join(ctx context.Context, q *envelope.JoinRequest) (*envelope.JoinReply, error) {
	return reply[*envelope.JoinReply](ctx, r.roles, "Logic.Join", q)
}
func (r logicRole) Refresh(ctx context.Context, q *envelope.RefreshRequest) (*envelope.RefreshReply, error) {
	return reply[*envelope.RefreshReply](ctx, r.roles, "Logic.Refresh", q)
}

func (r logicRole) Upstream(ctx context.Context, q *envelope.UpstreamRequest) (*envelope.UpstreamReply, error) {
	return reply[*envelope.UpstreamReply](ctx, r.roles, "Logic.Upstream", q)
}

type cometRole struct{ roles }

func (r cometRole) Push(ctx context.Context, q *envelope.PushRequest) (*envelope.PushReply, error) {
	return reply[*envelope.PushReply](ctx, r.roles, "Comet.Push", q)
}
func (r cometRole) Rooms(ctx context.Context, q *envelope.RoomsRequest) (*envelope.RoomsReply, error) {
	return reply[*envelope.RoomsReply](ctx, r.roles, "Comet.Rooms", q)
}

func (r cometRole) Members(ctx context.Context, q *envelope.MembersRequest) (*envelope.MembersReply, error) {
	return reply[*envelope.MembersReply](ctx, r.roles, "Comet.Members", q)
}

type statusRole struct{ roles }

func (r statusRole) Status(ctx context.Context, q *envelope.StatusRequest) (*envelope.StatusReply, error) {
	return reply[*envelope.StatusReply](ctx, r.roles, "Status.Status", q)
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
