package logic

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"imgo/envelope"
)

// roomHandler answers questions about rooms and opens them.
type roomHandler struct{ *shared }

// RoomOpened publishes that a comet is to get a room's messages
// (docs/adr/0005-rooms.md). The record goes by the room's partition, so it
// comes before every message that is pushed to the room after this call has
// returned. An empty room means all rooms and goes by every partition, or with
// Every by that of the room. The call may be repeated.
func (h *roomHandler) RoomOpened(ctx context.Context, r *envelope.RoomOpened) error {
	ctx, end, err := h.life.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	if r.GetComet() == "" {
		return envelope.Invalid("comet", "must not be empty")
	}
	const what = "publish that a room is open"
	record := &envelope.RoomOpened{Comet: r.GetComet(), Room: r.GetRoom(), Seq: r.GetSeq(), Incarnation: r.GetIncarnation()}
	opened := &envelope.Envelope{Opened: record}
	if r.GetRoom() == "" {
		return h.live.publishEverywhere(ctx, what, opened)
	}
	if r.GetEvery() {
		record.Room = ""
	}
	return h.live.publish(ctx, what, liveRecord{key: r.GetRoom(), envelope: opened})
}

// Rooms counts the sessions in each room, over all comets that answered.
func (h *roomHandler) Rooms(ctx context.Context) (map[string]uint32, error) {
	replies, err := h.comets.ask(ctx, &envelope.RoomsRequest{})
	if err != nil {
		return nil, err
	}
	return countByRoom(replies), nil
}

func countByRoom(replies map[string]*envelope.RoomsReply) map[string]uint32 {
	counts := make(map[string]uint32)
	for _, reply := range replies {
		for room, n := range reply.GetCounts() {
			if n > 0 {
				counts[room] += n
			}
		}
	}
	return counts
}

// Room returns at most limit members of a room, ordered by comet and session, and
// how many there are in all. A room without members is no error.
func (h *roomHandler) Room(ctx context.Context, room string, limit int) (members []*envelope.SessionInfo, total int, err error) {
	if err := envelope.CheckName("room", room); err != nil {
		return nil, 0, err
	}
	if limit < 0 || int64(limit) > math.MaxUint32 {
		return nil, 0, envelope.Invalid("limit", "must be 0 or a 32-bit number")
	}
	replies, err := h.comets.ask(ctx, &envelope.RoomsRequest{Room: room, MaxMembers: uint32(limit)})
	if err != nil {
		return nil, 0, err
	}
	for _, comet := range slices.Sorted(maps.Keys(replies)) {
		reply := replies[comet]
		here := slices.SortedFunc(slices.Values(reply.GetMembers()), func(a, b *envelope.SessionInfo) int {
			return cmp.Compare(a.GetAddress().GetSession(), b.GetAddress().GetSession())
		})
		total += max(int(reply.GetCounts()[room]), len(here)) // a session may join between count and list
		members = append(members, here[:min(len(here), limit-len(members))]...)
	}
	return members, total, nil
}

// cometSurvey asks all comets for their rooms. Safe for concurrent use.
type cometSurvey struct {
	Comets
	life    *lifecycle
	timeout time.Duration // of one comet's answer
	warn    *warnings
}

// ask returns the answers by comet. A comet that does not answer in time is
// missing and that is logged: one that hangs must not hide the others. It
// returns an error only if there are comets and none of them answered.
func (s *cometSurvey) ask(ctx context.Context, r *envelope.RoomsRequest) (map[string]*envelope.RoomsReply, error) {
	ctx, end, err := s.life.beginWithin(ctx, min(s.timeout, s.life.callTimeout))
	if err != nil {
		return nil, err
	}
	defer end()
	all := s.All()
	replies := make(map[string]*envelope.RoomsReply, len(all))
	var errs []error
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, comet := range all {
		wg.Go(func() {
			reply, err := comet.Rooms(ctx, r)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("comet %s: %w", name, err))
				return
			}
			replies[name] = reply
		})
	}
	wg.Wait()
	err = attempted("ask the comets for their rooms", errors.Join(errs...))
	if err != nil && len(replies) == 0 {
		return nil, err
	}
	if err != nil {
		s.warn.log(err, "counts lack the comets that did not answer")
	}
	return replies, nil
}
