package comet

import (
	"context"
	"maps"
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
	comet *Comet
	// told is the epoch of the owner that knows the sessions of a partition.
	told   map[uint32]uint64
	failed bool // the last call
	counts atomic.Pointer[roomCounts]
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
// another epoch than the one that was told. The memory of such an owner is empty.
func (a *announcer) announce() {
	req := &envelope.AnnounceRequest{
		Comet: a.comet.cfg.Name, Incarnation: a.comet.incarnation,
		Rooms: a.comet.table.roomSizes(), Partitions: a.comet.table.partitionSizes(),
	}
	reply, ok := a.call(req)
	if !ok {
		return
	}
	a.comet.table.repartition(int(reply.GetPartitions()))
	a.counts.Store(&roomCounts{total: reply.GetRooms(), reported: req.Rooms})
	maps.DeleteFunc(a.told, func(p uint32, _ uint64) bool { return req.Partitions[p] == 0 })
	changed := map[uint32]uint64{}
	for p, epoch := range reply.GetEpochs() {
		if told, ok := a.told[p]; req.Partitions[p] > 0 && (!ok || told != epoch) {
			changed[p] = epoch
		}
	}
	if len(changed) > 0 && !a.comet.cfg.Faults.NoAnnounce {
		a.announceSessions(req, changed)
	}
}

// announceSessions sends the sessions of the partitions in changed, a chunk with
// each request. A session that ends before its chunk is sent is left out: its owner
// may know of the end already. A partition whose owner changes again meanwhile is left
// to the next announcement.
func (a *announcer) announceSessions(req *envelope.AnnounceRequest, changed map[uint32]uint64) {
	for chunk := range slices.Chunk(a.sessionsOf(changed), announceChunk) {
		if req.Sessions = describeLive(chunk); len(req.Sessions) == 0 {
			continue
		}
		reply, ok := a.call(req)
		if !ok {
			return
		}
		for p, epoch := range reply.GetEpochs() {
			if changed[p] != epoch {
				delete(changed, p)
			}
		}
	}
	maps.Copy(a.told, changed)
}

func (a *announcer) sessionsOf(partitions map[uint32]uint64) (list []*session) {
	a.comet.table.each(func(s *session) {
		if _, ok := partitions[a.comet.table.partitionOf(s)]; ok {
			list = append(list, s)
		}
	})
	return list
}

// describeLive describes those of the sessions that are live.
func describeLive(sessions []*session) (list []*envelope.SessionInfo) {
	for _, s := range sessions {
		s.out.Lock()
		if s.state == stateLive {
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
