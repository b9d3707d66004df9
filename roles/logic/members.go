package logic

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"imgo/envelope"
)

// memberHandler puts users into rooms, for callers of the API.
type memberHandler struct{ *shared }

// MemberResult is what a change of a membership did at once.
type MemberResult struct {
	// Sessions counts the user's sessions that have followed the change.
	Sessions int
	// Late counts the others: their comet did not answer. They are told again, for
	// a minute.
	Late int
}

// SetMember puts a user into a room, or takes it out of it. If it returns no error, the
// change is durable: each later session of the user is in the room from the start. The
// present sessions, as many as Sessions says, get every message that is pushed to the
// room after the call. SetMember returns an envelope.ErrConflict, and changes nothing,
// if the user is in as many rooms as it may be.
//
// A user that is taken out of a room leaves it also where a session joined by itself.
// Whether it may join again is for the rules to say.
func (h *memberHandler) SetMember(ctx context.Context, room, user string, member bool) (MemberResult, error) {
	ctx, end, err := h.life.begin(ctx)
	if err != nil {
		return MemberResult{}, err
	}
	defer end()
	if err := cmp.Or(envelope.CheckName("room", room), envelope.CheckName("user", user)); err != nil {
		return MemberResult{}, err
	}
	record := &envelope.Record{Membership: &envelope.Membership{User: user, Room: room, Member: member}}
	// To take a user out must always work.
	id, err := h.kept.append(ctx, user, "append the membership", record, !member)
	if err != nil {
		return MemberResult{}, err
	}
	reply, err := h.memberships(ctx, user, id)
	if err != nil {
		return MemberResult{}, err
	}
	if member && reply.GetMemberships().GetAt() == id && !slices.Contains(reply.GetMemberships().GetRooms(), room) {
		return MemberResult{}, &envelope.Error{Code: envelope.CodeConflict, Field: "user",
			Message: "is in as many rooms as limits.rooms_per_user allows: take it out of one first, or raise the setting"}
	}
	leave := ""
	if !member {
		leave = room
	}
	return h.notify(ctx, reply, leave), nil
}

// UserRooms returns the rooms that callers of the API have put a user into, sorted,
// and how many there may be.
func (h *memberHandler) UserRooms(ctx context.Context, user string) (rooms []string, limit int, err error) {
	ctx, end, err := h.life.beginFor(ctx, user)
	if err != nil {
		return nil, 0, err
	}
	defer end()
	reply, err := h.memberships(ctx, user, 0)
	if err != nil {
		return nil, 0, err
	}
	return slices.Sorted(slices.Values(reply.GetMemberships().GetRooms())), int(reply.GetLimit()), nil
}

// memberships asks the owner for a user's memberships, once it has applied a record.
func (h *memberHandler) memberships(ctx context.Context, user string, floor uint64) (*envelope.MembershipsReply, error) {
	request := &envelope.MembershipsRequest{User: user, Floor: floor}
	return ask(ctx, h.owners, user, "ask for the user's memberships", Router.Memberships, request)
}

// notify makes the user's sessions follow its memberships. leave, if not empty, is a room that they
// leave in any case.
func (h *memberHandler) notify(ctx context.Context, memberships *envelope.MembershipsReply, leave string) MemberResult {
	requests := make(map[string]*envelope.MembersRequest)
	for _, a := range memberships.GetSessions() {
		r := requests[a.GetComet()]
		if r == nil {
			r = &envelope.MembersRequest{Rooms: memberships.GetMemberships(), Leave: leave}
			requests[a.GetComet()] = r
		}
		r.Sessions = append(r.Sessions, a.GetSession())
	}
	ctx, cancel := context.WithTimeout(ctx, h.cfg.CometTimeout)
	defer cancel()
	comets := h.comets.All()
	result := MemberResult{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, r := range requests {
		wg.Go(func() {
			var reply *envelope.MembersReply
			err := error(envelope.ErrUnavailable)
			if comet := comets[name]; comet != nil {
				reply, err = comet.Members(ctx, r)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				result.Late += len(r.Sessions)
				return
			}
			result.Sessions += int(reply.GetSessions())
		})
	}
	wg.Wait()
	return result
}
