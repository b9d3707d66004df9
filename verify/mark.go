package verify

import "time"

// Mark says that something begins that the report is to tell apart, such as a
// fault: for the time until end is called it has how long no push was
// accepted, how long the slowest push and the slowest delivery took, and how
// often devices had to connect again. What began within that time and was
// done after it counts in full: end may be called when the fault itself is
// over. Marks may overlap; end may be called once, or never: then the mark
// ends with the run. Both are safe for concurrent use, during Run and before.
//
//	end := v.Mark("kill -9 of logic-1")
//	cluster.Kill("logic-1")
//	…
//	end()
//	report.Marks[0].LongestRefusal
func (v *Verifier) Mark(name string) (end func()) { return v.ledger.mark(name) }

// forEver is the end of what has none yet.
const forEver = time.Duration(1<<63 - 1)

// mark is one marked time. The ledger's lock guards it.
type mark struct {
	name       string
	begin, end time.Duration
	refusal    time.Duration
	push       time.Duration
	delivery   time.Duration
	reconnects int64
}

// touches says whether a time had to do with the mark: something that began
// within it, or was under way as it began.
func (m *mark) touches(from, to time.Duration) bool { return from <= m.end && to >= m.begin }

func (l *ledger) mark(name string) (end func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := &mark{name: name, begin: l.now(), end: forEver}
	l.marks = append(l.marks, m)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		m.end = min(m.end, l.now())
	}
}
