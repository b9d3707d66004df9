package conformance

import (
	"bytes"
	"encoding/json"
	"reflect"

	"imgo/clients/conformance/driver"
	"imgo/protocol"
	"imgo/transport"
)

func readScenarios() []scenario {
	return []scenario{
		{
			name: "read", on: onEach, play: playRead,
			about: "read sends the ids and the id up to which all was read, and ends with the reply",
		},
		{
			name: "read_refused", play: playReadRefused,
			about: "a refused read fails with denied and the server's word; a lost one with lost",
		},
		{
			name: "read_not_live", play: playReadNotLive,
			about: "read without a live session fails with not_live",
		},
		{
			name: "read_invalid", play: playReadInvalid,
			about: "read of nothing, of the id 0 or of more than 500 ids is refused with invalid",
		},
		{
			name: "dismiss", on: onEach, play: playDismiss,
			about: "the event dismiss has the ids that were read elsewhere, and the id up to which all was read",
		},
		{
			name: "dismiss_broken", on: onEach, play: playDismissBroken,
			about: "a dismiss whose ids cannot be read ends the connection with the error protocol",
		},
	}
}

func playRead(w *world) {
	_, c, conn := live(w, nil, authReply{Heartbeat: 0.05})
	const most = 1<<64 - 1
	for _, test := range []struct {
		ids  []uint64
		upTo uint64
	}{{[]uint64{7}, 0}, {nil, 9}, {[]uint64{3, 1, most}, 1<<53 + 1}, {nil, most}, {upTo(1, 500), 1 << 63}} {
		texts := []string{}
		for _, id := range test.ids {
			texts = append(texts, idText(id))
		}
		tag := c.start("read", fields{"ids": texts, "up_to": idText(test.upTo)})
		p := conn.packet(protocol.OpRead)
		if p.ID != test.upTo || p.Seq == 0 || p.Version != protocol.Version2 {
			w.Fatalf("the client sent version %d, id %d and sequence %d, want version 2, id %d and a sequence", p.Version, p.ID, p.Seq, test.upTo)
		}
		if want := conn.IDs(test.ids...); !sameBody(conn, p.Body, want) {
			w.Fatalf("the client sent the ids %.200q, want %.200q", p.Body, want)
		}
		conn.beats(2)
		if c.ended(tag) {
			w.Fatal("read has ended before the reply")
		}
		conn.write(transport.Packet{Version: 2, Op: protocol.OpReadReply, Seq: p.Seq})
		c.ok(tag)
	}
}

// sameBody reports whether two bodies are equal, as JSON in a JSON frame.
func sameBody(c *connection, got, want []byte) bool {
	if !c.Text() {
		return bytes.Equal(got, want)
	}
	var a, b any
	return json.Unmarshal(got, &a) == nil && json.Unmarshal(want, &b) == nil && reflect.DeepEqual(a, b)
}

func playReadRefused(w *world) {
	s, c, conn := live(w, nil, authReply{})
	for _, code := range []string{"unsupported", "unavailable", "later"} {
		tag := c.start("read", fields{"ids": []string{"1"}, "up_to": "0"})
		conn.write(refusal(conn.packet(protocol.OpRead), `{"op":24,"code":"`+code+`","reason":"a test","retry_ms":1}`))
		if e := c.fails(tag, "denied"); e.ServerCode != code {
			w.Errorf("the server's word is %q, want %s", e.ServerCode, code)
		}
	}
	tag := c.start("read", fields{"ids": []string{"1"}, "up_to": "0"})
	conn.packet(protocol.OpRead)
	conn.Reset()
	c.fails(tag, "lost")
	conn = s.session() // it is not sent again
	c.state("live")
	tag = c.start("read", fields{"ids": []string{"2"}, "up_to": "0"})
	p := conn.packet(protocol.OpRead)
	if want := conn.IDs(2); !sameBody(conn, p.Body, want) {
		w.Errorf("the client sent the ids %q, want %q", p.Body, want)
	}
	conn.write(transport.Packet{Version: 2, Op: protocol.OpReadReply, Seq: p.Seq})
	c.ok(tag)
}

func playReadNotLive(w *world) {
	s := w.server()
	c := w.client(s, nil)
	read := fields{"ids": []string{"1"}, "up_to": "0"}
	c.fails(c.start("read", read), "not_live")
	c.connect()
	conn := s.authenticate()
	c.fails(c.start("read", read), "not_live")
	conn.admit(authReply{})
	c.state("live")
	c.close()
	c.fails(c.start("read", read), "not_live", "closed")
}

func playReadInvalid(w *world) {
	_, c, conn := live(w, nil, authReply{Heartbeat: 0.05})
	many := make([]string, 501)
	for i := range many {
		many[i] = idText(uint64(i + 1))
	}
	for _, ids := range [][]string{{}, {"0"}, {"1", "0"}, many} {
		c.fails(c.start("read", fields{"ids": ids, "up_to": "0"}), "invalid")
	}
	conn.beats(2)
	conn.mu.Lock()
	defer conn.mu.Unlock()
	for _, p := range conn.packets {
		if p.Op == protocol.OpRead {
			w.Errorf("the client sent the ids %q", p.Body)
		}
	}
}

func playDismiss(w *world) {
	_, c, conn := live(w, nil, authReply{})
	const most = 1<<64 - 1
	for _, test := range []struct {
		ids  []uint64
		upTo uint64
	}{{[]uint64{7}, 0}, {nil, 9}, {[]uint64{3, 1, most}, 1<<53 + 1}, {[]uint64{2}, most}} {
		conn.write(transport.Packet{Version: 2, Op: protocol.OpDismiss, ID: test.upTo, Body: conn.IDs(test.ids...)})
		e := c.next("dismiss", "a dismiss event", nil)
		got := make([]uint64, len(e.IDs))
		for i, id := range e.IDs {
			got[i] = uint64(id)
		}
		if e.UpTo != test.upTo || len(got) != len(test.ids) || len(got) > 0 && !reflect.DeepEqual(got, test.ids) {
			w.Errorf("the dismiss event has the ids %d and %d, want %d and %d", got, e.UpTo, test.ids, test.upTo)
		}
	}
	conn.write(kept(1)...) // it is no message
	c.message(1, numbered(1))
	conn.waitAcked(1)
	if n := c.count(func(e driver.Event) bool { return e.Event == "error" }); n > 0 {
		w.Errorf("%d error events", n)
	}
}

func playDismissBroken(w *world) {
	s := w.server()
	c := w.client(s, nil)
	c.connect()
	bodies := [][]byte{{1}, make([]byte, 7), make([]byte, 9), make([]byte, 15)}
	for i := range bodies {
		conn := s.session()
		c.state("live")
		body := bodies[i]
		if conn.Text() {
			body = []byte([]string{`"7"`, `{"7":1}`, `[7]`, `["x"]`}[i])
		}
		conn.write(transport.Packet{Version: 2, Op: protocol.OpDismiss, ID: 1, Body: body})
		c.problem("protocol")
		c.state("waiting")
		conn.end()
	}
	if n := c.count(func(e driver.Event) bool { return e.Event == "dismiss" }); n > 0 {
		w.Errorf("%d dismiss events", n)
	}
}
