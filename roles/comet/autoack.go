package comet

// maxUnacked bounds an autoAck. A client whose TCP acknowledges so little falls
// behind, and gets the rest once it does.
const maxUnacked = 4096

// autoAck holds the kept messages that were written to a client that does not
// acknowledge, in the order of the stream.
type autoAck []written

// written is a kept message that has arrived once the client's TCP has
// acknowledged the stream up to position end.
type written struct {
	id  uint64
	end int64
}

func (a *autoAck) add(id uint64, end int64) { *a = append(*a, written{id, end}) }

// full reports whether no more messages may be added before some have arrived.
func (a autoAck) full() bool { return len(a) >= maxUnacked }

// endsAt reports whether the last message was written up to position end.
func (a autoAck) endsAt(end int64) bool { return len(a) > 0 && a[len(a)-1].end == end }

// takeArrived removes the messages that have arrived, where the stream has up to
// position end, and returns their ids.
func (a *autoAck) takeArrived(end int64) []uint64 {
	n := 0
	for n < len(*a) && (*a)[n].end <= end {
		n++
	}
	if n == 0 {
		return nil
	}
	ids := make([]uint64, n)
	for i, w := range (*a)[:n] {
		ids[i] = w.id
	}
	if *a = (*a)[n:]; len(*a) == 0 {
		*a = nil // an idle session has no memory for it
	}
	return ids
}
