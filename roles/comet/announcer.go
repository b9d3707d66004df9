package comet

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"

	"imgo/envelope"
)

// announceChunk bounds the sessions in one announcement.
const announceChunk = 1000

// announcer tells logic, and through logic the owners of this comet's users, that
// comet lives and which sessions it has. It is for one goroutine, but online is
// safe for concurrent use.
type announcer struct {
	comet  *Comet
	number uint64 // of the last announcement of counts
	// announced is the epoch of the owner that knows the sessions of a partition.
	announced map[uint32]uint64
	// left are the sessions that are still to be announced, and announcing has the epochs
	// of their partitions' owners.
	left       []*session
	announcing map[uint32]uint64
	failed     bool // the last call
	counts     atomic.Pointer[roomCounts]
}

func newAnnouncer(c *Comet) *announcer {
	return &announcer{comet: c, announced: map[uint32]uint64{}, announcing: map[uint32]uint64{}}
}

// roomCounts are the numbers of sessions in each room: on all comets, and on this
// comet as it had reported them by then.
type roomCounts struct{ total, reported map[string]uint32 }

// online returns how many sessions are in a room: those on other comets as of the
// last announcement, and those here as of now.
func (a *announcer) online(room string) uint32 {
	here := a.comet.table.roomSize(room)
	counts := a.counts.Load()
	if counts == nil {
		return here
	}
	total, reported := counts.total[room], counts.reported[room]
	if total <= reported {
		return here
	}
	return total - reported + here
}

// announce reports the counts, and the sessions of each partition whose owner has
// another epoch than the one that they were announced to. The memory of such an owner is empty.
func (a *announcer) announce() {
	a.number++
	req := &envelope.AnnounceRequest{
		Comet: a.comet.cfg.Name, Incarnation: a.comet.incarnation,
		Rooms: a.comet.table.roomSizes(), Partitions: a.comet.table.partitionSizes(), Number: a.number,
	}
	reply, ok := a.call(req)
	if !ok {
		return
	}
	a.comet.table.repartition(int(reply.GetPartitions()))
	a.counts.Store(&roomCounts{total: reply.GetRooms(), reported: req.Rooms})
	maps.DeleteFunc(a.announced, func(p uint32, _ uint64) bool { return req.Partitions[p] == 0 })
	if !a.comet.cfg.Faults.NoAnnounce {
		a.updateLeft(reply.GetEpochs(), req.Partitions)
		a.announceSessions()
	}
}

// updateLeft makes left the sessions of each partition whose owner does not know them:
// what an earlier announcement left for the same owner, and all sessions for a new one.
func (a *announcer) updateLeft(epochs map[uint32]uint64, sizes map[uint32]uint32) {
	maps.DeleteFunc(a.announcing, func(p uint32, announcing uint64) bool {
		epoch, ok := epochs[p]
		return !ok || epoch != announcing
	})
	a.left = slices.DeleteFunc(a.left, func(s *session) bool {
		_, ok := a.announcing[a.comet.table.partitionOf(s)]
		return !ok
	})
	changed := map[uint32]uint64{}
	for p, epoch := range epochs {
		announced, ok := a.announced[p]
		if _, announcing := a.announcing[p]; sizes[p] > 0 && !announcing && (!ok || announced != epoch) {
			changed[p] = epoch
		}
	}
	if len(changed) == 0 {
		return
	}
	maps.Copy(a.announcing, changed)
	// An owner doubts a number of sessions that differs from its own by the same for some
	// announcements. So what each owner knows has to grow with every few chunks.
	a.left = append(a.left, a.sessionsOf(changed)...)
	rand.Shuffle(len(a.left), func(i, j int) { a.left[i], a.left[j] = a.left[j], a.left[i] })
}

// announceSessions sends the sessions that are left, a chunk with each request. The next
// announcement goes on with a chunk that failed. It also goes on with what is left after an
// interval, because a chunk is a sign of life only to the owners of its sessions. The sessions
// of a partition whose owner did not take its part come last in the next announcement, so that
// they do not delay those of other owners. A session that ends before its chunk is sent is left
// out: its owner may know of the end already. A partition whose owner changes again meanwhile is
// left to the next announcement.
func (a *announcer) announceSessions() {
	failed := make(map[uint32]bool) // partitions
	var last []*session             // of these
	defer func() { a.left = append(a.left, last...) }()
	for began := a.comet.now(); len(a.left) > 0; {
		if a.comet.now()-began >= a.comet.cfg.AnnounceInterval {
			return
		}
		n := min(len(a.left), announceChunk)
		sessions := describe(a.left[:n])
		if len(sessions) == 0 {
			a.left = a.left[n:]
			continue
		}
		reply, ok := a.call(&envelope.AnnounceRequest{
			Comet: a.comet.cfg.Name, Incarnation: a.comet.incarnation, Sessions: sessions,
		})
		if !ok {
			return
		}
		for p, epoch := range reply.GetEpochs() {
			if a.announcing[p] != epoch {
				delete(a.announcing, p)
			}
		}
		before := len(failed)
		for _, s := range a.left[:n] {
			p := a.comet.table.partitionOf(s)
			if _, taken := reply.GetEpochs()[p]; !taken {
				failed[p] = true
				last = append(last, s)
			}
		}
		if a.left = a.left[n:]; len(failed) == before {
			continue
		}
		a.left = slices.DeleteFunc(a.left, func(s *session) bool {
			fails := failed[a.comet.table.partitionOf(s)]
			if fails {
				last = append(last, s)
			}
			return fails
		})
	}
	for p, epoch := range a.announcing {
		if !failed[p] {
			a.announced[p] = epoch
			delete(a.announcing, p)
		}
	}
	a.left = nil
}

func (a *announcer) sessionsOf(partitions map[uint32]uint64) (list []*session) {
	a.comet.table.each(func(s *session) {
		if _, ok := partitions[a.comet.table.partitionOf(s)]; ok {
			list = append(list, s)
		}
	})
	return list
}

// describe describes those of the sessions that do not end. Logic has admitted all that have a partition, also those
// that are still connecting because they wait for the opening of their rooms: their owners count them.
func describe(sessions []*session) (list []*envelope.SessionInfo) {
	for _, s := range sessions {
		s.out.Lock()
		if s.state <= stateLive {
			list = append(list, s.describeLocked())
		}
		s.out.Unlock()
	}
	return list
}

// call makes one announcement. It logs when failures begin and end.
func (a *announcer) call(req *envelope.AnnounceRequest) (*envelope.AnnounceReply, bool) {
	ctx, cancel := context.WithTimeout(a.comet.calls, a.comet.cfg.CallTimeout)
	defer cancel()
	reply, err := a.comet.logic.Announce(ctx, req)
	switch {
	case err != nil:
		a.comet.metrics.callErrors.WithLabelValues("announce").Inc()
		if !a.failed && ctx.Err() != context.Canceled {
			a.comet.log.Warn().Err(err).Msg("logic does not take announcements, trying again until it does")
		}
	case a.failed:
		a.comet.log.Info().Msg("logic takes announcements again")
	}
	a.failed = err != nil
	return reply, err == nil
}
