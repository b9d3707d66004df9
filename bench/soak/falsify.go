package soak

import "imgo/verify/history"

// falsifier records a message in place of its device, and not always correctly. It is
// not safe for concurrent use.
type falsifier func(s *history.Session, id, number uint64)

// after is the number of correctly recorded messages before the false one.
const after = 10

// falsifiers returns the falsifiers that f selects. Each is for a separate device.
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

// loser never records one message, no matter how often that arrives.
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

// repeater records one message twice.
func repeater() falsifier {
	n := 0
	return func(s *history.Session, id, number uint64) {
		s.Got(id, number)
		if n++; n == after {
			s.Got(id, number)
		}
	}
}

// swapper records a message after the next one.
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
			// The session ended in between, so the held message comes again.
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
