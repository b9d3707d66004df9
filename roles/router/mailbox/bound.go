package mailbox

// Policy is what happens when a mailbox has as many messages as allowed and another
// one comes.
type Policy string

// The policies.
const (
	// DropOldest drops the oldest message.
	DropOldest Policy = "drop_oldest"
	// RefuseNewest refuses the push for the user.
	RefuseNewest Policy = "refuse_newest"
)

// Bound limits a mailbox. Which messages go when it is exceeded is decided
// here and nowhere else.
type Bound struct {
	// Length is how many messages may wait.
	Length int
	Policy Policy
}

// Overflow returns how many messages have to go when a mailbox gets another one.
// refused reports whether it is the new one that goes.
func (b Bound) Overflow(ms *Messages) (n int, refused bool) {
	n = max(0, len(ms.entries)+1-b.Length)
	if n > 0 && b.Policy == RefuseNewest {
		return 1, true
	}
	return n, false
}

// exceeds reports whether the bound has to take the entry with an index.
func (b Bound) exceeds(ms *Messages, index int) bool {
	over := len(ms.entries) - b.Length
	if b.Policy == RefuseNewest {
		return index >= len(ms.entries)-over
	}
	return index < over
}
