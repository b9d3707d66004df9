package comet

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"imgo/envelope"
	"imgo/protocol"
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
		go c.serve(conn)
	}
}

// accepted is Serve for the listeners, which bring a goroutine and end the
// connection when it returns. A connection that needs none is begun with by
// the goroutine that accepts, so nothing here waits for anything then.
func (c *Comet) accepted(conn transport.Conn) {
	if c.begin(conn) {
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
		c.refuse(conn, transport.Packet{}, refusedStopping, protocol.CloseShutdown, "the server is stopping")
	}
	return !late
}

// serve begins with a connection and, where that takes a goroutine, goes on to
// its end.
func (c *Comet) serve(conn transport.Conn) {
	g := &guest{comet: c, conn: conn}
	if poll, ok := conn.(transport.Pollable); ok {
		poll.Attach(g)
	}
	c.metrics.connections.WithLabelValues(conn.Traits().Scheme).Inc()
	if refused, reason := c.gate.enter(conn.Remote().Addr()); refused != "" {
		c.refuse(conn, transport.Packet{}, refused, protocol.CloseOverload, reason)
		c.over(conn)
		return
	}
	c.handshakes.Start(&g.turn, conn)
	if poll, ok := conn.(transport.Pollable); ok && poll.Rest() {
		return // which spares the read that would only say that nothing is there yet
	}
	g.read()
}

// over ends a connection that nobody reads any more: the last of it.
func (c *Comet) over(conn transport.Conn) {
	_ = conn.Close(0, "")
	c.gate.left(conn.Remote().Addr())
	c.metrics.connections.WithLabelValues(conn.Traits().Scheme).Dec()
	poll, ok := conn.(transport.Pollable)
	if !ok || poll.TryRelease() {
		c.serving.Done()
		return
	}
	go func() { // for it may wait for the client to take note
		defer c.serving.Done()
		poll.Release()
	}()
}

// next is the client's next packet. transport.ErrIdle says that the connection
// is parked: whoever reads is to leave.
func next(conn transport.Conn) (transport.Packet, error) {
	poll, ok := conn.(transport.Pollable)
	if !ok {
		return conn.ReadPacket()
	}
	for {
		p, err := poll.TryReadPacket()
		if !errors.Is(err, transport.ErrIdle) || poll.Park() {
			return p, err
		}
	}
}

// guest is a connection before it has a session.
type guest struct {
	comet        *Comet
	conn         transport.Conn
	last         transport.Packet // what it sent last, without the body
	ignored      int
	ignoredBytes int
	turn         transport.DeadlineSlot
}

// Readable and Writable make a guest a transport.Waker. What a guest reads has
// to wait for nobody, so it is read at once. Nobody waits to write to a guest.
func (g *guest) Readable(bool) { g.read() }
func (g *guest) Writable()     {}

// read reads until the auth packet, or refuses the connection. The deadline is
// one for all: a client cannot buy time a byte at a time.
func (g *guest) read() {
	c := g.comet
	for {
		p, err := next(g.conn)
		switch {
		case errors.Is(err, transport.ErrIdle):
			return
		case err != nil:
			c.handshakes.Cancel(&g.turn)
			c.firstFailed(g.conn, g.last, err)
			c.over(g.conn)
			return
		case p.Op == protocol.OpAuth:
			g.knock(p)
			return
		}
		g.last = p
		g.last.Body = nil
		c.metrics.packets.WithLabelValues("before_auth").Inc()
		g.ignored++
		g.ignoredBytes += len(p.Body)
		if g.conn.Text() || p.Version == protocol.Version2 || g.ignored > maxIgnored || g.ignoredBytes > maxIgnoredBytes {
			c.metrics.badPackets.WithLabelValues("before_auth").Inc()
			c.handshakes.Cancel(&g.turn)
			c.refuse(g.conn, p, refusedFirst, protocol.CloseBadPacket, "the first packet must be auth")
			c.over(g.conn)
			return
		}
	}
}

// knock has the client of an auth packet admitted. What becomes of it is the
// admission's business, but for a connection that has a goroutine, this one:
// it goes on with the session, to its end.
func (g *guest) knock(p transport.Packet) {
	c := g.comet
	if c.handshakes.Cancel(&g.turn) { // in the moment in which its time ended
		c.firstFailed(g.conn, p, os.ErrDeadlineExceeded)
		c.over(g.conn)
		return
	}
	c.metrics.auths.Inc()
	v := &arrival{conn: g.conn, packet: p, started: time.Now()}
	_, poll := g.conn.(transport.Pollable)
	if !poll {
		v.done = make(chan struct{})
	}
	if !c.admission.add(v) {
		c.refuseWaiting(v)
		c.over(g.conn)
		return
	}
	if poll {
		return
	}
	<-v.done
	if v.session == nil {
		c.over(g.conn)
		return
	}
	v.session.read()
}

// refuseWaiting is for a client whose turn does not come, or would come too late.
func (c *Comet) refuseWaiting(v *arrival) {
	switch {
	case c.stopping():
		c.refuse(v.conn, v.packet, refusedStopping, protocol.CloseShutdown, "the server is stopping")
	case v.over:
		c.refuse(v.conn, v.packet, refusedWait, protocol.CloseOverload, "the server could not take the connection in time")
	default:
		c.refuse(v.conn, v.packet, refusedRate, protocol.CloseOverload, "too many clients connect at a time")
	}
}

// authenticate makes a session of an arrival, which is to connect; nil: it was
// refused before there was one. It goes deep, which is why it is left to the
// admission's goroutines: their stacks have grown.
func (c *Comet) authenticate(v *arrival) *session {
	var err error
	if v.auth, err = parseAuth(v.packet.Body, c.cfg.RoomsPerSession); err != nil {
		c.metrics.badPackets.WithLabelValues("auth_body").Inc()
		c.refuse(v.conn, v.packet, refusedAuthBody, protocol.CloseBadPacket, err.Error())
		return nil
	}
	s := c.newSession(v.conn, v.packet, &v.auth)
	if poll, ok := v.conn.(transport.Pollable); ok {
		poll.Attach(s)
	}
	// First the table, then logic: what router sends from the moment that it
	// knows the session finds it.
	c.table.insert(s)
	// From here on the sweep sees to it that the client does not fall silent.
	_ = s.out.Conn().SetReadDeadline(time.Time{})
	return s
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
		c.refuse(conn, last, refusedStopping, protocol.CloseShutdown, "the server is stopping")
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.refuse(conn, last, refusedTimeout, protocol.CloseHandshakeTimeout, "no auth packet in time")
	default:
		c.metrics.refused.WithLabelValues(refusedLeft).Inc()
	}
}

// refuse says op 6 to a connection without a session and closes it. last is
// what it sent last. A WebSocket that sent nothing yet has not said which form
// it speaks: there the close frame says it alone.
func (c *Comet) refuse(conn transport.Conn, last transport.Packet, label string, code protocol.CloseCode, reason string) {
	c.metrics.refused.WithLabelValues(label).Inc()
	c.metrics.ended(code)
	if e := c.log.Debug(); e.Enabled() {
		e.Str("remote", remoteString(conn)).Int32("code", int32(code)).Str("reason", reason).Msg("connection refused")
	}
	if !conn.Traits().ClientPicksForm || last.Op != 0 || conn.Text() {
		gen, form := identify(last, conn.Text(), &authBody{})
		version := last.Version
		if gen != genV2 && version == 0 {
			version = 1
		}
		var others []string
		if code == protocol.CloseShutdown {
			others = c.others(gen, conn.Traits().Scheme)
		}
		b := encodeDisconnect(wireForm(conn, form), version, code, reason, others)
		if poll, ok := conn.(transport.Pollable); ok {
			_, _, _ = poll.TryWriteOne(b)
		} else {
			_ = conn.Write(time.Now().Add(refuseTimeout), b)
		}
	}
	_ = conn.Close(code, reason)
}

// wireForm is what a client that speaks form is to be written in.
func wireForm(conn transport.Conn, form transport.Form) transport.Form {
	if conn.Traits().Framed {
		return form.Framed()
	}
	return form
}

func (c *Comet) newSession(conn transport.Conn, p transport.Packet, auth *authBody) *session {
	gen, form := identify(p, conn.Text(), auth)
	s := &session{
		comet: c, id: c.nextID.Add(1), since: time.Now().UnixMilli(),
		gen: gen, form: wireForm(conn, form), version: p.Version, partition: unplaced,
		device: auth.device, extras: &c.noExtras, catchUp: &c.noCatchUp,
	}
	clientAcks := gen == genV2 && auth.acks
	s.out.Init(c.outboxes, conn, !clientAcks)
	if auth.platform != "" || auth.key != "" || len(auth.accepts) > 0 {
		s.ownExtras()
		s.platform, s.key, s.accepts = auth.platform, auth.key, auth.accepts
	}
	if c.window != nil {
		s.broadcastSeq = c.window.newest()
	}
	if !c.cfg.Faults.NoBehindFirst {
		s.setBehindLocked(true)
		s.catchUp.sent(c.now(), 0) // Connect answers with the first backlog
	}
	s.heard.Store(int64(c.now()))
	return s
}

// connect asks logic who the client is, and makes the session live or closes it.
// ctx bounds the question; an error is that logic could not say.
func (s *session) connect(ctx context.Context, v *arrival) error {
	c, auth := s.comet, &v.auth
	s.out.Lock()
	if s.state != stateConnecting { // it was closed while it waited for another turn
		s.out.Unlock()
		return nil
	}
	info := s.describeLocked()
	s.out.Unlock()
	info.Rooms = auth.rooms // it joins them once logic has admitted it
	reply, err := c.logic.Connect(ctx, &envelope.ConnectRequest{Session: info, Token: auth.token, Mid: auth.mid})
	switch {
	case passing(err) && c.calls.Err() == nil:
		c.metrics.callErrors.WithLabelValues("connect").Inc()
		return err
	case err != nil:
		code, reason := refusal(err)
		c.metrics.refused.WithLabelValues(refusedLogic).Inc()
		c.log.Debug().Err(err).Uint64("session", s.id).Str("remote", remoteString(s.out.Conn())).Int32("code", int32(code)).Msg("client refused")
		if code == protocol.CloseOverload {
			c.metrics.callErrors.WithLabelValues("connect").Inc()
		}
		s.refused(v.started, code, reason)
		return nil
	}
	c.metrics.connected.Observe(time.Since(v.started).Seconds())
	s.activate(v.packet.Seq, auth.rooms, reply)
	return nil
}

// refused closes a session that does not become live.
func (s *session) refused(started time.Time, code protocol.CloseCode, reason string) {
	s.comet.metrics.connects.WithLabelValues("refused").Observe(time.Since(started).Seconds())
	s.close(code, reason)
}

// refusal is what a client is told about an error of logic.Connect. What is
// not the client's doing is told as overload: it is to come back.
func refusal(err error) (protocol.CloseCode, string) {
	code := protocol.CloseOverload
	switch envelope.CodeOf(err) {
	case envelope.CodeUnauthorized, envelope.CodeNotFound:
		code = protocol.CloseAuthFailed
	case envelope.CodeExpired:
		code = protocol.CloseTokenExpired
	case envelope.CodeRevoked:
		code = protocol.CloseTokenRevoked
	case envelope.CodeTooMany:
		code = protocol.CloseTooManySessions
	case envelope.CodeInvalid:
		code = protocol.CloseBadPacket
	case envelope.CodeTooLarge:
		code = protocol.CloseTooLarge
	}
	var e *envelope.Error
	if code == protocol.CloseOverload || !errors.As(err, &e) {
		return code, "the server cannot take the connection now"
	}
	return code, e.Error()
}

// maxInline is how many packets of a session the poller's goroutine handles
// itself. A worker handles the rest.
const maxInline = 16

// Readable is called by the poller's goroutine when there is something to read.
// While nothing else happens, that goroutine handles the packets itself, which
// spares waking another one. It leaves to a worker whatever may have to wait.
func (s *session) Readable(alone bool) {
	if !alone {
		s.comet.readers.run(s)
		return
	}
	for range maxInline {
		p, err := next(s.out.Conn())
		switch {
		case errors.Is(err, transport.ErrIdle):
			return
		case err != nil:
			s.endInline(err)
			return
		}
		live, pause := s.received()
		switch {
		case !live:
		case pause > 0 || mayWait(p.Op):
			s.comet.readers.run(&unhandled{s, p, pause})
			return
		default:
			s.handle(p)
		}
	}
	s.comet.readers.run(s)
}

// unhandled is a packet that the poller's goroutine has read and left to a
// worker, with the pause that has to pass before it is handled.
type unhandled struct {
	s      *session
	packet transport.Packet
	pause  time.Duration
}

// read handles the packet and goes on reading.
func (u *unhandled) read() {
	u.s.pause(u.pause)
	u.s.handle(u.packet)
	u.s.read()
}

// read handles packets until the connection is parked or has ended, which ends
// the session too. A session that is closing reads on, to nothing, so that the
// client gets its goodbye.
func (s *session) read() {
	for {
		p, err := next(s.out.Conn())
		switch {
		case errors.Is(err, transport.ErrIdle):
			return
		case err != nil:
			s.finish(s.readError(err))
			s.comet.over(s.out.Conn())
			return
		}
		if live, pause := s.received(); live {
			s.pause(pause)
			s.handle(p)
		}
	}
}

// received takes note of a packet. It reports whether the session is live, so
// that the packet is to be handled, and returns the pause that has to pass
// before that, so that the client keeps to its rate.
func (s *session) received() (live bool, pause time.Duration) {
	now := s.comet.now()
	s.heard.Store(int64(now))
	s.out.Lock()
	live = s.state == stateLive
	s.ackArrivedLocked(true)
	s.out.Unlock()
	if !live {
		return false, 0
	}
	if pause = s.throttle.take(now, s.comet.cfg.UpstreamRate, s.comet.cfg.UpstreamBurst); pause > 0 {
		s.comet.metrics.throttled.Inc()
	}
	return true, pause
}

// readError notes why reading failed. It returns for how long the client may
// still take what is queued for it.
func (s *session) readError(err error) (grace time.Duration) {
	var bad *transport.ProtocolError
	switch {
	case errors.Is(err, io.EOF):
		return halfCloseTimeout
	case errors.As(err, &bad):
		s.comet.metrics.badPackets.WithLabelValues(bad.Kind).Inc()
		s.close(bad.Code, bad.Reason)
	}
	return 0
}

// endInline ends the session on the poller's goroutine if nothing has to be
// waited for, and else on a worker.
func (s *session) endInline(err error) {
	grace := s.retire(s.readError(err))
	if s.out.Idle() != nil {
		s.comet.readers.run(&unfinished{s, grace})
		return
	}
	s.conclude()
	s.comet.over(s.out.Conn())
}

// unfinished is a session whose end has to wait for what is queued.
type unfinished struct {
	s     *session
	grace time.Duration
}

// read reads nothing more: it ends the session.
func (u *unfinished) read() {
	u.s.awaitWriter(u.grace)
	u.s.conclude()
	u.s.comet.over(u.s.out.Conn())
}

// pause holds the reader back for d. It returns early if the session is being
// closed.
func (s *session) pause(d time.Duration) {
	const step = 100 * time.Millisecond
	for ; d > 0; d -= step {
		time.Sleep(min(d, step))
		s.out.Lock()
		live := s.state == stateLive
		s.out.Unlock()
		if !live {
			return
		}
	}
}

// throttle paces a session's packets: a token bucket, kept as the time at which
// it is full again.
type throttle time.Duration

// take takes a token at time now and says how long to wait for it; rate <= 0:
// not at all.
func (t *throttle) take(now time.Duration, rate float64, burst int) time.Duration {
	if rate <= 0 {
		return 0
	}
	each := time.Duration(float64(time.Second) / rate)
	full := max(time.Duration(*t), now) + each
	*t = throttle(full)
	return full - now - each*time.Duration(max(burst, 1))
}
