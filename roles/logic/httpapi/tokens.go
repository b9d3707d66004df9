package httpapi

import (
	"net/http"

	"imgo/envelope"
	"imgo/internal/jsonread"
	"imgo/protocol"
	"imgo/roles/logic"
)

// tokenRequest is the body of POST /v1/tokens.
type tokenRequest struct{ logic.TokenRequest }

func (t *tokenRequest) Field(r *jsonread.Reader, name string) (err error) {
	switch name {
	case "user":
		t.User, err = r.Text()
	case "ttl":
		t.TTL, err = r.Duration()
	case "token":
		t.Token, err = r.Text()
		if err == nil && t.Token == "" {
			err = envelope.Invalid(name, "must not be empty; leave it out and the server makes one")
		}
	case "single":
		t.Single, err = r.Boolean()
	case "rooms":
		t.Rooms, err = r.Texts(protocol.MaxTokenRooms)
	default:
		return jsonread.ErrUnknownField
	}
	return err
}

// tokenHandlers answer the calls about opaque client tokens.
type tokenHandlers struct{ service Tokens }

// make answers POST /v1/tokens. The token is shown this once. The server
// stores its hash only.
func (h tokenHandlers) make(c *call) error {
	req := &tokenRequest{}
	if err := c.decode(req); err != nil {
		return err
	}
	if err := envelope.CheckName("user", req.User); err != nil {
		return err
	}
	token, err := h.service.NewToken(c.Ctx, req.TokenRequest)
	if err != nil {
		return err
	}
	c.W.Header().Set("Cache-Control", "no-store")
	return c.Reply(http.StatusCreated, token)
}

// revokeRequest is the body of POST /v1/tokens/revoke.
type revokeRequest struct {
	token, user string
	keepOpen    bool
}

func (t *revokeRequest) Field(r *jsonread.Reader, name string) (err error) {
	switch name {
	case "token":
		if t.token, err = r.Text(); err == nil && t.token == "" {
			err = envelope.Invalid(name, "must not be empty; without it all tokens of user are revoked")
		}
	case "user":
		if t.user, err = r.Text(); err == nil {
			err = envelope.CheckName(name, t.user)
		}
	case "close":
		var closeSessions bool
		closeSessions, err = r.Boolean()
		t.keepOpen = !closeSessions
	default:
		return jsonread.ErrUnknownField
	}
	return err
}

// revoke answers POST /v1/tokens/revoke, for one token or all of a user's.
// Sessions are closed unless "close" is false, since a lost token must not keep
// the connection that it opened.
func (h tokenHandlers) revoke(c *call) error {
	req := &revokeRequest{}
	if err := c.decode(req); err != nil {
		return err
	}
	var n int
	var err error
	switch {
	case req.token != "" && req.user != "":
		return envelope.Invalid("user", "cannot be there beside token: name one of them")
	case req.token != "":
		n, err = h.service.RevokeToken(c.Ctx, req.token, c.key.checkUser, !req.keepOpen)
	case req.user != "":
		n, err = h.service.RevokeUser(c.Ctx, req.user, !req.keepOpen)
	default:
		return envelope.Invalid("token", "is missing: name a token or a user")
	}
	return c.answer(http.StatusOK, map[string]int{"revoked": n}, err)
}

// tokenInfoView is one token of GET /v1/users/{user}/tokens. It has nothing of the
// token or its hash: a token that a caller chose might be guessed by that.
type tokenInfoView struct {
	CreatedMS int64 `json:"created_ms"`
	ExpiresMS int64 `json:"expires_ms"`
}

// ofUser answers GET /v1/users/{user}/tokens and /v1/user/tokens?user=….
func (h tokenHandlers) ofUser(c *call, user string) error {
	list, err := h.service.UserTokens(c.Ctx, user)
	if err != nil {
		return err
	}
	views := make([]tokenInfoView, len(list))
	for i, t := range list {
		views[i] = tokenInfoView{t.CreatedMS, t.ExpiresMS}
	}
	return c.Reply(http.StatusOK, map[string]any{"user": user, "tokens": views})
}
