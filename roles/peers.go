package roles

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"imgo/cluster/members"
	"imgo/cluster/ring"
	"imgo/cluster/rpc"
	"imgo/config"
	"imgo/envelope"
	"imgo/roles/comet"
	"imgo/roles/job"
	"imgo/roles/logic"
)

// peers are the roles of all nodes as those of this process see them: who is
// there is what gossip says, a call to a role of this process is a method
// call, one to another is gRPC. A node that gossip calls dead is not called.
// Safe for concurrent use.
type peers struct {
	name       string
	generation uint16 // of the kept topic
	partitions int32
	members    *members.Members
	pool       *rpc.Pool
	looking    *sync.Mutex
	log        zerolog.Logger

	// The roles of this process, nil where it does not run them; set before
	// run begins.
	router rpc.Router
	comet  rpc.Comet
	logic  rpc.Logic

	turn atomic.Uint64 // spreads calls over the logics
	now  atomic.Pointer[sky]
}

// sky is one state of the cluster; it never changes.
type sky struct {
	nodes   []members.Node
	routers []rpc.Router
	owners  []rpc.Router // by partition; nil: nobody
	comets  map[string]rpc.Comet
	names   []string // of comets, those that are leaving too: they still hold sessions
	logics  []rpc.Logic
	owned   []int32 // the partitions of this process's router
	// moved is closed once another state has other owned partitions.
	moved chan struct{}
}

func newPeers(name string, kept keptLog, m *members.Members, pool *rpc.Pool, looking *sync.Mutex, log zerolog.Logger) *peers {
	p := &peers{name: name, generation: kept.Generation(), partitions: kept.Partitions(), members: m, pool: pool, looking: looking, log: log}
	p.now.Store(&sky{owners: make([]rpc.Router, p.partitions), moved: make(chan struct{})})
	return p
}

// logicAddresses are some addresses where the API is.
func (p *peers) logicAddresses() []string {
	var out []string
	for _, node := range p.now.Load().nodes {
		if slices.Contains(node.Meta.GetRoles(), config.RoleLogic) && node.Meta.GetHttp() != "" && len(out) < 3 {
			out = append(out, node.Meta.GetHttp())
		}
	}
	return out
}

// run follows gossip until ctx is done.
func (p *peers) run(ctx context.Context) error {
	for {
		view := p.look()
		select {
		case <-view.Next():
		case <-ctx.Done():
			return nil
		}
	}
}

// joined says why the roles cannot start yet: until this node has seen itself
// among the others nobody would be the owner of anything.
func (p *peers) joined() error {
	if len(p.now.Load().nodes) == 0 {
		return envelope.Errorf(envelope.CodeUnavailable, "gossip has not begun")
	}
	return nil
}

// look makes the state that the newest view of the members means. Those of two
// cores look one after the other: what an older view does not have must not be
// taken from the pool behind a newer one's back.
func (p *peers) look() *members.View {
	p.looking.Lock()
	defer p.looking.Unlock()
	view := p.members.Snapshot()
	before := p.now.Load()
	s := &sky{nodes: view.Nodes, comets: make(map[string]rpc.Comet), owners: make([]rpc.Router, p.partitions), moved: before.moved}
	var addresses []string
	for _, node := range view.Nodes {
		if node.Name != p.name {
			addresses = append(addresses, node.Meta.GetRpc())
		}
		if slices.Contains(node.Meta.GetRoles(), config.RoleComet) {
			s.names = append(s.names, node.Name)
			s.comets[node.Name] = p.comet
			if node.Name != p.name {
				s.comets[node.Name] = p.pool.Node(node.Meta.GetRpc()).Comet()
			}
		}
	}
	var names []string
	routers := make(map[string]rpc.Router)
	for _, node := range staying(view.Nodes, config.RoleRouter) {
		r := p.router
		if node.Name != p.name {
			r = p.pool.Node(node.Meta.GetRpc()).RouterOf(p.generation)
		}
		routers[node.Name], names, s.routers = r, append(names, node.Name), append(s.routers, r)
	}
	for _, node := range staying(view.Nodes, config.RoleLogic) {
		if node.Name != p.name {
			s.logics = append(s.logics, p.pool.Node(node.Meta.GetRpc()).Logic())
		}
	}
	table := ring.New(p.partitions, names)
	for i := range p.partitions {
		if owner := table.Owner(i); owner != "" {
			s.owners[i] = routers[owner]
		}
	}
	s.owned = table.Owned(p.name)
	if !slices.Equal(before.owned, s.owned) {
		s.moved = make(chan struct{})
	}
	p.now.Store(s)
	if s.moved != before.moved {
		close(before.moved)
		p.log.Info().Ints32("partitions", s.owned).Strs("routers", names).Msg("the owners of partitions have changed")
	}
	p.pool.Keep(addresses)
	return view
}

// staying are the nodes of a role to which something new may go: those that
// drain only while there are no others.
func staying(nodes []members.Node, role string) []members.Node {
	var stay, all []members.Node
	for _, node := range nodes {
		if !slices.Contains(node.Meta.GetRoles(), role) {
			continue
		}
		all = append(all, node)
		if !node.Meta.GetLeaving() {
			stay = append(stay, node)
		}
	}
	if len(stay) == 0 {
		return all
	}
	return stay
}

// owned are the partitions of this process's router, and a channel that is
// closed when they are others.
func (p *peers) owned() ([]int32, <-chan struct{}) {
	s := p.now.Load()
	return s.owned, s.moved
}

func (p *peers) owner(partition int32) (rpc.Router, error) {
	if s := p.now.Load(); partition >= 0 && int(partition) < len(s.owners) {
		if r := s.owners[partition]; r != nil {
			return r, nil
		}
	}
	return nil, envelope.Errorf(envelope.CodeUnavailable, "no router is there to own partition %d: start one with --roles=router", partition)
}

// routersOf are the routers as logic asks for them.
type routersOf struct{ *peers }

// Owner is the owner of a partition.
func (p routersOf) Owner(partition int32) (logic.Router, error) { return p.owner(partition) }

// All are the routers of the moment.
func (p routersOf) All() []logic.Router {
	all := p.now.Load().routers
	out := make([]logic.Router, len(all))
	for i, r := range all {
		out[i] = r
	}
	return out
}

// Partitions is how many there are.
func (p routersOf) Partitions() int32 { return p.partitions }

// All are the comets of the moment, as logic asks for them.
func (p *peers) All() map[string]logic.Comet {
	comets := p.now.Load().comets
	out := make(map[string]logic.Comet, len(comets))
	for name, c := range comets {
		out[name] = c
	}
	return out
}

// Owner is the owner of a partition, as job asks for it.
func (p *peers) Owner(partition int32) (job.Router, error) { return p.owner(partition) }

// Comet is the comet of a name.
func (p *peers) Comet(name string) job.Comet {
	if c := p.now.Load().comets[name]; c != nil {
		return c
	}
	return nil
}

// Names are the comets of the moment.
func (p *peers) Names() []string { return p.now.Load().names }

// logics are the logics of the cluster as comet calls them: the one of this
// process if there is one, else any, another one where one does not answer.
// Every call of comet.Logic may be repeated.
type logics struct{ *cluster }

var _ comet.Logic = logics{}

// leastTry is how long one logic is given to answer before another is asked,
// at the least: one that hangs must not use up all the time there is.
const leastTry = time.Second

func (l logics) try(ctx context.Context, call func(context.Context, rpc.Logic) error) error {
	p := l.peers.Load()
	if p.logic != nil {
		return call(ctx, p.logic)
	}
	var err error = envelope.Errorf(envelope.CodeUnavailable, "no logic is there to ask: start one with --roles=logic")
	all := p.now.Load().logics
	first := p.turn.Add(1)
	for i := range all {
		err = l.once(ctx, all[(first+uint64(i))%uint64(len(all))], i == len(all)-1, call)
		if err == nil || ctx.Err() != nil || !errors.Is(err, envelope.ErrUnavailable) {
			return err
		}
	}
	return err
}

// once asks one logic, for half of the time that is left unless it is the last.
func (l logics) once(ctx context.Context, to rpc.Logic, last bool, call func(context.Context, rpc.Logic) error) error {
	if deadline, ok := ctx.Deadline(); ok && !last {
		short, cancel := context.WithTimeout(ctx, max(time.Until(deadline)/2, leastTry))
		defer cancel()
		ctx = short
	}
	return call(ctx, to)
}

// Connect says who a client is.
func (l logics) Connect(ctx context.Context, r *envelope.ConnectRequest) (reply *envelope.ConnectReply, err error) {
	err = l.try(ctx, func(ctx context.Context, to rpc.Logic) error {
		reply, err = to.Connect(ctx, r)
		return err
	})
	return reply, err
}

// CatchUp asks for what is pending for a session.
func (l logics) CatchUp(ctx context.Context, r *envelope.CatchUpRequest) error {
	return l.try(ctx, func(ctx context.Context, to rpc.Logic) error { return to.CatchUp(ctx, r) })
}

// Ack makes acknowledgements durable.
func (l logics) Ack(ctx context.Context, r *envelope.AckRequest) error {
	return l.try(ctx, func(ctx context.Context, to rpc.Logic) error { return to.Ack(ctx, r) })
}

// Detach tells of sessions that ended.
func (l logics) Detach(ctx context.Context, r *envelope.DetachRequest) error {
	return l.try(ctx, func(ctx context.Context, to rpc.Logic) error { return to.Detach(ctx, r) })
}

// RoomOpened tells that a room has a member here again.
func (l logics) RoomOpened(ctx context.Context, r *envelope.RoomOpened) error {
	return l.try(ctx, func(ctx context.Context, to rpc.Logic) error { return to.RoomOpened(ctx, r) })
}

// Announce is a sign of life to the owners.
func (l logics) Announce(ctx context.Context, r *envelope.AnnounceRequest) (reply *envelope.AnnounceReply, err error) {
	err = l.try(ctx, func(ctx context.Context, to rpc.Logic) error {
		reply, err = to.Announce(ctx, r)
		return err
	})
	return reply, err
}
