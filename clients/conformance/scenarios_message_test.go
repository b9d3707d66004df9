package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"imgo/clients/conformance/driver"
	"imgo/clients/conformance/peer"
	"imgo/protocol"
	"imgo/transport"
)

func messageScenarios() []scenario {
	return []scenario{
		{
			name: "acknowledged_when_handled", on: onEach, play: playAckedWhenHandled,
			about: "a message is acknowledged after its handler has succeeded, and not before",
		},
		{
			name: "not_kept", play: playNotKept,
			about: "a message that is not kept is not acknowledged",
		},
		{
			name: "acks_are_gathered", play: playAcksGathered,
			about: "acknowledgements are gathered for ack_delay, in packets of at most 500",
		},
		{
			name: "one_at_a_time_in_order", play: playOrder,
			about: "the handler gets one message at a time, in the order of the connection",
		},
		{
			name: "failing_handler", play: playFailingHandler,
			about: "a message whose handler fails is not acknowledged, and comes again with the next session",
		},
		{
			name: "duplicate_in_session", play: playDuplicateInSession,
			about: "a repeated message is acknowledged again, and the handler does not get it again",
		},
		{
			name: "duplicate_while_handled", play: playDuplicateWhileHandled,
			about: "a message that comes again while its handler works is given once",
		},
		{
			name: "duplicate_across_sessions", play: playDuplicateAcrossSessions,
			about: "a handled message that comes again with the next session is acknowledged and not given again",
		},
		{
			name: "duplicate_before_ack", play: playDuplicateBeforeAck,
			about: "the connection that ends before the acknowledgement was written costs no second delivery",
		},
		{
			name: "handler_over_reconnect", play: playHandlerOverReconnect,
			about: "a handler that works while the connection is replaced gets its message once, and it is acknowledged then",
		},
		{
			name: "queue_over_reconnect", play: playQueueOverReconnect,
			about: "messages that waited for the handler when the connection ended are given once and in order",
		},
		{
			name: "remember", play: playRemember,
			about: "the newest ids are remembered, as many as the option says",
		},
		{
			name: "backlog_of_1_MB", play: playBacklog,
			about: "a backlog of 1 MB arrives completely and in order",
		},
		{
			name: "slow_handler", play: playSlowHandler, needs: func(ready driver.Event) bool { return pauses(ready) },
			about: "a client whose queue is full stops reading and is not taken for dead; nothing is lost",
		},
		{
			name: "slow_handler_that_reads", play: playSlowHandlerThatReads, needs: func(ready driver.Event) bool { return !pauses(ready) },
			about: "a client that cannot stop reading drops what is not kept, says so, and gets kept messages again",
		},
	}
}

// pauses reports whether a library can stop reading its socket.
func pauses(ready driver.Event) bool { return ready.Pauses == nil || *ready.Pauses }

func playAckedWhenHandled(w *world) {
	_, c, conn := live(w, nil, authReply{Heartbeat: 0.05})
	c.set("hold", nil)
	conn.write(kept(1, 2)...)
	c.message(1, numbered(1))
	conn.beats(10) // far more than ack_delay
	conn.notAcked(1, 2)
	c.do("release", fields{"count": 1})
	c.handled(1)
	conn.waitAcked(1)
	c.message(2, numbered(2))
	conn.beats(5)
	conn.notAcked(2)
	c.do("release", nil)
	conn.waitAcked(2)
}

func playNotKept(w *world) {
	_, c, conn := live(w, nil, authReply{})
	conn.write(append([]transport.Packet{message(0, numbered(1)), message(0, numbered(1))}, kept(9)...)...)
	c.message(0, numbered(1))
	c.message(0, numbered(1)) // two equal messages that are not kept are two messages
	c.message(9, numbered(9))
	conn.waitAcked(9)
	conn.notAcked(0)
}

func playAcksGathered(w *world) {
	_, c, conn := live(w, options{"ack_delay_ms": 300, "queue": 5000}, authReply{})
	ids := upTo(1, 1200)
	conn.write(kept(ids...)...)
	for _, id := range ids {
		c.message(id, numbered(id))
	}
	conn.waitAcked(ids...)
	conn.mu.Lock()
	defer conn.mu.Unlock()
	// A slow machine needs more packets, but far fewer than messages.
	if conn.acks < 3 || conn.acks > len(ids)/10 {
		w.Errorf("%d messages were acknowledged in %d packets", len(ids), conn.acks)
	}
	for _, p := range conn.packets {
		if p.Op != protocol.OpAck {
			continue
		}
		if acked, err := conn.AckedIDs(p); err != nil || len(acked) > 500 || len(acked) == 0 {
			w.Errorf("a packet acknowledges %d messages, %v; want at most 500", len(acked), err)
		}
	}
	if !slices.IsSorted(conn.acked) || len(conn.acked) != len(ids) {
		w.Errorf("%d acknowledgements in the order %s, want each once in the order of handling", len(conn.acked), short(conn.acked))
	}
}

func playOrder(w *world) {
	_, c, conn := live(w, nil, authReply{})
	var packets []transport.Packet
	for n := uint64(1); n <= 300; n++ {
		packets = append(packets, kept(n)...)
		if n%3 == 0 {
			packets = append(packets, message(0, numbered(1000+n)))
		}
	}
	conn.write(packets...)
	for n := uint64(1); n <= 300; n++ {
		c.message(n, numbered(n))
		if n%3 == 0 {
			c.message(0, numbered(1000+n))
		}
	}
	conn.waitAcked(upTo(1, 300)...)
	// A handler ends before the next one begins.
	c.mu.Lock()
	defer c.mu.Unlock()
	working := false
	for _, e := range c.events {
		switch e.Event {
		case "message":
			if working {
				w.Fatalf("the handler got message %d while it worked on another one", e.ID)
			}
			working = true
		case "handled":
			working = false
		}
	}
}

func playFailingHandler(w *world) {
	s, c, conn := live(w, nil, authReply{Heartbeat: 0.05})
	c.set("fail", fields{"count": 1})
	conn.write(kept(1, 2)...)
	c.message(1, numbered(1))
	c.problem("handler")
	c.message(2, numbered(2)) // the next one is not held up
	conn.waitAcked(2)
	conn.beats(5)
	conn.notAcked(1)
	conn.Close()
	next := s.session()
	c.state("live")
	next.write(kept(1, 3)...)
	c.message(1, numbered(1))
	c.message(3, numbered(3))
	next.waitAcked(1, 3)
}

func playDuplicateInSession(w *world) {
	_, c, conn := live(w, nil, authReply{})
	conn.write(kept(1)...)
	c.message(1, numbered(1))
	conn.waitAcked(1)
	conn.write(kept(1, 2, 1, 3)...)
	c.message(2, numbered(2))
	c.message(3, numbered(3))
	conn.waitAcked(2, 3)
	conn.wait("the repeated message is acknowledged again", func() bool {
		return len(slices.DeleteFunc(slices.Clone(conn.acked), func(id uint64) bool { return id != 1 })) >= 2
	})
	if n := c.given(1); n != 1 {
		w.Errorf("the handler got the message %d times, want once", n)
	}
}

func playDuplicateWhileHandled(w *world) {
	_, c, conn := live(w, nil, authReply{})
	c.set("hold", nil)
	conn.write(kept(1, 1, 2, 1, 2)...)
	c.message(1, numbered(1))
	c.do("release", nil)
	c.message(2, numbered(2))
	conn.write(kept(3)...)
	c.message(3, numbered(3))
	conn.waitAcked(1, 2, 3)
	if c.given(1) != 1 || c.given(2) != 1 {
		w.Errorf("the handler got the messages %d and %d times, want once", c.given(1), c.given(2))
	}
}

func playDuplicateAcrossSessions(w *world) {
	s, c, conn := live(w, nil, authReply{})
	conn.write(kept(1, 2)...)
	c.message(1, numbered(1))
	c.message(2, numbered(2))
	conn.waitAcked(1, 2)
	conn.Reset()
	next := s.sessionWith(authReply{Pending: 3})
	c.state("live")
	next.write(kept(1, 2, 3)...)
	c.message(3, numbered(3))
	next.waitAcked(1, 2, 3)
}

func playDuplicateBeforeAck(w *world) {
	s, c, conn := live(w, options{"ack_delay_ms": 3_600_000}, authReply{})
	conn.write(kept(1, 2)...)
	c.message(1, numbered(1))
	c.message(2, numbered(2))
	c.handled(2)
	conn.Reset()
	next := s.session()
	c.state("live")
	next.write(kept(1, 2, 3)...)
	c.message(3, numbered(3))
	c.ok(c.start("close", nil)) // sends what is due
	next.waitAcked(1, 2, 3)
}

func playHandlerOverReconnect(w *world) {
	s, c, conn := live(w, nil, authReply{})
	c.set("hold", nil)
	conn.write(kept(1)...)
	c.message(1, numbered(1))
	for range 3 {
		conn.Reset()
		conn = s.sessionWith(authReply{Heartbeat: 0.05})
		c.state("live")
		conn.write(kept(1)...)
		conn.beats(3)
		conn.notAcked(1)
	}
	c.do("release", nil)
	conn.waitAcked(1)
	conn.write(kept(2)...)
	c.message(2, numbered(2))
	if n := c.given(1); n != 1 {
		w.Errorf("the handler got the message %d times, want once", n)
	}
}

func playQueueOverReconnect(w *world) {
	s, c, conn := live(w, options{"queue": 100}, authReply{})
	c.set("hold", nil)
	conn.write(kept(upTo(1, 20)...)...)
	c.message(1, numbered(1))
	conn.Reset()
	next := s.sessionWith(authReply{Heartbeat: 0.05})
	c.state("live")
	next.write(kept(upTo(1, 30)...)...)
	next.beats(3)
	c.do("release", nil)
	for id := uint64(2); id <= 30; id++ {
		c.message(id, numbered(id)) // in order, and each once
	}
	next.waitAcked(upTo(1, 30)...)
}

func playRemember(w *world) {
	s, c, conn := live(w, options{"remember": 10}, authReply{})
	for id := uint64(1); id <= 50; id += 10 {
		conn.write(kept(upTo(id, id+9)...)...)
		conn.waitAcked(upTo(id, id+9)...)
	}
	c.message(1, numbered(1))
	c.next("message", "the last message", func(e driver.Event) bool { return e.ID == 50 })
	conn.Close()
	next := s.session()
	c.state("live")
	next.write(kept(upTo(42, 51)...)...)
	c.message(51, numbered(51))
	next.waitAcked(upTo(42, 51)...)
}

func playBacklog(w *world) {
	const count, size = 1000, 1100
	_, c, conn := live(w, nil, authReply{Pending: count})
	var packets []transport.Packet
	body := func(id uint64) []byte {
		return fmt.Appendf(nil, `{"n":%d,"x":"%s"}`, id, bytes.Repeat([]byte("x"), size))
	}
	for id := uint64(1); id <= count; id++ {
		packets = append(packets, message(id, body(id)))
	}
	conn.write(packets...)
	for id := uint64(1); id <= count; id++ {
		c.message(id, body(id))
	}
	conn.waitAcked(upTo(1, count)...)
}

func playSlowHandler(w *world) {
	const count, size, queue = 150, 40_000, 4
	_, c, conn := live(w, options{"queue": queue, "heartbeat_timeout_ms": 1500}, authReply{Heartbeat: 0.1})
	body := func(id uint64) []byte {
		return fmt.Appendf(nil, `{"n":%d,"x":"%s"}`, id, bytes.Repeat([]byte("x"), size))
	}
	var all []byte
	for id := uint64(1); id <= count; id++ {
		all = append(all, conn.Message(message(id, body(id)))...)
	}
	c.set("hold", nil)
	conn.SmallBuffer()
	conn.mute(protocol.OpHeartbeat) // an answer would wait behind the messages
	// The client's own heartbeats are the clock: the server's writes make no progress for 20 of them, longer than
	// heartbeat_timeout.
	for stalled := 0; stalled < 10; {
		n, err := conn.WriteSome(all, time.Now().Add(50*time.Millisecond))
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			w.Fatalf("write to the client: %v", err)
		}
		if all = all[n:]; len(all) == 0 {
			w.Fatalf("the client read %d messages of %d bytes although its queue has room for %d", count, size, queue)
		}
		if n > 0 {
			stalled = 0
			continue
		}
		stalled++
		conn.beats(2)
	}
	if n := c.count(func(e driver.Event) bool { return e.Event == "state" && e.State == "waiting" }); n > 0 {
		w.Fatal("the client took the server for dead while it did not read")
	}
	c.do("release", nil)
	conn.bytes(all)
	conn.unmute()
	for id := uint64(1); id <= count; id++ {
		c.message(id, body(id))
	}
	conn.waitAcked(upTo(1, count)...)
}

func playSlowHandlerThatReads(w *world) {
	const queue = 4
	s, c, conn := live(w, options{"queue": queue}, authReply{})
	c.set("hold", nil)
	conn.write(kept(1)...)
	c.message(1, numbered(1))
	for n := range uint64(3 * queue) {
		conn.write(message(0, numbered(1000+n)))
	}
	c.problem("overflow")
	conn.write(kept(upTo(2, 3*queue)...)...)
	c.state("waiting") // a kept message that has no room ends the connection
	conn.end()
	c.do("release", nil)
	// It comes again until it has been acknowledged.
	for acked := uint64(1); acked < 3*queue; {
		next := s.session()
		next.write(kept(upTo(1, 3*queue)...)...)
		next.waitAckedOrEnd(3 * queue)
		acked = next.highest()
	}
	for id := uint64(2); id <= 3*queue; id++ {
		c.next("message", fmt.Sprintf("the message %d", id), func(e driver.Event) bool {
			if e.ID > id {
				w.Fatalf("the handler got message %d before %d", e.ID, id)
			}
			return e.ID == id
		})
		if n := c.given(id); n != 1 {
			w.Errorf("the handler got message %d %d times, want once", id, n)
		}
	}
}

// waitAckedOrEnd waits until an id is acknowledged, or until the client ends the connection.
func (c *connection) waitAckedOrEnd(id uint64) {
	c.s.w.Helper()
	if !c.await(nil, func() bool { return c.ended || slices.Contains(c.acked, id) }) {
		c.s.w.Fatalf("%d is not acknowledged within %s", id, peer.Limit)
	}
}

// highest returns the highest id that was acknowledged.
func (c *connection) highest() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Max(append(slices.Clone(c.acked), 0))
}
