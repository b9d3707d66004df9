package logic

import (
	"context"

	"imgo/envelope"
	"imgo/protocol"
)

// KickFilter chooses which sessions of a user to close, and with what.
type KickFilter struct {
	// Device and Session choose among the user's sessions. If both are empty, all are chosen. Session is
	// the key of a session, or the server's own name for it (AddressKey.Name).
	Device  string
	Session string
	// Code is the close code, 3000 to 4999. 0 means protocol.CloseKicked.
	Code protocol.CloseCode
	// Reason is the reason of the close, at most 123 bytes of UTF-8.
	Reason string
}

func (f KickFilter) matches(s *envelope.SessionInfo) bool {
	if f.Device != "" && f.Device != s.GetDevice() {
		return false
	}
	return f.Session == "" || named(s, f.Session)
}

// kicker tells sessions to close, by way of the live log.
type kicker struct {
	owners  *owners
	live    *publisher
	metrics *metrics
}

// kick kicks the user's sessions that match and returns how many they are.
func (k *kicker) kick(ctx context.Context, user string, filter KickFilter) (int, error) {
	return k.kickThose(ctx, user, filter, filter.matches)
}

// kickThose kicks the user's sessions for which which is true and returns how many
// they are.
func (k *kicker) kickThose(ctx context.Context, user string, filter KickFilter, which func(*envelope.SessionInfo) bool) (int, error) {
	found, err := k.owners.lookup(ctx, k.owners.targets([]string{user}), want{full: true})
	if err != nil {
		return 0, err
	}
	kick := &envelope.Kick{Code: int32(filter.Code), Reason: filter.Reason}
	if kick.Code == 0 {
		kick.Code = int32(protocol.CloseKicked)
	}
	if kick.Reason == "" {
		kick.Reason = "closed by the server's operator"
	}
	for _, s := range found[user].GetFull() {
		if which(s) {
			kick.To = append(kick.To, s.GetAddress())
		}
	}
	if err := k.publish(ctx, kick); err != nil {
		return 0, err
	}
	return len(kick.To), nil
}

// publish publishes kicks, each to the comets of its sessions.
func (k *kicker) publish(ctx context.Context, kicks ...*envelope.Kick) error {
	var records []liveRecord
	sessions := 0
	for _, kick := range kicks {
		records = append(records, byComet(kick.GetTo(), func(to []*envelope.Address) *envelope.Envelope {
			return &envelope.Envelope{Kick: &envelope.Kick{To: to, Code: kick.GetCode(), Reason: kick.GetReason()}}
		})...)
		sessions += len(kick.GetTo())
	}
	if err := k.live.publish(ctx, "publish the kicks", records...); err != nil {
		return err
	}
	k.metrics.kicks.Add(float64(sessions))
	return nil
}
