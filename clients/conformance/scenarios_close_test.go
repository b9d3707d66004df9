package conformance

import (
	"fmt"
	"strings"

	"imgo/clients/conformance/driver"
	"imgo/clients/conformance/peer"
	"imgo/internal/wait/waittest"
	"imgo/protocol"
)

func closeScenarios() []scenario {
	list := []scenario{
		{
			name: "stop_with_addresses", play: playStopWithAddresses,
			about: "after op 6 with addresses the client goes to the first one, within half a second",
		},
		{
			name: "stop_with_bad_addresses", play: playStopWithBadAddresses,
			about: "the client tries the addresses of op 6 in order, and then its own",
		},
		{
			name: "stop_with_addresses_without_tls", on: onSecure, play: playStopWithoutTLS,
			about: "a client with TLS skips addresses without TLS, so that its token is not sent in the clear",
		},
		{
			name: "stop_with_path", on: onWebSocket, play: playStopWithPath,
			about: "an address of op 6 has the path of the client's own address, unless it has one",
		},
		{
			name: "reconnect_false", play: playReconnectFalse,
			about: "op 6 with \"reconnect\":false is final, whatever the code",
		},
		{
			name: "refused_at_auth", play: playRefusedAtAuth,
			about: "op 6 in place of the auth reply fails connect with the error refused and the close code",
		},
		{
			name: "connect_after_refusal", play: playConnectAfterRefusal,
			about: "a client that was refused for good connects again if the application says so",
		},
		{
			name: "unreadable_op6", play: playUnreadableDisconnect,
			about: "op 6 with a body that cannot be read ends the connection, and the client comes again",
		},
		{
			name: "close_frame_without_op6", on: onWebSocket, play: playCloseFrame,
			about: "the code of a WebSocket's close frame counts as op 6",
		},
		{
			name: "token_expired_with_source", play: playTokenExpired,
			about: "3502 makes a client with a token source get a new token and try once more",
		},
		{
			name: "token_expired_twice", play: playTokenExpiredTwice,
			about: "a new token that has expired as well is final",
		},
		{
			name: "token_expired_without_source", play: func(w *world) { playFinal(w, protocol.CloseTokenExpired) },
			about: "3502 is final for a client without a token source",
		},
	}
	for name, code := range map[string]protocol.CloseCode{
		"bad_packet": protocol.CloseBadPacket, "auth_failed": protocol.CloseAuthFailed, "revoked": protocol.CloseTokenRevoked,
		"too_many_sessions": protocol.CloseTooManySessions, "replaced": protocol.CloseReplacedByKey, "kicked": protocol.CloseKicked,
		"too_many_devices": protocol.CloseTooManyDevices,
	} {
		list = append(list, scenario{
			name: "final_" + name, play: func(w *world) { playFinal(w, code) },
			about: fmt.Sprintf("close code %d is final: the client does not come again", code),
		})
	}
	for name, code := range map[string]protocol.CloseCode{
		"shutdown": protocol.CloseShutdown, "slow": protocol.CloseSlow, "stale": protocol.CloseStaleHeartbeat, "overload": protocol.CloseOverload,
	} {
		list = append(list, scenario{
			name: "comes_again_after_" + name, play: func(w *world) { playComesAgain(w, code) },
			about: fmt.Sprintf("close code %d makes the client come again", code),
		})
	}
	return list
}

// addresses returns the member of op 6 with other servers.
func addresses(list ...string) string {
	return fmt.Sprintf(`,"addresses":["%s"]`, strings.Join(list, `","`))
}

func playStopWithAddresses(w *world) {
	own, first, second := w.server(), w.server(), w.server()
	// Only a redirect makes this client come again soon.
	c := w.client(own, options{"min_backoff_ms": 3_600_000, "max_backoff_ms": 3_600_000})
	c.connect()
	conn := own.session()
	c.state("live")
	conn.sendAway(protocol.CloseShutdown, addresses(first.Address(), second.Address()))
	if e := c.state("waiting"); e.RetryInMS < 0 || e.RetryInMS > 500 || e.Code != "3001" {
		w.Errorf("waiting says retry_in %g ms and code %s, want at most 500 ms and 3001", e.RetryInMS, e.Code)
	}
	there := first.session()
	c.state("live")
	there.write(kept(3)...)
	c.message(3, numbered(3))
	there.waitAcked(3)
	second.noConnection()
}

func playStopWithBadAddresses(w *world) {
	own, refusing := w.server(), w.server()
	nobody := waittest.FreeAddress(w)
	c := w.client(own, nil)
	c.connect()
	conn := own.session()
	c.state("live")
	conn.sendAway(protocol.CloseShutdown, addresses("", "nonsense", "http://127.0.0.1:1", nobody, refusing.Address()))
	refusing.accept().Reset()
	own.session()
	c.state("live")
}

func playStopWithoutTLS(w *world) {
	own := w.server()
	plain := w.listen(map[string]string{peer.TLS: peer.TCP, peer.WSS: peer.WS}[w.transport], "")
	c := w.client(own, nil)
	c.connect()
	conn := own.session()
	c.state("live")
	conn.sendAway(protocol.CloseShutdown, addresses(plain.URL(), "tcp://"+plain.Address()))
	own.session()
	c.state("live")
	plain.noConnection()
}

func playStopWithPath(w *world) {
	own, other := w.server(), w.server()
	c := w.client(own, options{"address": "ws://" + own.Address() + "/push?zone=eu"})
	c.connect()
	conn := own.session()
	c.state("live")
	conn.sendAway(protocol.CloseShutdown, addresses(other.Address()))
	next := other.session()
	c.state("live")
	if !strings.HasPrefix(next.Request[0], "GET /push?zone=eu ") {
		w.Errorf("the request is %q, want the path of the client's own address", next.Request[0])
	}
	next.sendAway(protocol.CloseShutdown, addresses("ws://"+other.Address()+"/elsewhere"))
	if last := other.session(); !strings.HasPrefix(last.Request[0], "GET /elsewhere ") {
		w.Errorf("the request is %q, want the path of the address", last.Request[0])
	}
}

func playReconnectFalse(w *world) {
	s := w.server()
	c := w.client(s, nil)
	tag := c.connect()
	conn := s.session()
	c.ok(tag)
	p := disconnect(protocol.CloseShutdown, "")
	p.Body = []byte(`{"code":3001,"reason":"a test","reconnect":false}`)
	conn.write(p)
	if e := c.state("closed"); !e.Failed || e.Code != "3001" {
		w.Errorf("closed says failed %t and code %s, want true and 3001", e.Failed, e.Code)
	}
	s.noConnection()
}

func playRefusedAtAuth(w *world) {
	s := w.server()
	c := w.client(s, nil)
	tag := c.connect()
	s.authenticate().sendAway(protocol.CloseAuthFailed, "")
	if e := c.fails(tag, "refused"); e.CloseCode != int(protocol.CloseAuthFailed) {
		w.Errorf("connect failed with the close code %d, want 3501", e.CloseCode)
	}
	if e := c.state("closed"); !e.Failed || e.Code != "3501" || e.Reason == "" {
		w.Errorf("closed says failed %t, code %s and reason %q, want true, 3501 and the server's reason", e.Failed, e.Code, e.Reason)
	}
	s.noConnection()
}

func playConnectAfterRefusal(w *world) {
	s := w.server()
	c := w.client(s, nil)
	tag := c.connect()
	s.authenticate().sendAway(protocol.CloseKicked, "")
	c.fails(tag, "refused")
	c.state("closed")
	again := c.connect()
	conn := s.session()
	c.state("live")
	c.ok(again)
	conn.write(kept(1)...)
	c.message(1, numbered(1))
	conn.waitAcked(1)
}

func playUnreadableDisconnect(w *world) {
	s := w.server()
	c := w.client(s, nil)
	c.connect()
	for _, body := range []string{`"bye"`, `[]`} {
		conn := s.session()
		c.state("live")
		p := disconnect(0, "")
		p.Body = []byte(body)
		conn.write(p)
		if e := c.state("waiting"); e.Code != "0" && e.Code != "" {
			w.Errorf("waiting says code %s, want 0", e.Code)
		}
		conn.end()
	}
	s.session()
	c.state("live")
}

func playCloseFrame(w *world) {
	s := w.server()
	c := w.client(s, nil)
	c.connect()
	for _, code := range []int{1000, 1001, 1011, 3001} {
		conn := s.session()
		c.state("live")
		conn.bytes(peer.CloseFrame(code, "a test"))
		c.state("waiting")
	}
	conn := s.session()
	c.state("live")
	conn.bytes(peer.CloseFrame(3506, "a test"))
	if e := c.state("closed"); !e.Failed || e.Code != "3506" {
		w.Errorf("closed says failed %t and code %s, want true and 3506", e.Failed, e.Code)
	}
	s.noConnection()
}

func playTokenExpired(w *world) {
	s := w.server()
	c := w.client(s, options{"token_source": true})
	tag := c.connect()
	c.token("old")
	if conn := s.authenticate(); conn.auth.Token != "old" {
		w.Errorf("the token is %q, want the one of the source", conn.auth.Token)
	} else {
		conn.sendAway(protocol.CloseTokenExpired, "")
	}
	c.token("new")
	conn := s.session()
	c.ok(tag)
	if conn.auth.Token != "new" {
		w.Errorf("the token is %q, want the new one", conn.auth.Token)
	}
	// After a session the client may try once more again.
	conn.sendAway(protocol.CloseTokenExpired, "")
	c.token("newer")
	s.session()
	c.state("live")
	c.state("live")
}

func playTokenExpiredTwice(w *world) {
	s := w.server()
	c := w.client(s, options{"token_source": true})
	tag := c.connect()
	for range 2 {
		c.token("old")
		s.authenticate().sendAway(protocol.CloseTokenExpired, "")
	}
	if e := c.fails(tag, "refused"); e.CloseCode != int(protocol.CloseTokenExpired) {
		w.Errorf("connect failed with the close code %d, want 3502", e.CloseCode)
	}
	c.state("closed")
	s.noConnection()
	if n := c.count(func(e driver.Event) bool { return e.Event == "token_wanted" }); n != 2 {
		w.Errorf("the client wanted %d tokens, want 2", n)
	}
}

func playFinal(w *world, code protocol.CloseCode) {
	s := w.server()
	c := w.client(s, nil)
	tag := c.connect()
	conn := s.session()
	c.ok(tag)
	conn.sendAway(code, "")
	if e := c.state("closed"); !e.Failed || string(e.Code) != fmt.Sprint(int(code)) || !strings.Contains(e.Reason, "a test") {
		w.Errorf("closed says failed %t, code %s and reason %q, want true, %d and the server's reason", e.Failed, e.Code, e.Reason, code)
	}
	conn.end()
	s.noConnection()
}

func playComesAgain(w *world, code protocol.CloseCode) {
	s := w.server()
	c := w.client(s, nil)
	c.connect()
	conn := s.session()
	c.state("live")
	conn.sendAway(code, "")
	if e := c.state("waiting"); string(e.Code) != fmt.Sprint(int(code)) || !strings.Contains(e.Reason, "a test") {
		w.Errorf("waiting says code %s and reason %q, want %d and the server's reason", e.Code, e.Reason, code)
	}
	s.session()
	c.state("live")
}
