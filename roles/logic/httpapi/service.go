package httpapi

import (
	"context"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/roles/logic"
)

// Service is role logic, as the handlers call it. Each part is for one group of
// handlers. An error with an *envelope.Error in its chain is shown to the caller
// as it is. Every other error is logged and shown as "internal". All methods are
// called from many goroutines at a time and honour ctx.
type Service interface {
	Pusher
	Users
	Rooms
	Tokens
	Hooks
	Events
	Overview
}

// Pusher accepts messages.
type Pusher interface {
	Push(ctx context.Context, cmd *logic.PushCommand) (*logic.PushResult, error)
}

// Users shows users and acts on their sessions and mailboxes.
type Users interface {
	User(ctx context.Context, user string) (*envelope.UserReply, error)
	// Online returns each named user's number of sessions. It may leave out
	// users without a session.
	Online(ctx context.Context, users []string) (map[string]int, error)
	// Kick closes the user's sessions that match, and returns how many.
	Kick(ctx context.Context, user string, filter logic.KickFilter) (int, error)
	// Take reads and deletes the messages after the user's default cursor.
	Take(ctx context.Context, user string, afterMS int64, max int) (*envelope.TakeReply, error)
	// Messages returns messages that wait for the user.
	Messages(ctx context.Context, r *envelope.MessagesRequest) (*envelope.MessagesReply, error)
	// Read makes it durable that a user has read messages.
	Read(ctx context.Context, r *envelope.ReadRequest) (*envelope.ReadReply, error)
	// Explain says what became of a message that was pushed to a user.
	Explain(ctx context.Context, user string, id uint64) (*logic.Explanation, error)
	// ForgetDevice forgets a device, Purge drops all waiting messages, and Erase takes
	// away all that is known of the user.
	ForgetDevice(ctx context.Context, user, device string) (logic.Removed, error)
	Purge(ctx context.Context, user string) (logic.Removed, error)
	Erase(ctx context.Context, user string) (logic.Removed, error)
}

// Rooms shows rooms and their members.
type Rooms interface {
	// Rooms returns each room's number of members.
	Rooms(ctx context.Context) (map[string]uint32, error)
	// Room returns at most max members, and the number of all members.
	Room(ctx context.Context, room string, max int) ([]*envelope.SessionInfo, int, error)
	// SetMember puts a user into a room, or takes it out of it.
	SetMember(ctx context.Context, room, user string, member bool) (logic.MemberResult, error)
	// UserRooms returns the rooms that SetMember has put a user into, and how many
	// there may be.
	UserRooms(ctx context.Context, user string) (rooms []string, limit int, err error)
}

// Tokens makes, checks and revokes opaque client tokens.
type Tokens interface {
	NewToken(ctx context.Context, r logic.TokenRequest) (logic.Token, error)
	// UserTokens returns the user's valid tokens, oldest first.
	UserTokens(ctx context.Context, user string) ([]envelope.TokenInfo, error)
	// CheckToken returns the user that a client's token stands for.
	CheckToken(ctx context.Context, token string) (string, error)
	// RevokeToken and RevokeUser return how many tokens they revoked. With
	// closeSessions, the sessions of the user are closed with code 3503. RevokeToken
	// does nothing if check returns an error for the token's user.
	RevokeToken(ctx context.Context, token string, check func(user string) error, closeSessions bool) (int, error)
	RevokeUser(ctx context.Context, user string, closeSessions bool) (int, error)
}

// Hooks shows and changes the posting of events.
type Hooks interface {
	// Hooks returns what the hooks have done and have to do, by name.
	Hooks(ctx context.Context) ([]events.Hook, error)
	// ReplayHook makes a hook post again what the topic has from a time on, in Unix milliseconds. RetryHook
	// does so for its dead letters, and ResumeHook ends its pause.
	ReplayHook(ctx context.Context, hook string, fromMS int64) error
	RetryHook(ctx context.Context, hook string) error
	ResumeHook(ctx context.Context, hook string) error
}

// Events shows what became of messages.
type Events interface {
	// Events returns events of messages.
	Events(ctx context.Context, q events.Query) (*events.Page, error)
}

// Overview shows the server as a whole.
type Overview interface {
	Stats(ctx context.Context) (logic.Stats, error)
	Nodes(ctx context.Context) []logic.NodeInfo
	// Notices returns at most max notices with a Seq above after, oldest first.
	Notices(after uint64, max int) []logic.Notice
	// Partitions returns how many partitions the kept topic has, and the
	// progress of its growth.
	Partitions(ctx context.Context) (logic.Partitions, error)
	// Grow begins to add partitions, and returns the progress.
	Grow(ctx context.Context, kept int) (logic.Partitions, error)
	// CountByComet returns each comet's number of sessions.
	CountByComet(ctx context.Context) (map[string]int, error)
	// ForgetComet drops the records of a comet's sessions, and returns how
	// many there were.
	ForgetComet(ctx context.Context, comet string) (int, error)
}
