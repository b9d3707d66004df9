package imgoclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"imgo/clients/go/raw"
)

// maxOutbox bounds the messages in an outbox.
const maxOutbox = 1024

const (
	// codeRateLimited is the server's word for a refusal because the device sends too much.
	codeRateLimited = "rate_limited"
	// codeTooLarge is the client's own word for a message that is larger than the server takes.
	codeTooLarge = "too_large"
)

// outbox is what a Client knows about its Outbox. The fields behind slot belong to the goroutine that holds it.
type outbox struct {
	store Outbox
	slot  chan struct{} // holds a token while a goroutine uses the store
	ready chan struct{} // holds a token when a message was added

	loaded  bool
	content OutboxContent
	// sent is the number of the last message that can have been sent.
	sent uint64
	// replied is the event of the oldest message if it has arrived and is not removed yet.
	replied *Published
}

func newOutbox(store Outbox) *outbox {
	if store == nil {
		store = NewMemoryOutbox()
	}
	return &outbox{store: store, slot: make(chan struct{}, 1), ready: make(chan struct{}, 1)}
}

// useOutbox has f use the store and the fields behind slot, one caller at a time. The context of f ends after
// RequestTimeout. The code of an error is timeout if the slot was not free in time, the code of f's error if it has
// one, and else storage.
func (c *Client) useOutbox(ctx context.Context, what string, f func(ctx context.Context, o *outbox) error) *Error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
	defer cancel()
	err := ctx.Err()
	if err == nil {
		select {
		case c.outbox.slot <- struct{}{}:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		return &Error{Code: CodeTimeout, Text: what + ": wait for the outbox", Err: err}
	}
	defer func() { <-c.outbox.slot }()
	err = f(ctx, c.outbox)
	var known *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return known
	}
	return &Error{Code: CodeStorage, Text: what, Err: err}
}

// forgetOutbox has the outbox read anew. Another client may have used it since the last Run.
func (c *Client) forgetOutbox(ctx context.Context) {
	// Without the slot, another call of this client uses the store, so no other client may do so.
	_ = c.useOutbox(ctx, "connect", func(_ context.Context, o *outbox) error {
		o.loaded, o.content, o.replied = false, OutboxContent{}, nil
		return nil
	})
}

// load reads the outbox, unless that was done.
func (o *outbox) load(ctx context.Context) error {
	if o.loaded {
		return nil
	}
	content, err := o.store.Load(ctx)
	if err != nil {
		return fmt.Errorf("load the outbox: %w", err)
	}
	o.content, o.loaded, o.sent = content, true, content.Last
	if len(content.Messages) > 0 {
		o.sent = content.Messages[0].Number // each one is removed before the next is sent
	}
	return nil
}

// loadOutbox reads the outbox, unless that was done, if the client can publish.
func (c *Client) loadOutbox(ctx context.Context) *Error {
	if c.cfg.Device == "" {
		return nil
	}
	return c.useOutbox(ctx, "connect", func(ctx context.Context, o *outbox) error { return o.load(ctx) })
}

// Publish puts a message for the backend into the outbox and returns its number: 1, 2, 3 and so on. It does not wait
// for the server, and needs no connection. The message reaches the backend once; OnPublished tells when. op is 4, or
// 1000 or above.
//
// Publish needs Config.Device, which must be the name of this installation alone. The error is ErrTooMany if 1,024
// messages wait, and ErrStorage if the outbox failed. It is ErrInvalid if the body is larger than the server takes. Without
// a connection the client does not know that: such a message leaves the outbox later, denied with the ServerCode
// "too_large".
func (c *Client) Publish(ctx context.Context, op int32, body []byte) (number uint64, err error) {
	if err := checkSendOp(op); err != nil {
		return 0, err
	}
	switch {
	case c.cfg.Device == "":
		return 0, invalid("publish a message: Device is missing: give a name that this installation has for itself")
	case len(body) > c.cfg.MaxBody:
		return 0, invalid("publish a message: the body has %d bytes, at most %d (MaxBody) are allowed", len(body), c.cfg.MaxBody)
	}
	if s, err := c.liveSession(""); err == nil {
		if wrong := s.tooLarge(body); wrong != "" {
			return 0, invalid("publish a message: %s", wrong)
		}
	}
	m := OutboxMessage{Op: op, Body: slices.Clone(body)}
	failed := c.useOutbox(ctx, "publish a message", func(ctx context.Context, o *outbox) error {
		if err := o.load(ctx); err != nil {
			return err
		}
		if len(o.content.Messages) >= maxOutbox {
			return &Error{Code: CodeTooMany, Text: fmt.Sprintf("publish a message: %d messages wait in the outbox", maxOutbox)}
		}
		m.Number = o.content.Last + 1
		if err := o.store.Add(ctx, m); err != nil {
			return err
		}
		o.content.add(m)
		return nil
	})
	if failed != nil {
		return 0, failed
	}
	signal(c.outbox.ready)
	return m.Number, nil
}

// publish sends the messages of the outbox, one after the other, until ctx is done.
func (s *session) publish(ctx context.Context) {
	if s.client.cfg.Device == "" {
		return
	}
	step, failures := s.beginOutbox, 0
	for {
		err := step(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			step, failures = s.publishOldest, 0
			continue
		case err.Code == CodeTimeout:
			continue // the reply may be lost: send the message again
		case err.Code == CodeStorage:
			s.client.report(s.run.events, err)
		default:
			s.client.log(slog.LevelDebug, "%v; the client tries again", err)
		}
		wait := err.RetryAfter
		if wait == 0 {
			failures++
			wait = s.client.backoff(failures - 1)
		}
		if !sleep(ctx, wait, nil) {
			return
		}
	}
}

// beginOutbox sets the base of the ids, and notes that the oldest message has arrived if the auth reply says so.
func (s *session) beginOutbox(ctx context.Context) *Error {
	published := uint64(0)
	if s.published != nil {
		published = *s.published
	}
	return s.client.useOutbox(ctx, "begin to publish", func(ctx context.Context, o *outbox) error {
		number := o.content.number(published)
		// If the server has more than was sent, the outbox is an old copy, or another client uses the device.
		if o.content.Base == nil || number > o.sent {
			// Messages of an earlier process may still be under way. Their ids are above published and below the clock.
			base := max(published, uint64(max(time.Now().UnixMicro(), 0)))
			if err := o.store.SetBase(ctx, base); err != nil {
				return fmt.Errorf("save the base of the ids: %w", err)
			}
			o.content.Base = &base
			return nil
		}
		if o.replied == nil && len(o.content.Messages) > 0 && number == o.content.Messages[0].Number {
			o.replied = &Published{Number: number} // the next step removes the message
		}
		return nil
	})
}

// publishOldest sends the oldest message and waits for its reply. It waits for a message if there is none.
func (s *session) publishOldest(ctx context.Context) *Error {
	var gone []Published
	var oldest *OutboxMessage
	var id uint64
	err := s.client.useOutbox(ctx, "publish", func(ctx context.Context, o *outbox) (err error) {
		if gone, err = o.removeReplied(ctx); err == nil && len(o.content.Messages) > 0 {
			oldest = &o.content.Messages[0]
			o.sent = oldest.Number
			id = *o.content.Base + oldest.Number
		}
		return err
	})
	s.notifyPublished(gone...)
	if err != nil {
		return err
	}
	if oldest == nil {
		select {
		case <-s.client.outbox.ready:
		case <-ctx.Done():
		}
		return nil
	}
	result := Published{Number: oldest.Number}
	switch wrong := s.tooLarge(oldest.Body); {
	case wrong != "":
		result.Err = &Error{Code: CodeDenied, ServerCode: codeTooLarge, Text: "publish a message: " + wrong}
	case id < oldest.Number:
		result.Err = &Error{Code: CodeDenied, Text: "publish a message: all ids of the device are used; give it another name"}
	default:
		if s.lastSent != id {
			s.lastSent, s.lastSeq = id, s.calls.next()
		}
		// Each try has the number of the first one, so that a late reply to that counts. On a slow network all replies may be late.
		reply, err := s.call(ctx, "publish a message", raw.Packet{Op: oldest.Op, Seq: s.lastSeq, ID: id, Body: oldest.Body})
		if err != nil && !errors.As(err, &result.Err) {
			return &Error{Code: CodeLost, Err: err}
		}
		if e := result.Err; e != nil && (e.Code != CodeDenied || e.again()) {
			return e
		}
		result.Body = reply.Body
	}
	// The next step removes the message.
	return s.client.useOutbox(ctx, "publish", func(_ context.Context, o *outbox) error {
		o.replied = &result
		return nil
	})
}

// again reports whether a message that was denied with e is to be sent again.
func (e *Error) again() bool {
	return e.RetryAfter > 0 || e.ServerCode == codeUnavailable || e.ServerCode == codeRateLimited
}

// removeReplied removes the oldest message if it has its reply. It returns its event.
func (o *outbox) removeReplied(ctx context.Context) (gone []Published, err error) {
	if o.replied == nil {
		return nil, nil
	}
	result := *o.replied
	if err := o.store.Remove(ctx, result.Number); err != nil {
		return nil, fmt.Errorf("remove a message that has its reply: %w", err)
	}
	o.content.remove(result.Number)
	o.replied = nil
	return []Published{result}, nil
}

// notifyPublished tells the application that messages have left the outbox.
func (s *session) notifyPublished(gone ...Published) {
	for _, p := range gone {
		if p.Err != nil {
			s.client.log(slog.LevelWarn, "message %d: %v", p.Number, p.Err)
		}
		if s.client.cfg.OnPublished != nil {
			s.run.events.add(func() { s.client.cfg.OnPublished(p) })
		}
	}
}
