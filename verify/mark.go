package verify

import (
	"math"
	"time"
)

// Mark starts a period that the report shows separately, such as a fault. The period lasts until
// end is called. If end is never called, the period ends with the run.
//
// For each period the report has the longest time without an accepted push, the slowest push, the
// slowest delivery and the number of reconnects. Pushes and deliveries that began within the period
// count in full, even if they finish after it. So the caller may call end as soon as the fault
// itself is over.
//
// Marks may overlap. Mark and end are safe for concurrent use, before and during Run.
//
//	end := v.Mark("kill -9 of logic-1")
//	cluster.Kill("logic-1")
//	…
//	end()
//	report.Marks[0].LongestRefusal
func (v *Verifier) Mark(name string) (end func()) { return v.ledger.mark(name) }

// mark is one marked period. The lock of the ledger guards it.
type mark struct {
	Marked
	begin, end time.Duration
}

// touches reports whether the time between from and to overlaps the mark.
func (m *mark) touches(from, to time.Duration) bool { return from <= m.end && to >= m.begin }

func (l *ledger) mark(name string) (end func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := &mark{Marked: Marked{Name: name, Began: time.Now()}, begin: l.now(), end: math.MaxInt64}
	l.marks = append(l.marks, m)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		m.end = min(m.end, l.now())
	}
}
