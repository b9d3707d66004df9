package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"imgo/clients/conformance/driver"
	"imgo/clients/go/raw"
	"imgo/internal/wait"
	"imgo/verify/history"
)

const (
	// driverRemember is sdkRemember for drivers: 20 of their devices are in one process.
	driverRemember = 1 << 16
	// driverCloseTimeout bounds the wait for a driver to close its client.
	driverCloseTimeout = 15 * time.Second
)

// startDrivers starts the programs of Config.Drivers. stop ends them.
func (v *Verifier) startDrivers(ctx context.Context) (stop func(), err error) {
	stop = func() {
		for _, p := range v.drivers {
			p.Kill() // its clients are closed
		}
	}
	for _, command := range v.cfg.Drivers {
		p, err := driver.Start(ctx, command)
		if err != nil {
			stop()
			return nil, fmt.Errorf("%q: %w", command.Args, err)
		}
		v.drivers = append(v.drivers, p)
	}
	return stop, nil
}

// driven is a device whose client is in a driver. Its fields, but for those that are set before the first event, belong
// to the goroutine that handles the events of the driver.
type driven struct {
	*device
	process *driver.Process
	at      raw.Target
	session *history.Session
	refused chan string // gets the error of the command "new"
	closed  chan error  // gets an element when the client is closed
}

// runDriver is run for a device in a driver. As with the Go SDK, all connections count as one session.
func (d *device) runDriver(ctx context.Context) {
	process := d.v.drivers[d.driver]
	webSocket := !slices.Contains(process.Ready.Transports, "tcp")
	u := d.account
	c := &driven{
		device: d, process: process, at: d.v.places.pick(webSocket, raw.Target{}), session: d.v.h.Session(u.name, d.name),
		refused: make(chan string, 1), closed: make(chan error, 1),
	}
	process.Listen(d.String(), c.handle)
	defer process.Listen(d.String(), nil)
	options := map[string]any{
		"address": c.at.String(), "token": u.token, "device": d.name, "platform": "verify", "remember": driverRemember,
		"min_backoff_ms": minBackoff.Milliseconds(), "max_backoff_ms": maxBackoff.Milliseconds(),
		"connect_timeout_ms": dialTimeout.Milliseconds(), "auth_timeout_ms": dialTimeout.Milliseconds(),
	}
	if len(u.rooms) > 0 {
		options["rooms"] = u.rooms
	}
	if !d.v.places.given {
		options["discover"] = d.v.api.Next()
	}
	c.do("new", map[string]any{"options": options})
	for ctx.Err() == nil {
		c.do("connect", nil)
		var err error
		select {
		case err = <-c.closed:
		case reason := <-c.refused:
			d.v.problem("%s: the driver %q does not make a client: %s", d, process.Ready.Language, reason)
			return
		case <-process.Ended():
			c.fail()
			return
		case <-ctx.Done():
			c.close()
			return
		}
		if away := d.left(err); away > 0 {
			d.stayAway(ctx, away)
		} else {
			_ = wait.Sleep(ctx, minBackoff) // the loop checks ctx
		}
	}
}

// do gives the driver a command. If the driver has ended, runDriver reports that.
func (c *driven) do(do string, more map[string]any) {
	command := map[string]any{"do": do, "client": c.String()}
	for name, value := range more {
		command[name] = value
	}
	_ = c.process.Do(command)
}

// fail reports that the driver has ended.
func (c *driven) fail() {
	err := c.process.Err()
	c.left(err)
	c.v.problem("%s: the driver %q ended: %v", c, c.process.Ready.Language, err)
}

// close closes the client at the end of the run.
func (c *driven) close() {
	c.do("close", nil)
	timeout := time.NewTimer(driverCloseTimeout)
	defer timeout.Stop()
	select {
	case <-c.closed:
	case <-c.process.Ended():
	case <-timeout.C: // the driver is killed
	}
}

// handle handles an event of the client.
func (c *driven) handle(e driver.Event) {
	switch {
	case e.Event == "message":
		c.note(e.ID, e.Body, c.session)
	case e.Event == "failed" && e.Code == "invalid":
		select {
		case c.refused <- e.Message:
		default:
		}
	case e.Event == "error" && e.Code != "token":
		c.v.problem("%s: the driver %q says %s: %s", c, c.process.Ready.Language, e.Code, e.Message)
	case e.Event != "state":
	case e.State == "live":
		c.begin(nil, func(bool) { c.do("close", nil) }, c.at, e.Session, e.Pending)
	case e.State == "waiting", e.State == "closed":
		c.lost(e)
	}
}

// lost records the end of a connection or of an attempt.
func (c *driven) lost(e driver.Event) {
	err := errors.New(e.Reason)
	if code, parseErr := strconv.Atoi(string(e.Code)); parseErr == nil && code != 0 {
		closed := &raw.CloseError{Code: code, Reason: e.Reason, Reconnect: !e.Failed}
		c.sentAway(c.at, closed)
		err = closed
	}
	wasConnected := c.end(err)
	if e.State == "waiting" {
		if wasConnected {
			c.reconnecting()
		}
		c.left(err)
		return
	}
	select {
	case c.closed <- err:
	default: // there is one already: the device is being closed
	}
}
