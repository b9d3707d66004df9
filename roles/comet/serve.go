package comet

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"imgo/envelope"
	"imgo/transport"
)

// Bounds of what a binary client may send before its auth packet. goim ignored
// such packets and its clients may count on it; imgo 2016 closed, but none of
// its clients ever sent one, and on the wire the two cannot be told apart
// before auth. So they are ignored, a few of them. Text is imgo's alone and
// version 2 is strict: there the first packet is auth.
const (
	maxIgnored      = 16
	maxIgnoredBytes = 16 << 10
)

// refuseTimeout bounds the write of op 6 to a connection that has no session.
const refuseTimeout = time.Second

// halfCloseTimeout is how long a client that ended its side of the stream
// still gets what was queued for it.
const halfCloseTimeout = time.Second

// Serve takes a connection over and returns at once; Run returns only after
// it has ended. It is how tests bring a connection of their own. A comet that
// is stopping, or has stopped, says so to the client and closes.
func (c *Comet) Serve(conn transport.Conn) {
	if c.begin(conn) {
		go func() {
			defer c.serving.Done()
			c.serve(conn)
		}()
	}
}

// accepted is Serve for the listeners, which bring a goroutine and end the
// connection when it returns.
func (c *Comet) accepted(conn transport.Conn) {
	if c.begin(conn) {
		defer c.serving.Done()
		c.serve(conn)
	}
}

// begin counts a connection that drain is to wait for; false: it is too late.
func (c *Comet) begin(conn transport.Conn) bool {
	c.mu.Lock()
	late := c.phase >= phaseStopping
	if !late {
		c.serving.Add(1)
	}
	c.mu.Unlock()
	if late {
		c.refuse(conn, transport.Packet{}, refusedStopping, envelope.CloseShutdown, "the server is stopping")
	}
	return !late
}

// serve runs a connection from its first packet to its end.
func (c *Comet) serve(conn transport.Conn) {
	defer func() { _ = conn.Close(0, "") }()
	addr := conn.Remote().Addr()
	connections := c.metrics.connections.WithLabelValues(conn.Network())
	connections.Inc()
	defer connections.Dec()
	defer c.gate.left(addr)
	if refused, reason := c.gate.enter(addr); refused != "" {
		c.refuse(conn, transport.Packet{}, refused, envelope.CloseOverload, reason)
		return
	}
	if s := c.handshake(conn); s != nil {
		s.run()
	}
}

// handshake waits for the auth packet and makes a session of it; nil: the
// connection was refused.
func (c *Comet) handshake(conn transport.Conn) *session {
	if !c.startHandshake(conn) {
		c.refuse(conn, transport.Packet{}, refusedStopping, envelope.CloseShutdown, "the server is stopping")
		return nil
	}
	p, ok := c.firstPacket(conn)
	stopping := c.endHandshake(conn)
	switch {
	case !ok:
		return nil
	case stopping:
		c.refuse(conn, p, refusedStopping, envelope.CloseShutdown, "the server is stopping")
		return nil
	}
	// On a stack of its own: logic's calls go deep, and this goroutine's stack
	// stays as long as the connection does.
	var s *session
	done := make(chan struct{})
	go func() {
		defer close(done)
		s = c.authenticate(conn, p)
	}()
	<-done
	return s
}

// authenticate makes a session of an auth packet; nil: it was refused before
// there was one.
func (c *Comet) authenticate(conn transport.Conn, p transport.Packet) *session {
	c.metrics.packets.WithLabelValues("auth").Inc()
	auth, err := parseAuth(p.Body, c.cfg.MaxRooms)
	if err != nil {
		c.metrics.badPackets.WithLabelValues("auth_body").Inc()
		c.refuse(conn, p, refusedAuthBody, envelope.CloseBadPacket, err.Error())
		return nil
	}
	started := time.Now()
	if !c.mayConnect() {
		c.refuse(conn, p, refusedRate, envelope.CloseOverload, "too many clients connect at a time")
		return nil
	}
	s := c.newSession(conn, p, &auth)
	// First the table, then logic: what router sends from the moment that it
	// knows the session finds it.
	c.table.insert(s)
	s.connect(p.Seq, &auth, started)
	return s
}

// mayConnect waits for this connection's turn.
func (c *Comet) mayConnect() bool {
	if c.connectRate == nil {
		return true
	}
	ctx, cancel := context.WithTimeout(c.calls, c.cfg.HandshakeTimeout)
	defer cancel()
	return c.connectRate.Wait(ctx) == nil
}

// firstPacket reads until the auth packet, or refuses the connection. The
// deadline is one for all: a client cannot buy time a byte at a time.
func (c *Comet) firstPacket(conn transport.Conn) (p transport.Packet, ok bool) {
	ignoredBytes := 0
	for ignored := 0; ; ignored++ {
		next, err := conn.ReadPacket()
		if err != nil {
			c.firstFailed(conn, p, err)
			return p, false
		}
		p = next
		if p.Op == transport.OpAuth {
			return p, true
		}
		c.metrics.packets.WithLabelValues("before_auth").Inc()
		ignoredBytes += len(p.Body)
		if conn.Text() || p.Version == transport.Version2 || ignored >= maxIgnored || ignoredBytes > maxIgnoredBytes {
			c.metrics.badPackets.WithLabelValues("before_auth").Inc()
			c.refuse(conn, p, refusedFirst, envelope.CloseBadPacket, "the first packet must be auth")
			return p, false
		}
	}
}

// firstFailed ends a connection that brought no auth packet; last is the last
// packet that it did bring.
func (c *Comet) firstFailed(conn transport.Conn, last transport.Packet, err error) {
	var bad *transport.ProtocolError
	switch {
	case errors.As(err, &bad):
		c.metrics.badPackets.WithLabelValues(bad.Kind).Inc()
		if last.Op == 0 {
			last.Op = -1 // it did send something: op 6 may follow
		}
		c.refuse(conn, last, refusedFirst, bad.Code, bad.Reason)
	case errors.Is(err, os.ErrDeadlineExceeded) && c.stopping():
		c.refuse(conn, last, refusedStopping, envelope.CloseShutdown, "the server is stopping")
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.refuse(conn, last, refusedTimeout, envelope.CloseHandshakeTimeout, "no auth packet in time")
	default:
		c.metrics.refused.WithLabelValues(refusedLeft).Inc()
	}
}

// refuse says op 6 to a connection without a session and closes it. last is
// what it sent last. A WebSocket that sent nothing yet has not said which form
// it speaks: there the close frame says it alone.
func (c *Comet) refuse(conn transport.Conn, last transport.Packet, label string, code envelope.CloseCode, reason string) {
	c.metrics.refused.WithLabelValues(label).Inc()
	c.metrics.ended(code)
	c.log.Debug().Str("remote", remoteString(conn)).Int32("code", int32(code)).Str("reason", reason).Msg("connection refused")
	if conn.Network() != "ws" || last.Op != 0 || conn.Text() {
		gen, form := identify(last, conn.Text(), &authBody{})
		version := last.Version
		if gen != genV2 && version == 0 {
			version = 1
		}
		var others []string
		if code == envelope.CloseShutdown {
			others = c.others(gen, conn.Network())
		}
		_ = conn.Write(time.Now().Add(refuseTimeout), encodeDisconnect(form, version, code, reason, others))
	}
	_ = conn.Close(code, reason)
}

func (c *Comet) newSession(conn transport.Conn, p transport.Packet, auth *authBody) *session {
	gen, form := identify(p, conn.Text(), auth)
	s := &session{
		comet: c, conn: conn, id: c.nextID.Add(1),
		gen: gen, form: form, version: p.Version, acks: gen == genV2 && auth.acks,
		platform: auth.platform, key: auth.key, since: time.Now().UnixMilli(),
		device: auth.device, accepts: auth.accepts,
		// Connect answers with the first backlog.
		ask: askSent, askedAt: c.now(),
	}
	if !c.cfg.Without.has(NoBehindFirst) {
		s.setBehind(true)
	}
	s.heard.Store(int64(c.now()))
	return s
}

// connect asks logic who the client is, and makes the session live or closes it.
func (s *session) connect(seq int32, auth *authBody, started time.Time) {
	c := s.comet
	// From here on the sweep sees to it that the client does not fall silent.
	_ = s.conn.SetReadDeadline(time.Time{})
	ctx, cancel := context.WithTimeout(c.calls, c.cfg.CallTimeout)
	defer cancel()
	reply, err := c.logic.Connect(ctx, &envelope.ConnectRequest{
		Comet: c.cfg.Name, Session: s.id, Token: auth.token, Mid: auth.mid, Device: auth.device,
		Key: auth.key, Platform: auth.platform, Address: remoteString(s.conn),
		Generation: s.gen.String(), Transport: s.conn.Network(),
		Accepts: auth.accepts, Rooms: auth.rooms,
	})
	if err != nil {
		code, reason := refusal(err)
		c.metrics.connects.WithLabelValues("refused").Observe(time.Since(started).Seconds())
		c.metrics.refused.WithLabelValues(refusedLogic).Inc()
		c.log.Debug().Err(err).Uint64("session", s.id).Str("remote", remoteString(s.conn)).Int32("code", int32(code)).Msg("client refused")
		if code == envelope.CloseOverload {
			c.metrics.callErrors.WithLabelValues("connect").Inc()
		}
		s.close(code, reason)
		return
	}
	c.metrics.connects.WithLabelValues("accepted").Observe(time.Since(started).Seconds())
	s.activate(seq, auth.rooms, reply)
}

// refusal is what a client is told about an error of logic.Connect. What is
// not the client's doing is told as overload: it is to come back.
func refusal(err error) (envelope.CloseCode, string) {
	code := envelope.CloseOverload
	switch envelope.CodeOf(err) {
	case envelope.CodeUnauthorized, envelope.CodeNotFound:
		code = envelope.CloseAuthFailed
	case envelope.CodeExpired:
		code = envelope.CloseTokenExpired
	case envelope.CodeRevoked:
		code = envelope.CloseTokenRevoked
	case envelope.CodeTooMany:
		code = envelope.CloseTooManySessions
	case envelope.CodeInvalid:
		code = envelope.CloseBadPacket
	case envelope.CodeTooLarge:
		code = envelope.CloseTooLarge
	}
	var e *envelope.Error
	if code == envelope.CloseOverload || !errors.As(err, &e) {
		return code, "the server cannot take the connection now"
	}
	return code, e.Error()
}

// run reads until the connection ends, and ends the session.
func (s *session) run() {
	grace := time.Duration(0)
	switch err := s.read(); {
	case errors.Is(err, io.EOF):
		grace = halfCloseTimeout
	case err != nil:
		var bad *transport.ProtocolError
		if errors.As(err, &bad) {
			s.comet.metrics.badPackets.WithLabelValues(bad.Kind).Inc()
			s.close(bad.Code, bad.Reason)
		}
	}
	s.finish(grace)
}

// read handles packets until the connection fails. A session that is closing
// reads on, to nothing, so that the client gets its goodbye.
func (s *session) read() error {
	upstream := throttle{rate: s.comet.cfg.UpstreamRate, burst: s.comet.cfg.UpstreamBurst}
	for {
		p, err := s.conn.ReadPacket()
		if err != nil {
			return err
		}
		now := s.comet.now()
		s.heard.Store(int64(now))
		s.mu.Lock()
		live := s.state == stateLive
		s.settle(true)
		s.mu.Unlock()
		if !live {
			continue
		}
		if wait := upstream.take(now); wait > 0 {
			s.comet.metrics.throttled.Inc()
			s.pause(wait)
		}
		s.handle(p)
	}
}

// pause holds the reader back, but not a session that is being closed.
func (s *session) pause(d time.Duration) {
	const step = 100 * time.Millisecond
	for ; d > 0; d -= step {
		time.Sleep(min(d, step))
		s.mu.Lock()
		live := s.state == stateLive
		s.mu.Unlock()
		if !live {
			return
		}
	}
}

// throttle paces a session's packets; rate <= 0: it does not. It is a token
// bucket kept as the time at which the bucket is full again.
type throttle struct {
	rate  float64
	burst int
	full  time.Duration
}

// take takes a token at time now and says how long to wait for it.
func (t *throttle) take(now time.Duration) time.Duration {
	if t.rate <= 0 {
		return 0
	}
	each := time.Duration(float64(time.Second) / t.rate)
	t.full = max(t.full, now) + each
	return t.full - now - each*time.Duration(max(t.burst, 1))
}
