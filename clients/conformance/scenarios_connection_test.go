package conformance

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"imgo/clients/conformance/driver"
	"imgo/clients/conformance/peer"
	"imgo/protocol"
	"imgo/transport"
)

func connectionScenarios() []scenario {
	return []scenario{
		{
			name: "connects", on: onEach, play: playConnects,
			about: "the auth packet has the options, and the event live has what the server says",
		},
		{
			name: "slow_auth_reply", play: playSlowAuthReply,
			about: "the client waits for the auth reply for longer than connect_timeout and does not connect anew",
		},
		{
			name: "auth_reply_never", play: playAuthReplyNever,
			about: "without an auth reply within auth_timeout the client ends the connection and tries again",
		},
		{
			name: "nobody_listens", play: playNobodyListens,
			about: "a refused connection is a failed attempt, and the client comes when somebody listens again",
		},
		{
			name: "handshake_never", on: onSecure, play: playHandshakeNever,
			about: "a peer that accepts and says nothing costs at most connect_timeout",
		},
		{
			name: "upgrade_never", on: onWebSocket, play: playHandshakeNever,
			about: "a peer that does not answer the WebSocket's request costs at most connect_timeout",
		},
		{
			name: "upgrade_refused", on: onWebSocket, play: playUpgradeRefused,
			about: "another HTTP answer than 101 is a failed attempt",
		},
		{
			name: "certificate_unknown", on: onSecure, play: playCertificateUnknown,
			about: "a server with a certificate of nobody known gets no token",
		},
		{
			name: "old_server", play: playOldServer,
			about: "an auth reply of version 1 is accepted, and its messages are not kept",
		},
		{
			name: "auth_reply_broken", play: playAuthReplyBroken,
			about: "an auth reply that cannot be read fails the attempt with the error protocol",
		},
		{
			name: "other_server", play: playOtherServer,
			about: "a peer that does not speak the protocol fails the attempt with the error protocol",
		},
		{
			name: "packets_before_auth_reply", play: playPacketsBeforeAuthReply,
			about: "packets before the auth reply have no effect",
		},
		{
			name: "connect_while_waiting", play: playConnectWhileWaiting,
			about: "connect ends the wait between two attempts",
		},
		{
			name: "connect_twice", play: playConnectTwice,
			about: "a second connect shares the attempt of the first one",
		},
		{
			name: "two_clients", play: playTwoClients,
			about: "two clients in one process share nothing",
		},
		{
			name: "bad_options", play: playBadOptions,
			about: "a bad option is refused with the error invalid, which names the option",
		},
		{
			name: "discovery", play: playDiscovery,
			about: "the client tries the addresses of the HTTP API first, and its own if the API fails",
		},
		{
			name: "clock_of_process_stops", own: true, play: playProcessStops,
			about: "a process that was stopped finds its dead connection and makes another one",
		},
		{
			name: "wall_clock_jumps", play: playWallClockJumps,
			about: "a wall clock that jumps ends no connection and stops no heartbeat",
		},
	}
}

func playConnects(w *world) {
	s := w.server()
	c := w.client(s, options{
		"token": "tok\"en", "device": "läptop", "platform": "test 1", "rooms": []string{"a", "b"},
		"accepts": []int{1000, 2147483647},
	})
	tag := c.connect()
	c.state("connecting")
	conn := s.sessionWith(authReply{Session: "s~1", User: "anna", Heartbeat: 45, Pending: 1, Rooms: []string{"granted"}})
	a := conn.auth
	slices.Sort(a.Rooms)
	slices.Sort(a.Accepts)
	want := `{Token:tok"en Device:läptop Platform:test 1 Ack:true Rooms:[a b] Accepts:[1000 2147483647]}`
	if got := fmt.Sprintf("%+v", a); got != want {
		w.Errorf("the auth body is %s, want %s", got, want)
	}
	e := c.state("live")
	if e.Session != "s~1" || e.User != "anna" || e.HeartbeatMS != 45000 || e.Pending != 1 || !slices.Equal(e.Rooms, []string{"granted"}) {
		w.Errorf("live says session %q of %q, heartbeat %g ms, pending %d, rooms %q", e.Session, e.User, e.HeartbeatMS, e.Pending, e.Rooms)
	}
	c.ok(tag)
	conn.write(kept(7)...)
	c.message(7, numbered(7))
	conn.waitAcked(7)
	c.close()
	conn.end()
}

func playSlowAuthReply(w *world) {
	s := w.server()
	c := w.client(s, options{"connect_timeout_ms": 500})
	tag := c.connect()
	conn := s.authenticate()
	if _, err := s.AcceptRaw(time.Second); err == nil {
		w.Fatal("the client makes another connection instead of waiting")
	}
	conn.admit(authReply{})
	c.state("live")
	c.ok(tag)
}

func playAuthReplyNever(w *world) {
	s := w.server()
	c := w.client(s, options{"auth_timeout_ms": 200})
	tag := c.connect()
	first := s.authenticate()
	c.state("waiting")
	if err := first.WaitEnd(); err != nil {
		w.Error(err)
	}
	s.session()
	c.state("live")
	c.ok(tag)
}

func playNobodyListens(w *world) {
	s := w.server()
	address := s.Address()
	s.Close()
	c := w.client(s, nil)
	tag := c.connect()
	c.state("waiting")
	c.state("waiting")
	back := w.listen(w.transport, address)
	back.session()
	c.state("live")
	c.ok(tag)
}

func playHandshakeNever(w *world) {
	s := w.server()
	c := w.client(s, options{"connect_timeout_ms": 200})
	tag := c.connect()
	raw, err := s.AcceptRaw(peer.Limit)
	if err != nil {
		w.Fatal(err)
	}
	c.state("waiting")
	if err := raw.WaitEnd(); err != nil {
		w.Error(err)
	}
	serveSlowly(w, s)
	c.ok(tag)
}

// serveSlowly lets a client in that gives up quickly: on a slow machine also during a handshake.
func serveSlowly(w *world, s *server) {
	w.Helper()
	for range 100 {
		raw, err := s.AcceptRaw(peer.Limit)
		if err != nil {
			w.Fatal(err)
		}
		if s.Handshake(raw) != nil {
			continue
		}
		conn := s.connection(raw)
		if p, err := conn.Read(); err == nil {
			conn.took(p)
			conn.admit(authReply{})
			return
		}
	}
	w.Fatal("the client gave up 100 connections")
}

func playUpgradeRefused(w *world) {
	s := w.server()
	c := w.client(s, nil)
	tag := c.connect()
	for _, answer := range []string{"404 Not Found", "200 OK", "302 Found\r\nLocation: http://127.0.0.1:1/sub"} {
		raw, err := s.AcceptRaw(peer.Limit)
		if err != nil {
			w.Fatal(err)
		}
		if err := raw.ReadRequest(); err != nil {
			w.Fatal(err)
		}
		if path, _, _ := strings.Cut(strings.TrimPrefix(raw.Request[0], "GET "), " "); path != "/sub" {
			w.Errorf("the request is %q, want the path /sub", raw.Request[0])
		}
		if err := raw.Write([]byte("HTTP/1.1 " + answer + "\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")); err != nil {
			w.Fatal(err)
		}
		raw.Close()
		c.state("waiting")
	}
	s.session()
	c.ok(tag)
}

func playCertificateUnknown(w *world) {
	s := w.server()
	known := w.ca
	other, _ := newCertificate(w.T)
	c := w.client(s, options{"ca": other})
	c.connect()
	for range 2 {
		raw, err := s.AcceptRaw(peer.Limit)
		if err != nil {
			w.Fatal(err)
		}
		// The client may find the fault after the handshake of the server. Then it must say nothing over the connection.
		if s.Handshake(raw) == nil {
			if p, err := raw.Read(); err == nil {
				w.Fatalf("the client sent operation %d to a server that it does not know", p.Op)
			}
		}
		raw.Close()
		c.state("waiting")
	}
	c.close()
	trusting := w.client(s, options{"ca": known})
	tag := trusting.connect()
	serveSlowly(w, s) // the first client may have left a connection
	trusting.ok(tag)
}

func playOldServer(w *world) {
	s := w.server()
	c := w.client(s, nil)
	tag := c.connect()
	conn := s.authenticate()
	conn.write(transport.Packet{Version: 1, Op: protocol.OpAuthReply, Seq: conn.packets[0].Seq})
	conn.serve()
	e := c.state("live")
	if e.HeartbeatMS != 60_000 || e.Pending != 0 {
		w.Errorf("live says heartbeat %g ms and pending %d, want 60000 and 0", e.HeartbeatMS, e.Pending)
	}
	c.ok(tag)
	for n := range uint64(3) {
		conn.write(transport.Packet{Version: 1, Op: protocol.OpMessage, Body: numbered(n)})
		c.message(0, numbered(n))
	}
	c.close()
	conn.end()
	if conn.acks > 0 {
		w.Errorf("the client acknowledged %v to a server without ids", conn.acked)
	}
}

func playAuthReplyBroken(w *world) {
	s := w.server()
	c := w.client(s, nil)
	tag := c.connect()
	for _, body := range []string{`[1]`, `"hello"`, `{"heartbeat":"25"}`} {
		conn := s.authenticate()
		conn.write(transport.Packet{Version: 2, Op: protocol.OpAuthReply, Seq: conn.packets[0].Seq, Body: []byte(body)})
		c.problem("protocol")
		c.state("waiting")
		if err := conn.WaitEnd(); err != nil {
			w.Errorf("%s: %v", body, err)
		}
	}
	s.session()
	c.ok(tag)
}

func playOtherServer(w *world) {
	s := w.server()
	c := w.client(s, nil)
	tag := c.connect()
	for _, says := range []string{"HTTP/1.1 400 Bad Request\r\n\r\n", strings.Repeat("\x00", 64), strings.Repeat("\xff", 64)} {
		conn := s.authenticate()
		conn.bytes(conn.Frame([]byte(says)))
		c.problem("protocol")
		c.state("waiting")
		if err := conn.WaitEnd(); err != nil {
			w.Errorf("%q: %v", says, err)
		}
	}
	s.session()
	c.ok(tag)
}

func playPacketsBeforeAuthReply(w *world) {
	s := w.server()
	c := w.client(s, nil)
	tag := c.connect()
	conn := s.authenticate()
	conn.write(append(kept(5), transport.Packet{Version: 2, Op: protocol.OpHeartbeatReply}, conn.reply(conn.packets[0].Seq, authReply{}))...)
	conn.serve()
	c.ok(tag)
	conn.write(kept(6)...)
	c.message(6, numbered(6))
	conn.waitAcked(6)
	conn.notAcked(5)
}

func playConnectWhileWaiting(w *world) {
	s := w.server()
	c := w.client(s, options{"min_backoff_ms": 3_600_000, "max_backoff_ms": 3_600_000})
	first := c.connect()
	s.accept().Reset()
	c.state("waiting")
	again := c.connect()
	s.session()
	c.state("live")
	c.ok(first)
	c.ok(again)
}

func playConnectTwice(w *world) {
	s := w.server()
	c := w.client(s, nil)
	first := c.connect()
	conn := s.authenticate()
	second := c.connect()
	s.noConnection()
	conn.admit(authReply{})
	c.ok(first)
	c.ok(second)
	c.ok(c.connect()) // it is live
	s.noConnection()
}

func playTwoClients(w *world) {
	s, other := w.server(), w.server()
	a := w.client(s, options{"token": "a", "device": "one", "rooms": []string{"ra"}})
	b := w.client(other, options{"token": "b", "device": "two"})
	a.connect()
	b.connect()
	toA, toB := s.session(), other.session()
	if toA.auth.Token != "a" || toB.auth.Token != "b" || toA.auth.Device != "one" || toB.auth.Device != "two" || len(toB.auth.Rooms) > 0 {
		w.Errorf("the clients authenticate as %+v and %+v", toA.auth, toB.auth)
	}
	// The same id is another message for another client, and a slow handler delays its own client only.
	a.set("hold", nil)
	toA.write(message(1, numbered(11)))
	a.message(1, numbered(11))
	toB.write(message(1, numbered(21)))
	b.message(1, numbered(21))
	toB.waitAcked(1)
	toA.notAcked(1)
	b.close()
	a.do("release", nil)
	toA.waitAcked(1)
	a.ok(a.start("join", fields{"room": "later"}))
	a.close()
}

func playBadOptions(w *world) {
	s := w.server()
	long := strings.Repeat("x", 129)
	for _, test := range []struct {
		option string
		value  any
	}{
		{"address", ""}, {"address", "nonsense"}, {"address", "http://127.0.0.1:1"}, {"token", ""}, {"device", long}, {"device", "a\nb"},
		{"platform", long}, {"rooms", []string{""}}, {"rooms", []string{"ok", long}}, {"rooms", []string{"a\u0085"}},
		{"accepts", []int{5}}, {"min_backoff_ms", -1}, {"max_backoff_ms", -1}, {"max_backoff_ms", 5}, {"stable_after_ms", -1},
		{"connect_timeout_ms", -1}, {"auth_timeout_ms", -1}, {"request_timeout_ms", -1}, {"heartbeat_timeout_ms", -1},
		{"close_timeout_ms", -1}, {"ack_delay_ms", -1}, {"queue", -1}, {"remember", -1}, {"max_body", -1},
		{"discover", "nonsense"}, {"unknown_option", 1},
	} {
		w.Run(fmt.Sprintf("%s=%.20v", test.option, test.value), func(t *testing.T) {
			one := *w
			one.T = t
			c := one.unmade()
			all := options{"address": s.URL(), "token": "token", "min_backoff_ms": 10, "max_backoff_ms": 50}
			all[test.option] = test.value
			e := c.fails(c.start("new", fields{"options": all}), "invalid")
			if !names(e.Message, test.option) {
				t.Errorf("the error does not name the option: %s", e.Message)
			}
		})
	}
	s.noConnection()
}

// names reports whether a text names an option, in any case of its name.
func names(text, option string) bool {
	fold := func(s string) string {
		return strings.ToLower(strings.NewReplacer("_", "", "-", "", " ", "").Replace(s))
	}
	option = strings.TrimSuffix(option, "_ms")
	return strings.Contains(fold(text), fold(option)) || option == "address" && strings.Contains(fold(text), "url")
}

func playDiscovery(w *world) {
	own, best := w.server(), w.server()
	var asked atomic.Value
	var failing atomic.Bool
	api := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		asked.Store(*r.URL)
		if failing.Load() {
			http.Error(rw, "no", http.StatusServiceUnavailable)
			return
		}
		rw.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(rw, `{"addresses":[%q]}`, best.Address())
	}))
	w.Cleanup(api.Close)
	c := w.client(own, options{"discover": api.URL})
	tag := c.connect()
	conn := best.session()
	c.ok(tag)
	if u, ok := asked.Load().(url.URL); !ok || u.Path != "/v1/nodes/best" || u.Query().Get("transport") != w.transport {
		w.Errorf("the client asked for %s, want /v1/nodes/best?transport=%s", u.String(), w.transport)
	}
	failing.Store(true)
	conn.Reset()
	own.session()
	c.state("live")
}

func playProcessStops(w *world) {
	s := w.server()
	c := w.client(s, options{"heartbeat_timeout_ms": 200})
	c.connect()
	conn := s.sessionWith(authReply{Heartbeat: 0.1})
	c.state("live")
	conn.beats(2)
	stopDriver(w)
	conn.mute(protocol.OpHeartbeat) // the connection is dead, and nobody says so
	time.Sleep(time.Second)         // longer than the heartbeat allows
	continueDriver(w)
	next := s.sessionWith(authReply{Heartbeat: 0.1})
	c.state("live")
	next.write(kept(1)...)
	c.message(1, numbered(1))
	next.waitAcked(1)
}

func playWallClockJumps(w *world) {
	fake := newFakeClock(w)
	s := w.server()
	c := w.client(s, options{"heartbeat_timeout_ms": 5000, "token_source": true})
	c.connect()
	c.token("t")
	conn := s.sessionWith(authReply{Heartbeat: 0.1, ExpiresIn: 3600})
	c.state("live")
	conn.beats(3)
	for i, jump := range []string{"+10d", "-10d", "+0"} {
		fake.jump(jump)
		conn.beats(5)
		id := uint64(i + 1)
		conn.write(kept(id)...)
		c.message(id, numbered(id))
		conn.waitAcked(id)
	}
	if n := c.count(func(e driver.Event) bool {
		return e.Event == "token_wanted" || e.Event == "state" && e.State == "waiting"
	}); n != 1 {
		w.Errorf("the client lost its session or wanted another token when the clock jumped:\n%s", c.history())
	}
	fake.jump("-10d")
	conn.Reset()
	c.token("t")
	s.session()
	c.state("live")
}
