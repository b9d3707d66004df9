package e2e_test

import (
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"imgo/config"
	"imgo/protocol"
	"imgo/transport/transporttest"
)

// dripper is a client that sends one byte from time to time.
type dripper struct {
	name string
	c    *client
	send string // the bytes to send; the server closes before the last
	code int    // the expected close code; 0: an end without a code, before the protocol begins
	// least and most bound the time until the server closes. On a busy machine a deadline may fire
	// late, but never early.
	least, most time.Duration
	since       time.Time
}

// drip sends byte by byte until the server closes the connection.
func (d *dripper) drip(t *testing.T) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.end(t)
	}()
	w := d.c.Client.(io.Writer)
	sent := 0
	for ; sent < len(d.send); sent++ {
		if _, err := w.Write([]byte{d.send[sent]}); err != nil {
			break
		}
		select {
		case <-ended:
			sent = len(d.send)
		case <-time.After(20 * time.Millisecond):
		}
	}
	<-ended
	if took := time.Since(d.since); took < d.least || took > d.most {
		t.Errorf("%s: the server bore it for %s, want %s to %s", d.name, took, d.least, d.most)
	}
}

// end reads until the connection ends and checks the close code.
func (d *dripper) end(t *testing.T) {
	if d.code == 0 {
		_, _ = io.Copy(io.Discard, d.c.Client.(*transporttest.Stream))
		return
	}
	p, err := d.c.next()
	var closed *transporttest.Closed
	switch {
	case err == nil && p.Op == protocol.OpDisconnect && strings.Contains(string(p.Body), "no auth packet in time") == (d.code == 3509):
	case errors.As(err, &closed) && int(closed.Code) == d.code:
	case errors.Is(err, io.EOF) && !d.c.v2: // TCP has no close code, and an old client no op 6
	default:
		t.Errorf("%s: it ends with op %d %s, %v", d.name, p.Op, p.Body, err)
	}
}

// TestSlowloris checks that clients cannot stay longer by sending a byte from time to time. That
// holds before auth, during the upgrade, within a packet or frame, and in a session.
func TestSlowloris(t *testing.T) {
	t.Parallel() // it mostly waits
	const handshake, heartbeat = 1500 * time.Millisecond, 2 * time.Second
	n := start(t, func(cfg *config.Config) {
		cfg.Protocol.HandshakeTimeout = handshake
		cfg.Protocol.Heartbeat = heartbeat
	})
	w := n.witness(t)
	before := n.metrics(t)

	long := strings.Repeat("x", 10_000) // takes minutes at this speed
	var all []*dripper
	add := func(name string, connect func() *client, send func(*client) string, code int, least time.Duration) {
		began := time.Now() // before the server starts its timers
		c := connect()
		all = append(all, &dripper{name: name, c: c, send: send(c), code: code, least: least, most: waitLimit, since: began})
	}
	auth := packet(1, protocol.OpAuth, 1, long)
	text := func(s string) func(*client) string { return func(*client) string { return s } }
	tcp, ws := func() *client { return n.tcp(t) }, func() *client { return n.ws(t, false) }
	// An unfinished packet is no sign of life. The session is closed after 2.5 heartbeats.
	for _, dial := range []func() *client{tcp, ws} {
		add("packet of a session", func() *client {
			c := dial()
			c.login("v2", "slow", "")
			return c
		}, func(c *client) string { return string(c.Frame([]byte(packet(2, protocol.OpSend, 1, long)))) }, 3004, 2*heartbeat)
	}
	add("packet", tcp, text(auth), 3509, handshake*2/3)
	add("frame", ws, func(c *client) string { return string(c.Frame([]byte(auth))) }, 3509, handshake*2/3)
	add("fragments", ws, text( // the message never ends
		string(transporttest.RawFrame(2, true, nil))+strings.Repeat(string(transporttest.RawFrame(0, true, nil)), 1000)), 3509, handshake*2/3)
	add("upgrade", func() *client { return tcpTo(t, n.ClientAddr("ws").String()) },
		text("GET /sub HTTP/1.1\r\nHost: x\r\nX-Long: "+long), 0, handshake*2/3)

	var dripping sync.WaitGroup
	for _, d := range all {
		dripping.Go(func() { d.drip(t) })
	}
	for range 20 {
		w.fine(t)
		time.Sleep(100 * time.Millisecond)
	}
	dripping.Wait()
	for _, grown := range []struct {
		counter
		by float64
	}{{refused("handshake_timeout"), 3}, {closed(3509), 3}, {refused("listener_http"), 1}, {closed(3004), 2}} {
		eventually(t, grown.String()+" has moved", func() bool {
			return n.metric(t, grown.name, grown.labels...) == before.sum(t, grown.name, grown.labels...)+grown.by
		})
	}
	w.fine(t)
}
