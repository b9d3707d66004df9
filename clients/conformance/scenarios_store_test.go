package conformance

import (
	"os"
	"syscall"

	"imgo/clients/conformance/driver"
)

func storeScenarios() []scenario {
	return []scenario{
		{
			name: "restart_with_store", own: true, play: playRestartWithStore,
			about: "with a store a handled message is not given again by the next process",
		},
		{
			name: "restart_without_store", own: true, play: playRestartWithoutStore,
			about: "without a store the next process gets an unacknowledged message again",
		},
		{
			name: "killed_at_ack", own: true, play: playKilledAtAck,
			about: "ids are saved before they are acknowledged: a process that is killed then has them",
		},
		{
			name: "store_that_fails", play: playStoreThatFails,
			about: "ids that cannot be saved are not acknowledged; the client tells and tries again",
		},
		{
			name: "store_torn", play: playStoreTorn,
			about: "a store file that ends within a write keeps what was saved before",
		},
		{
			name: "store_bounded", play: playStoreBounded,
			about: "the file of a store does not grow without end",
		},
		{
			name: "store_in_another_client", play: playStoreAfterClose,
			about: "a store that a closed client has left serves the next client in the same process",
		},
	}
}

func playRestartWithStore(w *world) {
	path := w.path()
	s := w.server()
	c := w.client(s, options{"store": path, "ack_delay_ms": 1})
	c.connect()
	conn := s.session()
	conn.write(kept(upTo(1, 20)...)...)
	conn.waitAcked(upTo(1, 20)...)
	if err := c.driver.Do(map[string]any{"do": "exit"}); err != nil {
		w.Fatal(err)
	}
	<-c.driver.Ended()
	if err := c.driver.Err(); err != nil {
		w.Errorf("exit: %v", err)
	}
	w.restart()
	again := w.client(s, options{"store": path})
	again.connect()
	conn = s.sessionWith(authReply{Pending: 21})
	conn.write(kept(upTo(1, 21)...)...)
	again.message(21, numbered(21))
	conn.waitAcked(upTo(1, 21)...)
}

func playRestartWithoutStore(w *world) {
	s := w.server()
	c := w.client(s, options{"ack_delay_ms": 3_600_000})
	c.connect()
	conn := s.session()
	conn.write(kept(1)...)
	c.message(1, numbered(1))
	c.handled(1)
	c.driver.Kill()
	conn.end()
	w.restart()
	again := w.client(s, nil)
	again.connect()
	conn = s.session()
	conn.write(kept(1)...)
	again.message(1, numbered(1))
	conn.waitAcked(1)
}

func playKilledAtAck(w *world) {
	path := w.path()
	s := w.server()
	for round := range uint64(3) {
		c := w.client(s, options{"store": path, "ack_delay_ms": 1})
		c.connect()
		conn := s.session()
		first := 10*round + 1
		conn.write(kept(upTo(1, first+9)...)...)
		conn.waitAcked(first)
		if err := c.driver.Signal(syscall.SIGKILL); err != nil {
			w.Fatal(err)
		}
		conn.end()
		<-c.driver.Ended()
		for id := uint64(1); id < first; id++ {
			if c.given(id) > 0 {
				w.Errorf("process %d was given message %d, which an earlier one had acknowledged", round+1, id)
			}
		}
		conn.mu.Lock()
		acked := conn.acked
		conn.mu.Unlock()
		w.restart()
		probe := w.client(s, options{"store": path})
		probe.connect()
		conn = s.session()
		conn.write(kept(acked...)...)
		conn.write(message(0, numbered(0)))
		probe.message(0, numbered(0)) // none of those that the killed process acknowledged
		conn.waitAcked(acked...)
		// What was not acknowledged is the next process's. This one takes it all.
		conn.write(kept(upTo(1, first+9)...)...)
		conn.waitAcked(upTo(1, first+9)...)
		probe.close()
	}
}

func playStoreThatFails(w *world) {
	_, c, conn := live(w, options{"store": w.path(), "max_backoff_ms": 300, "min_backoff_ms": 300}, authReply{Heartbeat: 0.05})
	c.set("fail_store", fields{"count": 1})
	conn.write(kept(1)...)
	c.handled(1)
	c.problem("storage")
	conn.write(kept(2)...)
	c.handled(2)
	conn.waitAcked(1, 2)
	// Without a next message it tries again after max_backoff.
	c.set("fail_store", fields{"count": 2})
	conn.write(kept(3)...)
	c.handled(3)
	c.problem("storage")
	conn.waitAcked(3)
	if c.given(1) != 1 || c.given(2) != 1 || c.given(3) != 1 {
		w.Error("the handler got a message again because the store failed")
	}
	if n := c.count(func(e driver.Event) bool { return e.Event == "state" && e.State == "waiting" }); n > 0 {
		w.Error("the session ended because the store failed")
	}
}

func playStoreTorn(w *world) {
	path := w.path()
	s := w.server()
	use := func(ids []uint64, gets ...uint64) {
		w.Helper()
		c := w.client(s, options{"store": path})
		tag := c.connect()
		conn := s.session()
		c.ok(tag)
		conn.write(kept(ids...)...)
		for _, id := range gets {
			c.message(id, numbered(id))
		}
		conn.waitAcked(ids...)
		c.close()
		for _, id := range ids {
			if c.given(id) > 1 {
				w.Errorf("the handler got message %d %d times, want once", id, c.given(id))
			}
		}
	}
	use(upTo(1, 10), upTo(1, 10)...)
	whole := w.readFile(path)
	use([]uint64{11}, 11)
	grown := w.readFile(path)
	if len(grown) > len(whole) {
		// The last write is torn. What was before it is known, and the file can be used again.
		if err := os.WriteFile(path, grown[:len(grown)-1], 0o600); err != nil {
			w.Fatal(err)
		}
		use(upTo(1, 12), 11, 12)
		use(upTo(1, 13), 13)
	}
	w.appendZeros(path)
	use(upTo(1, 14), func() []uint64 {
		if len(grown) > len(whole) {
			return []uint64{14}
		}
		return []uint64{12, 13, 14}
	}()...)
}

func playStoreBounded(w *world) {
	path := w.path()
	const remember, count = 50, 2000
	_, c, conn := live(w, options{"store": path, "remember": remember}, authReply{})
	for id := uint64(1); id <= count; id += remember {
		conn.write(kept(upTo(id, id+remember-1)...)...)
		conn.waitAcked(upTo(id, id+remember-1)...)
	}
	c.close()
	// An id needs at most 20 digits and a separator.
	if n := len(w.readFile(path)); n > 2*remember*25+1000 {
		w.Errorf("the store has %d bytes for %d ids that are to be remembered", n, remember)
	}
}

func playStoreAfterClose(w *world) {
	path := w.path()
	s, c, conn := live(w, options{"store": path}, authReply{})
	conn.write(kept(1)...)
	c.message(1, numbered(1))
	conn.waitAcked(1)
	c.close()
	again := w.client(s, options{"store": path})
	again.connect()
	conn = s.session()
	conn.write(kept(1, 2)...)
	again.message(2, numbered(2))
	conn.waitAcked(1, 2)
}
