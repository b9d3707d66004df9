package tokenlog

import (
	"context"

	"imgo/envelope"
)

// List returns the good tokens of a user, oldest first, including those that another
// node made before the call.
func (t *Tokens) List(ctx context.Context, user string) ([]envelope.TokenInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	if err := t.sync(ctx); err != nil {
		return nil, err
	}
	return t.view.List(ctx, user)
}
