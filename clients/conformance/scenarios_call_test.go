package conformance

import (
	"bytes"

	"imgo/clients/conformance/driver"
	"imgo/protocol"
	"imgo/transport"
)

func callScenarios() []scenario {
	return []scenario{
		{
			name: "send_with_reply", on: onEach, play: playSend,
			about: "send gives the body to the server and returns the reply's body, whatever the order of replies",
		},
		{
			name: "send_refused", play: playSendRefused,
			about: "a refused send fails with denied and the server's word",
		},
		{
			name: "send_lost", play: playSendLost,
			about: "a send whose connection ends before the reply fails with lost",
		},
		{
			name: "send_without_answer", play: playSendWithoutAnswer,
			about: "a send without a reply fails with timeout after request_timeout",
		},
		{
			name: "send_late_reply", on: onEach, play: playSendLateReply,
			about: "a reply that comes after request_timeout is not given to the handler, whatever its operation",
		},
		{
			name: "send_not_live", play: playSendNotLive,
			about: "send without a live session fails with not_live",
		},
		{
			name: "send_too_many", play: playTooMany,
			about: "at most 256 calls are open; the next one fails with too_many",
		},
		{
			name: "send_bad_operation", play: playSendBadOperation,
			about: "an operation other than 4 and those from 1000 on is refused with invalid",
		},
	}
}

// sendBody is the body of a send.
func sendBody(n uint64) fields { return fields{"op": 4, "body": numbered(n)} }

func playSend(w *world) {
	_, c, conn := live(w, nil, authReply{})
	first := c.start("send", sendBody(1))
	one := conn.packet(protocol.OpSend)
	second := c.start("send", fields{"op": 1000, "body": numbered(2)})
	two := conn.packet(1000)
	if !bytes.Equal(one.Body, numbered(1)) || !bytes.Equal(two.Body, numbered(2)) || one.Seq == two.Seq || one.Seq == 0 || two.Seq == 0 {
		w.Errorf("the client sent %q with sequence %d and %q with sequence %d", one.Body, one.Seq, two.Body, two.Seq)
	}
	conn.write(transport.Packet{Version: 2, Op: 1000, Seq: two.Seq, Body: []byte(`{"for":2}`)},
		transport.Packet{Version: 2, Op: protocol.OpSend, Seq: one.Seq, Body: []byte(`{"for":1}`)})
	if got := c.ok(first); string(got.Body) != `{"for":1}` {
		w.Errorf("the reply is %q", got.Body)
	}
	if got := c.ok(second); string(got.Body) != `{"for":2}` {
		w.Errorf("the reply is %q", got.Body)
	}
}

func playSendRefused(w *world) {
	_, c, conn := live(w, nil, authReply{})
	for _, code := range []string{"unsupported", "unavailable", "later"} {
		tag := c.start("send", sendBody(1))
		conn.write(refusal(conn.packet(protocol.OpSend), `{"op":4,"code":"`+code+`","reason":"a test"}`))
		if e := c.fails(tag, "denied"); e.ServerCode != code {
			w.Errorf("the server's word is %q, want %s", e.ServerCode, code)
		}
	}
}

func playSendLost(w *world) {
	s, c, conn := live(w, nil, authReply{})
	tag := c.start("send", sendBody(1))
	conn.packet(protocol.OpSend)
	conn.Reset()
	c.fails(tag, "lost")
	next := s.session()
	c.state("live")
	tag = c.start("send", sendBody(2))
	p := next.packet(protocol.OpSend)
	if !bytes.Equal(p.Body, numbered(2)) {
		w.Errorf("the client sent %q, want the second body: it must not send the lost one again", p.Body)
	}
	next.write(transport.Packet{Version: 2, Op: protocol.OpSend, Seq: p.Seq})
	c.ok(tag)
}

func playSendWithoutAnswer(w *world) {
	_, c, conn := live(w, options{"request_timeout_ms": 300}, authReply{})
	tag := c.start("send", sendBody(1))
	late := conn.packet(protocol.OpSend)
	c.fails(tag, "timeout")
	conn.write(transport.Packet{Version: 2, Op: protocol.OpSend, Seq: late.Seq})
	conn.write(kept(1)...)
	c.message(1, numbered(1)) // the late answer has no effect
	conn.waitAcked(1)
}

func playSendLateReply(w *world) {
	_, c, conn := live(w, options{"request_timeout_ms": 300, "accepts": []int{1000}}, authReply{})
	for _, op := range []int32{4, 1000} {
		tag := c.start("send", fields{"op": op, "body": numbered(1)})
		late := conn.packet(op)
		c.fails(tag, "timeout")
		conn.answer(late, `{"for":1}`)
	}
	conn.write(kept(1)...)
	c.message(1, numbered(1)) // the late replies are no messages
	conn.waitAcked(1)
}

func playSendNotLive(w *world) {
	s := w.server()
	c := w.client(s, options{"min_backoff_ms": 3_600_000, "max_backoff_ms": 3_600_000})
	c.fails(c.start("send", sendBody(1)), "not_live")
	c.connect()
	conn := s.authenticate()
	c.fails(c.start("send", sendBody(1)), "not_live")
	conn.Reset()
	c.state("waiting")
	c.fails(c.start("send", sendBody(1)), "not_live")
	c.close()
	c.fails(c.start("send", sendBody(1)), "not_live", "closed")
}

func playTooMany(w *world) {
	const most = 256
	_, c, conn := live(w, nil, authReply{})
	var tags []int
	for n := range uint64(most) {
		tags = append(tags, c.start("send", sendBody(n)))
	}
	var packets []transport.Packet
	for range most {
		packets = append(packets, conn.packet(protocol.OpSend))
	}
	c.fails(c.start("send", sendBody(most)), "too_many")
	for _, p := range packets {
		conn.write(transport.Packet{Version: 2, Op: protocol.OpSend, Seq: p.Seq, Body: p.Body})
	}
	for _, tag := range tags {
		c.ok(tag)
	}
	// There is room again.
	tag := c.start("send", sendBody(0))
	conn.write(refusal(conn.packet(protocol.OpSend), `{"op":4,"code":"unsupported","reason":"a test"}`))
	c.fails(tag, "denied")
}

func playSendBadOperation(w *world) {
	_, c, _ := live(w, nil, authReply{})
	for _, op := range []int{0, 5, 7, 999, -1} {
		c.fails(c.start("send", fields{"op": op, "body": numbered(1)}), "invalid")
	}
	if n := c.count(func(e driver.Event) bool { return e.Event == "state" && e.State == "waiting" }); n > 0 {
		w.Error("the session ended")
	}
}
