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
	"imgo/roles/job"
	"imgo/roles/logic"
)

// remoteRoles gives the roles of this process access to the roles of all nodes. Gossip reports which
// nodes are alive. A call to a role of this process is a method call, and a call to another process
// uses gRPC. A node that gossip reports dead is not called. Safe for concurrent use.
type remoteRoles struct {
	name       string
	generation uint16 // of the kept topic
	partitions int32
	members    *members.Members
	pool       *rpc.Pool
	refreshing *sync.Mutex // shared by all cores of the node
	log        zerolog.Logger

	// These are the roles of this process, or nil where it does not run them. They are set before run
	// begins.
	router rpc.Router
	comet  rpc.Comet
	logic  rpc.Logic

	next atomic.Uint64 // spreads calls over the logics
	// ownFailed is when a call needed another logic than that of this process. It is nil if none did for long.
	ownFailed atomic.Pointer[time.Time]
	state     atomic.Pointer[clusterState]
}

// clusterState is the cluster at one moment. It is immutable.
type clusterState struct {
	nodes   []members.Node
	routers []rpc.Router
	owners  []rpc.Router // by partition; nil: no owner
	comets  map[string]rpc.Comet
	// cometNames includes the comets that are leaving, because they still hold sessions.
	cometNames []string
	logics     []rpc.Logic
	// logicReplaced reports whether logics of other nodes serve in place of this process's.
	logicReplaced bool
	owned         []int32 // the partitions of this process's router
	// ownedChanged is closed once a later state has other owned partitions.
	ownedChanged chan struct{}
}

func newRemoteRoles(name string, kept keptLog, m *members.Members, pool *rpc.Pool, refreshing *sync.Mutex,
	log zerolog.Logger) *remoteRoles {
	r := &remoteRoles{
		name: name, generation: kept.Generation(), partitions: kept.Partitions(), members: m, pool: pool, refreshing: refreshing, log: log,
	}
	r.state.Store(&clusterState{owners: make([]rpc.Router, r.partitions), ownedChanged: make(chan struct{})})
	return r
}

// maxLogicAddresses bounds the addresses that an error names.
const maxLogicAddresses = 3

// logicAddresses returns at most maxLogicAddresses addresses of the API.
func (r *remoteRoles) logicAddresses() []string {
	var out []string
	for _, node := range r.state.Load().nodes {
		if slices.Contains(node.Meta.GetRoles(), config.RoleLogic) && node.Meta.GetHttp() != "" && len(out) < maxLogicAddresses {
			out = append(out, node.Meta.GetHttp())
		}
	}
	return out
}

// run follows gossip until ctx is done.
func (r *remoteRoles) run(ctx context.Context) error {
	for {
		view := r.refresh()
		select {
		case <-view.Next():
		case <-ctx.Done():
			return nil
		}
	}
}

// joined returns why the roles cannot start yet. Until this node has seen itself
// among the others, no partition would have an owner.
func (r *remoteRoles) joined() error {
	if len(r.state.Load().nodes) == 0 {
		return envelope.Errorf(envelope.CodeUnavailable, "gossip has not begun")
	}
	return nil
}

// refresh builds the state from the newest view of the members. Two cores refresh one after the other,
// so that an older view cannot remove a node that a newer view has added to the pool.
func (r *remoteRoles) refresh() *members.View {
	r.refreshing.Lock()
	defer r.refreshing.Unlock()
	view := r.members.Snapshot()
	before := r.state.Load()
	s := &clusterState{
		nodes: view.Nodes, comets: make(map[string]rpc.Comet), owners: make([]rpc.Router, r.partitions), ownedChanged: before.ownedChanged,
	}
	r.pool.Keep(starts(view.Nodes, r.name)) // first, because a node that was started again is another Peer from here on
	for _, node := range view.Nodes {
		if slices.Contains(node.Meta.GetRoles(), config.RoleComet) {
			s.cometNames = append(s.cometNames, node.Name)
			s.comets[node.Name] = r.comet
			if node.Name != r.name {
				s.comets[node.Name] = r.pool.Node(node.Meta.GetRpc()).Comet()
			}
		}
	}
	var names []string
	routers := make(map[string]rpc.Router)
	for _, node := range available(view.Nodes, config.RoleRouter) {
		router := r.router
		if node.Name != r.name {
			router = r.pool.Node(node.Meta.GetRpc()).RouterOf(r.generation)
		}
		routers[node.Name], names, s.routers = router, append(names, node.Name), append(s.routers, router)
	}
	logics := available(view.Nodes, config.RoleLogic)
	for _, node := range logics {
		if node.Name != r.name {
			s.logics = append(s.logics, r.pool.Node(node.Meta.GetRpc()).Logic())
		}
	}
	s.logicReplaced = replaced(r.name, view.Nodes, logics)
	table := ring.New(r.partitions, names)
	for i := range r.partitions {
		if owner := table.Owner(i); owner != "" {
			s.owners[i] = routers[owner]
		}
	}
	s.owned = table.Owned(r.name)
	changed := !slices.Equal(before.owned, s.owned)
	if changed {
		s.ownedChanged = make(chan struct{})
	}
	r.state.Store(s)
	if changed {
		close(before.ownedChanged)
		r.log.Info().Ints32("partitions", s.owned).Strs("routers", names).Msg("the owners of partitions have changed")
	}
	return view
}

// starts returns when the other nodes started, by the address at which they are called.
func starts(nodes []members.Node, own string) map[string]int64 {
	byAddress := make(map[string]int64)
	for _, node := range nodes {
		if addr := node.Meta.GetRpc(); node.Name != own { // two nodes at one address: the older one has ended
			byAddress[addr] = max(byAddress[addr], node.Meta.GetStartMs())
		}
	}
	return byAddress
}

// available returns the nodes of a role that may get new work. Nodes that drain are included only if
// there are no others, and so are nodes that cannot read what the role needs: the kept log for a router, the tokens topic
// for a logic.
func available(nodes []members.Node, role string) []members.Node {
	var stay, all []members.Node
	for _, node := range nodes {
		if !slices.Contains(node.Meta.GetRoles(), role) {
			continue
		}
		all = append(all, node)
		cut := role == config.RoleRouter && node.Meta.GetCut() || role == config.RoleLogic && node.Meta.GetStaleTokens()
		if !cut && !node.Meta.GetLeaving() {
			stay = append(stay, node)
		}
	}
	if len(stay) == 0 {
		return all
	}
	return stay
}

// replaced reports whether the logic of a node cannot read the tokens topic, but another one can. A logic that only
// drains serves its own node to the end.
func replaced(name string, nodes, logics []members.Node) bool {
	own := func(n members.Node) bool { return n.Name == name }
	i := slices.IndexFunc(nodes, own)
	return i >= 0 && nodes[i].Meta.GetStaleTokens() && !slices.ContainsFunc(logics, own)
}

// owned returns the partitions of this process's router, and a channel that is
// closed when they change.
func (r *remoteRoles) owned() ([]int32, <-chan struct{}) {
	s := r.state.Load()
	return s.owned, s.ownedChanged
}

func (r *remoteRoles) owner(partition int32) (rpc.Router, error) {
	if s := r.state.Load(); partition >= 0 && int(partition) < len(s.owners) {
		if owner := s.owners[partition]; owner != nil {
			return owner, nil
		}
	}
	return nil, envelope.Errorf(envelope.CodeUnavailable, "no router is there to own partition %d: start one with --roles=router", partition)
}

// remoteRouters are the routers of all nodes as logic calls them.
type remoteRouters struct{ *remoteRoles }

// Owner returns the owner of a partition.
func (r remoteRouters) Owner(partition int32) (logic.Router, error) { return r.owner(partition) }

// All returns the routers of this moment.
func (r remoteRouters) All() []logic.Router {
	all := r.state.Load().routers
	out := make([]logic.Router, len(all))
	for i, router := range all {
		out[i] = router
	}
	return out
}

// Partitions returns the number of partitions of the kept topic.
func (r remoteRouters) Partitions() int32 { return r.partitions }

// All returns the comets of this moment by name, as logic calls them.
func (r *remoteRoles) All() map[string]logic.Comet {
	comets := r.state.Load().comets
	out := make(map[string]logic.Comet, len(comets))
	for name, c := range comets {
		out[name] = c
	}
	return out
}

// Owner returns the owner of a partition, as job calls it.
func (r *remoteRoles) Owner(partition int32) (job.Router, error) { return r.owner(partition) }

// Comet returns the comet of that name, or nil.
func (r *remoteRoles) Comet(name string) job.Comet {
	if c := r.state.Load().comets[name]; c != nil {
		return c
	}
	return nil
}

// Names returns the names of the comets of this moment.
func (r *remoteRoles) Names() []string { return r.state.Load().cometNames }

// remoteLogics calls the logics of the cluster for comet. It calls the logic of this process if there
// is one that no other replaces, otherwise any. A call that fails because a logic is unavailable is repeated at another one,
// since every call of comet.Logic may be repeated. The logic of this process may fail where others do not, perhaps because
// this node does not reach a router that others reach. It is one among the others for a while then.
type remoteLogics struct{ *cluster }

const (
	// minTry is the least time for one logic to answer before another is asked. A logic that hangs must
	// not use up the whole deadline.
	minTry = time.Second
	// doubtFor is how long the logic of this process is one among the others after a call that only another could make.
	doubtFor = 30 * time.Second
)

func (l remoteLogics) try(ctx context.Context, call func(context.Context, rpc.Logic) error) error {
	r := l.remote.Load()
	state := r.state.Load()
	all := state.logics
	var ownFailed, othersFailed bool
	if r.logic != nil && !state.logicReplaced {
		if len(all) > 0 && r.doubted() {
			all = append(slices.Clip(all), r.logic)
		} else {
			err := call(ctx, r.logic)
			ownFailed = errors.Is(err, envelope.ErrUnavailable)
			if len(all) == 0 || !askAnother(ctx, err) {
				r.doubt(ownFailed && len(all) > 0) // it used up the time
				return err
			}
		}
	}
	var err error = envelope.Errorf(envelope.CodeUnavailable, "no logic is there to ask: start one with --roles=logic")
	first := r.next.Add(1)
	for i := range all {
		to := all[(first+uint64(i))%uint64(len(all))]
		err = once(ctx, to, i == len(all)-1, call)
		if errors.Is(err, envelope.ErrUnavailable) {
			ownFailed, othersFailed = ownFailed || to == r.logic, othersFailed || to != r.logic
		}
		if !askAnother(ctx, err) {
			break
		}
	}
	r.doubt(ownFailed && err == nil)
	if othersFailed && errors.Is(err, envelope.ErrUnavailable) {
		r.ownFailed.Store(nil) // the others do no better
	}
	return err
}

// askAnother reports whether another logic may do what one could not.
func askAnother(ctx context.Context, err error) bool {
	return ctx.Err() == nil && errors.Is(err, envelope.ErrUnavailable)
}

// doubt takes note if another logic than that of this process is needed.
func (r *remoteRoles) doubt(needed bool) {
	if needed {
		now := time.Now()
		r.ownFailed.Store(&now)
	}
}

// doubted reports whether another logic was needed not long ago.
func (r *remoteRoles) doubted() bool {
	failed := r.ownFailed.Load()
	if failed == nil { // as nearly always
		return false
	}
	if time.Since(*failed) < doubtFor {
		return true
	}
	r.ownFailed.CompareAndSwap(failed, nil)
	return false
}

// once calls one logic. It gives the call half of the remaining time, and the last call all of it.
func once(ctx context.Context, to rpc.Logic, last bool, call func(context.Context, rpc.Logic) error) error {
	if deadline, ok := ctx.Deadline(); ok && !last {
		short, cancel := context.WithTimeout(ctx, max(time.Until(deadline)/2, minTry))
		defer cancel()
		ctx = short
	}
	return call(ctx, to)
}
