package soak

import "imgo/verify/history"

// falsifier notes a message instead of its device, not always truly. It is for
// one goroutine.
type falsifier func(s *history.Session, id, number uint64)

// after is how many messages are noted truly before one is not.
const after = 10

// falsifiers are those that cfg asks for, each for a device of its own.
func falsifiers(f Falsify) []falsifier {
	var all []falsifier
	if f.Lose {
		all = append(all, loser())
	}
	if f.Repeat {
		all = append(all, repeater())
	}
	if f.Swap {
		all = append(all, swapper())
	}
	return all
}

// loser never notes one message, however often that comes.
func loser() falsifier {
	n, lost := 0, uint64(0)
	return func(s *history.Session, id, number uint64) {
		if n++; n == after {
			lost = id
		}
		if id != lost {
			s.Got(id, number)
		}
	}
}

// repeater notes one message twice.
func repeater() falsifier {
	n := 0
	return func(s *history.Session, id, number uint64) {
		s.Got(id, number)
		if n++; n == after {
			s.Got(id, number)
		}
	}
}

// swapper notes a message after the one that came behind it.
func swapper() falsifier {
	n := 0
	var session *history.Session
	var heldID, heldNumber uint64
	return func(s *history.Session, id, number uint64) {
		n++
		switch {
		case n >= after && session == nil:
			session, heldID, heldNumber = s, id, number
		case n >= after && session != s && heldID != 0:
			// The session ended in between: what is held comes again.
			session, heldID, heldNumber = s, id, number
		case heldID != 0:
			s.Got(id, number)
			s.Got(heldID, heldNumber)
			heldID = 0
		default:
			s.Got(id, number)
		}
	}
}
