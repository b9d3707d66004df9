package comet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/comet/admission"
	"imgo/transport"
)

// Labels of imgo_comet_refused_total.
const (
	refusedFull     = "max_connections"
	refusedAddress  = "max_per_address"
	refusedRate     = "connect_rate"
	refusedPackets  = "auth_packet_bytes"
	refusedWait     = "connect_wait"
	refusedStopping = "stopping"
	refusedFirst    = "first_packet" // not auth, or not a packet
	refusedTimeout  = "handshake_timeout"
	refusedLeft     = "client_left"
	refusedAuthBody = "auth_body"
	refusedBytes    = "handshake_bytes"
	refusedLogic    = "logic"     // logic refused the client, or failed
	refusedListener = "listener_" // and the listener's own reason
)

// refuseTimeout bounds the write of op 6 to a connection that has no session.
const refuseTimeout = time.Second

// Serve takes a connection over and returns at once. Run returns only after the
// connection has ended. Tests bring their own connections by it. A comet that is
// stopping, or has stopped, says so to the client and closes.
func (c *Comet) Serve(conn transport.Conn) { c.admission.Serve(conn) }

// admit makes a session of a client with an auth packet, or refuses it. It is
// the callback of package admission. An error says that logic could not decide.
func (c *Comet) admit(ctx context.Context, p *admission.PendingConnect) error {
	s, _ := p.Session.(*session) // of an earlier try
	if p.Err != nil {
		c.refusePending(p, s)
		return nil
	}
	auth, err := parseAuth(p.Packet, p.Conn.Text(), c.cfg.RoomsPerSession)
	if err != nil {
		c.metrics.badPackets.WithLabelValues("auth_body").Inc()
		c.refuse(p, refusedAuthBody, protocol.CloseBadPacket, err.Error())
		return nil
	}
	if speaks, _ := identify(p.Packet, p.Conn, &auth); speaks != protocolGoim && p.Ignored > 0 { // goim alone ignored packets before auth
		c.metrics.badPackets.WithLabelValues("before_auth").Inc()
		c.refuse(p, refusedFirst, protocol.CloseBadPacket, "the first packet must be auth")
		return nil
	}
	if s == nil {
		s = c.newSession(p, &auth)
		p.Session = s
		if headed, ok := p.Conn.(transport.Headed); ok && c.cfg.Handshake {
			p.Header = headed.RemoveHeader()
		}
		if poll, ok := p.Conn.(transport.Pollable); ok {
			poll.Attach(s)
		}
		// The table comes before logic: what router sends from the moment that it
		// knows the session must find it.
		c.table.insert(s)
		// From now on the sweep closes a client that falls silent.
		_ = p.Conn.SetReadDeadline(time.Time{})
	}
	waiting := connecting{session: s, pending: p, auth: auth}
	return waiting.run(ctx)
}

// refusePending refuses a client for p.Err. s is its session if logic has been
// asked about it already, else nil.
func (c *Comet) refusePending(p *admission.PendingConnect, s *session) {
	stopping := errors.Is(p.Err, admission.ErrStopping)
	if s != nil && stopping {
		s.close(protocol.CloseShutdown, "the server is stopping")
		return
	}
	if s != nil && errors.Is(p.Err, admission.ErrWait) {
		c.metrics.refused.WithLabelValues(refusedWait).Inc()
		waiting := connecting{session: s, pending: p}
		waiting.refuse(protocol.CloseOverload, "the server cannot take the connection now")
		return
	}
	var bad *transport.ProtocolError
	switch {
	case stopping:
		c.refuse(p, refusedStopping, protocol.CloseShutdown, "the server is stopping")
	case errors.Is(p.Err, admission.ErrMaxConnections):
		c.refuse(p, refusedFull, protocol.CloseOverload, "the server has as many connections as it may")
	case errors.Is(p.Err, admission.ErrMaxPerAddress):
		c.refuse(p, refusedAddress, protocol.CloseOverload,
			fmt.Sprintf("more than %d connections from one address", c.cfg.ConnectionsPerAddress))
	case errors.Is(p.Err, admission.ErrHandshakeTimeout):
		c.refuse(p, refusedTimeout, protocol.CloseHandshakeTimeout, "no auth packet in time")
	case errors.Is(p.Err, transport.ErrOverBudget):
		c.refuse(p, refusedBytes, protocol.CloseOverload, transport.ErrOverBudget.Error())
	case errors.Is(p.Err, admission.ErrRate):
		c.refuse(p, refusedRate, protocol.CloseOverload, "too many clients connect at a time")
	case errors.Is(p.Err, admission.ErrPacketBytes):
		c.refuse(p, refusedPackets, protocol.CloseOverload, "too many clients with large auth packets wait")
	case errors.Is(p.Err, admission.ErrWait):
		c.refuse(p, refusedWait, protocol.CloseOverload, "the server could not take the connection in time")
	case errors.As(p.Err, &bad):
		c.metrics.badPackets.WithLabelValues(bad.Kind).Inc()
		c.refuse(p, refusedFirst, bad.Code, bad.Reason)
	default: // the client left. A session of it ends when it reads that
		c.metrics.refused.WithLabelValues(refusedLeft).Inc()
	}
}

// refuse closes the connection of a client without a session. A client that has asked for
// version 2 gets op 6 before. To an application of an old client op 6 would look like a
// message. A client that has not sent its auth packet may be an old one. The transport's
// close frame, if it has one, has the code and the reason too.
func (c *Comet) refuse(p *admission.PendingConnect, label string, code protocol.CloseCode, reason string) {
	conn := p.Conn
	c.metrics.refused.WithLabelValues(label).Inc()
	c.metrics.ended(code)
	if e := c.log.Debug(); e.Enabled() {
		e.Str("remote", remoteString(conn)).Int32("code", int32(code)).Str("reason", reason).Msg("connection refused")
	}
	if isV2(p.Packet) {
		_, form := identify(p.Packet, conn, &authBody{})
		b := encodeDisconnect(wireForm(conn, form), code, reason, c.others(code, conn.Traits().Scheme))
		if poll, ok := conn.(transport.Pollable); ok {
			_, _, _ = poll.TryWriteOne(b)
		} else {
			_ = conn.Write(time.Now().Add(refuseTimeout), b)
		}
	}
	_ = conn.Close(code, reason)
}

// wireForm returns the form in which frames of form are written to conn.
func wireForm(conn transport.Conn, form transport.Form) transport.Form {
	if conn.Traits().Framed {
		return form.Framed()
	}
	return form
}

func (c *Comet) newSession(p *admission.PendingConnect, auth *authBody) *session {
	conn := p.Conn
	speaks, form := identify(p.Packet, conn, auth)
	s := &session{
		comet: c, id: c.newSessionID(), since: time.Now().UnixMilli(), arrival: p.Arrival,
		speaks: speaks, form: wireForm(conn, form), version: p.Packet.Version, partition: unplaced,
		device: auth.device, extras: &c.noExtras,
	}
	clientAcks := speaks == protocolV2 && auth.acks
	s.out.Init(c.outboxes, conn, !clientAcks)
	if auth.platform != "" || auth.key != "" || len(auth.accepts) > 0 {
		s.ownExtrasLocked()
		s.platform, s.key, s.accepts = auth.platform, auth.key, auth.accepts
	}
	if c.window != nil {
		s.broadcastSeq = c.window.newest()
	}
	if !c.cfg.Faults.NoBehindFirst {
		s.setBehindLocked(true)
		s.catchUp.sent(c.now(), 0) // Connect answers with the first backlog
	}
	// A client that waits to be let in need not send anything. MaxWait of the admission ends that wait.
	s.heard.Store(int64(c.now() + c.cfg.ConnectWait))
	return s
}

// withRooms returns the rooms that a client asked for, and those that logic puts it in, up to the
// limit of a session.
func (c *Comet) withRooms(asked, given []string) []string {
	for _, room := range given {
		if len(asked) < c.cfg.RoomsPerSession && !slices.Contains(asked, room) {
			asked = append(asked, room)
		}
	}
	return asked
}

// handshakeHeaders returns a header as logic gets it. The order of names is that of the
// alphabet.
func handshakeHeaders(header map[string][]string) []*envelope.HandshakeHeader {
	var list []*envelope.HandshakeHeader
	for _, name := range slices.Sorted(maps.Keys(header)) {
		for _, value := range header[name] {
			list = append(list, &envelope.HandshakeHeader{Name: name, Value: strings.ToValidUTF8(value, "\uFFFD")})
		}
	}
	return list
}
