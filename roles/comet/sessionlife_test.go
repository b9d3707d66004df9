package comet_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/comet"
	"imgo/transport/pipe"
)

func TestAuthBody(t *testing.T) {
	type want struct {
		token, mid, device, key, platform, generation string
		rooms, accepts                                string
	}
	for _, test := range []struct {
		name    string
		version int16
		text    bool
		body    string
		want    want
		reason  string // a part of the reason of the refusal
	}{
		{name: "bytes", version: 1, body: "tok", want: want{token: "tok", generation: "imgo"}},
		{name: "a JSON string", version: 1, body: `"t\u006fk"`, want: want{token: "tok", generation: "imgo"}},
		{name: "quotes around bytes that are not JSON", version: 1, body: "\"a\tc\"", want: want{token: "a\tc", generation: "imgo"}},
		{name: "a number", version: 1, body: "42", want: want{token: "42", generation: "imgo"}},
		{name: "a broken object", version: 1, body: `{"mid":1`, want: want{token: `{"mid":1`, generation: "imgo"}},
		{name: "an array", version: 1, body: `["x"]`, want: want{token: `["x"]`, generation: "imgo"}},
		{name: "empty", version: 1, body: "", want: want{generation: "imgo"}},
		{name: "version 2 with a bare token is not imgo's", version: 2, body: "1,949", want: want{token: "1,949", generation: "imgo"}},
		{name: "text: version 2 with a bare token", version: 2, text: true, body: `"tok"`, want: want{token: "tok", generation: "imgo"}},
		{name: "an object without a token", version: 1, body: `{"test":1}`, want: want{token: `{"test":1}`, generation: "imgo"}},
		{name: "text: an object without a token", version: 1, text: true, body: `{"data":{}}`,
			want: want{token: `{"data":{}}`, generation: "imgo"}},
		{name: "an object with a key that is none", version: 1, text: true, body: `{"key":5}`,
			want: want{token: `{"key":5}`, generation: "imgo"}},
		{name: "goim without a mid", version: 1, body: `{"room_id":"live://1"}`,
			want: want{token: `{"room_id":"live://1"}`, mid: "0", generation: "goim", rooms: "[live://1]"}},
		{name: "goim in another case", version: 1, body: `{"Mid":78,"ACCEPTS":[5]}`,
			want: want{token: `{"Mid":78,"ACCEPTS":[5]}`, mid: "78", generation: "goim", accepts: "[5]"}},
		{name: "all keys", version: 2,
			body: `{"token":"t","device":"d","ack":true,"rooms":["a","b","a"],` +
				`"accepts":[3,1,3],"platform":"ios","key":"k","mid":7,"other":{}}`,
			want: want{token: "t", mid: "7", device: "d", key: "k", platform: "ios", generation: "v2", rooms: "[a b]", accepts: "[1 3]"}},
		{name: "goim", version: 1, body: `{"mid":9223372036854775807,"key":"","room_id":"","platform":"","accepts":null}`,
			want: want{mid: "9223372036854775807", generation: "goim",
				token: `{"mid":9223372036854775807,"key":"","room_id":"","platform":"","accepts":null}`}},
		{name: "a mid that is a string", version: 1, body: `{"mid":"ann","room_id":"live://1"}`,
			want: want{mid: "ann", generation: "goim", rooms: "[live://1]", token: `{"mid":"ann","room_id":"live://1"}`}},
		{name: "a negative mid", version: 1, body: `{"mid":-1}`, want: want{mid: "-1", generation: "goim", token: `{"mid":-1}`}},
		{name: "no mid: not goim", version: 1, body: `{"token":"t"}`, want: want{token: "t", generation: "imgo"}},
		{name: "text: a string", version: 1, text: true, body: `"tok"`, want: want{token: "tok", generation: "imgo"}},
		{name: "text: no body", version: 1, text: true, want: want{generation: "imgo"}},
		{name: "text: never goim", version: 1, text: true, body: `{"mid":5}`, want: want{mid: "5", generation: "imgo", token: `{"mid":5}`}},
		{name: "text: version 2", version: 2, text: true, body: `{"token":"t","ack":true}`, want: want{token: "t", generation: "v2"}},

		{name: "token is a number", version: 2, body: `{"token":5}`, reason: "auth token must be a string"},
		{name: "mid is a fraction", version: 1, body: `{"mid":1.5}`, reason: "auth mid must be a 64-bit integer or a string"},
		{name: "mid overflows", version: 1, body: `{"mid":9223372036854775808}`, reason: "auth mid must be"},
		{name: "accepts are strings", version: 1, body: `{"mid":1,"accepts":["1"]}`, reason: "auth accepts must be an array of 32-bit integers"},
		{name: "rooms is a string", version: 2, body: `{"rooms":"a"}`, reason: "auth rooms must be an array of strings"},
		{name: "ack is a string", version: 2, body: `{"ack":"yes"}`, reason: "auth ack must be true or false"},
		{name: "a device with a control character", version: 2, body: `{"device":"a\u0000"}`,
			reason: "auth device has the control character U+0000"},
		{name: "a long key", version: 2, body: `{"key":"` + strings.Repeat("k", 513) + `"}`, reason: "auth key is 513 bytes long"},
		{name: "an empty room", version: 2, body: `{"rooms":[""]}`, reason: "auth rooms must not be empty"},
		{name: "a token that is not UTF-8", version: 1, body: "\xff\xfe", reason: "auth body is not valid UTF-8"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := start(t, &fakeLogic{}, func(cfg *comet.Config) { cfg.RoomsPerSession = 3 })
			c := s.dialPipe(pipe.Options{Text: test.text})

			c.send(test.version, protocol.OpAuth, 1, test.body)
			if test.reason != "" && test.version == 1 {
				c.wantEnd(protocol.CloseBadPacket)
				return
			}
			p := c.receive()
			if test.reason != "" {
				if p.Op != protocol.OpDisconnect || !strings.Contains(string(p.Body), test.reason) || !strings.Contains(string(p.Body), `"code":3500`) {
					t.Fatalf("got op %d %s, want %q", p.Op, p.Body, test.reason)
				}
				c.wantEnd(protocol.CloseBadPacket)
				if n := s.metric("imgo_comet_bad_packets_total", "kind=auth_body"); n != 1 {
					t.Fatalf("counted %v times", n)
				}
				return
			}
			r := s.logic.connected(0)
			list := func(v any, n int) string {
				if n == 0 {
					return ""
				}
				return fmt.Sprint(v)
			}
			of := r.Session
			got := want{r.Token, r.Mid, of.Device, of.Key, of.Platform, of.Generation,
				list(of.Rooms, len(of.Rooms)), list(of.Accepts, len(of.Accepts))}
			if p.Op != protocol.OpAuthReply || got != test.want {
				t.Fatalf("op %d; logic was asked\n%+v, want\n%+v", p.Op, got, test.want)
			}
		})
	}
}

func TestAuthRefused(t *testing.T) {
	for _, test := range []struct {
		err  error
		code protocol.CloseCode
		says string
	}{
		{envelope.Errorf(envelope.CodeUnauthorized, "no such token"), 3501, "no such token"},
		{fmt.Errorf("check: %w", envelope.ErrExpired), 3502, "token_expired"},
		{envelope.ErrRevoked, 3503, "token_revoked"},
		{envelope.Errorf(envelope.CodeTooMany, "8 sessions are allowed"), 3504, "8 sessions are allowed"},
		{envelope.Invalid("user", "is too long"), 3500, "user is too long"},
		{envelope.Errorf(envelope.CodeUnavailable, "owner 10.0.0.7 moved"), 3005, "cannot take"},
		{errors.New("open /secret: bad"), 3005, "cannot take"},
		{context.DeadlineExceeded, 3005, "cannot take"},
	} {
		for _, o := range []struct {
			version int16
			text    bool
		}{{1, false}, {2, false}, {1, true}, {2, true}} {
			logic := &fakeLogic{connect: func(*envelope.ConnectRequest) (*envelope.ConnectReply, error) { return nil, test.err }}
			s := start(t, logic, func(cfg *comet.Config) { cfg.ConnectWait = 20 * time.Millisecond })
			c := s.dialPipe(pipe.Options{Text: o.text})
			body := `"x"`
			if o.version == 2 {
				body = `{"token":"x"}`
			}
			c.send(o.version, protocol.OpAuth, 1, body)
			if o.version == 1 {
				c.wantEnd(test.code)
				continue
			}
			p := c.receive()
			if p.Op != protocol.OpDisconnect || p.Version != o.version || !strings.Contains(string(p.Body), test.says) ||
				!strings.Contains(string(p.Body), fmt.Sprintf(`{"code":%d,`, test.code)) {
				t.Errorf("%v: got op %d version %d %s", test.err, p.Op, p.Version, p.Body)
			}
			c.wantEnd(test.code)
			if s.Sessions() != 0 || len(logic.gone()) != 0 {
				t.Errorf("%v: %d sessions, detached %v", test.err, s.Sessions(), logic.gone())
			}
		}
	}
}

// TestFirstPacket checks which packets may come before auth.
func TestFirstPacket(t *testing.T) {
	t.Run("binary: a few packets are ignored", func(t *testing.T) {
		s := start(t, &fakeLogic{}, nil)
		c := s.dialPipe(pipe.Options{})
		for range 16 {
			c.send(1, protocol.OpHeartbeat, 9, "x")
		}
		c.send(1, protocol.OpAuth, 1, `{"mid":1}`)
		c.expect(protocol.OpAuthReply, 0, "")
	})
	t.Run("binary: a client of 2016 is closed, as its server did", func(t *testing.T) {
		s := start(t, &fakeLogic{}, nil)
		c := s.dialPipe(pipe.Options{})
		c.send(1, protocol.OpSend, 9, "x")
		c.send(1, protocol.OpAuth, 1, "ann")
		c.closedWith(protocol.CloseBadPacket)
	})
	t.Run("binary: too many packets end the connection", func(t *testing.T) {
		s := start(t, &fakeLogic{}, nil)
		c := s.dialPipe(pipe.Options{})
		for range 17 {
			c.send(1, 99, 9, "x")
		}
		c.closedWith(protocol.CloseBadPacket)
	})
	t.Run("binary: too many bytes end the connection", func(t *testing.T) {
		s := start(t, &fakeLogic{}, nil)
		c := s.dialPipe(pipe.Options{})
		c.send(1, 99, 9, strings.Repeat("x", 20<<10))
		c.closedWith(protocol.CloseBadPacket)
	})
	t.Run("version 2 is strict", func(t *testing.T) {
		s := start(t, &fakeLogic{}, nil)
		c := s.dialPipe(pipe.Options{})
		c.put(wire("00000018 0018 0002 00000002 00000009 0000000000000000", ""))
		c.v2 = true
		c.closedWith(protocol.CloseBadPacket)
	})
	t.Run("text is strict", func(t *testing.T) {
		s := start(t, &fakeLogic{}, nil)
		c := s.dialPipe(pipe.Options{Text: true})
		c.send(1, protocol.OpHeartbeat, 9, "")
		c.closedWith(protocol.CloseBadPacket)
	})
}

func TestHandshakeTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, &fakeLogic{}, nil)
		silent, trickle := s.dialPipe(pipe.Options{}), s.dialPipe(pipe.Options{})
		for range 6 { // One byte a second must not extend the timeout.
			time.Sleep(time.Second)
			_ = trickle.Send([]byte{0})
		}
		silent.closedWith(protocol.CloseHandshakeTimeout)
		trickle.closedWith(protocol.CloseHandshakeTimeout)
		if n := s.metric("imgo_comet_refused_total", "reason=handshake_timeout"); n != 2 {
			t.Fatalf("counted %v times", n)
		}
	})
}

func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, &fakeLogic{}, nil) // heartbeat times: 60 s and 8 min
		silent, beats, pings := s.connected(0, "a", 0), s.connected(1, "b", 0), s.connected(2, "c", 0)
		old := s.dialPipe(pipe.Options{})
		old.send(1, protocol.OpAuth, 1, "d")
		old.receive()
		for range 16 { // 8 min less 0 s
			time.Sleep(30 * time.Second)
			beats.send(2, protocol.OpHeartbeat, 1, "")
			beats.receive()
			pings.pipe.Ping()
			old.pipe.Ping() // A WebSocket ping is no heartbeat.
		}
		silent.closedWith(protocol.CloseStaleHeartbeat)
		if n := s.Sessions(); n != 3 {
			t.Fatalf("%d sessions after 8 minutes, want 3", n)
		}
		time.Sleep(2 * time.Second)
		old.closedWith(protocol.CloseStaleHeartbeat)
		time.Sleep(150 * time.Second)
		beats.closedWith(protocol.CloseStaleHeartbeat)
		pings.closedWith(protocol.CloseStaleHeartbeat)
	})
}

func TestCloseExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logic := &fakeLogic{connect: func(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
			reply, err := admit(r)
			reply.ExpiresMs = time.Now().Add(30 * time.Second).UnixMilli()
			return reply, err
		}}
		s := start(t, logic, func(cfg *comet.Config) { cfg.CloseExpired = true })
		c := s.connected(0, "ann", 0)
		time.Sleep(29 * time.Second)
		if s.Sessions() != 1 {
			t.Fatal("closed too soon")
		}
		time.Sleep(3 * time.Second)
		c.closedWith(protocol.CloseTokenExpired)
	})
}

// TestKeyReplaced checks that a second session with the same key closes the first one of the same
// user. A session of another user stays open.
func TestKeyReplaced(t *testing.T) {
	s := start(t, &fakeLogic{}, nil)
	dial := func(user string) *client {
		c := s.dialPipe(pipe.Options{})
		c.login(user, `,"key":"k"`)
		return c
	}
	first, other := dial("ann"), dial("bob")
	second := dial("ann")
	first.closedWith(protocol.CloseReplacedByKey)
	eventually(t, "the first is detached", func() bool { return len(s.logic.gone()) == 1 })
	third := dial("ann")
	second.closedWith(protocol.CloseReplacedByKey)
	s.push(s.live(1, protocol.OpMessage, "1"), s.live(3, protocol.OpMessage, "2"))
	other.expect(protocol.OpMessage, 0, "1")
	third.expect(protocol.OpMessage, 0, "2")
}

// TestOlderClientClosesNoNewerOne checks a client that gives its connection up while logic cannot decide about it, and comes
// back. The older connection may be admitted after the newer one. It gets what a replaced session gets, also if the router
// refuses it for the newer one.
func TestOlderClientClosesNoNewerOne(t *testing.T) {
	for name, answer := range map[string]error{
		"admitted": nil, "refused": &envelope.Error{Code: envelope.CodeTooMany, Field: "key", Message: "is that of a newer session"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				arrivals := make(map[string]uint32)
				logic := &fakeLogic{}
				logic.connect = func(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
					mu.Lock()
					defer mu.Unlock()
					arrivals[r.Mid] = r.Session.Arrival
					switch {
					case r.Mid == "1" && arrivals["2"] == 0:
						return nil, envelope.ErrUnavailable
					case r.Mid == "1" && answer != nil:
						return nil, answer
					}
					return admit(r)
				}
				s := start(t, logic, nil)
				older, newer := s.dialPipe(pipe.Options{}), s.dialPipe(pipe.Options{})
				older.send(2, protocol.OpAuth, 1, `{"token":"ann","mid":1,"key":"phone"}`)
				synctest.Wait()
				newer.send(2, protocol.OpAuth, 1, `{"token":"ann","mid":2,"key":"phone"}`)
				if p := newer.receive(); p.Op != protocol.OpAuthReply {
					t.Fatalf("got op %d %s", p.Op, p.Body)
				}
				older.closedWith(protocol.CloseReplacedByKey)
				newer.send(2, protocol.OpHeartbeat, 2, "")
				newer.expect(protocol.OpHeartbeatReply, 0, "")
				mu.Lock()
				defer mu.Unlock()
				if arrivals["1"] == 0 || !envelope.ArrivedAfter(arrivals["2"], arrivals["1"]) {
					t.Errorf("the arrivals are %v", arrivals)
				}
			})
		})
	}
}

// TestKickWhileConnecting checks a session that is closed while logic handles its Connect. It gets op
// 6 instead of the auth reply, and is detached.
func TestKickWhileConnecting(t *testing.T) {
	var s *server
	logic := &fakeLogic{}
	logic.connect = func(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
		s.push(s.backlog(0, 0, 3, false, 3), s.kick(0, protocol.CloseTooManySessions, "too many"))
		return admit(r)
	}
	s = start(t, logic, nil)
	c := s.dialPipe(pipe.Options{})
	c.send(2, protocol.OpAuth, 1, `{"token":"ann"}`)
	c.closedWith(protocol.CloseTooManySessions)
	eventually(t, "the session is detached", func() bool { return len(logic.gone()) == 1 })
	if d := logic.gone()[0]; d.User != "ann" || d.Session.Session != logic.session(0) || d.Session.Comet != "c1" {
		t.Fatalf("detached %v", d)
	}
	if s.Sessions() != 0 {
		t.Fatalf("%d sessions", s.Sessions())
	}
}

// TestRooms checks the counts and members of rooms, also after a client has left.
func TestRooms(t *testing.T) {
	s := start(t, &fakeLogic{}, nil)
	var clients []*client
	for i, rooms := range []string{`["a","b"]`, `["b"]`, `[]`} {
		c := s.dialPipe(pipe.Options{Remote: netip.MustParseAddrPort(fmt.Sprintf("192.0.2.%d:99", i))})
		c.login(fmt.Sprint("u", i), `,"device":"d","platform":"web","rooms":`+rooms)
		clients = append(clients, c)
	}
	ask := func(room string, limit uint32) *envelope.RoomsReply {
		reply, err := s.Rooms(context.Background(), &envelope.RoomsRequest{Room: room, MaxMembers: limit})
		if err != nil {
			t.Fatal(err)
		}
		return reply
	}
	if got := ask("", 0); fmt.Sprint(got.Counts) != "map[a:1 b:2]" || got.Sessions != 3 {
		t.Fatalf("rooms %v", got)
	}
	if got := ask("b", 1); fmt.Sprint(got.Counts) != "map[b:2]" || len(got.Members) != 1 {
		t.Fatalf("room b %v", got)
	}
	m := ask("a", 0).Members[0]
	if m.User != "u0" || m.Device != "d" || m.Platform != "web" || m.Remote != "192.0.2.0:99" || m.Generation != "v2" ||
		m.Transport != "pipe" || fmt.Sprint(m.Rooms) != "[a b]" || m.Address.Session != s.logic.session(0) || m.SinceMs == 0 {
		t.Fatalf("member %v", m)
	}
	// A change of the room leaves all other rooms.
	clients[0].send(2, protocol.OpChangeRoom, 1, "c")
	clients[0].expect(protocol.OpChangeRoomReply, 0, "c")
	_ = clients[1].Close()
	eventually(t, "the room is gone with its members", func() bool { return fmt.Sprint(ask("", 0).Counts) == "map[c:1]" })
}

// TestHalfClose checks that a client that ends its side of the stream still gets its replies.
func TestHalfClose(t *testing.T) {
	s := start(t, &fakeLogic{}, listening)
	c := s.dialTCP()
	c.send(1, protocol.OpAuth, 1, "ann")
	c.send(1, protocol.OpSend, 2, "hi")
	if err := c.End(); err != nil {
		t.Fatal(err)
	}
	c.expect(protocol.OpAuthReply, 0, "")
	c.expect(protocol.OpMessage, 0, "hi")
	c.wantEnd(0)
}
