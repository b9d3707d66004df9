package router

import "imgo/envelope"

// Faults leaves rules of the delivery design out, so that a test can prove each
// of them needed. The zero value is the product: no setting reaches it.
type Faults struct {
	NoWatch    bool // the owner does not watch
	NoApplied  bool // answers are given for what was not applied yet
	NoRecordID bool // a record that was applied before is applied again
}

// guessTargets is what a router with NoApplied says of a record that it has not
// applied: all sessions, after the newest message that it knows of.
func (a *account) guessTargets(id uint64) (to []*envelope.ResolvedTarget) {
	for _, s := range a.sessions {
		to = append(to, s.target(a.Prev(^uint64(0), id)))
	}
	return to
}
