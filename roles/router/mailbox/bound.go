package mailbox

// Bound limits a mailbox. Which messages go when it is exceeded is decided
// here and nowhere else.
type Bound struct {
	// Length is how many messages may wait; the oldest go.
	Length int
}

// excess returns how many of the oldest messages have to go.
func (b Bound) excess(m *Mailbox) int { return max(0, len(m.entries)-b.Length) }
