package logic

import (
	"context"

	"imgo/envelope"
)

// Messages returns messages that wait for a user, as the owner has them.
func (h *userHandler) Messages(ctx context.Context, req *envelope.MessagesRequest) (*envelope.MessagesReply, error) {
	ctx, end, err := h.life.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if err := envelope.CheckName("user", req.User); err != nil {
		return nil, err
	}
	var reply *envelope.MessagesReply
	err = h.owners.call(ctx, h.owners.partition(req.User), "ask for the user's messages", func(owner Router) (err error) {
		reply, err = owner.Messages(ctx, req)
		return err
	})
	return reply, err
}
