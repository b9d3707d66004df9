package roles

import (
	"imgo/envelope"
	"imgo/roles/comet"
	"imgo/roles/job"
	"imgo/roles/logic"
)

// localRoles gives the roles of a process that runs all of them access to each other. A call is a
// method call.
type localRoles struct {
	*Node
	core *core
}

// Owner returns the router of this process: it owns every partition.
func (l *localRoles) Owner(int32) (job.Router, error) { return l.core.router, nil }

// ResolveNow asks the router of this process. It reports false if the router cannot answer from memory.
func (l *localRoles) ResolveNow(req *envelope.ResolveRequest) (*envelope.ResolveReply, bool) {
	return l.core.router.ResolveNow(req)
}

// Comet returns the comet of this process, or nil for another name.
func (l *localRoles) Comet(name string) job.Comet {
	if name != l.name {
		return nil
	}
	return l.comet
}

// Names returns the name of the comet of this process.
func (l *localRoles) Names() []string { return []string{l.name} }

// All returns the comet of this process by its name.
func (l *localRoles) All() map[string]logic.Comet { return map[string]logic.Comet{l.name: l.comet} }

// localRouters is the router of this process as logic calls it.
type localRouters struct{ *localRoles }

// Owner returns the router of this process: it owns every partition.
func (l localRouters) Owner(int32) (logic.Router, error) { return l.core.router, nil }

// All returns the router of this process.
func (l localRouters) All() []logic.Router { return []logic.Router{l.core.router} }

// Partitions returns the number of partitions of the kept topic.
func (l localRouters) Partitions() int32 { return l.core.kept.Partitions() }

var _ comet.Logic = (*logic.Logic)(nil)
