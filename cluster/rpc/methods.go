package rpc

import (
	"context"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"imgo/envelope"
)

// messageOf is a pointer to a T that is a message.
type messageOf[T any] interface {
	*T
	message
}

// services describes what a server offers: the server's half of each method.
// The caller's half is below; a test calls every one over a socket.
func (s *Server) services() []*grpc.ServiceDesc {
	router := offer[Router]{s, "router", routerService, func(o *Services) Router { return o.Router }}
	logic := offer[Logic]{s, "logic", logicService, func(o *Services) Logic { return o.Logic }}
	comet := offer[Comet]{s, "comet", cometService, func(o *Services) Comet { return o.Comet }}
	stat := offer[Status]{s, "", statusService, func(o *Services) Status { return o.Status }}
	return []*grpc.ServiceDesc{
		router.desc(
			unary(router, "Attach", Router.Attach),
			unary(router, "Detach", silent(Router.Detach)),
			unary(router, "CatchUp", Router.CatchUp),
			unary(router, "Lookup", Router.Lookup),
			unary(router, "Announce", Router.Announce),
			unary(router, "User", Router.User),
			unary(router, "Take", Router.Take),
			unary(router, "Claim", Router.Claim),
			unary(router, "Forget", Router.Forget),
			unary(router, "Resolve", Router.Resolve),
		),
		logic.desc(
			unary(logic, "Connect", Logic.Connect),
			unary(logic, "CatchUp", silent(Logic.CatchUp)),
			unary(logic, "Ack", silent(Logic.Ack)),
			unary(logic, "Detach", silent(Logic.Detach)),
			unary(logic, "Announce", Logic.Announce),
			unary(logic, "RoomOpened", silent(Logic.RoomOpened)),
		),
		comet.desc(
			unary(comet, "Push", Comet.Push),
			unary(comet, "Rooms", Comet.Rooms),
		),
		stat.desc(
			unary(stat, "Status", Status.Status),
		),
	}
}

// offer is one service of a server.
type offer[S any] struct {
	server  *Server
	role    string // "" for what every node has
	service string
	pick    func(*Services) S
}

func (o offer[S]) desc(methods ...grpc.MethodDesc) *grpc.ServiceDesc {
	return &grpc.ServiceDesc{ServiceName: o.service, HandlerType: (*any)(nil), Methods: methods}
}

// unary is the server's half of a method.
func unary[S, Req, Rep any, P messageOf[Req], Q messageOf[Rep]](o offer[S], name string, call func(S, context.Context, *Req) (*Rep, error)) grpc.MethodDesc {
	method := "/" + o.service + "/" + name
	return grpc.MethodDesc{
		MethodName: name,
		Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			req := new(Req)
			if err := decode(P(req)); err != nil {
				return nil, err
			}
			return o.server.serve(method, func() (any, error) {
				var role any
				offered := o.server.offered.Load()
				if offered != nil {
					role = o.pick(offered)
				}
				to, ok := role.(S) // a nil interface is no S
				if ok && o.role == "router" {
					if err := offered.sameGeneration(ctx); err != nil {
						return nil, err
					}
				}
				switch {
				case ok:
					rep, err := call(to, ctx, req)
					if err != nil {
						return nil, err
					}
					return Q(rep), nil
				case offered == nil:
					return nil, envelope.Errorf(envelope.CodeUnavailable, "this node is starting")
				case o.role == "":
					return nil, envelope.Errorf(envelope.CodeUnavailable, "this node does not tell its status")
				}
				return nil, envelope.Errorf(envelope.CodeUnavailable, "this node does not run role %s", o.role)
			})
		},
	}
}

// sameGeneration is nil for a call that is of the router's generation.
func (o *Services) sameGeneration(ctx context.Context) error {
	if o.Generation == 0 {
		return nil
	}
	if of, ok := ctx.Value(generationOf{}).(uint32); ok {
		if of == uint32(o.Generation) {
			return nil
		}
		return o.otherGeneration(strconv.Itoa(int(of)))
	}
	of := metadata.ValueFromIncomingContext(ctx, generationKey)
	if len(of) == 0 || of[0] == strconv.Itoa(int(o.Generation)) {
		return nil
	}
	return o.otherGeneration(of[0])
}

func (o *Services) otherGeneration(of string) error {
	return envelope.Errorf(envelope.CodeUnavailable, "the router here is of generation %d of the kept topic, the call of generation %s", o.Generation, of)
}

// silent makes a method of one that answers nothing but an error.
func silent[S, Req any](call func(S, context.Context, *Req) error) func(S, context.Context, *Req) (*envelope.Empty, error) {
	return func(s S, ctx context.Context, r *Req) (*envelope.Empty, error) {
		return &envelope.Empty{}, call(s, ctx, r)
	}
}

// ask is the caller's half of a method.
func ask[Rep any, P messageOf[Rep]](ctx context.Context, p *Peer, method string, req message) (*Rep, error) {
	rep := new(Rep)
	if err := p.call(ctx, method, req, P(rep)); err != nil {
		return nil, err
	}
	return rep, nil
}

// askTogether is ask for a call of which there are many: see together.
func askTogether[Rep any, P messageOf[Rep]](ctx context.Context, p *Peer, method string, generation uint16, req message) (*Rep, error) {
	rep := new(Rep)
	if err := p.callTogether(ctx, method, generation, req, P(rep)); err != nil {
		return nil, err
	}
	return rep, nil
}

// tell is ask where nothing but an error is answered.
func tell(ctx context.Context, p *Peer, method string, req message) error {
	_, err := ask[envelope.Empty](ctx, p, method, req)
	return err
}

// remoteRouter is the router of another node.
type remoteRouter struct {
	peer *Peer
	// generation is the one of the kept topic that is asked about; 0: any.
	generation uint16
}

// of says in a call which generation it is of.
func (r remoteRouter) of(ctx context.Context) context.Context {
	return ofGeneration(ctx, r.generation)
}

func ofGeneration(ctx context.Context, generation uint16) context.Context {
	if generation == 0 {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, generationKey, strconv.Itoa(int(generation)))
}

func (r remoteRouter) Attach(ctx context.Context, q *envelope.AttachRequest) (*envelope.AttachReply, error) {
	return askTogether[envelope.AttachReply](ctx, r.peer, "/"+routerService+"/Attach", r.generation, q)
}

func (r remoteRouter) Detach(ctx context.Context, q *envelope.DetachRequest) error {
	return tell(r.of(ctx), r.peer, "/"+routerService+"/Detach", q)
}

func (r remoteRouter) CatchUp(ctx context.Context, q *envelope.CatchUpRequest) (*envelope.Backlog, error) {
	return ask[envelope.Backlog](r.of(ctx), r.peer, "/"+routerService+"/CatchUp", q)
}

func (r remoteRouter) Lookup(ctx context.Context, q *envelope.LookupRequest) (*envelope.LookupReply, error) {
	if few(q) { // most: of one push
		return askTogether[envelope.LookupReply](ctx, r.peer, "/"+routerService+"/Lookup", r.generation, q)
	}
	return ask[envelope.LookupReply](r.of(ctx), r.peer, "/"+routerService+"/Lookup", q)
}

// few says whether the answer to a question will be small.
func few(q *envelope.LookupRequest) bool { return len(q.Users) <= 16 && len(q.Keys) == 0 && !q.Full }

func (r remoteRouter) Announce(ctx context.Context, q *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
	return ask[envelope.AnnounceReply](r.of(ctx), r.peer, "/"+routerService+"/Announce", q)
}

func (r remoteRouter) User(ctx context.Context, q *envelope.UserRequest) (*envelope.UserReply, error) {
	return ask[envelope.UserReply](r.of(ctx), r.peer, "/"+routerService+"/User", q)
}

func (r remoteRouter) Take(ctx context.Context, q *envelope.TakeRequest) (*envelope.TakeReply, error) {
	return ask[envelope.TakeReply](r.of(ctx), r.peer, "/"+routerService+"/Take", q)
}

func (r remoteRouter) Claim(ctx context.Context, q *envelope.ClaimRequest) (*envelope.ClaimReply, error) {
	return ask[envelope.ClaimReply](r.of(ctx), r.peer, "/"+routerService+"/Claim", q)
}

func (r remoteRouter) Forget(ctx context.Context, q *envelope.ForgetRequest) (*envelope.ForgetReply, error) {
	return ask[envelope.ForgetReply](r.of(ctx), r.peer, "/"+routerService+"/Forget", q)
}

func (r remoteRouter) Resolve(ctx context.Context, q *envelope.ResolveRequest) (*envelope.ResolveReply, error) {
	return ask[envelope.ResolveReply](r.of(ctx), r.peer, "/"+routerService+"/Resolve", q)
}

// remoteLogic is the logic of another node.
type remoteLogic struct{ peer *Peer }

func (l *remoteLogic) Connect(ctx context.Context, q *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
	return askTogether[envelope.ConnectReply](ctx, l.peer, "/"+logicService+"/Connect", 0, q)
}

func (l *remoteLogic) CatchUp(ctx context.Context, q *envelope.CatchUpRequest) error {
	_, err := askTogether[envelope.Empty](ctx, l.peer, "/"+logicService+"/CatchUp", 0, q)
	return err
}

func (l *remoteLogic) Ack(ctx context.Context, q *envelope.AckRequest) error {
	return tell(ctx, l.peer, "/"+logicService+"/Ack", q)
}

func (l *remoteLogic) Detach(ctx context.Context, q *envelope.DetachRequest) error {
	return tell(ctx, l.peer, "/"+logicService+"/Detach", q)
}

func (l *remoteLogic) Announce(ctx context.Context, q *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
	return ask[envelope.AnnounceReply](ctx, l.peer, "/"+logicService+"/Announce", q)
}

func (l *remoteLogic) RoomOpened(ctx context.Context, q *envelope.RoomOpened) error {
	return tell(ctx, l.peer, "/"+logicService+"/RoomOpened", q)
}

// remoteComet is the comet of another node.
type remoteComet struct{ peer *Peer }

func (c *remoteComet) Push(ctx context.Context, q *envelope.PushRequest) (*envelope.PushReply, error) {
	return ask[envelope.PushReply](ctx, c.peer, "/"+cometService+"/Push", q)
}

func (c *remoteComet) Rooms(ctx context.Context, q *envelope.RoomsRequest) (*envelope.RoomsReply, error) {
	return ask[envelope.RoomsReply](ctx, c.peer, "/"+cometService+"/Rooms", q)
}

// remoteStatus is the status of another node.
type remoteStatus struct{ peer *Peer }

func (s *remoteStatus) Status(ctx context.Context, q *envelope.StatusRequest) (*envelope.StatusReply, error) {
	return ask[envelope.StatusReply](ctx, s.peer, "/"+statusService+"/Status", q)
}
