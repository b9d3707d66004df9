package comet_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/comet"
)

// These tests repeat whole conversations of the ancestors' clients, byte for byte. The bytes come from
// docs/reference/protocol.md and from the sources of imgo 2016 and goim v2.

func TestGoldenImgoTCP(t *testing.T) {
	s := start(t, &fakeLogic{}, listening)
	c := s.dialTCP()
	// Auth: the raw token in quotes; the reply echoes version and sequence.
	c.put(wire("00000015 0010 0001 00000007 00000003", `"tok"`))
	c.want(wire("00000010 0010 0001 00000008 00000003", ""))
	if got := s.logic.connected(0); got.Token != "tok" || got.Session.Generation != "imgo" || got.Session.Transport != "tcp" ||
		got.Session.Remote == "" {
		t.Fatalf("logic was asked %v", got)
	}
	s.push(s.backlog(0, 0, 0, false))
	// Heartbeat: an empty reply.
	c.put(wire("00000010 0010 0001 00000002 00000004", ""))
	c.want(wire("00000010 0010 0001 00000003 00000004", ""))
	// Pushes have version 0, sequence 0 and the unchanged body, kept or not.
	s.push(s.live(0, 5, `{"test":1}`), s.kept(0, 1<<48|9, 0))
	c.want(wire("0000001a 0010 0000 00000005 00000000", `{"test":1}`))
	c.want(
		wire(fmt.Sprintf("%08x 0010 0000 00000005 00000000", 16+18), `"k281474976710665"`))
	// Op 4 is answered with op 5, and op 254 with op 255.
	c.put(wire("00000012 0010 0001 00000004 00000005", "hi"))
	c.want(wire("00000012 0010 0001 00000005 00000005", "hi"))
	c.put(wire("00000010 0010 0001 000000fe 00000006", ""))
	c.want(wire("00000022 0010 0001 000000ff 00000006", `{"test":"come on"}`))
	// Any other operation ends the connection.
	c.put(wire("00000010 0010 0001 0000000c 00000007", ""))
	c.wantEnd(protocol.CloseBadPacket)
}

func TestGoldenImgoTCPPlainToken(t *testing.T) {
	s := start(t, &fakeLogic{}, listening)
	for i, token := range []string{"tok", "1234", `"tok`} {
		c := s.dialTCP()
		c.put(wire(fmt.Sprintf("%08x 0010 0001 00000007 00000001", 16+len(token)), token))
		c.want(wire("00000010 0010 0001 00000008 00000001", ""))
		want := token
		if token[0] == '"' {
			want = token[1:]
		}
		if got := s.logic.connected(i).Token; got != want {
			t.Errorf("token %q arrived as %q", token, got)
		}
	}
}

func TestGoldenImgoJSON(t *testing.T) {
	s := start(t, &fakeLogic{}, listening)
	c := s.dialWS(true)
	c.put(`{"ver":1,"op":7,"seq":1,"body":"tok"}`)
	c.want(`[{"ver":1,"op":8,"seq":1,"body":{}}]` + "\n")
	if got := s.logic.connected(0); got.Token != "tok" || got.Session.Generation != "imgo" || got.Session.Transport != "ws" {
		t.Fatalf("logic was asked %v", got)
	}
	c.put(`{"ver":1,"op":2,"seq":2,"body":{}}`)
	c.want(`[{"ver":1,"op":3,"seq":2,"body":{}}]` + "\n")
	s.push(s.live(0, 5, `{"test":1}`), s.live(0, 5, "plain text"), s.live(0, 5, "\xff\x00"))
	c.want(`[{"ver":0,"op":5,"seq":0,"body":{"test":1}}]` + "\n")
	c.want(`[{"ver":0,"op":5,"seq":0,"body":"plain text"}]` + "\n")
	c.want(`[{"ver":0,"op":5,"seq":0,"body":{"base64":"/wA="}}]` + "\n")
	c.put(`{"ver":1,"op":4,"seq":3,"body":{"a":[1]}}`)
	c.want(`[{"ver":1,"op":5,"seq":3,"body":{"a":[1]}}]` + "\n")
	c.put(`{"ver":1,"op":254,"seq":4}`)
	c.want(`[{"ver":1,"op":255,"seq":4,"body":{"test":"come on"}}]` + "\n")
	c.put(`{"ver":1,"op":99,"seq":5,"body":""}`)
	c.wantEnd(protocol.CloseBadPacket)
}

// goimConversation is the conversation that is identical on TCP and on binary WebSocket.
// push wraps a pushed packet as the transport does.
func goimConversation(t *testing.T, s *server, c *client, push func(string) string) {
	t.Helper()
	// goim ignores packets before auth.
	c.put(wire("00000010 0010 0001 00000002 00000001", ""))
	auth := `{"mid":123,"key":"k-1","room_id":"live://1000","platform":"web","accepts":[1000,1001]}`
	c.put(wire(fmt.Sprintf("%08x 0010 0001 00000007 00000002", 16+len(auth)), auth))
	c.want(wire("00000010 0010 0001 00000008 00000002", ""))
	got := s.logic.connected(0)
	if of := got.Session; got.Mid != "123" || of.Key != "k-1" || of.Platform != "web" || of.Generation != "goim" ||
		fmt.Sprint(of.Rooms, of.Accepts) != "[live://1000] [1000 1001]" {
		t.Fatalf("logic was asked %v", got)
	}
	s.push(s.backlog(0, 0, 0, false))
	// The reply to a heartbeat has the room's online count.
	c.put(wire("00000010 0010 0001 00000002 00000003", ""))
	c.want(wire("00000014 0010 0001 00000003 00000003 00000001", ""))
	// Pushes have version 1. A session gets only the operations that it accepts.
	s.push(s.live(0, 1000, "a"), s.live(0, 1002, "not for me"), s.live(0, 5, "b"))
	c.want(push(wire("00000011 0010 0001 000003e8 00000000", "a")))
	c.want(push(wire("00000011 0010 0001 00000005 00000000", "b")))
	// A room's messages go to every member.
	s.push(&envelope.Delivery{Op: 1002, Body: []byte("c"), Room: "live://1000"})
	c.want(push(wire("00000011 0010 0001 000003ea 00000000", "c")))
	// Broadcasts to all are filtered by operation again.
	s.push(&envelope.Delivery{Op: 1002, Body: []byte("d"), All: true}, &envelope.Delivery{Op: 1001, Body: []byte("e"), All: true})
	c.want(push(wire("00000011 0010 0001 000003e9 00000000", "e")))
	// After a change of the room, the heartbeat counts the new one.
	c.put(wire("0000001b 0010 0001 0000000c 00000004", "live://2000"))
	c.want(wire("0000001b 0010 0001 0000000d 00000004", "live://2000"))
	s.push(&envelope.Delivery{Op: 5, Body: []byte("old"), Room: "live://1000"},
		&envelope.Delivery{Op: 5, Body: []byte("new"), Room: "live://2000"})
	c.want(push(wire("00000013 0010 0001 00000005 00000000", "new")))
	// Subscribe and unsubscribe: an invalid list counts as empty.
	c.put(wire("00000019 0010 0001 0000000e 00000005", "1002,1003"))
	c.want(wire("00000019 0010 0001 0000000f 00000005", "1002,1003"))
	c.put(wire("00000014 0010 0001 00000010 00000006", "1000"))
	c.want(wire("00000014 0010 0001 00000011 00000006", "1000"))
	c.put(wire("00000012 0010 0001 0000000e 00000007", "xx"))
	c.want(wire("00000012 0010 0001 0000000f 00000007", "xx"))
	s.push(s.live(0, 1000, "f"), s.live(0, 1003, "g"))
	c.want(push(wire("00000011 0010 0001 000003eb 00000000", "g")))
	// An upstream message is answered with the same operation and an empty body.
	for _, op := range []string{"00000004", "000000fe", "000003e8", "00000012"} {
		c.put(wire("00000012 0010 0001 "+op+" 00000008", "up"))
		c.want(wire("00000010 0010 0001 "+op+" 00000008", ""))
	}
	// Without a room the count is 0.
	c.put(wire("00000010 0010 0001 0000000c 00000009", ""))
	c.want(wire("00000010 0010 0001 0000000d 00000009", ""))
	c.put(wire("00000010 0010 0001 00000002 0000000a", ""))
	c.want(wire("00000014 0010 0001 00000003 0000000a 00000000", ""))
	// goim answered a second auth packet like any other packet, op 3 with the count, and op 9 not at all.
	c.put(wire("00000010 0010 0001 00000007 0000000b", ""))
	c.want(wire("00000010 0010 0001 00000007 0000000b", ""))
	c.put(wire("00000010 0010 0001 00000009 0000000c", ""))
	c.put(wire("00000010 0010 0001 00000003 0000000d", ""))
	c.want(wire("00000014 0010 0001 00000003 0000000d 00000000", ""))
}

func TestGoldenGoimTCP(t *testing.T) {
	s := start(t, &fakeLogic{}, listening)
	goimConversation(t, s, s.dialTCP(), func(packet string) string { return packet })
}

func TestGoldenGoimWebSocket(t *testing.T) {
	s := start(t, &fakeLogic{}, listening)
	goimConversation(t, s, s.dialWS(false), func(packet string) string {
		return wire(fmt.Sprintf("%08x 0010 0001 00000009 00000000", 16+len(packet)), packet)
	})
}

func TestGoldenV2Binary(t *testing.T) {
	logic := &fakeLogic{connect: func(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
		reply, err := admit(r)
		reply.Pending = 2
		return reply, err
	}}
	s := start(t, logic, func(cfg *comet.Config) {
		listening(cfg)
		cfg.Heartbeat = 45 * time.Second
	})
	for i, dial := range []func() *client{s.dialTCP, func() *client { return s.dialWS(false) }} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			c := dial()
			auth := `{"token":"ann","device":"phone","ack":true,"rooms":["r1","r2"]}`
			c.put(wire(fmt.Sprintf("%08x 0010 0002 00000007 00000001", 16+len(auth)), auth))
			body := fmt.Sprintf(`{"session":"c1~%016x","user":"ann","heartbeat":45,"pending":2,"max_body":65536}`, eventualSession(t, s, i))
			c.want(wire(fmt.Sprintf("%08x 0018 0002 00000008 00000001 0000000000000000", 24+len(body)), body))
			// The backlog comes first, then the pushes, all with ids.
			s.push(s.backlog(i, 0, 1<<48|8, false, 1<<48|7, 1<<48|8), s.kept(i, 1<<48|9, 1<<48|8), s.live(i, 5, "live"))
			for id := 7; id <= 9; id++ {
				body := fmt.Sprintf(`"k%d"`, 1<<48|id)
				c.want(wire(fmt.Sprintf("%08x 0018 0002 00000005 00000000 00010000%08x", 24+len(body), id), body))
			}
			c.want(wire("0000001c 0018 0002 00000005 00000000 0000000000000000", "live"))
			// An ack is answered only if it has a sequence number.
			c.put(wire("00000018 0010 0002 00000012 00000000 0001000000000007", ""))
			c.put(wire("00000028 0018 0002 00000012 00000005 0000000000000000 0001000000000008 0001000000000009", ""))
			c.want(wire("00000018 0018 0002 00000013 00000005 0000000000000000", ""))
			eventually(t, "the acks arrive", func() bool {
				return fmt.Sprint(logic.acked()) == fmt.Sprint([]uint64{1<<48 | 7, 1<<48 | 8, 1<<48 | 9})
			})
			if a := logic.firstAck(); a.User != "ann" || a.Device != "phone" || a.Auto {
				t.Errorf("acknowledged for %v", a)
			}
			logic.mu.Lock()
			logic.acks = nil
			logic.mu.Unlock()
			// Rooms.
			c.put(wire("0000001a 0018 0002 00000014 00000006 0000000000000000", "r3"))
			c.want(wire("0000001a 0018 0002 00000015 00000006 0000000000000000", "r3"))
			c.put(wire("0000001a 0018 0002 00000016 00000007 0000000000000000", "r1"))
			c.want(wire("0000001a 0018 0002 00000017 00000007 0000000000000000", "r1"))
			for _, room := range []string{"r1", "r2", "r3"} {
				s.push(&envelope.Delivery{Op: 5, Body: []byte(room), Room: room})
			}
			c.want(wire("0000001a 0018 0002 00000005 00000000 0000000000000000", "r2"))
			c.want(wire("0000001a 0018 0002 00000005 00000000 0000000000000000", "r3"))
			// Heartbeat and upstream.
			c.put(wire("00000018 0018 0002 00000002 00000008 0000000000000000", ""))
			c.want(wire("00000018 0018 0002 00000003 00000008 0000000000000000", ""))
			c.put(wire("0000001a 0018 0002 00000004 00000009 0000000000000000", "up"))
			body = `{"op":4,"code":"unsupported","reason":"this server takes no messages from clients: this one went nowhere"}`
			c.want(wire(fmt.Sprintf("%08x 0018 0002 0000001c 00000009 0000000000000000", 24+len(body)), body))
			// A kick.
			s.push(s.kick(i, protocol.CloseKicked, `by "hand"`))
			body = `{"code":3506,"reason":"by \"hand\"","reconnect":false}`
			c.want(wire(fmt.Sprintf("%08x 0018 0002 00000006 00000000 0000000000000000", 24+len(body)), body))
			c.wantEnd(protocol.CloseKicked)
		})
	}
}

// TestEarlyPacketOfV2 checks that a packet before auth closes a version-2 client, also one with the header of 16 bytes.
func TestEarlyPacketOfV2(t *testing.T) {
	s := start(t, &fakeLogic{}, listening)
	c := s.dialTCP()
	const auth = `{"token":"ann"}`
	c.put(wire("00000010 0010 0002 00000002 00000001", ""))
	c.put(wire(fmt.Sprintf("%08x 0010 0002 00000007 00000002", 16+len(auth)), auth))
	eventually(t, "it is refused", func() bool { return s.metric("imgo_comet_bad_packets_total", "kind=before_auth") == 1 })
	if n := s.Sessions(); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

func TestGoldenV2JSON(t *testing.T) {
	s := start(t, &fakeLogic{}, listening)
	c := s.dialWS(true)
	c.put(`{"ver":2,"op":7,"seq":1,"body":{"token":"ann","ack":true,"accepts":[1000]}}`)
	body := fmt.Sprintf(`{"session":"c1~%016x","user":"ann","heartbeat":25,"pending":0,"max_body":65536}`, eventualSession(t, s, 0))
	c.want(`[{"ver":2,"op":8,"seq":1,"id":"0","body":` + body + `}]`)
	s.push(s.backlog(0, 0, 1<<48, false), s.kept(0, 1<<48|1, 0), s.live(0, 1000, `{"n":1}`), s.live(0, 1001, `{"n":2}`))
	c.want(`[{"ver":2,"op":5,"seq":0,"id":"281474976710657","body":"k281474976710657"}]`)
	c.want(`[{"ver":2,"op":1000,"seq":0,"id":"0","body":{"n":1}}]`)
	c.put(`{"ver":2,"op":18,"seq":2,"body":["281474976710657"]}`)
	c.want(`[{"ver":2,"op":19,"seq":2,"id":"0","body":{}}]`)
	eventually(t, "the ack arrives", func() bool { return fmt.Sprint(s.logic.acked()) == "[281474976710657]" })
	c.put(`{"ver":2,"op":20,"seq":3,"body":"room 1"}`)
	c.want(`[{"ver":2,"op":21,"seq":3,"id":"0","body":"room 1"}]`)
	c.put(`{"ver":2,"op":14,"seq":4,"body":"1001"}`)
	c.want(`[{"ver":2,"op":15,"seq":4,"id":"0","body":"1001"}]`)
	c.put(`{"ver":2,"op":16,"seq":5,"body":[1000]}`)
	c.want(`[{"ver":2,"op":17,"seq":5,"id":"0","body":[1000]}]`)
	s.push(s.live(0, 1000, "1"), s.live(0, 1001, "2"), &envelope.Delivery{Op: 5, Body: []byte("3"), Room: "room 1"})
	c.want(`[{"ver":2,"op":1001,"seq":0,"id":"0","body":2}]`)
	c.want(`[{"ver":2,"op":5,"seq":0,"id":"0","body":3}]`)
	c.put(`{"ver":2,"op":22,"seq":6,"body":"room 1"}`)
	c.want(`[{"ver":2,"op":23,"seq":6,"id":"0","body":"room 1"}]`)
	c.put(`{"ver":2,"op":2,"seq":7}`)
	c.want(`[{"ver":2,"op":3,"seq":7,"id":"0","body":{}}]`)
	if rooms, err := s.Rooms(context.Background(), &envelope.RoomsRequest{}); err != nil || len(rooms.Counts) != 0 || rooms.Sessions != 1 {
		t.Errorf("rooms: %v, %v", rooms, err)
	}
	c.put(`{"ver":2,"op":18,"seq":8,"body":[1]}`)
	c.want(`[{"ver":2,"op":6,"seq":0,"id":"0",` +
		`"body":{"code":3500,"reason":"ack body must be an array of decimal strings","reconnect":false}}]`)
	c.wantEnd(protocol.CloseBadPacket)
}

// eventualSession waits for the Connect call of session number n. It returns the session's id.
func eventualSession(t *testing.T, s *server, n int) uint64 {
	t.Helper()
	eventually(t, "the session connects", func() bool {
		s.logic.mu.Lock()
		defer s.logic.mu.Unlock()
		return len(s.logic.connects) > n
	})
	return s.logic.session(n)
}
