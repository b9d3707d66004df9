package main

import (
	"context"

	imgoclient "imgo/clients/go"
)

func (d *driver) published(p imgoclient.Published) {
	e := event{"event": "published", "number": p.Number}
	if p.Err != nil {
		e["code"], e["server_code"], e["message"] = p.Err.Code, p.Err.ServerCode, p.Err.Error()
	} else {
		e["body"] = append([]byte{}, p.Body...)
	}
	d.emit(e)
}

func (d *driver) dismiss(m imgoclient.Dismiss) {
	ids := make([]id, len(m.IDs))
	for i, n := range m.IDs {
		ids[i] = id(n)
	}
	d.emit(event{"event": "dismiss", "ids": ids, "up_to": id(m.UpTo)})
}

// outbox is an outbox in a file that fails when the driver was told so.
type outbox struct {
	*imgoclient.FileOutbox
	driver *driver
}

func (o *outbox) fails() error { return o.driver.fails(&o.driver.outboxFailures) }

func (o *outbox) SetBase(ctx context.Context, base uint64) error {
	if err := o.fails(); err != nil {
		return err
	}
	return o.FileOutbox.SetBase(ctx, base)
}

func (o *outbox) Add(ctx context.Context, m imgoclient.OutboxMessage) error {
	if err := o.fails(); err != nil {
		return err
	}
	return o.FileOutbox.Add(ctx, m)
}

func (o *outbox) Remove(ctx context.Context, upTo uint64) error {
	if err := o.fails(); err != nil {
		return err
	}
	return o.FileOutbox.Remove(ctx, upTo)
}
