package logic

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"imgo/envelope"
)

// askComets asks all comets at once. A comet that does not answer within
// Config.CometTimeout is missing in the answer, and that is logged: one that
// hangs must not hide what all others say. It is an error only when there are
// comets and none of them answered.
func (l *Logic) askComets(ctx context.Context, r *envelope.RoomsRequest) (map[string]*envelope.RoomsReply, error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.CometTimeout)
	defer cancel()
	all := l.comets.All()
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
	err := attempted("ask the comets for their rooms", errors.Join(errs...))
	if err != nil && len(replies) == 0 {
		return nil, err
	}
	if err != nil {
		l.trouble(err, "counts lack the comets that did not answer")
	}
	return replies, nil
}

// RoomOpened throws on the live log that a comet is to get a room's messages
// (docs/adr/0005-rooms.md): by the room's partition, so that it comes before
// every message that is pushed to the room after this call has returned. An
// empty room means all of them and goes by every partition. It may be repeated.
func (l *Logic) RoomOpened(ctx context.Context, r *envelope.RoomOpened) error {
	ctx, end, err := l.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	if r.GetComet() == "" {
		return envelope.Invalid("comet", "must not be empty")
	}
	const what = "throw that a room is open"
	opened := &envelope.Envelope{Opened: r}
	if r.GetRoom() != "" {
		return l.throw(ctx, what, thrown{by: r.GetRoom(), envelope: opened})
	}
	opened.TimeMs = l.nowMS()
	value, err := opened.MarshalVT()
	if err != nil {
		return fmt.Errorf("%s: encode the envelope: %w", what, err)
	}
	entries := make([]envelope.Entry, l.live.Partitions())
	for p := range entries {
		entries[p] = envelope.Entry{Partition: int32(p), Value: value}
	}
	return attempted(what, l.live.AppendMany(ctx, entries))
}

// Rooms counts the sessions in each room, over all comets that answered.
func (l *Logic) Rooms(ctx context.Context) (map[string]uint32, error) {
	ctx, end, err := l.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	replies, err := l.askComets(ctx, &envelope.RoomsRequest{})
	if err != nil {
		return nil, err
	}
	return mergeRooms(replies), nil
}

func mergeRooms(replies map[string]*envelope.RoomsReply) map[string]uint32 {
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

// Room is at most max members of a room, ordered by comet and session, and how
// many there are in all. A room that nobody is in has none and is no error.
func (l *Logic) Room(ctx context.Context, room string, max int) (members []*envelope.SessionInfo, total int, err error) {
	ctx, end, err := l.begin(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer end()
	if err := envelope.CheckName("room", room); err != nil {
		return nil, 0, err
	}
	if max < 0 || max > l.cfg.MaxUsers {
		return nil, 0, envelope.Invalid("max", fmt.Sprintf("is %d: it must be 0 to %d", max, l.cfg.MaxUsers))
	}
	replies, err := l.askComets(ctx, &envelope.RoomsRequest{Room: room, MaxMembers: uint32(max)})
	if err != nil {
		return nil, 0, err
	}
	for _, name := range slices.Sorted(maps.Keys(replies)) {
		reply := replies[name]
		here := slices.Clone(reply.GetMembers())
		slices.SortFunc(here, func(a, b *envelope.SessionInfo) int {
			switch x, y := a.GetAddress().GetSession(), b.GetAddress().GetSession(); {
			case x < y:
				return -1
			case x > y:
				return 1
			}
			return 0
		})
		members = append(members, here[:min(len(here), max-len(members))]...)
		// A comet may have had somebody join between its two answers.
		total += larger(int(reply.GetCounts()[room]), len(here))
	}
	return members, total, nil
}

// larger is max where a parameter has taken that name.
func larger(a, b int) int {
	if a > b {
		return a
	}
	return b
}

// CountByComet counts the sessions of each comet that answered.
func (l *Logic) CountByComet(ctx context.Context) (map[string]int, error) {
	ctx, end, err := l.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	replies, err := l.askComets(ctx, &envelope.RoomsRequest{})
	if err != nil {
		return nil, err
	}
	return countByComet(replies), nil
}

func countByComet(replies map[string]*envelope.RoomsReply) map[string]int {
	counts := make(map[string]int, len(replies))
	for name, reply := range replies {
		counts[name] = int(reply.GetSessions())
	}
	return counts
}

// Stats are the server's, as the comets that answered have them, and this
// logic's own pushes since it started.
func (l *Logic) Stats(ctx context.Context) (Stats, error) {
	ctx, end, err := l.begin(ctx)
	if err != nil {
		return Stats{}, err
	}
	defer end()
	replies, err := l.askComets(ctx, &envelope.RoomsRequest{})
	if err != nil {
		return Stats{}, err
	}
	stats := Stats{
		Comets: countByComet(replies), Rooms: len(mergeRooms(replies)),
		Pushes: make(map[string]uint64), UptimeMS: l.now().Sub(l.started).Milliseconds(),
	}
	for _, n := range stats.Comets {
		stats.Sessions += n
	}
	for kind, n := range l.metrics.accepted {
		stats.Pushes[kind] = n.total.Load()
	}
	return stats, nil
}

// ForgetComet has every router drop what it remembers of that comet's
// sessions, and of no other's, and counts them. A comet that is alive
// announces its own again. With an error some routers may have forgotten.
func (l *Logic) ForgetComet(ctx context.Context, comet string) (int, error) {
	ctx, end, err := l.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer end()
	if err := envelope.CheckName("comet", comet); err != nil {
		return 0, err
	}
	var n atomic.Int64
	err = l.everyRouter("forget the comet", func(r Router) error {
		reply, err := r.Forget(ctx, &envelope.ForgetRequest{Comet: comet})
		n.Add(int64(reply.GetSessions()))
		return err
	})
	return int(n.Load()), err
}
