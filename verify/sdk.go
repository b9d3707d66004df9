package verify

import (
	"context"
	"errors"

	imgoclient "imgo/clients/go"
	"imgo/clients/go/raw"
	"imgo/internal/wait"
	"imgo/verify/history"
)

// sdkRemember is the number of ids that an SDK device remembers to drop duplicates. It must exceed the
// number of messages that may wait in a mailbox.
const sdkRemember = 1 << 20

// runSDK is run for a device that uses the Go SDK. The SDK drops repeated messages by itself. So all
// connections of the device count as one session, in which every id must arrive once and in order.
func (d *device) runSDK(ctx context.Context) {
	at := d.v.places.pick(d.kind.webSocket(), raw.Target{})
	discover := ""
	if !d.v.places.given {
		discover = d.v.api.Next()
	}
	var session *history.Session // made before the first connection
	var hangUp func(bool)
	u := d.account
	client, err := imgoclient.New(imgoclient.Config{
		Address: at.String(), Discover: discover, TLS: d.v.cfg.TLS,
		Token: u.token, Device: d.name, Rooms: u.rooms, Platform: "verify",
		MinBackoff: minBackoff, MaxBackoff: maxBackoff, ConnectTimeout: dialTimeout, AuthTimeout: dialTimeout, Remember: sdkRemember,
		OnMessage: func(_ context.Context, m imgoclient.Message) error {
			d.note(m.ID, m.Body, session)
			return nil
		},
		OnState: func(to imgoclient.StateChange) {
			switch to.State {
			case imgoclient.Live:
				d.begin(nil, hangUp, at, to.Session.ID, to.Session.Pending)
			case imgoclient.Waiting:
				var closed *raw.CloseError
				if errors.As(to.Err, &closed) {
					d.sentAway(at, closed)
				}
				d.left(to.Err)
				if d.end(to.Err) {
					d.reconnecting()
				}
			}
		},
	})
	if err != nil {
		d.left(err)
		d.v.problem("%s: %v", d, err)
		return
	}
	session = d.v.h.Session(u.name, d.name)
	for ctx.Err() == nil {
		running, cancel := context.WithCancel(ctx)
		hangUp = func(bool) { cancel() }
		err := client.Run(running)
		cancel()
		d.end(err)
		var closed *raw.CloseError
		if errors.As(err, &closed) {
			d.sentAway(at, closed) // the SDK gives up only if it was sent away for good
		}
		if away := d.left(err); away > 0 {
			d.stayAway(ctx, away)
		} else {
			_ = wait.Sleep(ctx, minBackoff) // the loop checks ctx
		}
	}
}
