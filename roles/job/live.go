package job

import (
	"context"

	"imgo/envelope"
)

// deliverLive queues the deliveries of a batch of the live topic.
func (j *Job) deliverLive(_ context.Context, r *reader, s *span, entries []envelope.Entry) error {
	out := newDeliveries()
	for i, e := range entries {
		var env envelope.Envelope
		if err := env.UnmarshalVT(e.Value); err != nil {
			j.unread("unreadable", 1)
			j.log.Error().Err(err).Int32("partition", r.partition).Int64("offset", e.Offset).Msg("an envelope cannot be read: not carried")
			r.denials.clear() // it may have opened a room
			continue
		}
		key := uint64(i + 1) // one envelope is one delivery to each comet
		switch {
		case env.Message != nil:
			j.deliverMessage(out, r, key, &env)
		case env.Opened != nil:
			r.denials.roomOpened(env.Opened)
		case env.Backlog.GetTo() != nil:
			out.deliveryTo(env.Backlog.To.Comet, key, func() *envelope.Delivery { return &envelope.Delivery{Backlog: env.Backlog} })
		case env.SessionRooms != nil:
			for _, a := range env.SessionRooms.To {
				d := out.deliveryTo(a.Comet, key, func() *envelope.Delivery {
					return &envelope.Delivery{SessionRooms: &envelope.SessionRooms{Rooms: env.SessionRooms.Rooms}}
				})
				d.SessionRooms.To = append(d.SessionRooms.To, a)
			}
		case env.Dismiss != nil:
			for _, a := range env.Dismiss.To {
				d := out.deliveryTo(a.Comet, key, func() *envelope.Delivery {
					return &envelope.Delivery{Dismiss: &envelope.Dismiss{Ids: env.Dismiss.Ids, UpTo: env.Dismiss.UpTo}}
				})
				d.Dismiss.To = append(d.Dismiss.To, a)
			}
		case env.Kick != nil:
			for _, a := range env.Kick.To {
				d := out.deliveryTo(a.Comet, key, func() *envelope.Delivery {
					return &envelope.Delivery{Kick: &envelope.Kick{Code: env.Kick.Code, Reason: env.Kick.Reason}}
				})
				d.Kick.To = append(d.Kick.To, a)
			}
		case env.Nudge != nil:
			for _, t := range env.Nudge.To {
				if t.GetTo() == nil {
					continue
				}
				d := out.deliveryTo(t.To.Comet, key, func() *envelope.Delivery { return &envelope.Delivery{Nudge: &envelope.Nudge{}} })
				d.Nudge.To = append(d.Nudge.To, t)
			}
		}
	}
	j.metrics.carried.WithLabelValues(string(Live)).Add(float64(len(entries)))
	out.enqueue(j, r, s, false)
	return nil
}

// deliverMessage delivers a message to its sessions, to the comets of its room, or to
// all comets.
func (j *Job) deliverMessage(out *deliveries, r *reader, key uint64, env *envelope.Envelope) {
	m := env.Message
	newDelivery := func() *envelope.Delivery {
		return &envelope.Delivery{Op: m.Op, Body: m.Body, TimeMs: env.TimeMs, Room: m.Room, All: m.All, LiveId: m.Id}
	}
	switch {
	case m.All:
		for _, comet := range j.d.Comets.Names() {
			out.deliveryTo(comet, key, newDelivery)
		}
	case m.Room != "":
		names := j.d.Comets.Names()
		for _, name := range names {
			comet := j.d.Comets.Comet(name)
			if comet == nil {
				continue // it has gone since Names
			}
			denied := r.denials.of(name, comet)
			if denied.has(m.Room) {
				j.metrics.spared.Inc()
				continue
			}
			out.deliveryTo(name, key, newDelivery)
			out.learnFrom(name, denied)
		}
		r.denials.prune(j.d.Comets, len(names))
	default:
		for _, a := range m.To {
			d := out.deliveryTo(a.Comet, key, newDelivery)
			d.To = append(d.To, &envelope.Target{Session: a.Session})
		}
	}
}
