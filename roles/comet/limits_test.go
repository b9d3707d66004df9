package comet_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"imgo/protocol"
	"imgo/roles/comet"
	"imgo/transport"
	"imgo/transport/pipe"
)

// TestConnectionLimits checks that a client over a limit gets the reason, and that a session that ends
// makes room again.
func TestConnectionLimits(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*comet.Config)
		reason string
	}{
		{"all", func(cfg *comet.Config) { cfg.Connections = 2 }, "max_connections"},
		{"one address", func(cfg *comet.Config) { cfg.ConnectionsPerAddress = 2 }, "max_per_address"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := start(t, &fakeLogic{}, func(cfg *comet.Config) {
				listening(cfg)
				test.change(cfg)
			})
			first, second := s.dialTCP(), s.dialTCP()
			for _, c := range []*client{first, second} {
				c.send(1, protocol.OpAuth, 1, "ann")
				c.expect(protocol.OpAuthReply, 0, "")
			}
			s.dialTCP().closedWith(protocol.CloseOverload)
			s.dialWS(true).wantEnd(protocol.CloseOverload) // The server does not know the client's format yet.
			if n := s.metric("imgo_comet_refused_total", "reason="+test.reason); n != 2 {
				t.Fatalf("counted %v times", n)
			}
			_ = first.Close()
			eventually(t, "there is room again", func() bool {
				c := s.dialTCP()
				c.send(1, protocol.OpAuth, 1, "bob")
				p, err := c.next()
				_ = c.Close()
				return err == nil && p.Op == protocol.OpAuthReply
			})
		})
	}
}

// TestUpgradesAreLimited checks that a connection counts even if it never finishes the upgrade.
func TestUpgradesAreLimited(t *testing.T) {
	s := start(t, &fakeLogic{}, func(cfg *comet.Config) {
		listening(cfg)
		cfg.ConnectionsPerAddress = 8
	})
	var open []net.Conn
	for range 60 {
		open = append(open, dial(t, s.Addr("ws")))
	}
	eventually(t, "most are refused", func() bool { return s.metric("imgo_comet_refused_total", "reason=listener_admit") >= 35 })
	for _, c := range open {
		_ = c.Close()
	}
	eventually(t, "there is room again", func() bool {
		c := s.dialTCP()
		if c.Send([]byte(wire("00000013 0010 0001 00000007 00000001", "tok"))) != nil {
			return false
		}
		_, err := c.next()
		_ = c.Close()
		return err == nil
	})
}

// TestConnectRate checks that a client over the rate waits. It is refused only if the wait would be
// too long.
func TestConnectRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, &fakeLogic{}, func(cfg *comet.Config) { cfg.ConnectRate, cfg.ConnectBurst, cfg.ConnectWait = 2, 3, 5*time.Second })
		clients := make([]*client, 20)
		for i := range clients {
			clients[i] = s.dialPipe(pipe.Options{})
			clients[i].send(1, protocol.OpAuth, 1, "ann")
		}
		synctest.Wait()
		if n := s.Sessions(); n != 3 {
			t.Fatalf("%d sessions at once, want 3", n)
		}
		time.Sleep(2100 * time.Millisecond)
		if n := s.Sessions(); n != 7 {
			t.Fatalf("%d sessions after 2 s, want 7", n)
		}
		time.Sleep(4 * time.Second)
		if n := s.Sessions(); n != 13 { // 3 at once, and 2 a second for 5 s
			t.Fatalf("%d sessions after 5 s, want 13", n)
		}
		if n := s.metric("imgo_comet_refused_total", "reason=connect_rate"); n != 7 {
			t.Fatalf("%v were refused, want 7", n)
		}
	})
}

// TestUpstreamRate checks that comet reads more slowly from a session that sends too much. No packet
// is lost, and the session stays open.
func TestUpstreamRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, &fakeLogic{}, func(cfg *comet.Config) { cfg.UpstreamRate, cfg.UpstreamBurst = 10, 5 })
		c := s.connected(0, "ann", 0)
		began := time.Now()
		for i := range 25 {
			c.send(2, protocol.OpSend, int32(i), "")
		}
		for i := range 25 {
			if p := c.receive(); p.Seq != int32(i) {
				t.Fatalf("reply %d has sequence %d", i, p.Seq)
			}
			if i == 4 && time.Since(began) > 0 {
				t.Fatalf("the burst took %s", time.Since(began))
			}
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Fatalf("25 packets took %s, want 2 s", took)
		}
	})
}

// TestRefusedOperations checks that a bad name of a room, and an operation over a limit, are answered
// with the reason. The session stays as it was.
func TestRefusedOperations(t *testing.T) {
	s := start(t, &fakeLogic{}, nil)
	many := make([]string, 1001)
	for i := range many {
		many[i] = fmt.Sprint(i)
	}
	for _, test := range []struct {
		name   string
		text   bool
		frames []string // the last one is refused
		code   string
		says   string
	}{
		{"a room with no name", false, []string{wire("00000010 0010 0002 00000014 00000009", "")}, "invalid", "room must not be empty"},
		{"a room that is not UTF-8", false, []string{wire("00000011 0010 0002 00000014 00000009", "\xff")}, "invalid", "UTF-8"},
		{"a change to a room of two lines", false, []string{wire("00000013 0010 0002 0000000c 00000009", "a\nb")}, "invalid",
			"control character"},
		{"text: a room that is a number", true, []string{`{"ver":2,"op":20,"seq":9,"body":7}`}, "invalid", "must be a string"},
		{"text: too many operations", true, []string{
			`{"ver":2,"op":14,"body":[` + strings.Join(many[:500], ",") + `]}`,
			`{"ver":2,"op":14,"seq":9,"body":[` + strings.Join(many[500:], ",") + `]}`,
		}, "too_many", "at most 1000"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := s.dialPipe(pipe.Options{Text: test.text})
			c.login("ann", "")
			for i, frame := range test.frames {
				if i > 0 {
					c.receive()
				}
				c.put(frame)
			}
			p := c.receive()
			if body := string(p.Body); p.Op != protocol.OpError || p.Seq != 9 || !strings.Contains(body, test.says) ||
				!strings.Contains(body, fmt.Sprintf(`"code":%q`, test.code)) {
				t.Fatalf("got op %d, sequence %d, %s", p.Op, p.Seq, p.Body)
			}
			c.send(2, protocol.OpHeartbeat, 10, "")
			if p := c.receive(); p.Op != protocol.OpHeartbeatReply {
				t.Fatalf("the session answers a heartbeat with %+v", p)
			}
		})
	}
}

// TestBadPackets checks that each bad packet ends its session with a reason and is counted. Other
// clients are not affected.
func TestBadPackets(t *testing.T) {
	s := start(t, &fakeLogic{}, func(cfg *comet.Config) { cfg.RoomsPerSession = 2 })
	beside := s.dialPipe(pipe.Options{})
	beside.login("beside", "")
	for _, test := range []struct {
		name   string
		text   bool
		frames []string // sent after auth
		code   protocol.CloseCode
		kind   string
		says   string
	}{
		{"a negative length", false, []string{wire("ffffffff 0018 0002 00000002 00000000", "")}, 3500, "bad_length", "-1"},
		{"a length under its header", false, []string{wire("00000017 0018 0002 00000002 00000000", "")}, 3500, "bad_length", "23"},
		{"an unknown header", false, []string{wire("00000020 0011 0002 00000002 00000000", "")}, 3500, "bad_header", "17"},
		{"a body that is too large", false, []string{wire("000003f9 0010 0002 00000002 00000000", "")}, 3507, "too_large", "1001"},
		{"an ack of 7 bytes", false, []string{wire("00000017 0010 0002 00000012 00000000", "1234567")}, 3500, "bad_ack", "7 bytes"},
		{"an ack of nothing", false, []string{wire("00000010 0010 0002 00000012 00000000", "")}, 3500, "bad_ack", "0 bytes"},
		{"operations that are none", false, []string{wire("00000013 0010 0002 0000000e 00000000", "1,x")},
			3500, "bad_operations", "operations must be"},
		{"text: a body that is too large", true, []string{`{"ver":2,"op":4,"body":"` + strings.Repeat("x", 1001) + `"}`},
			3507, "too_large", "1001"},
		{"text: not JSON", true, []string{`{"op":`}, 3500, "bad_json", ""},
		{"text: an array", true, []string{`[{"ver":2,"op":2,"seq":1}]`}, 3500, "bad_json", "array"},
		{"text: not UTF-8", true, []string{"{\"op\":2,\"body\":\"\xff\"}"}, 3500, "bad_utf8", "UTF-8"},
		{"text: an ack of numbers", true, []string{`{"ver":2,"op":18,"body":[5]}`}, 3500, "bad_ack", "decimal strings"},
		{"text: an ack of words", true, []string{`{"ver":2,"op":18,"body":["5x"]}`}, 3500, "bad_ack", "5x"},
		{"text: an ack that overflows", true, []string{`{"ver":2,"op":18,"body":["18446744073709551616"]}`},
			3500, "bad_ack", "18446744073709551616"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := s.dialPipe(pipe.Options{Text: test.text, MaxBody: 1000})
			c.login("ann", "")
			before := s.metric("imgo_comet_bad_packets_total", "kind="+test.kind)
			for _, frame := range test.frames {
				c.put(frame)
			}
			p := c.receive()
			for p.Op == protocol.OpJoinRoomReply || p.Op == protocol.OpSubscribeReply {
				p = c.receive()
			}
			code := fmt.Sprint(`{"code":`, int32(test.code))
			if p.Op != protocol.OpDisconnect || !strings.Contains(string(p.Body), test.says) || !strings.Contains(string(p.Body), code) {
				t.Fatalf("got op %d %s", p.Op, p.Body)
			}
			c.wantEnd(test.code)
			if n := s.metric("imgo_comet_bad_packets_total", "kind="+test.kind); n != before+1 {
				t.Fatalf("kind %s was counted %v times, then %v", test.kind, before, n)
			}
		})
	}
	beside.send(2, protocol.OpHeartbeat, 1, "")
	beside.expect(protocol.OpHeartbeatReply, 0, "")
}

// TestTruncatedPacket checks that a client that leaves in the middle of a packet leaves nothing
// behind.
func TestTruncatedPacket(t *testing.T) {
	s := start(t, &fakeLogic{}, listening)
	for _, c := range []*client{s.dialTCP(), s.dialWS(false)} {
		c.login("ann", "")
		b := c.Frame([]byte(wire("00000020 0010 0002 00000002 00000000", "0123456789abcdef")))
		if err := c.Send(b[:20]); err != nil {
			t.Fatal(err)
		}
		if err := c.End(); err != nil {
			t.Fatal(err)
		}
		for {
			if _, err := c.Next(); err != nil {
				break
			}
		}
	}
	eventually(t, "both are gone", func() bool { return s.Sessions() == 0 && len(s.logic.gone()) == 2 })
}

// TestManyThatNeverAuthenticate checks that clients that never authenticate do not disturb others.
// They are closed after the handshake timeout.
func TestManyThatNeverAuthenticate(t *testing.T) {
	s := start(t, &fakeLogic{}, func(cfg *comet.Config) {
		listening(cfg)
		cfg.HandshakeTimeout = 500 * time.Millisecond
	})
	conns := make([]net.Conn, 300)
	for i := range conns {
		conns[i] = dial(t, s.Addr("tcp"))
	}
	c := s.dialTCP()
	c.login("ann", "")
	for _, conn := range conns {
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if b, err := io.ReadAll(conn); err != nil || len(b) > 0 {
			t.Fatalf("got %q, %v", b, err)
		}
		_ = conn.Close()
	}
	c.send(2, protocol.OpHeartbeat, 1, "")
	c.expect(protocol.OpHeartbeatReply, 0, "")
	eventually(t, "one connection is left", func() bool { return s.metric("imgo_comet_connections") == 1 })
}

func TestConfig(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*comet.Config)
		says   string
	}{
		{"no name", func(cfg *comet.Config) { cfg.Name = "" }, "comet name must not be empty"},
		{"a bad address", func(cfg *comet.Config) { cfg.Listen = []transport.ListenFunc{overTCP("nowhere:x")} }, "bind a listener for clients"},
		{"a bad origin", func(cfg *comet.Config) { cfg.Listen = []transport.ListenFunc{overWS("127.0.0.1:0", "[")} },
			`bind a listener for clients: listen for WebSockets: origin pattern "["`},
	} {
		cfg := comet.DefaultConfig()
		cfg.Name = "c1"
		test.change(&cfg)
		if _, err := comet.New(cfg, &fakeLogic{}, nopLog, nil); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	// A comet that never runs must free its port when it is closed.
	cfg := comet.DefaultConfig()
	cfg.Name = "c1"
	listening(&cfg)
	c, err := comet.New(cfg, &fakeLogic{}, nopLog, nil)
	if err != nil {
		t.Fatal(err)
	}
	listenOn(&cfg, c.Addr("tcp").String(), "127.0.0.1:0")
	c.Close()
	if c, err = comet.New(cfg, &fakeLogic{}, nopLog, nil); err != nil {
		t.Fatal(err)
	}
	c.Close()
}
