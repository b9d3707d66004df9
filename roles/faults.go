package roles

import (
	"imgo/roles/comet"
	"imgo/roles/job"
	"imgo/roles/logic"
	"imgo/roles/router"
)

// Faults are defects that a test puts into a node, to prove that what looks
// for defects finds them: rules that are left out, and ways that lose, double
// or turn around what goes over them. No setting, flag or variable reaches
// any of it, and a node without them (the zero value) runs nothing of it.
type Faults struct {
	// Comet and Router are the rules that are left out.
	Comet  comet.Faults
	Router router.Faults
	// LogicLog is the kept topic as logic writes it, and RouterLog as router
	// reads it; nil: as it is.
	LogicLog  func(logic.KeptLog) logic.KeptLog
	RouterLog func(router.KeptLog) router.KeptLog
	// Deliveries is the way from job to a comet; nil: as it is. It is asked
	// for at each call, and must answer with a comparable value that is the
	// same for the same comet.
	Deliveries func(job.Comet) job.Comet
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

func (f Faults) comets(to job.Comets) job.Comets {
	if f.Deliveries == nil {
		return to
	}
	return faultyComets{to, f.Deliveries}
}

// faultyComets are comets with something on the way to them.
type faultyComets struct {
	job.Comets
	way func(job.Comet) job.Comet
}

// Comet is the comet of a name, behind the way to it.
func (s faultyComets) Comet(name string) job.Comet {
	c := s.Comets.Comet(name)
	if c == nil {
		return nil
	}
	return s.way(c)
}
