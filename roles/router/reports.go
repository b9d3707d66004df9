package router

import (
	"cmp"
	"context"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/roles/router/mailbox"
	"imgo/store"
)

// duesLocked applies steps of messages.
func (ap *applier) duesLocked(id uint64, dues *envelope.Dues) error {
	for _, due := range dues.Dues {
		err := ap.withLocked(id, due.User, 64, func(a *account) {
			if a.Due(due, &ap.derived) {
				switch due.Step {
				case envelope.Due_EXPIRED:
					ap.p.metrics.expired.Inc()
				case envelope.Due_DROPPED, envelope.Due_LOST:
					ap.p.metrics.dropped.Inc()
				}
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// emitLocked queues the events of a record that was applied, with their ids.
func (ap *applier) emitLocked(id uint64, timeMS int64) {
	if len(ap.derived) > 0 {
		ap.p.events.addLocked(ap.derived, events.ID{Record: id}, timeMS)
		ap.derived = nil
	}
}

// maxMessages bounds the messages of one answer to Messages, and maxMessageBytes the bodies that it reads.
const (
	maxMessages     = 1000
	maxMessageBytes = 1 << 20
)

// Messages returns messages that wait for a user.
func (r *Router) Messages(ctx context.Context, req *envelope.MessagesRequest) (*envelope.MessagesReply, error) {
	p, err := r.atEnd(ctx, req.User)
	if err != nil {
		return nil, err
	}
	a, err := p.accounts.openAndLock(ctx, req.User)
	if err != nil {
		return nil, err
	}
	reply := &envelope.MessagesReply{}
	most, size := min(cmp.Or(int(req.MaxMessages), maxMessages), maxMessages), 0
	now := p.clock.Now().UnixMilli()
	var messages []*envelope.Kept
	var absent []store.MailboxEntry // copies: entries change once the lock is released
	for _, e := range a.Messages.All() {
		if e.ExpiresMS <= now || (req.Id != 0 && e.ID != req.Id) || (req.Id == 0 && e.ID <= req.After) {
			continue
		}
		if len(messages) >= most || len(messages) > 0 && size+int(e.Size) > maxMessageBytes {
			reply.More = true
			break
		}
		size += int(e.Size)
		reply.Messages = append(reply.Messages, &envelope.WaitingMessage{
			Id: e.ID, Size: uint32(e.Size), TimeMs: e.TimeMS, ExpiresMs: e.ExpiresMS, Waiting: a.Devices().Names(e.Waiting), Unclaimed: e.Unclaimed,
			Tracked: mailbox.TrackedRecord(e.Tracked),
		})
		messages = append(messages, e.Message)
		if e.Message == nil {
			absent = append(absent, e.MailboxEntry)
		}
	}
	p.mu.Unlock()
	if _, err := p.readBodies(req.User, messages, absent); err != nil {
		return nil, err
	}
	for i, k := range messages {
		if k == nil {
			continue
		}
		msg := reply.Messages[i]
		if msg.Op = k.Op; req.Bodies {
			msg.Body = k.Body
		}
	}
	return reply, nil
}
