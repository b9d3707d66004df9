package logic

import (
	"context"
	"fmt"
	"unicode/utf8"

	"imgo/envelope"
	"imgo/protocol"
)

// User is everything that is known of a user: sessions, devices, and what
// waits. A user whom nobody has heard of has none of it and is no error.
func (l *Logic) User(ctx context.Context, user string) (*envelope.UserReply, error) {
	ctx, end, err := l.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if err := envelope.CheckName("user", user); err != nil {
		return nil, err
	}
	var reply *envelope.UserReply
	err = l.askOwner(ctx, l.partition(user), "ask about the user", func(owner Router) (err error) {
		reply, err = owner.User(ctx, &envelope.UserRequest{User: user})
		return err
	})
	return reply, err
}

// Online counts the sessions of each of the users (at most Config.MaxUsers),
// 0 for a user with none.
func (l *Logic) Online(ctx context.Context, users []string) (map[string]int, error) {
	ctx, end, err := l.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if err := l.checkNames("users", users); err != nil {
		return nil, err
	}
	users = unique(users)
	found, err := l.lookup(ctx, users, "", false)
	if err != nil {
		return nil, err
	}
	counts := make(map[string]int, len(users))
	for _, user := range users {
		counts[user] = len(found[user].GetSessions())
	}
	return counts, nil
}

// Kick tells the user's sessions that match to close, and counts them. They
// close once the kick has reached their comets, a moment later.
func (l *Logic) Kick(ctx context.Context, user string, filter KickFilter) (int, error) {
	ctx, end, err := l.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer end()
	if err := checkKick(user, filter); err != nil {
		return 0, err
	}
	return l.kick(ctx, user, filter)
}

func checkKick(user string, filter KickFilter) error {
	switch {
	case filter.Code != 0 && (filter.Code < 3000 || filter.Code > 4999):
		return envelope.Invalid("code", fmt.Sprintf("is %d: it must be 3000 to 4999", filter.Code))
	case len(filter.Reason) > protocol.MaxReasonBytes:
		return envelope.Invalid("reason", fmt.Sprintf("is %d bytes long, at most %d are allowed", len(filter.Reason), protocol.MaxReasonBytes))
	case !utf8.ValidString(filter.Reason):
		return envelope.Invalid("reason", "is not valid UTF-8")
	}
	return envelope.CheckName("user", user)
}

func (l *Logic) kick(ctx context.Context, user string, filter KickFilter) (int, error) {
	found, err := l.lookup(ctx, []string{user}, "", true)
	if err != nil {
		return 0, err
	}
	var to []*envelope.Address
	for _, s := range found[user].GetFull() {
		if filter.matches(s) {
			to = append(to, s.GetAddress())
		}
	}
	code, reason := filter.Code, filter.Reason
	if code == 0 {
		code = protocol.CloseKicked
	}
	if reason == "" {
		reason = "closed by the server's operator"
	}
	all := addressed(to, func(to []*envelope.Address) *envelope.Envelope {
		return &envelope.Envelope{Kick: &envelope.Kick{To: to, Code: int32(code), Reason: reason}}
	})
	if err := l.throw(ctx, "throw the kick", all...); err != nil {
		return 0, err
	}
	l.metrics.kicks.Add(float64(len(to)))
	return len(to), nil
}

func (f KickFilter) matches(s *envelope.SessionInfo) bool {
	if f.Device != "" && f.Device != s.GetDevice() {
		return false
	}
	return f.Session == "" || f.Session == s.GetKey() ||
		s.GetAddress().AsKey().HasName(f.Session)
}

// Take reads what waits on the user's default cursor after a message time
// (exclusive), at most max messages (0: the owner's bound), and acknowledges
// it: what the 2016 store's /1/msg/get did.
func (l *Logic) Take(ctx context.Context, user string, afterMS int64, max int) (*envelope.TakeReply, error) {
	ctx, end, err := l.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if err := envelope.CheckName("user", user); err != nil {
		return nil, err
	}
	if max < 0 || int64(max) > int64(^uint32(0)) {
		return nil, envelope.Invalid("max", "must be 0 or a 32-bit number")
	}
	// Not repeated: what the first try took would be gone from the answer.
	owner, err := l.routers.Owner(l.partition(user))
	if err != nil {
		return nil, attempted("take the user's messages", err)
	}
	reply, err := owner.Take(ctx, &envelope.TakeRequest{User: user, AfterMs: afterMS, MaxMessages: uint32(max)})
	if err != nil {
		return nil, attempted("take the user's messages", err)
	}
	return reply, nil
}
