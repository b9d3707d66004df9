package router

import (
	"imgo/envelope"
	"imgo/internal/events"
)

// upstreamLocked applies a message of a client for the backend: it is an event, unless the device has sent its client
// id, or a higher one, before.
func (ap *applier) upstreamLocked(id uint64, rec *envelope.Record) error {
	msg := rec.Upstream
	if !ap.storableLocked(id, msg.User, "user") || !ap.storableLocked(id, msg.Device, "device") {
		return nil // set aside
	}
	if msg.ClientId != 0 && msg.Device != "" {
		counts := false
		err := ap.withLocked(id, msg.User, 64, func(a *account) { counts = a.Publish(id, msg.Device, msg.ClientId, rec.TimeMs) })
		if err != nil {
			return err
		}
		if !counts {
			ap.p.metrics.void.Inc()
			return nil
		}
	}
	ap.derived = append(ap.derived, events.Event{
		Type: events.Upstream, User: msg.User, Device: msg.Device, Session: msg.Session, Op: msg.Op, Body: msg.Body, ClientID: msg.ClientId,
	})
	return nil
}
