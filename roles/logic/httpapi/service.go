package httpapi

import (
	"context"
	"time"

	"imgo/envelope"
	"imgo/roles/logic"
)

// Service is what the handlers call: role logic. Its parts are what one group
// of handlers needs. Errors whose chain has an *envelope.Error are shown to the
// caller as they are; every other one is logged and shown as "internal".
// All methods are called from many goroutines at a time and honour ctx.
type Service interface {
	Pusher
	Users
	Rooms
	Tokens
	Overview
}

// Pusher accepts messages.
type Pusher interface {
	Push(ctx context.Context, cmd *logic.PushCommand) (*logic.PushResult, error)
}

// Users tells of users and acts on their sessions and mailboxes.
type Users interface {
	User(ctx context.Context, user string) (*envelope.UserReply, error)
	// Online gives each named user's number of sessions; users without one
	// may be left out.
	Online(ctx context.Context, users []string) (map[string]int, error)
	// Kick closes the user's sessions that match and says how many.
	Kick(ctx context.Context, user string, filter logic.KickFilter) (int, error)
	// Take reads and deletes what waits on the user's default cursor.
	Take(ctx context.Context, user string, afterMS int64, max int) (*envelope.TakeReply, error)
}

// Rooms tells of rooms.
type Rooms interface {
	// Rooms gives each room's number of members.
	Rooms(ctx context.Context) (map[string]uint32, error)
	// Room gives at most max members and how many there are in all.
	Room(ctx context.Context, room string, max int) ([]*envelope.SessionInfo, int, error)
}

// Tokens makes, checks and revokes opaque client tokens.
type Tokens interface {
	// NewToken makes a token for user that ends after ttl (0: never). An empty
	// token lets the server make one. single revokes the user's other ones.
	NewToken(ctx context.Context, user string, ttl time.Duration, token string, single bool) (logic.Token, error)
	// CheckToken gives the user that a client's token stands for.
	CheckToken(ctx context.Context, token string) (string, error)
	// RevokeToken and RevokeUser say how many tokens they took back; closed
	// sessions (closeSessions) get close code 3503.
	RevokeToken(ctx context.Context, token string, closeSessions bool) (int, error)
	RevokeUser(ctx context.Context, user string, closeSessions bool) (int, error)
}

// Overview tells of the server as a whole.
type Overview interface {
	Stats(ctx context.Context) (logic.Stats, error)
	Nodes(ctx context.Context) []logic.NodeInfo
	// Events gives at most max events with a Seq above after, oldest first.
	Events(after uint64, max int) []logic.Event
	// Partitions is how many the kept topic has, and how far its growth is.
	Partitions(ctx context.Context) (logic.Partitions, error)
	// Grow begins to give it more, and says how far that is.
	Grow(ctx context.Context, kept int) (logic.Partitions, error)
	// CountByComet gives each comet's number of sessions.
	CountByComet(ctx context.Context) (map[string]int, error)
	// ForgetComet drops what is remembered of a comet's sessions, and says
	// how many there were.
	ForgetComet(ctx context.Context, comet string) (int, error)
}
