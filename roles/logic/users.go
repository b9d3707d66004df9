package logic

import (
	"context"
	"fmt"
	"math"
	"unicode/utf8"

	"imgo/envelope"
	"imgo/protocol"
)

// userHandler answers questions about users and acts on their sessions and
// mailboxes.
type userHandler struct{ *shared }

// User returns everything that is known of a user: sessions, devices, and what
// is pending. For an unknown user that is nothing, and no error.
func (h *userHandler) User(ctx context.Context, user string) (*envelope.UserReply, error) {
	ctx, end, err := h.life.beginFor(ctx, user)
	if err != nil {
		return nil, err
	}
	defer end()
	return ask(ctx, h.owners, user, "ask about the user", Router.User, &envelope.UserRequest{User: user})
}

// Messages returns messages that wait for a user, as the owner has them.
func (h *userHandler) Messages(ctx context.Context, req *envelope.MessagesRequest) (*envelope.MessagesReply, error) {
	ctx, end, err := h.life.beginFor(ctx, req.User)
	if err != nil {
		return nil, err
	}
	defer end()
	return ask(ctx, h.owners, req.User, "ask for the user's messages", Router.Messages, req)
}

// Online counts the sessions of each of the users (at most Config.MaxUsers),
// 0 for a user with none.
func (h *userHandler) Online(ctx context.Context, users []string) (map[string]int, error) {
	ctx, end, err := h.life.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if err := checkNames("users", users, h.cfg.MaxUsers, envelope.CheckName); err != nil {
		return nil, err
	}
	found, err := h.owners.lookup(ctx, h.owners.targets(users), want{})
	if err != nil {
		return nil, err
	}
	counts := make(map[string]int, len(found))
	for _, user := range users {
		counts[user] = len(found[user].GetSessions())
	}
	return counts, nil
}

// Kick tells the user's sessions that match to close, and counts them. They
// close once the kick has reached their comets, a moment later.
func (h *userHandler) Kick(ctx context.Context, user string, filter KickFilter) (int, error) {
	ctx, end, err := h.life.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer end()
	if err := checkKick(user, filter); err != nil {
		return 0, err
	}
	return h.kicker.kick(ctx, user, filter)
}

func checkKick(user string, filter KickFilter) error {
	switch {
	case filter.Code != 0 && (filter.Code < 3000 || filter.Code > 4999):
		return envelope.Invalid("code", fmt.Sprintf("is %d: it must be 3000 to 4999", filter.Code))
	case len(filter.Reason) > protocol.MaxReasonBytes:
		return envelope.Invalid("reason",
			fmt.Sprintf("is %d bytes long, at most %d are allowed", len(filter.Reason), protocol.MaxReasonBytes))
	case !utf8.ValidString(filter.Reason):
		return envelope.Invalid("reason", "is not valid UTF-8")
	}
	return envelope.CheckName("user", user)
}

// Take reads what is pending on the user's default cursor after a message time
// (exclusive), at most max messages (0: the owner's bound), and acknowledges
// it. This is what the 2016 store's /1/msg/get did.
func (h *userHandler) Take(ctx context.Context, user string, afterMS int64, max int) (*envelope.TakeReply, error) {
	ctx, end, err := h.life.beginFor(ctx, user)
	if err != nil {
		return nil, err
	}
	defer end()
	if max < 0 || int64(max) > math.MaxUint32 {
		return nil, envelope.Invalid("max", "must be 0 or a 32-bit number")
	}
	const what = "take the user's messages"
	// This is not repeated: what the first try took would be missing from the
	// answer.
	owner, err := h.owners.routers.Owner(h.owners.partition(user))
	if err != nil {
		return nil, attempted(what, err)
	}
	reply, err := owner.Take(ctx, &envelope.TakeRequest{User: user, AfterMs: afterMS, MaxMessages: uint32(max)})
	return reply, attempted(what, err)
}
