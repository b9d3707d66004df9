package mailbox

// Bound limits a mailbox. Which messages go when it is exceeded is decided
// here and nowhere else.
type Bound struct {
	// Length is how many messages may wait.
	Length int
	// RefuseNewest drops a message that is one too many, instead of the oldest.
	RefuseNewest bool
}

// Overflow returns how many messages have to go when the mailbox gets another one.
// refused reports whether it is the new one that goes.
func (b Bound) Overflow(m *Mailbox) (n int, refused bool) {
	n = max(0, len(m.entries)+1-b.Length)
	if n > 0 && b.RefuseNewest {
		return 1, true
	}
	return n, false
}
