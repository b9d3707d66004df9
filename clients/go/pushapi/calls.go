package pushapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Push is a message to push. Exactly one of User, Users, Keys, Room and All must be set; User may stand beside
// Keys. Exactly one of Body, BodyText and BodyBase64 must be set.
type Push struct {
	User  string   `json:"user,omitempty"`
	Users []string `json:"users,omitempty"`
	// Keys name sessions, those of User if it is set.
	Keys []string `json:"keys,omitempty"`
	Room string   `json:"room,omitempty"`
	All  bool     `json:"all,omitempty"`
	// Kept says whether the message waits until it is acknowledged. Nil means the default of the
	// server, which is true for users.
	Kept *bool `json:"kept,omitempty"`
	// Body is any JSON value. BodyText and BodyBase64 are for other bodies.
	Body       any    `json:"body,omitempty"`
	BodyText   string `json:"body_text,omitempty"`
	BodyBase64 string `json:"body_base64,omitempty"`
	// TTL is the time for which a kept message waits, such as "24h".
	TTL string `json:"ttl,omitempty"`
	// Op is the operation that clients get, 5 or from 1000 on. 0 means 5.
	Op int32 `json:"op,omitempty"`
	// IdempotencyKey makes repeated pushes count once, for the server's kept.idempotency_ttl (24 hours by default).
	IdempotencyKey string `json:"idempotency_key,omitempty"`
	// Ref is the backend's own name of the message. Every event of the message has it.
	Ref string `json:"ref,omitempty"`
	// Report is ReportNone, ReportSettled or ReportEach. Empty means the server's default.
	Report string `json:"report,omitempty"`
	// Deadline is the time by which the message should arrive, such as "30s". The event message.undelivered
	// comes if it has not arrived by then. At most the TTL.
	Deadline string `json:"deadline,omitempty"`
	// DeadlineIf is DeadlineIfNone or DeadlineIfAny. Empty means DeadlineIfNone.
	DeadlineIf string `json:"deadline_if,omitempty"`
}

// The values of Push.Report: which events tell what becomes of the message.
const (
	ReportNone    = "none"
	ReportSettled = "settled" // one at the end: message.settled, message.expired or message.dropped
	ReportEach    = "each"    // also message.delivered, one a device
)

// The values of Push.DeadlineIf: when a deadline is missed.
const (
	DeadlineIfNone = "none_delivered" // no device has the message
	DeadlineIfAny  = "any"            // a device lacks it
)

// Result is the answer to a push, for one user.
type Result struct {
	// ID is the id of a kept message, or 0 if the message is not kept.
	ID       uint64 `json:"id,string"`
	User     string `json:"user"`
	Sessions int    `json:"sessions"`
	// Duplicate reports whether the idempotency key was used before. Then the push had no effect.
	Duplicate bool `json:"duplicate"`
	// Dropped counts the waiting messages that had to make room for this one. Refused says
	// why this one is not kept for this user, though it is for others.
	Dropped int    `json:"dropped"`
	Refused string `json:"refused"`
}

// answer is what the server says of a push.
type pushAnswer struct {
	Result
	Results []Result `json:"results"`
}

// list returns one result for each user, or one for a push to a room or to all.
func (a pushAnswer) list(p *Push) []Result {
	if len(p.Users) > 0 || a.Results != nil {
		return a.Results
	}
	return []Result{a.Result}
}

// Push sends a push. There is one result for each user, or one for a push to sessions, a room or all. It is
// repeated at other servers only if it has an idempotency key, or if the server cannot have received it.
func (c *Client) Push(ctx context.Context, p *Push) ([]Result, error) {
	answer, err := ask[pushAnswer](ctx, c, "push", p.IdempotencyKey != "", http.MethodPost, "/v1/push", p)
	if err != nil {
		return nil, err
	}
	return answer.list(p), nil
}

// PushTo is like Push, through one server and without repetitions.
func (c *Client) PushTo(ctx context.Context, server string, p *Push) ([]Result, error) {
	var answer pushAnswer
	if err := c.Call(ctx, server, http.MethodPost, "/v1/push", p, &answer); err != nil {
		return nil, err
	}
	return answer.list(p), nil
}

// BatchResult is the result of one push of a batch.
type BatchResult struct {
	Results []Result // nil if the push was not accepted
	Err     error    // an *Error, or nil
}

// batchAnswer is what the server says of a batch.
type batchAnswer struct {
	Results []struct {
		pushAnswer
		Status int     `json:"status"`
		Error  problem `json:"error"`
	} `json:"results"`
}

// PushBatch sends up to 1,000 pushes in one call. Each is accepted or refused on its own, and the results are
// in the order of the pushes. The call is repeated at other servers only if each push has an idempotency key, or
// if the server cannot have received it.
func (c *Client) PushBatch(ctx context.Context, pushes []*Push) ([]BatchResult, error) {
	again := true
	for _, p := range pushes {
		again = again && p.IdempotencyKey != ""
	}
	body := map[string]any{"pushes": pushes}
	answer, err := ask[batchAnswer](ctx, c, "push a batch", again, http.MethodPost, "/v1/push/batch", body)
	if err != nil {
		return nil, err
	}
	if len(answer.Results) != len(pushes) {
		return nil, fmt.Errorf("push a batch: there are %d results for %d pushes", len(answer.Results), len(pushes))
	}
	results := make([]BatchResult, len(pushes))
	for i, r := range answer.Results {
		if r.Status != http.StatusAccepted {
			results[i].Err = &Error{Status: r.Status, Code: r.Error.Code, Message: r.Error.Message, Field: r.Error.Field}
			continue
		}
		results[i].Results = r.list(pushes[i])
	}
	return results, nil
}

// TokenOptions are for NewToken. The zero value makes a token that does not end.
type TokenOptions struct {
	// TTL is how long the token is good. 0 means for ever.
	TTL time.Duration
	// Single revokes the user's other tokens.
	Single bool
	// Rooms are the rooms that a client may join where the server's rules ask for a token. A star stands
	// for any text.
	Rooms []string
}

// Token is a token for a user's clients.
type Token struct {
	Token string `json:"token"`
	User  string `json:"user"`
	// ExpiresMS is when it ends, in Unix milliseconds, or 0.
	ExpiresMS int64 `json:"expires_ms"`
}

// NewToken makes a token for a user.
func (c *Client) NewToken(ctx context.Context, user string, o TokenOptions) (Token, error) {
	body := struct {
		User   string   `json:"user"`
		TTL    string   `json:"ttl,omitempty"`
		Single bool     `json:"single,omitempty"`
		Rooms  []string `json:"rooms,omitempty"`
	}{user, "", o.Single, o.Rooms}
	if o.TTL != 0 {
		body.TTL = o.TTL.String()
	}
	what := "make a token for " + user
	token, err := ask[Token](ctx, c, what, false, http.MethodPost, "/v1/tokens", body)
	if err == nil && token.Token == "" {
		return Token{}, errors.New(what + ": the answer has no token")
	}
	return token, err
}

// RevokeToken revokes a token. If closeSessions is true, it also closes all sessions of the token's user.
func (c *Client) RevokeToken(ctx context.Context, token string, closeSessions bool) error {
	_, err := c.revoke(ctx, map[string]any{"token": token, "close": closeSessions})
	return err
}

// RevokeTokens revokes all tokens of a user and returns how many there were. If closeSessions is true, it also
// closes the user's sessions.
func (c *Client) RevokeTokens(ctx context.Context, user string, closeSessions bool) (revoked int, err error) {
	return c.revoke(ctx, map[string]any{"user": user, "close": closeSessions})
}

func (c *Client) revoke(ctx context.Context, body map[string]any) (int, error) {
	n, err := ask[counts](ctx, c, "revoke tokens", false, http.MethodPost, "/v1/tokens/revoke", body)
	return n.Revoked, err
}

// counts is the answer to a call that says how much it has changed.
type counts struct {
	Revoked  int `json:"revoked"`
	Sessions int `json:"sessions"`
}

// Session is a connection of a client.
type Session struct {
	Name       string   `json:"name"` // the server's name for it
	User       string   `json:"user"`
	Device     string   `json:"device"`
	Key        string   `json:"key"`
	GlobalKey  bool     `json:"global_key"`
	Platform   string   `json:"platform"`
	Address    string   `json:"address"` // where the client connects from
	Transport  string   `json:"transport"`
	Generation string   `json:"generation"`
	Node       string   `json:"node"`
	SinceMS    int64    `json:"since_ms"` // Unix milliseconds
	Rooms      []string `json:"rooms"`
	Accepts    []int32  `json:"accepts"`
}

// Device is a device that a user's mailbox knows.
type Device struct {
	Device     string `json:"device"`
	Online     bool   `json:"online"`       // it has a session
	LastSeenMS int64  `json:"last_seen_ms"` // Unix milliseconds
	Pending    int    `json:"pending"`
}

// User is what the server knows of a user.
type User struct {
	User     string    `json:"user"`
	Online   bool      `json:"online"`
	Sessions []Session `json:"sessions"`
	Devices  []Device  `json:"devices"`
	// Pending counts the kept messages that some device has yet to acknowledge. OldestID and NewestID are
	// the first and the last of them, or 0.
	Pending  int    `json:"pending"`
	OldestID uint64 `json:"oldest_id,string"`
	NewestID uint64 `json:"newest_id,string"`
	// Dropped counts the messages that had to make room for others.
	Dropped    int   `json:"dropped"`
	LastSeenMS int64 `json:"last_seen_ms"` // Unix milliseconds, or 0
	// SinceMS is when the user came online, or when it went offline, as far as it is known, Unix
	// milliseconds, or 0.
	SinceMS int64 `json:"since_ms"`
}

// User returns the sessions, devices and pending messages of a user.
func (c *Client) User(ctx context.Context, user string) (User, error) {
	return ask[User](ctx, c, "look at user "+user, true, http.MethodGet, "/v1/user?"+query("user", user), nil)
}

func query(pairs ...string) string {
	values := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		values.Set(pairs[i], pairs[i+1])
	}
	return values.Encode()
}

// KickOptions are for Kick. The zero value closes all sessions of the user for good.
type KickOptions struct {
	// Device or Session limits the kick to the sessions of a device, or to one session by its name or key.
	Device  string `json:"device,omitempty"`
	Session string `json:"session,omitempty"`
	// Reason is what the client is told, at most 123 bytes.
	Reason string `json:"reason,omitempty"`
	// Code is the close code, 3000 to 4999. 0 means 3506. With one below 3500 the client reconnects.
	Code int `json:"code,omitempty"`
}

// Kick closes sessions of a user, and returns how many. Kept messages stay.
func (c *Client) Kick(ctx context.Context, user string, o KickOptions) (sessions int, err error) {
	// Not with the user in the path: it may be ".", which is no element of a path.
	n, err := ask[counts](ctx, c, "kick user "+user, false, http.MethodPost, "/v1/user/kick?"+query("user", user), o)
	return n.Sessions, err
}

// Reading names messages that a user has read: all up to UpTo, and those of IDs, at most 500.
type Reading struct {
	UpTo uint64
	IDs  []uint64
	// Device is where they were read. If it is empty, the event names the default device.
	Device string
}

// MarshalJSON writes ids as decimal strings, as the API has them.
func (r Reading) MarshalJSON() ([]byte, error) {
	var body struct {
		UpTo   string   `json:"up_to,omitempty"`
		IDs    []string `json:"ids,omitempty"`
		Device string   `json:"device,omitempty"`
	}
	if r.UpTo != 0 {
		body.UpTo = strconv.FormatUint(r.UpTo, 10)
	}
	for _, id := range r.IDs {
		body.IDs = append(body.IDs, strconv.FormatUint(id, 10))
	}
	body.Device = r.Device
	return json.Marshal(body)
}

// Read tells that a user has read messages. All devices have acknowledged them then. It returns how many sessions
// are told to take the messages from the screen.
func (c *Client) Read(ctx context.Context, user string, r Reading) (sessions int, err error) {
	what := fmt.Sprintf("tell what user %s has read", user)
	n, err := ask[counts](ctx, c, what, true, http.MethodPost, "/v1/user/read?"+query("user", user), r)
	return n.Sessions, err
}

// Member is the answer to a change of a membership.
type Member struct {
	Room   string `json:"room"`
	User   string `json:"user"`
	Member bool   `json:"member"` // whether the user is in the room now
	// Sessions counts the user's sessions that have followed. Late counts those that have not yet, because
	// their node did not answer. They are told again.
	Sessions int `json:"sessions"`
	Late     int `json:"late"`
}

// AddToRoom puts a user into a room: the sessions of the moment and all later ones.
func (c *Client) AddToRoom(ctx context.Context, room, user string) (Member, error) {
	return c.member(ctx, http.MethodPut, room, user)
}

// RemoveFromRoom takes a user out of a room, with all sessions.
func (c *Client) RemoveFromRoom(ctx context.Context, room, user string) (Member, error) {
	return c.member(ctx, http.MethodDelete, room, user)
}

func (c *Client) member(ctx context.Context, method, room, user string) (Member, error) {
	what := fmt.Sprintf("change the membership of user %s in room %s", user, room)
	return ask[Member](ctx, c, what, true, method, "/v1/memberships?"+query("room", room, "user", user), nil)
}

// Room is a room with its members.
type Room struct {
	Room string `json:"room"`
	// Sessions counts all members, Members lists some of them.
	Sessions int       `json:"sessions"`
	Members  []Session `json:"members"`
}

// Room returns a room and at most limit of its members. A room without members is no error.
func (c *Client) Room(ctx context.Context, room string, limit int) (Room, error) {
	path := "/v1/room?" + query("room", room, "limit", strconv.Itoa(limit))
	return ask[Room](ctx, c, "look at room "+room, true, http.MethodGet, path, nil)
}

// Node is a node of the cluster.
type Node struct {
	Name     string            `json:"name"`
	Roles    []string          `json:"roles"`
	Version  string            `json:"version"`
	StartMS  int64             `json:"start_ms"` // Unix milliseconds
	Leaving  bool              `json:"leaving"`
	Ready    bool              `json:"ready"`
	Sessions int               `json:"sessions"`
	Address  string            `json:"address"` // of its HTTP API
	Clients  map[string]string `json:"clients"` // transport → address
	Weight   int               `json:"weight"`
	Zone     string            `json:"zone"`
	// ClockMS is how far the node's clock is ahead of that of the server that answered, in milliseconds.
	ClockMS int64 `json:"clock_ms"`
}

// ClientAddress returns the address for clients of a transport with its scheme, such as tcp://host:port. If the
// node names no host, as in ":8080", it is host. It returns "" if the node does not have the transport.
func (n Node) ClientAddress(transport, host string) string {
	address := n.Clients[transport]
	if address == "" {
		return ""
	}
	scheme, rest, ok := strings.Cut(address, "://")
	if !ok {
		scheme, rest = transport, address
	}
	authority, path, _ := strings.Cut(rest, "/")
	if h, port, err := net.SplitHostPort(authority); err == nil {
		if ip := net.ParseIP(h); h == "" || ip != nil && ip.IsUnspecified() {
			authority = net.JoinHostPort(host, port)
		}
	}
	return strings.TrimSuffix(scheme+"://"+authority+"/"+path, "/")
}

// Nodes returns the nodes that one of the servers knows, and the host of that server.
func (c *Client) Nodes(ctx context.Context) (nodes []Node, host string, err error) {
	var answer struct {
		Nodes []Node `json:"nodes"`
	}
	server := c.Next()
	for range c.servers {
		if err = c.Call(ctx, server, http.MethodGet, "/v1/nodes", nil, &answer); err == nil {
			u, _ := url.Parse(server) // New has parsed it, so there is no error
			return answer.Nodes, u.Hostname(), nil
		}
		server = c.After(server)
	}
	return nil, "", err
}
