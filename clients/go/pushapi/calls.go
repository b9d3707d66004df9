package pushapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// Push is the body of POST /v1/push. Exactly one of User, Users, Keys, Room and All must be set.
type Push struct {
	User  string   `json:"user,omitempty"`
	Users []string `json:"users,omitempty"`
	Keys  []string `json:"keys,omitempty"`
	Room  string   `json:"room,omitempty"`
	All   bool     `json:"all,omitempty"`
	// Kept says whether the message waits until it is acknowledged. Nil means the default of the
	// server, which is true for users.
	Kept *bool `json:"kept,omitempty"`
	// Body is any JSON value. BodyText and BodyBase64 are for other bodies.
	Body       any    `json:"body,omitempty"`
	BodyText   string `json:"body_text,omitempty"`
	BodyBase64 string `json:"body_base64,omitempty"`
	// TTL is the time for which a kept message waits, such as "24h".
	TTL string `json:"ttl,omitempty"`
	Op  int32  `json:"op,omitempty"`

	// IdempotencyKey makes repeated pushes count once. It is sent as a header.
	IdempotencyKey string `json:"-"`
}

// Result is the answer to a push, for one user.
type Result struct {
	// ID is the id of a kept message, or 0 if the message is not kept.
	ID        uint64 `json:"id,string"`
	User      string `json:"user"`
	Sessions  int    `json:"sessions"`
	Duplicate bool   `json:"duplicate"`
	// Dropped counts the waiting messages that had to make room for this one. Refused says
	// why this one is not kept for this user, though it is for others.
	Dropped int    `json:"dropped"`
	Refused string `json:"refused"`
}

// Push sends a push through one server. There is one result for each user, or one for a push to a
// room or to all.
func (c *Client) Push(ctx context.Context, server string, p *Push) ([]Result, error) {
	var header http.Header
	if p.IdempotencyKey != "" {
		header = http.Header{"Idempotency-Key": {p.IdempotencyKey}}
	}
	var answer struct {
		Result
		Results []Result `json:"results"`
	}
	if err := c.Call(ctx, server, http.MethodPost, "/v1/push", header, p, &answer); err != nil {
		return nil, err
	}
	if len(p.Users) > 0 || answer.Results != nil {
		return answer.Results, nil
	}
	return []Result{answer.Result}, nil
}

// NewToken makes a token for a user. It expires after ttl.
func (c *Client) NewToken(ctx context.Context, user string, ttl time.Duration) (string, error) {
	var answer struct {
		Token string `json:"token"`
	}
	err := c.Anywhere(ctx, http.MethodPost, "/v1/tokens", map[string]string{"user": user, "ttl": ttl.String()}, &answer)
	if err == nil && answer.Token == "" {
		err = errors.New("the answer has no token")
	}
	if err != nil {
		return "", fmt.Errorf("make a token for %s: %w", user, err)
	}
	return answer.Token, nil
}

// RevokeToken revokes a token. Sessions that it opened stay open unless closeSessions is true.
func (c *Client) RevokeToken(ctx context.Context, token string, closeSessions bool) error {
	body := map[string]any{"token": token, "close": closeSessions}
	if err := c.Anywhere(ctx, http.MethodPost, "/v1/tokens/revoke", body, nil); err != nil {
		return fmt.Errorf("revoke a token: %w", err)
	}
	return nil
}

// Node is a node of GET /v1/nodes.
type Node struct {
	Name    string            `json:"name"`
	Roles   []string          `json:"roles"`
	Leaving bool              `json:"leaving"`
	Ready   bool              `json:"ready"`
	Clients map[string]string `json:"clients"` // transport → address
}

// Nodes returns the nodes that one of the servers knows, and the host of that server.
func (c *Client) Nodes(ctx context.Context) (nodes []Node, host string, err error) {
	var answer struct {
		Nodes []Node `json:"nodes"`
	}
	server := c.Next()
	for range c.servers {
		if err = c.Call(ctx, server, http.MethodGet, "/v1/nodes", nil, nil, &answer); err == nil {
			u, _ := url.Parse(server) // New has parsed it, so there is no error
			return answer.Nodes, u.Hostname(), nil
		}
		server = c.After(server)
	}
	return nil, "", err
}

// User is the answer of GET /v1/users/{user}.
type User struct {
	Sessions []struct {
		Device string `json:"device"`
	} `json:"sessions"`
	Devices []struct {
		Device  string `json:"device"`
		Pending int    `json:"pending"`
	} `json:"devices"`
	Pending  int    `json:"pending"`
	OldestID string `json:"oldest_id"`
	NewestID string `json:"newest_id"`
	Dropped  int    `json:"dropped"`
}

// User returns the sessions, devices and pending messages of a user.
func (c *Client) User(ctx context.Context, user string) (User, error) {
	var u User
	if err := c.Anywhere(ctx, http.MethodGet, "/v1/users/"+url.PathEscape(user), nil, &u); err != nil {
		return u, fmt.Errorf("look at user %s: %w", user, err)
	}
	return u, nil
}
