package logic

import (
	"context"

	"imgo/envelope"
)

// Messages returns messages that wait for a user, as the owner has them.
func (h *userHandler) Messages(ctx context.Context, req *envelope.MessagesRequest) (*envelope.MessagesReply, error) {
	ctx, end, err := h.life.beginFor(ctx, req.User)
	if err != nil {
		return nil, err
	}
	defer end()
	return ask(ctx, h.owners, req.User, "ask for the user's messages", Router.Messages, req)
}
