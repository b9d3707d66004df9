package logic

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"imgo/envelope"
)

// announceTimeout bounds one router's answer to an announcement, which a comet
// repeats anyway. A router that hangs must not make the others believe that the
// comet is gone.
const announceTimeout = time.Second

// announceHandler passes the comets' announcements to the routers.
type announceHandler struct{ *shared }

// Announce passes a comet's sign of life to every router, and to each the
// counts of the partitions that it owns. A request with sessions goes to their
// owners alone. The reply has the epochs of the owners that answered. A comet
// learns of the others by its next announcement, and repeats the sessions of a
// partition without an epoch. Announce returns an error only if no router answered.
func (h *announceHandler) Announce(ctx context.Context, r *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
	ctx, end, err := h.life.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if r.GetComet() == "" {
		return nil, envelope.Invalid("comet", "must not be empty")
	}
	a := &announcement{owners: h.owners, reply: &envelope.AnnounceReply{
		Epochs: make(map[uint32]uint64), Rooms: make(map[string]uint32), Partitions: uint32(h.owners.partitions),
	}}
	parts, ownerless := splitAnnouncement(r, h.owners)
	const what = "announce the comet"
	if len(r.GetSessions()) > 0 {
		owners := slices.DeleteFunc(slices.Collect(maps.Keys(parts)), func(o Router) bool { return len(parts[o].GetSessions()) == 0 })
		err = callEach(what, owners, func(owner Router) error { return a.send(ctx, owner, parts[owner]) })
		err = errors.Join(attempted(what, ownerless), err)
	} else {
		err = h.owners.callAll(what, func(router Router) error {
			part := parts[router]
			if part == nil {
				part = bareAnnouncement(r)
			}
			return a.send(ctx, router, part)
		})
	}
	if a.answers == 0 {
		return nil, err
	}
	if err != nil {
		h.warn.log(err, "some routers did not hear a comet's announcement")
	}
	return a.reply, nil
}

// announcement collects the routers' answers to one announcement. Safe for
// concurrent use.
type announcement struct {
	owners *owners

	mu      sync.Mutex
	answers int
	reply   *envelope.AnnounceReply
}

// send announces a part to a router and takes its answer.
func (a *announcement) send(ctx context.Context, router Router, part *envelope.AnnounceRequest) error {
	ctx, cancel := context.WithTimeout(ctx, announceTimeout)
	defer cancel()
	reply, err := router.Announce(ctx, part)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answers++
	for p, epoch := range reply.GetEpochs() {
		// Another router may believe that it owns the partition, too. The epoch
		// that counts is the owner's, to which the sessions went.
		if int64(p) >= int64(a.owners.partitions) {
			continue
		}
		if owner, err := a.owners.routers.Owner(int32(p)); err == nil && owner == router {
			a.reply.Epochs[p] = epoch
		}
	}
	for room, n := range reply.GetRooms() {
		// Every router knows every comet's counts, but a router that started a
		// moment ago knows fewer: the largest count is the best one.
		a.reply.Rooms[room] = max(a.reply.Rooms[room], n)
	}
	return nil
}

// bareAnnouncement returns an announcement without partitions and sessions. A
// router in this process keeps what it is given, so each gets maps of its own.
func bareAnnouncement(r *envelope.AnnounceRequest) *envelope.AnnounceRequest {
	return &envelope.AnnounceRequest{
		Comet: r.GetComet(), Incarnation: r.GetIncarnation(), Rooms: maps.Clone(r.GetRooms()),
		Partitions: make(map[uint32]uint32), Number: r.GetNumber(),
	}
}

// splitAnnouncement returns the announcement for each router that owns a part
// of it. The error names a partition without an owner; the other parts are
// there all the same.
func splitAnnouncement(r *envelope.AnnounceRequest, o *owners) (map[Router]*envelope.AnnounceRequest, error) {
	parts := make(map[Router]*envelope.AnnounceRequest)
	var ownerless error
	partFor := func(partition int32) *envelope.AnnounceRequest {
		owner, err := o.routers.Owner(partition)
		if err != nil {
			ownerless = fmt.Errorf("find the owner of partition %d: %w", partition, err)
			return nil
		}
		if parts[owner] == nil {
			parts[owner] = bareAnnouncement(r)
		}
		return parts[owner]
	}
	for p, n := range r.GetPartitions() {
		if int64(p) >= int64(o.partitions) {
			continue
		}
		if part := partFor(int32(p)); part != nil {
			part.Partitions[p] = n
		}
	}
	for _, s := range r.GetSessions() {
		if part := partFor(o.partition(s.GetUser())); part != nil {
			part.Sessions = append(part.Sessions, s)
		}
	}
	return parts, ownerless
}
