package roles

import (
	"imgo/envelope"
	"imgo/roles/comet"
	"imgo/roles/job"
	"imgo/roles/logic"
)

// neighbours are the roles of a process that runs all of them, as each sees
// the others: a call is a method call.
type neighbours struct {
	*Node
	core *core
}

// Owner is the router of this process: it owns every partition.
func (h *neighbours) Owner(int32) (job.Router, error) { return h.core.router, nil }

// ResolveNow asks the router of this process, if it can answer from memory.
func (h *neighbours) ResolveNow(req *envelope.ResolveRequest) (*envelope.ResolveReply, bool) {
	return h.core.router.ResolveNow(req)
}

// Comet is the comet of this process.
func (h *neighbours) Comet(name string) job.Comet {
	if name != h.name {
		return nil
	}
	return h.comet
}

// Names is the comet of this process.
func (h *neighbours) Names() []string { return []string{h.name} }

// All is the comet of this process.
func (h *neighbours) All() map[string]logic.Comet { return map[string]logic.Comet{h.name: h.comet} }

// owners are the routers as logic sees them.
type owners struct {
	here       *neighbours
	partitions int32
}

// Owner is the router of this process.
func (o owners) Owner(int32) (logic.Router, error) { return o.here.core.router, nil }

// All is the router of this process.
func (o owners) All() []logic.Router { return []logic.Router{o.here.core.router} }

// Partitions is how many partitions there are.
func (o owners) Partitions() int32 { return o.partitions }

var _ comet.Logic = (*logic.Logic)(nil)
