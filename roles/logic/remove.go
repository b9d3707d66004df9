package logic

import (
	"context"
	"fmt"

	"imgo/envelope"
	"imgo/protocol"
)

// Removed is what was taken away of a user.
type Removed struct {
	Messages int `json:"messages"` // that waited
	Devices  int `json:"devices"`
	Tokens   int `json:"tokens"`
	Sessions int `json:"sessions"` // that are being closed
	// LogUntilMS is until when the kept log may still have the messages, in Unix
	// milliseconds. 0 means that it keeps them for ever.
	LogUntilMS int64 `json:"log_until_ms"`
}

// removeHandler takes away what is known of users.
type removeHandler struct{ *shared }

// ForgetDevice forgets a device of a user: its sessions are closed (3506), and no
// message waits for it any more. It returns envelope.ErrNotFound if the user has no
// such device. The device without a name stands for all sessions that named none. A client that connects with the name is a new device.
func (h *removeHandler) ForgetDevice(ctx context.Context, user, device string) (Removed, error) {
	if err := checkOptional("device", device); err != nil {
		return Removed{}, err
	}
	return h.remove(ctx, &envelope.Removal{User: user, Devices: []string{device}}, func(ctx context.Context, r *Removed) (err error) {
		filter := KickFilter{Code: protocol.CloseKicked, Reason: "the device was forgotten"}
		r.Sessions, err = h.kicker.kickThose(ctx, user, filter, func(s *envelope.SessionInfo) bool { return s.GetDevice() == device })
		return err
	})
}

// Purge drops all messages that wait for a user.
func (h *removeHandler) Purge(ctx context.Context, user string) (Removed, error) {
	return h.remove(ctx, &envelope.Removal{User: user, Messages: true}, nil)
}

// Erase takes away all that is known of a user: tokens, sessions (closed with 3503),
// waiting messages, devices and idempotency keys. A user with a token that cannot be
// revoked, such as a JWT, can come back as a new one. After an error a part may be
// gone; erasing again is harmless.
func (h *removeHandler) Erase(ctx context.Context, user string) (Removed, error) {
	return h.remove(ctx, &envelope.Removal{User: user, All: true}, func(ctx context.Context, r *Removed) (err error) {
		if r.Tokens, err = h.tokens.RevokeUser(ctx, user); err != nil {
			return appended("revoke the user's tokens", err)
		}
		filter := KickFilter{Code: protocol.CloseTokenRevoked, Reason: "the user was erased"}
		r.Sessions, err = h.kicker.kick(ctx, user, filter)
		return err
	})
}

// remove has the owner apply a removal, after first: sessions that are to end must not
// bring back what is removed.
func (h *removeHandler) remove(
	ctx context.Context, removal *envelope.Removal, first func(context.Context, *Removed) error,
) (Removed, error) {
	ctx, end, err := h.life.beginFor(ctx, removal.User)
	if err != nil {
		return Removed{}, err
	}
	defer end()
	var removed Removed
	if first != nil {
		if err := first(ctx, &removed); err != nil {
			return removed, fmt.Errorf("before the removal: %w", err)
		}
	}
	request := &envelope.RemoveRequest{Removal: removal}
	reply, err := ask(ctx, h.owners, removal.User, "remove what is known of the user", Router.Remove, request)
	if err != nil {
		return removed, err
	}
	removed.Messages, removed.Devices = int(reply.GetMessages()), int(reply.GetDevices())
	if h.cfg.Retention > 0 {
		removed.LogUntilMS = h.now().Add(h.cfg.Retention).UnixMilli()
	}
	return removed, nil
}
