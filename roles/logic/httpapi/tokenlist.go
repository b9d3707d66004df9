package httpapi

import "net/http"

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
