package conformance

import (
	"imgo/clients/conformance/driver"
	"imgo/clients/conformance/peer"
	"imgo/internal/wait/waittest"
	"imgo/protocol"
	"imgo/transport"
)

func heartbeatScenarios() []scenario {
	return []scenario{
		{
			name: "heartbeat", on: onEach, play: playHeartbeat,
			about: "the client sends heartbeats at the interval of the auth reply",
		},
		{
			name: "silent_peer", on: onEach, play: playSilentPeer,
			about: "a peer that is silent after a heartbeat for heartbeat_timeout is dead",
		},
		{
			name: "half_packet_then_silence", on: onEach, play: playHalfThenSilence,
			about: "a peer that stops within a packet is dead after heartbeat_timeout",
		},
		{
			name: "messages_are_signs_of_life", play: playMessagesAreSigns,
			about: "anything that arrives shows that the peer lives, not only replies to heartbeats",
		},
		{
			name: "handler_does_not_stop_heartbeats", play: playHandlerAndHeartbeats,
			about: "heartbeats go on while the handler works",
		},
		{
			name: "server_pings", on: onWebSocket, play: playServerPings,
			about: "a WebSocket ping is answered",
		},
	}
}

func playHeartbeat(w *world) {
	s := w.server()
	c := w.client(s, options{"heartbeat_timeout_ms": 5000})
	c.connect()
	conn := s.sessionWith(authReply{Heartbeat: 0.1})
	if e := c.state("live"); e.HeartbeatMS != 100 {
		w.Errorf("live says a heartbeat of %g ms, want 100", e.HeartbeatMS)
	}
	conn.beats(10)
	if n := c.count(func(e driver.Event) bool { return e.Event == "state" && e.State == "waiting" }); n > 0 {
		w.Error("the session ended")
	}
}

func playSilentPeer(w *world) {
	s := w.server()
	c := w.client(s, options{"heartbeat_timeout_ms": 300})
	c.connect()
	conn := s.authenticate()
	conn.mute(protocol.OpHeartbeat)
	conn.admit(authReply{Heartbeat: 0.1})
	c.state("live")
	c.state("waiting")
	conn.end()
	s.session()
	c.state("live")
}

func playHalfThenSilence(w *world) {
	s := w.server()
	c := w.client(s, options{"heartbeat_timeout_ms": 300})
	c.connect()
	conn := s.authenticate()
	conn.mute(protocol.OpHeartbeat)
	conn.admit(authReply{Heartbeat: 0.1})
	c.state("live")
	half := conn.Message(kept(1)...)
	conn.bytes(half[:len(half)-3])
	c.state("waiting")
	conn.end()
	next := s.session()
	next.write(kept(1)...)
	c.message(1, numbered(1))
	next.waitAcked(1)
	if n := c.given(1); n != 1 {
		w.Errorf("the handler got the message %d times, want once", n)
	}
}

func playMessagesAreSigns(w *world) {
	s := w.server()
	c := w.client(s, options{"heartbeat_timeout_ms": 1000})
	c.connect()
	conn := s.authenticate()
	conn.mute(protocol.OpHeartbeat)
	conn.admit(authReply{Heartbeat: 0.1})
	c.state("live")
	for n := range uint64(30) { // three seconds on the client's clock
		conn.beats(1)
		conn.write(message(0, numbered(n)))
	}
	if n := c.count(func(e driver.Event) bool { return e.Event == "state" && e.State == "waiting" }); n > 0 {
		w.Error("the session ended although messages came")
	}
}

func playHandlerAndHeartbeats(w *world) {
	s := w.server()
	c := w.client(s, options{"heartbeat_timeout_ms": 2000})
	c.connect()
	conn := s.sessionWith(authReply{Heartbeat: 0.1})
	c.state("live")
	c.set("hold", nil)
	conn.write(kept(1)...)
	c.message(1, numbered(1))
	conn.beats(25)
	conn.notAcked(1)
	c.do("release", nil)
	conn.waitAcked(1)
}

func playServerPings(w *world) {
	s := w.server()
	c := w.client(s, nil)
	c.connect()
	conn := s.session()
	c.state("live")
	conn.bytes([]byte{0x89, 2, 'h', 'i'})
	conn.bytes([]byte{0x8a, 0}) // a pong that nobody asked for
	conn.write(kept(1)...)
	c.message(1, numbered(1))
	conn.waitAcked(1)
	waittest.EventuallyIn(w, peer.Limit, "a pong", func() bool { return conn.Pongs() > 0 })
}

// unknown is a packet with an operation that no client knows.
func unknown() transport.Packet {
	return transport.Packet{Version: 2, Op: 99, Body: []byte(`{"later":true}`)}
}
