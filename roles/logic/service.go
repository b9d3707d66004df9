package logic

import (
	"time"

	"imgo/protocol"
)

// PushCommand is one push, whatever API it came by. Exactly one of Users,
// Keys, Room and All names whom it is for.
type PushCommand struct {
	// Users are user ids (1 to 128 bytes of UTF-8); at most Config.MaxUsers.
	Users []string
	// Keys are session keys (goim's); never kept.
	Keys []string
	// Room is a room id; never kept.
	Room string
	// All is everyone who is connected; never kept.
	All bool

	// Op is the operation: 5 (message), or 1000 and above.
	Op   int32
	Body []byte
	// Kept says that the message waits in the user's mailbox until every
	// covered device acknowledged it or TTL has passed. Only with Users.
	Kept bool
	// TTL is how long a kept message lives; 0: Config.DefaultTTL.
	TTL time.Duration
	// IdempotencyKey, scoped by its caller; empty: none. For 24 h a second
	// push with the same key has no effect on a user that the first reached.
	IdempotencyKey string
}

// UserResult says what a push did for one user.
type UserResult struct {
	User string
	// ID is the kept message's id; 0: not kept.
	ID uint64
	// Sessions counts the user's sessions at the time of the push. A push
	// that is not kept to a user with none ends there.
	Sessions int
	// Duplicate says that the idempotency key was used for this user before;
	// ID is then the first push's.
	Duplicate bool
	// Unknown says that the user's owner did not answer in time how many
	// sessions there are. Only for a kept push, which is accepted all the same.
	Unknown bool
}

// PushResult is what a push did.
type PushResult struct {
	// Users has one result for each user of the command, in its order (a user
	// named twice is pushed to once and has one result).
	Users []UserResult
	// Sessions counts the sessions that the push is on its way to; 0 for Room
	// and All, whose members only the comets know.
	Sessions int
	// Duplicate says that the idempotency key was used before and that
	// nothing was done (for Users: for every one of them).
	Duplicate bool
}

// KickFilter says which sessions of a user to close, and what to tell them.
type KickFilter struct {
	// Device and Session choose among the user's sessions; empty: all. Session
	// is the key of a session, or the server's own name for it (SessionName).
	Device  string
	Session string
	// Code is what the client is told, 3000 to 4999; 0: protocol.CloseKicked.
	Code protocol.CloseCode
	// Reason is told, too, at most 123 bytes of UTF-8.
	Reason string
}

// Token is an opaque client token as it was made; only its hash is stored.
type Token struct {
	Token     string
	User      string
	ExpiresMS int64 // Unix milliseconds; 0: never
}

// NodeInfo is one node as GET /v1/nodes shows it.
type NodeInfo struct {
	Name     string            `json:"name"`
	Roles    []string          `json:"roles"`
	Address  string            `json:"address,omitempty"`
	Version  string            `json:"version"`
	StartMS  int64             `json:"start_ms"`
	Ready    bool              `json:"ready"`
	Sessions int               `json:"sessions"`
	Clients  map[string]string `json:"clients,omitempty"` // "tcp", "ws": where clients connect
	// Weight is how many clients the node should have in proportion to others;
	// 0: 1.
	Weight int    `json:"weight,omitempty"`
	Zone   string `json:"zone,omitempty"`
	// Leaving says that the node drains: clients are sent elsewhere.
	Leaving bool `json:"leaving,omitempty"`
}

// Partitions is what GET /v1/partitions shows of the kept topic.
type Partitions struct {
	// Kept is how many it has, and Generation which one it is, from 1.
	Kept       int `json:"kept"`
	Generation int `json:"generation"`
	// Next is how many it will have, when it grows; Moved is how many of Kept
	// have moved, and SinceMS when it began, Unix milliseconds.
	Next    int   `json:"next,omitempty"`
	Moved   int   `json:"moved,omitempty"`
	SinceMS int64 `json:"since_ms,omitempty"`
}

// Stats is what GET /v1/stats shows: of the whole server as logic can see it.
type Stats struct {
	Sessions int               `json:"sessions"`
	Comets   map[string]int    `json:"comets"`
	Rooms    int               `json:"rooms"`
	Pushes   map[string]uint64 `json:"pushes"` // by kind, of this logic since its start
	UptimeMS int64             `json:"uptime_ms"`
}

// Event is something that happened to a user's data or sessions that an
// operator or a business system may want to know: GET /v1/events.
type Event struct {
	Seq    uint64 `json:"seq"`
	TimeMS int64  `json:"time_ms"`
	Kind   string `json:"kind"` // "mailbox_dropped", …
	User   string `json:"user,omitempty"`
	Detail string `json:"detail,omitempty"`
}
