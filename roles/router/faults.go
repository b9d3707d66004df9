package router

import "imgo/envelope"

// Faults leaves rules of the delivery design out, so that a test can prove each
// of them needed. The zero value is the product: no setting reaches it.
type Faults struct {
	NoWatch    bool // the owner does not watch
	NoApplied  bool // Resolve answers before the record is applied
	NoRecordID bool // a record that was applied before is applied again

	FlushBeforeEvents bool // mailboxes are written although the topic lacks events of theirs
	EventsOverlap     bool // a batch of events that failed is appended after a later one
	NoEventsTail      bool // a router that begins does not look at what the topic has
	DueByClock        bool // a deadline is decided by the owner's clock, not by a record
	PresenceByClock   bool // the owner tells that users are online, without a record
}

// guessTargets returns all sessions, after the newest message that the account knows. A router with NoApplied
// answers so for a record that it has not applied.
func (a *account) guessTargets(id uint64) (to []*envelope.ResolvedTarget) {
	for _, s := range a.sessions {
		to = append(to, s.target(a.Messages.Prev(^uint64(0), id)))
	}
	return to
}
