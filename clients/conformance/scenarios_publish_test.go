package conformance

import (
	"bytes"
	"slices"
	"time"

	"imgo/clients/conformance/driver"
	"imgo/clients/conformance/peer"
	"imgo/protocol"
	"imgo/transport"
)

func publishScenarios() []scenario {
	return []scenario{
		{
			name: "publish", on: onEach, play: playPublish,
			about: "published messages are sent one at a time and in order, with growing ids; the event has the reply's body",
		},
		{
			name: "publish_ids_of_64_bits", on: onEach, play: playPublish64Bits,
			about: "the ids of published messages have 64 bits without a sign",
		},
		{
			name: "publish_base", play: playPublishBase,
			about: "the base of the ids is the larger one of published of the first auth reply and the clock, and stays",
		},
		{
			name: "publish_next_process", own: true, play: playPublishNextProcess,
			about: "a process does not number its messages like those that its predecessor may still have under way",
		},
		{
			name: "publish_while_away", play: playPublishWhileAway,
			about: "publish needs no session: what is published before and between sessions is sent in order",
		},
		{
			name: "publish_reply_lost", play: playPublishReplyLost,
			about: "a message whose connection ended before the reply is sent again with the same id",
		},
		{
			name: "publish_without_reply", play: playPublishWithoutReply,
			about: "a message without a reply is sent again with the same id after request_timeout, in the same session",
		},
		{
			name: "publish_slow_network", on: onEach, play: playPublishSlowNetwork,
			about: "a message whose reply takes longer than request_timeout, since the network is slow, leaves the outbox",
		},
		{
			name: "publish_stuck_network", on: onEach, play: playPublishStuckNetwork,
			about: "a connection that takes no bytes ends, and the message arrives in the next session",
		},
		{
			name: "publish_retry", play: playPublishRetry,
			about: "a message that is refused with retry_ms is sent again after that time, and no other one before it",
		},
		{
			name: "publish_unavailable", play: playPublishUnavailable,
			about: "a message that is refused as unavailable or rate_limited is sent again by the backoff",
		},
		{
			name: "publish_unavailable_waits", play: playPublishUnavailableWaits,
			about: "a message that is refused as unavailable waits for the backoff, and no other one is sent meanwhile",
		},
		{
			name: "publish_refused", play: playPublishRefused,
			about: "a message that is refused for good is told as denied with the server's word, and the next one goes on",
		},
		{
			name: "publish_arrived", play: playPublishArrived,
			about: "the oldest message has arrived if published of a later auth reply is its id: it is told and not sent",
		},
		{
			name: "publish_shared_device", play: playPublishSharedDevice,
			about: "if the server has more than the client has sent, the client gives ids above that to what it sends",
		},
		{
			name: "publish_invalid", play: playPublishInvalid,
			about: "publish without a device, with a bad operation or a body over max_body is invalid and uses no number",
		},
		{
			name: "max_body_of_server", on: onEach, play: playMaxBodyOfServer,
			about: "a body over max_body of the auth reply is not sent: send and publish fail with invalid, and the outbox refuses it",
		},
		{
			name: "publish_close", play: playPublishClose,
			about: "close leaves the rest in the outbox, and a client that connects again sends it",
		},
		{
			name: "publish_two_clients", play: playPublishTwoClients,
			about: "the outboxes of two clients in one process are apart",
		},
	}
}

// device are the options of a client that can publish.
func device(o options) options {
	all := options{"device": "laptop"}
	for name, value := range o {
		all[name] = value
	}
	return all
}

// publish publishes a numbered body and checks the number of the message.
func (c *client) publish(op int32, number uint64) {
	c.w.Helper()
	if got := c.ok(c.start("publish", fields{"op": op, "body": numbered(number)})).Number; got != number {
		c.w.Fatalf("the message has the number %d, want %d", got, number)
	}
}

// gone waits for the next published event and checks it. A nil body is one that has arrived without a reply.
func (c *client) gone(number uint64, body []byte) {
	c.w.Helper()
	e := c.next("published", "a published event", nil)
	if e.Number != number || e.Code != "" || !bytes.Equal(e.Body, body) {
		c.w.Fatalf("the published event is of message %d with %q and the code %q, want message %d with %q",
			e.Number, e.Body, e.Code, number, body)
	}
}

// publishedEvents returns how many messages have left the outbox.
func (c *client) publishedEvents() int {
	return c.count(func(e driver.Event) bool { return e.Event == "published" })
}

// outbox is what a server knows of the outbox of its client.
type outbox struct {
	published uint64    // of the auth reply of its first session
	asked     time.Time // before that auth reply
	base      uint64    // of the ids of its messages; 0: not known yet
}

// begin takes published of an auth reply that is about to be sent. Only that of the first session counts.
func (o *outbox) begin(published uint64) {
	if o.asked.IsZero() {
		o.published, o.asked = published, time.Now().Truncate(time.Millisecond) // the precision of a client's clock
	}
}

// id returns the id of the message with a number. The first message shows the base: got is its id.
func (o *outbox) id(w *world, got, number uint64) uint64 {
	w.Helper()
	if o.base == 0 {
		least, most := max(o.published, uint64(o.asked.UnixMicro())), max(o.published, uint64(time.Now().UnixMicro()))
		if o.base = got - number; o.base < least || o.base > most {
			w.Fatalf("message %d has the id %d, want a base from %d to %d (published is %d)", number, got, least, most, o.published)
		}
	}
	return o.base + number
}

// published waits for the next published message with an operation and checks it. Its body is numbered.
func (c *connection) published(op int32, number uint64) transport.Packet {
	c.s.w.Helper()
	p := c.packet(op)
	id := c.s.outbox.id(c.s.w, p.ID, number)
	if p.ID != id || p.Seq == 0 || p.Version != protocol.Version2 || !bytes.Equal(p.Body, numbered(number)) {
		c.s.w.Fatalf("the client sent version %d, id %d, sequence %d with %q, want version 2, id %d, a sequence and %q",
			p.Version, p.ID, p.Seq, p.Body, id, numbered(number))
	}
	return p
}

// reply answers a packet.
func (c *connection) answer(p transport.Packet, body string) {
	c.s.w.Helper()
	c.write(transport.Packet{Version: 2, Op: p.Op, Seq: p.Seq, Body: []byte(body)})
}

// sentIDs returns the ids of all packets with operation 4 or from 1000 on.
func (c *connection) sentIDs() (ids []uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.packets {
		if p.Op == protocol.OpSend || p.Op >= protocol.FirstAcceptedOp {
			ids = append(ids, p.ID)
		}
	}
	return ids
}

// onlySent checks the numbers of what the client has published so far.
func (c *connection) onlySent(numbers ...uint64) {
	c.s.w.Helper()
	got := c.sentIDs()
	for i := range got {
		got[i] -= c.s.outbox.base
	}
	if !slices.Equal(got, numbers) {
		c.s.w.Fatalf("the client sent messages with the numbers %d, want %d", got, numbers)
	}
}

// upTo returns published of an auth reply of a server that has the messages up to a number.
func (o *outbox) upTo(number uint64) uint64 { return o.base + number }

func playPublish(w *world) {
	_, c, conn := live(w, device(nil), authReply{Published: 40, Heartbeat: 0.05})
	c.publish(4, 1)
	c.publish(1000, 2)
	c.publish(4, 3)
	first := conn.published(4, 1)
	conn.beats(4)
	conn.onlySent(1)
	if n := c.publishedEvents(); n > 0 {
		w.Errorf("%d messages have left the outbox before the reply", n)
	}
	conn.answer(first, `{"for":1}`)
	c.gone(1, []byte(`{"for":1}`))
	second := conn.published(1000, 2)
	conn.beats(4)
	conn.onlySent(1, 2)
	conn.answer(second, `{"for":2}`)
	c.gone(2, []byte(`{"for":2}`))
	conn.answer(conn.published(4, 3), `"done"`)
	e := c.next("published", "a published event", nil)
	if e.Number != 3 || !slices.Contains([]string{`"done"`, "done"}, string(e.Body)) {
		w.Errorf("the published event is of message %d with %q", e.Number, e.Body)
	}
	c.publish(4, 4)
	conn.answer(conn.published(4, 4), `{}`)
	c.gone(4, []byte(`{}`))
	if n := c.count(func(e driver.Event) bool { return e.Event == "error" }); n > 0 {
		w.Errorf("%d error events", n)
	}
}

func playPublish64Bits(w *world) {
	for _, base := range []uint64{1<<53 + 1, 1<<63 - 1, 1<<64 - 1000} {
		_, c, conn := live(w, device(nil), authReply{Published: base})
		for n := range uint64(2) {
			c.publish(4, n+1)
			conn.answer(conn.published(4, n+1), `{}`)
			c.gone(n+1, []byte(`{}`))
		}
	}
}

func playPublishBase(w *world) {
	s, c, conn := live(w, device(nil), authReply{Published: 7})
	c.publish(4, 1)
	conn.answer(conn.published(4, 1), `{}`)
	c.gone(1, []byte(`{}`))
	conn.Reset()
	conn = s.sessionWith(authReply{Published: s.outbox.upTo(1)})
	c.state("live")
	c.publish(4, 2)
	conn.answer(conn.published(4, 2), `{}`)
	c.gone(2, []byte(`{}`))
}

// playPublishNextProcess kills a process whose message is under way. The server applies that message when the next process
// has its auth reply already.
func playPublishNextProcess(w *world) {
	reply := authReply{Published: 40}
	s, c, conn := live(w, device(nil), reply)
	c.publish(4, 1)
	last := conn.packet(4).ID
	w.kill()
	conn.end()

	c = w.client(s, device(nil))
	c.publish(4, 1)
	c.connect()
	conn = s.sessionWith(reply)
	next := conn.packet(4)
	if next.ID <= last {
		w.Fatalf("the first message has the id %d, and the server has applied the id %d: it drops the message as a repetition", next.ID, last)
	}
	conn.answer(next, `{}`)
	c.gone(1, []byte(`{}`))
}

func playPublishWhileAway(w *world) {
	s := w.server()
	c := w.client(s, device(options{"min_backoff_ms": minSpan, "max_backoff_ms": maxSpan}))
	c.publish(4, 1)
	c.publish(1001, 2)
	c.connect()
	conn := s.session()
	conn.answer(conn.published(4, 1), `{}`)
	c.gone(1, []byte(`{}`))
	conn.answer(conn.published(1001, 2), `{}`)
	c.gone(2, []byte(`{}`))
	conn.Reset()
	c.state("waiting")
	c.publish(4, 3)
	c.publish(4, 4)
	c.connect()
	conn = s.sessionWith(authReply{Published: s.outbox.upTo(2)})
	conn.answer(conn.published(4, 3), `{}`)
	conn.answer(conn.published(4, 4), `{}`)
	c.gone(3, []byte(`{}`))
	c.gone(4, []byte(`{}`))
	conn.onlySent(3, 4)
}

func playPublishReplyLost(w *world) {
	s, c, conn := live(w, device(nil), authReply{})
	c.publish(4, 1)
	c.publish(4, 2)
	for range 3 {
		conn.published(4, 1)
		conn.Reset()
		conn = s.session()
	}
	conn.answer(conn.published(4, 1), `{}`)
	c.gone(1, []byte(`{}`))
	conn.answer(conn.published(4, 2), `{}`)
	c.gone(2, []byte(`{}`))
	if n := c.publishedEvents(); n != 2 {
		w.Errorf("%d published events, want 2", n)
	}
}

func playPublishWithoutReply(w *world) {
	_, c, conn := live(w, device(options{"request_timeout_ms": 300}), authReply{})
	c.publish(4, 1)
	c.publish(4, 2)
	late := conn.published(4, 1)
	conn.published(4, 1)
	conn.answer(late, `{}`) // the reply to the first try counts
	c.answerAll(conn, 2)
	c.gone(1, []byte(`{}`))
	c.gone(2, []byte(`{}`))
	if n := c.count(func(e driver.Event) bool { return e.Event == "state" && e.State == "waiting" }); n > 0 {
		w.Error("the session ended")
	}
}

// answerAll answers each packet with operation 4 until so many messages have left the outbox. On a slow machine a
// message is sent more often than a script expects.
func (c *client) answerAll(conn *connection, number uint64) {
	c.w.Helper()
	for end := time.Now().Add(peer.Limit); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if c.publishedEvents() >= int(number) {
			return
		}
		conn.mu.Lock()
		came := slices.ContainsFunc(conn.packets[min(conn.at[4], len(conn.packets)):], func(p transport.Packet) bool { return p.Op == 4 })
		conn.mu.Unlock()
		if !came {
			continue
		}
		p := conn.packet(4)
		if n := p.ID - conn.s.outbox.base; n == 0 || n > number {
			c.w.Fatalf("the client sent message %d, want 1 to %d", n, number)
		}
		conn.answer(p, `{}`)
	}
	c.w.Fatalf("%d messages have left the outbox within %s, want %d", c.publishedEvents(), peer.Limit, number)
}

func playPublishSlowNetwork(w *world) {
	s := w.server()
	if err := s.Slow(); err != nil {
		w.Fatal(err)
	}
	s.sendReply = []byte(`{"got":1}`)
	c := w.client(s, device(options{"request_timeout_ms": 1500}))
	c.connect()
	s.session()
	c.state("live")
	body := bytes.Repeat([]byte("x"), 1000<<10) // it leaves for 2.5 s
	c.ok(c.start("publish", fields{"op": protocol.OpSend, "body": body}))
	s.deliver(c, 1)
	c.publish(protocol.OpSend, 2)
	s.deliver(c, 2)
}

func playPublishStuckNetwork(w *world) {
	s := w.server()
	if err := s.Slow(); err != nil {
		w.Fatal(err)
	}
	c := w.client(s, device(options{"request_timeout_ms": 1500, "heartbeat_timeout_ms": 1000}))
	c.connect()
	conn := s.authenticate()
	conn.write(conn.reply(conn.packets[0].Seq, authReply{Heartbeat: 1})) // and nothing reads what follows
	c.state("live")
	c.ok(c.start("publish", fields{"op": protocol.OpSend, "body": bytes.Repeat([]byte("x"), 1000<<10)}))
	c.state("waiting")
	s.sendReply = []byte(`{"got":1}`)
	s.session()
	c.state("live")
	s.deliver(c, 1)
}

// deliver waits until a message has left the outbox by a reply of the server, which has begun a session. On a loaded machine the
// network may take no bytes for longer than the client waits. Then the message comes with a later session.
func (s *server) deliver(c *client, number uint64) {
	s.w.Helper()
	for {
		lost := false
		c.until("a published event or the end of the session", func() bool {
			for _, e := range c.events[min(c.at["state"], len(c.events)):] {
				lost = e.Event == "state" && e.State == "waiting"
				if lost || e.Event == "published" && e.Number == number {
					return true
				}
			}
			return false
		})
		if !lost {
			c.gone(number, s.sendReply)
			return
		}
		s.session()
		c.state("live")
	}
}

func playPublishRetry(w *world) {
	const wait = 400 * time.Millisecond
	_, c, conn := live(w, device(options{"min_backoff_ms": 1, "max_backoff_ms": 1}), authReply{})
	c.publish(4, 1)
	c.publish(4, 2)
	for _, code := range []string{"unavailable", "rate_limited", "later"} {
		p := conn.published(4, 1)
		refused := time.Now()
		conn.write(refusal(p, `{"op":4,"code":"`+code+`","reason":"a test","retry_ms":400}`))
		conn.wait("another try", func() bool { return len(conn.packets) > conn.at[4] })
		if after := time.Since(refused); after < wait-wait/10 {
			w.Errorf("the message is sent again %s after it was refused with retry_ms 400", after)
		}
	}
	conn.answer(conn.published(4, 1), `{}`)
	c.gone(1, []byte(`{}`))
	conn.answer(conn.published(4, 2), `{}`)
	c.gone(2, []byte(`{}`))
}

func playPublishUnavailable(w *world) {
	_, c, conn := live(w, device(nil), authReply{})
	c.publish(4, 1)
	c.publish(4, 2)
	for _, code := range []string{"unavailable", "rate_limited", "unavailable", "unavailable", "rate_limited"} {
		conn.write(refusal(conn.published(4, 1), `{"op":4,"code":"`+code+`","reason":"a test"}`))
	}
	conn.answer(conn.published(4, 1), `{}`)
	c.gone(1, []byte(`{}`))
	conn.answer(conn.published(4, 2), `{}`)
	c.gone(2, []byte(`{}`))
}

func playPublishUnavailableWaits(w *world) {
	const day = 86_400_000 // a random part of it is very rarely shorter than this scenario
	_, c, conn := live(w, device(options{"min_backoff_ms": day, "max_backoff_ms": day}), authReply{Heartbeat: 0.05})
	c.publish(4, 1)
	c.publish(4, 2)
	conn.write(refusal(conn.published(4, 1), `{"op":4,"code":"unavailable","reason":"a test"}`))
	conn.beats(6)
	conn.onlySent(1)
	if n := c.publishedEvents(); n > 0 {
		w.Errorf("%d published events, want none", n)
	}
}

func playPublishRefused(w *world) {
	_, c, conn := live(w, device(nil), authReply{})
	words := []string{"forbidden", "unsupported", "invalid", "too_large"}
	for n := range words {
		c.publish(4, uint64(n+1))
	}
	c.publish(4, uint64(len(words)+1))
	for n, word := range words {
		number := uint64(n + 1)
		conn.write(refusal(conn.published(4, number), `{"op":4,"code":"`+word+`","reason":"a test"}`))
		e := c.next("published", "a published event", nil)
		if e.Number != number || e.Code != "denied" || e.ServerCode != word || e.Message == "" || len(e.Body) > 0 {
			w.Errorf("the published event is of message %d with the code %q, the server's word %q, %q and the body %q; "+
				"want %d, denied, %q and a text", e.Number, e.Code, e.ServerCode, e.Message, e.Body, number, word)
		}
	}
	last := uint64(len(words) + 1)
	conn.answer(conn.published(4, last), `{}`)
	c.gone(last, []byte(`{}`))
	conn.onlySent(1, 2, 3, 4, 5)
}

func playPublishArrived(w *world) {
	s, c, conn := live(w, device(nil), authReply{Published: 40})
	for n := range uint64(3) {
		c.publish(4, n+1)
	}
	conn.published(4, 1)
	conn.Reset()
	conn = s.sessionWith(authReply{Published: s.outbox.upTo(1)})
	c.gone(1, nil)
	conn.answer(conn.published(4, 2), `{}`)
	c.gone(2, []byte(`{}`))
	conn.published(4, 3)
	conn.Reset()
	conn = s.sessionWith(authReply{Published: s.outbox.upTo(3), Heartbeat: 0.05})
	c.gone(3, nil)
	conn.beats(3)
	conn.onlySent()
	c.publish(4, 4)
	conn.answer(conn.published(4, 4), `{}`)
	c.gone(4, []byte(`{}`))
}

// anew expects another base of the ids in the next session.
func (o *outbox) anew() { *o = outbox{} }

func playPublishSharedDevice(w *world) {
	s, c, conn := live(w, device(nil), authReply{Published: 40})
	c.publish(4, 1)
	conn.answer(conn.published(4, 1), `{}`)
	c.gone(1, []byte(`{}`))
	for number := uint64(2); number < 6; number += 2 {
		conn.Reset()
		c.state("waiting")
		c.publish(4, number)
		c.publish(4, number+1)
		others := s.outbox.upTo(number) // another client has sent one message
		s.outbox.anew()
		conn = s.sessionWith(authReply{Published: others})
		for n := number; n < number+2; n++ {
			conn.answer(conn.published(4, n), `{}`)
			c.gone(n, []byte(`{}`))
		}
	}
}

func playPublishInvalid(w *world) {
	s := w.server()
	nameless := w.client(s, nil)
	if e := nameless.fails(nameless.start("publish", sendBody(1)), "invalid"); !bytes.Contains([]byte(e.Message), []byte("evice")) {
		w.Errorf("the error %q does not name the device", e.Message)
	}
	c := w.client(s, device(options{"max_body": 1000}))
	for _, op := range []int{0, 5, 7, 24, 999, -1} {
		c.fails(c.start("publish", fields{"op": op, "body": numbered(1)}), "invalid")
	}
	c.fails(c.start("publish", fields{"op": 4, "body": bytes.Repeat([]byte{'a'}, 2000)}), "invalid")
	c.publish(4, 1)
	c.connect()
	conn := s.session()
	c.fails(c.start("publish", fields{"op": 4, "body": bytes.Repeat([]byte{'a'}, 2000)}), "invalid")
	conn.answer(conn.published(4, 1), `{}`)
	c.gone(1, []byte(`{}`))
}

func playMaxBodyOfServer(w *world) {
	const most = 1000
	large := fields{"op": 4, "body": bytes.Repeat([]byte{'a'}, most+1)}
	s := w.server()
	c := w.client(s, device(nil))
	c.ok(c.start("publish", large)) // no session says that it is too large
	c.publish(4, 2)
	c.connect()
	conn := s.sessionWith(authReply{MaxBody: most, Heartbeat: 0.05})
	c.state("live")
	e := c.next("published", "a published event", nil)
	if e.Number != 1 || e.Code != "denied" || e.ServerCode != "too_large" || e.Message == "" {
		w.Errorf("the published event is of message %d with the code %q, the server's word %q and %q; want 1, denied, too_large and a text",
			e.Number, e.Code, e.ServerCode, e.Message)
	}
	conn.answer(conn.published(4, 2), `{}`)
	c.gone(2, []byte(`{}`))
	c.fails(c.start("send", large), "invalid")
	c.fails(c.start("publish", large), "invalid")
	c.publish(4, 3)
	conn.answer(conn.published(4, 3), `{}`)
	c.gone(3, []byte(`{}`))
	conn.beats(2)
	conn.onlySent(2, 3)
	conn.Reset()
	conn = s.session() // it names no bound
	c.state("live")
	tag := c.start("send", large)
	conn.answer(conn.packet(4), `{}`)
	c.ok(tag)
}

func playPublishClose(w *world) {
	s, c, conn := live(w, device(options{"request_timeout_ms": 3_600_000}), authReply{Published: 10})
	c.publish(4, 1)
	c.publish(4, 2)
	c.publish(4, 3)
	conn.answer(conn.published(4, 1), `{}`)
	c.gone(1, []byte(`{}`))
	conn.published(4, 2)
	c.close()
	conn.end()
	if n := c.publishedEvents(); n != 1 {
		w.Errorf("%d published events, want 1", n)
	}
	c.connect()
	conn = s.sessionWith(authReply{Published: s.outbox.upTo(1)})
	conn.answer(conn.published(4, 2), `{}`)
	c.gone(2, []byte(`{}`))
	conn.answer(conn.published(4, 3), `{}`)
	c.gone(3, []byte(`{}`))
}

func playPublishTwoClients(w *world) {
	a, b := w.server(), w.server()
	first, second := w.client(a, device(nil)), w.client(b, options{"device": "phone"})
	first.connect()
	second.connect()
	one, two := a.sessionWith(authReply{Published: 100}), b.session()
	if one.auth.Device != "laptop" || two.auth.Device != "phone" {
		w.Errorf("the devices are %q and %q", one.auth.Device, two.auth.Device)
	}
	first.publish(4, 1)
	second.publish(4, 1)
	second.publish(4, 2)
	two.answer(two.published(4, 1), `{}`)
	two.answer(two.published(4, 2), `{}`)
	second.gone(1, []byte(`{}`))
	second.gone(2, []byte(`{}`))
	if n := first.publishedEvents(); n > 0 {
		w.Errorf("%d published events of the other client", n)
	}
	one.answer(one.published(4, 1), `{}`)
	first.gone(1, []byte(`{}`))
}
