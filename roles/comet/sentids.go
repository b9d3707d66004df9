package comet

import "slices"

// maxSentIDs bounds a sentIDs. A client that lets more messages wait for its acknowledgement cannot
// acknowledge the oldest any more: they come again with its next session.
const maxSentIDs = 4096

// sentIDs has the ids of kept messages that were written to a client and that the client has not acknowledged
// yet, in ascending order. An acknowledged id counts only if it is there: each id once, and none that the
// client made up.
type sentIDs []uint64

// add notes an id. Ids come in order; one that came before is there already.
func (s *sentIDs) add(id uint64) {
	if n := len(*s); n > 0 && (*s)[n-1] >= id {
		return
	}
	if *s = append(*s, id); len(*s) > maxSentIDs {
		*s = (*s)[1:]
	}
}

// removeKnown removes ids and returns those that were there, in the order of ids, of which it reuses the memory.
func (s *sentIDs) removeKnown(ids []uint64) []uint64 {
	var taken map[int]struct{} // indexes in s
	first := 0                 // those before it are taken
	known := ids[:0]
	for _, id := range ids {
		i, ok := slices.BinarySearch((*s)[first:], id)
		if i += first; !ok {
			continue
		}
		if _, again := taken[i]; again {
			continue
		}
		known = append(known, id)
		if i == first { // as nearly always: clients acknowledge in order
			first++
			continue
		}
		if taken == nil {
			taken = make(map[int]struct{})
		}
		taken[i] = struct{}{}
	}
	if taken == nil {
		*s = (*s)[first:]
	} else {
		left := make(sentIDs, 0, len(*s))
		for i, id := range *s {
			if _, gone := taken[i]; !gone && i >= first {
				left = append(left, id)
			}
		}
		*s = left
	}
	if len(*s) == 0 {
		*s = nil // an idle session has no memory for it
	}
	return known
}
