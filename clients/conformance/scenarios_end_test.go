package conformance

import (
	"time"

	"imgo/clients/conformance/driver"
	"imgo/clients/conformance/peer"
	"imgo/protocol"
)

func endScenarios() []scenario {
	return []scenario{
		{
			name: "close_acknowledges", on: onEach, play: playCloseAcks,
			about: "close waits for the running handler, acknowledges what was handled, and leaves the rest to the next session",
		},
		{
			name: "close_waits_for_ack_reply", play: playCloseWaitsForReply,
			about: "close ends although the server does not answer the last acknowledgement",
		},
		{
			name: "close_timeout", play: playCloseTimeout,
			about: "close waits for a handler for at most close_timeout; its message is not acknowledged",
		},
		{
			name: "close_while_connecting", play: playCloseWhileConnecting,
			about: "close ends an attempt, and connect fails with closed",
		},
		{
			name: "close_while_waiting", play: playCloseWhileWaiting,
			about: "close ends the wait between two attempts, and connect fails with closed",
		},
		{
			name: "close_while_token_wanted", play: playCloseWhileTokenWanted,
			about: "close does not wait for the token source",
		},
		{
			name: "close_with_open_calls", play: playCloseWithOpenCalls,
			about: "close fails the open calls with closed",
		},
		{
			name: "close_twice", play: playCloseTwice,
			about: "a second close, and a close before connect, do nothing",
		},
		{
			name: "connect_after_close", play: playConnectAfterClose,
			about: "a closed client connects again and remembers what it has handled",
		},
		{
			name: "no_leak", own: true, play: playNoLeak,
			about: "after 20 reconnects and close no thread, task, timer or socket is left",
		},
		{
			name: "no_leak_after_failures", own: true, play: playNoLeakAfterFailures,
			about: "attempts that fail in each way leave nothing behind",
		},
	}
}

func playCloseAcks(w *world) {
	s, c, conn := live(w, options{"ack_delay_ms": 3_600_000}, authReply{})
	conn.write(kept(1)...)
	c.message(1, numbered(1))
	c.handled(1)
	c.set("hold", nil)
	conn.write(kept(2, 3)...)
	c.message(2, numbered(2))
	tag := c.start("close", nil)
	time.Sleep(quiet)
	if c.ended(tag) {
		w.Error("close does not wait for the running handler")
	}
	c.do("release", nil)
	c.ok(tag)
	if e := c.state("closed"); e.Failed {
		w.Error("closed says failed, although the application closed the client")
	}
	conn.endOrder()
	conn.waitAcked(1, 2)
	conn.notAcked(3)
	if n := c.given(3); n > 0 {
		w.Error("close called a further handler")
	}
	s.noConnection()
}

func playCloseWaitsForReply(w *world) {
	_, c, conn := live(w, options{"ack_delay_ms": 3_600_000}, authReply{})
	conn.mute(protocol.OpAck)
	conn.write(kept(1)...)
	c.handled(1)
	tag := c.start("close", nil)
	if p := conn.packet(protocol.OpAck); p.Seq == 0 {
		w.Error("the last acknowledgement does not ask for a reply")
	}
	c.ok(tag)
	conn.end()
}

func playCloseTimeout(w *world) {
	_, c, conn := live(w, options{"close_timeout_ms": 200}, authReply{})
	c.set("hold", nil)
	conn.write(kept(1)...)
	c.message(1, numbered(1))
	c.ok(c.start("close", nil))
	c.state("closed")
	conn.end()
	conn.notAcked(1)
	c.do("release", nil)
}

func playCloseWhileConnecting(w *world) {
	s := w.server()
	c := w.client(s, nil)
	tag := c.connect()
	conn := s.authenticate()
	c.close()
	c.fails(tag, "closed")
	if err := conn.WaitEnd(); err != nil {
		w.Error(err)
	}
	s.noConnection()
}

func playCloseWhileWaiting(w *world) {
	s := w.server()
	c := w.client(s, options{"min_backoff_ms": 3_600_000, "max_backoff_ms": 3_600_000})
	tag := c.connect()
	s.accept().Reset()
	c.state("waiting")
	c.close()
	c.fails(tag, "closed")
	s.noConnection()
}

func playCloseWhileTokenWanted(w *world) {
	s := w.server()
	c := w.client(s, options{"token_source": true, "connect_timeout_ms": 3_600_000})
	tag := c.connect()
	c.wanted()
	c.close()
	c.fails(tag, "closed")
	c.do("token", fields{"token": "late"})
	s.noConnection()
}

func playCloseWithOpenCalls(w *world) {
	_, c, conn := live(w, nil, authReply{})
	conn.mute(protocol.OpJoinRoom)
	send, join := c.start("send", sendBody(1)), c.start("join", fields{"room": "r"})
	conn.packet(protocol.OpSend)
	conn.packet(protocol.OpJoinRoom)
	c.close()
	c.fails(send, "closed")
	c.fails(join, "closed")
}

func playCloseTwice(w *world) {
	s := w.server()
	idle := w.client(s, nil)
	idle.ok(idle.start("close", nil))
	c := w.client(s, nil)
	tag := c.connect()
	s.session()
	c.ok(tag)
	first, second := c.start("close", nil), c.start("close", nil)
	c.ok(first)
	c.ok(second)
	c.ok(c.start("close", nil))
	if n := c.count(func(e driver.Event) bool { return e.Event == "state" && e.State == "closed" }); n != 1 {
		w.Errorf("the state became closed %d times, want once", n)
	}
}

func playConnectAfterClose(w *world) {
	s, c, conn := live(w, nil, authReply{})
	conn.write(kept(1)...)
	c.message(1, numbered(1))
	conn.waitAcked(1)
	c.close()
	conn.end()
	tag := c.connect()
	conn = s.session()
	c.ok(tag)
	c.state("live")
	conn.write(kept(1, 2)...)
	c.message(2, numbered(2))
	conn.waitAcked(1, 2)
}

// threads returns the driver's count of threads and tasks.
func (c *client) threads() int {
	c.w.Helper()
	return c.ok(c.start("threads", nil)).Count
}

// waitThreads waits until the count is at most a number.
func (c *client) waitThreads(most int) {
	c.w.Helper()
	n := 0
	for end := time.Now().Add(peer.Limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if n = c.threads(); n <= most {
			return
		}
	}
	c.w.Errorf("the driver counts %d threads, tasks, timers or sockets after close, and counted %d before connect", n, most)
}

func playNoLeak(w *world) {
	s := w.server()
	warm := w.client(s, nil) // a runtime may keep threads that its first client has started
	warm.connect()
	s.session()
	warm.state("live")
	warm.close()
	before := warm.threads()
	c := w.client(s, options{"token_source": true, "device": "laptop"})
	tag := c.connect()
	for i := range uint64(21) {
		c.token("token")
		c.publish(4, i+1) // the first one waits for its reply in each session
		conn := s.sessionWith(authReply{ExpiresIn: 3600})
		c.state("live")
		conn.write(kept(i + 1)...)
		c.handled(i + 1)
		if i < 20 {
			conn.Reset()
		}
	}
	c.ok(tag)
	if n := c.threads(); n <= before {
		w.Logf("a live client counts as nothing: %d threads, tasks, timers or sockets before, %d with it", before, n)
	}
	c.close()
	c.waitThreads(before)
}

func playNoLeakAfterFailures(w *world) {
	s := w.server()
	warm := w.client(s, nil)
	warm.connect()
	s.session()
	warm.state("live")
	warm.close()
	before := warm.threads()
	c := w.client(s, options{"auth_timeout_ms": 200, "connect_timeout_ms": 500, "token_source": true})
	c.connect()
	for range 2 {
		c.wanted() // no answer
		c.problem("token")
		c.state("waiting")
		c.wanted()
		c.do("token", fields{"error": "no"})
		c.state("waiting")
	}
	c.close()
	c.waitThreads(before)
	other := w.client(s, options{"auth_timeout_ms": 100})
	other.connect()
	for range 3 {
		s.authenticate() // no reply
		other.state("waiting")
		conn := s.authenticate()
		conn.bytes(conn.Frame([]byte("garbage garbage garbage garbage")))
		other.state("waiting")
		s.accept().Reset()
		other.state("waiting")
	}
	other.close()
	other.waitThreads(before)
}
