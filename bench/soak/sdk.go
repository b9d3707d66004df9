package soak

import (
	"context"
	"time"

	imgoclient "imgo/clients/go"
	"imgo/verify/history"
)

// runSDK runs a device that uses the Go client. The client itself drops repeated
// messages. So all its connections count as one session, in which every id must arrive
// once and in order.
func (d *device) runSDK(ctx context.Context) {
	var s *history.Session // made once the server has accepted the device
	address := d.r.server.tcp
	if d.kind == kindSDKWS {
		address = "ws://" + d.r.server.ws
	}
	client, err := imgoclient.New(imgoclient.Config{
		Address: address, Token: d.user.token, Device: d.name, Rooms: d.rooms,
		MinBackoff: minWait, MaxBackoff: maxWait, ConnectTimeout: dialLimit, AuthTimeout: dialLimit, AckDelay: d.ackDelay,
		OnMessage: func(_ context.Context, m imgoclient.Message) error {
			d.note(s, m.ID, m.Body)
			return nil
		},
		OnConnect: func(info imgoclient.Session) {
			d.accepted(info.Pending)
		},
		OnDisconnect: func(error, time.Duration) { d.online.Store(0) },
		// The client remembers more ids than a run can produce.
		Remember: 1 << 20,
	})
	if err != nil {
		d.r.problem("%s: %v", d, err)
		return
	}
	s = d.r.h.Session(d.user.name, d.name)
	for ctx.Err() == nil {
		session, cancel := context.WithCancel(ctx)
		var stop func() bool
		if stay := d.stay(); stay > 0 {
			stop = time.AfterFunc(stay, func() {
				if !d.r.isCalm() {
					d.away.Store(true)
					cancel()
				}
			}).Stop
		}
		err := client.Run(session)
		if stop != nil {
			stop()
		}
		cancel()
		d.online.Store(0)
		if err != nil {
			d.r.problem("%s: the client gave up: %v", d, err)
		}
		d.pause(ctx, d.r.cfg.Away)
	}
}
