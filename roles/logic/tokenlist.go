package logic

import (
	"context"

	"imgo/envelope"
)

// UserTokens returns the good opaque tokens of a user, oldest first, without anything
// that would help to guess them.
func (h *tokenHandler) UserTokens(ctx context.Context, user string) ([]envelope.TokenInfo, error) {
	ctx, end, err := h.life.beginFor(ctx, user)
	if err != nil {
		return nil, err
	}
	defer end()
	list, err := h.tokens.List(ctx, user)
	return list, attempted("list the user's tokens", err)
}
