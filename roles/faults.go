package roles

import (
	"time"

	"imgo/cluster/growth"
	"imgo/cluster/members"
	"imgo/cluster/rpc"
	"imgo/roles/comet"
	"imgo/roles/job"
	"imgo/roles/logic"
	"imgo/roles/logic/tokenlog"
	"imgo/roles/router"
	"imgo/store"
)

// Faults are defects that a test puts into a node, to prove that the checks find them. They leave out
// rules, or wrap a part to lose, double or reorder its messages. No setting, flag or variable reaches
// them. The zero value is the product.
type Faults struct {
	// Comet and Router are the rules that are left out.
	Comet  comet.Faults
	Router router.Faults
	// Store makes the node's store block or fail.
	Store store.Faults
	// Gossip and RPC cut the connections to other nodes.
	Gossip members.Faults
	RPC    rpc.Faults
	// Growth has the durations of a growth of the kept topic. Zero means the defaults. All nodes of a
	// cluster must use the same.
	Growth growth.Config
	// Crash reports, once the context of Run is done, whether the node ends like a crash. Nil means that
	// it does not.
	Crash func() bool
	// Clock is the node's wall clock, except that of its store. Nil means time.Now.
	Clock func() time.Time
	// RecordVersion is the highest version of kept records that the node pretends to read. 0 means
	// the program's.
	RecordVersion uint32
	// LogicLog wraps the kept topic for logic, and RouterLog wraps it for router. Nil means no
	// wrapper.
	LogicLog  func(logic.KeptLog) logic.KeptLog
	RouterLog func(router.KeptLog) router.KeptLog
	// TokensTopic wraps the tokens topic. Nil means no wrapper.
	TokensTopic func(tokenlog.Topic) tokenlog.Topic
	// Deliveries wraps a comet for job. Nil means no wrapper. It is called for each delivery. It must
	// return a comparable value, and the same value for the same comet.
	Deliveries func(job.Comet) job.Comet
}

func (f Faults) crash() bool { return f.Crash != nil && f.Crash() }

// crash cuts gossip, calls, Kafka and clients without a goodbye. Unlike in a real crash, pending writes may
// still reach the disk.
func (n *Node) crash() {
	if n.cluster != nil {
		n.cluster.close()
	}
	if n.comet != nil {
		n.comet.Close()
	}
	_ = n.http.listener.Close() // the stage that serves it returns the error
}

func (f Faults) logicLog(kept logic.KeptLog) logic.KeptLog {
	if f.LogicLog == nil {
		return kept
	}
	return f.LogicLog(kept)
}

func (f Faults) routerLog(kept router.KeptLog) router.KeptLog {
	if f.RouterLog == nil {
		return kept
	}
	return f.RouterLog(kept)
}

func (f Faults) tokensTopic(topic tokenlog.Topic) tokenlog.Topic {
	if f.TokensTopic == nil {
		return topic
	}
	return f.TokensTopic(topic)
}

func (f Faults) comets(to job.Comets) job.Comets {
	if f.Deliveries == nil {
		return to
	}
	return faultyComets{to, f.Deliveries}
}

// faultyComets wraps the comets that it returns.
type faultyComets struct {
	job.Comets
	wrap func(job.Comet) job.Comet
}

// Comet returns the comet of that name in its wrapper, or nil if there is none.
func (s faultyComets) Comet(name string) job.Comet {
	c := s.Comets.Comet(name)
	if c == nil {
		return nil
	}
	return s.wrap(c)
}
