package conformance

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
)

func outboxScenarios() []scenario {
	return []scenario{
		{
			name: "outbox_restart", own: true, play: playOutboxRestart,
			about: "an outbox in a file keeps numbers, base and messages over the death of the process",
		},
		{
			name: "outbox_killed", own: true, play: playOutboxKilled,
			about: "a message whose publish has returned is not lost when the process is killed",
		},
		{
			name: "outbox_that_fails", play: playOutboxThatFails,
			about: "publish fails if its message cannot be saved; a base and a removal that cannot be saved are told and tried again",
		},
		{
			name: "outbox_restored", play: playOutboxRestored,
			about: "an outbox that is older than what was sent loses nothing: what waits, and what follows, has ids above what the server has",
		},
		{
			name: "outbox_full", play: playOutboxFull,
			about: "at most 1024 messages wait in the outbox; the next one fails with too_many",
		},
		{
			name: "outbox_torn", play: playOutboxTorn,
			about: "an outbox file that ends within a write keeps what was saved before",
		},
		{
			name: "outbox_bounded", play: playOutboxBounded,
			about: "the file of an outbox does not grow without end",
		},
		{
			name: "outbox_after_close", play: playOutboxAfterClose,
			about: "an outbox that a closed client has left serves the next client in the same process",
		},
		{
			name: "outbox_two_in_turn", play: playOutboxTwoInTurn,
			about: "a client that connects again knows what another one has done with the outbox since its close",
		},
	}
}

// idText returns an id as decimal text.
func idText(id uint64) string { return strconv.FormatUint(id, 10) }

// kill kills the driver, and starts another one.
func (w *world) kill() {
	w.Helper()
	if err := w.driver.Signal(syscall.SIGKILL); err != nil {
		w.Fatal(err)
	}
	<-w.driver.Ended()
	w.restart()
}

func playOutboxRestart(w *world) {
	o := device(options{"outbox": w.path()})
	s := w.server()
	c := w.client(s, o)
	c.connect()
	conn := s.sessionWith(authReply{Published: 100})
	for n := range uint64(5) {
		c.publish(int32(1000*(n%2)+4*((n+1)%2)), n+1) // operations 4 and 1000
	}
	conn.answer(conn.published(4, 1), `{}`)
	conn.answer(conn.published(1000, 2), `{}`)
	c.gone(1, []byte(`{}`))
	c.gone(2, []byte(`{}`))
	conn.published(4, 3)
	w.kill()
	conn.end()

	c = w.client(s, o)
	c.publish(4, 6)
	c.connect()
	conn = s.sessionWith(authReply{Published: s.outbox.upTo(3)})
	c.gone(3, nil)
	conn.answer(conn.published(1000, 4), `{}`)
	conn.answer(conn.published(4, 5), `{}`)
	conn.answer(conn.published(4, 6), `{}`)
	for n := uint64(4); n <= 6; n++ {
		c.gone(n, []byte(`{}`))
	}
	w.kill()
	conn.end()

	// Nothing waits, and the numbers go on.
	c = w.client(s, o)
	c.connect()
	conn = s.sessionWith(authReply{Published: s.outbox.upTo(6)})
	c.publish(4, 7)
	conn.answer(conn.published(4, 7), `{}`)
	c.gone(7, []byte(`{}`))
	conn.onlySent(7)
}

func playOutboxKilled(w *world) {
	const rounds, each = 3, 4
	o := device(options{"outbox": w.path()})
	s := w.server()
	c := w.client(s, o)
	for n := range uint64(rounds * each) {
		if c.publish(4, n+1); n%each == each-1 {
			w.kill()
			c = w.client(s, o)
		}
	}
	c.connect()
	conn := s.session()
	for n := range uint64(rounds * each) {
		conn.answer(conn.published(4, n+1), `{}`)
		c.gone(n+1, []byte(`{}`))
	}
}

func playOutboxThatFails(w *world) {
	s := w.server()
	c := w.client(s, device(options{"outbox": w.path()}))
	// add: the message is not there, and its number is free.
	c.set("fail_outbox", fields{"count": 1})
	c.fails(c.start("publish", fields{"op": 4, "body": numbered(9)}), "storage")
	c.publish(4, 1)
	c.publish(4, 2)
	// set_base: nothing is sent before it is saved.
	c.set("fail_outbox", fields{"count": 2})
	c.connect()
	conn := s.sessionWith(authReply{Published: 20})
	c.problem("storage")
	c.problem("storage")
	first := conn.published(4, 1)
	// remove: the message is not told before it is removed, and it is not sent again.
	c.set("fail_outbox", fields{"count": 2})
	conn.answer(first, `{"for":1}`)
	c.problem("storage")
	c.problem("storage")
	c.gone(1, []byte(`{"for":1}`))
	second := conn.published(4, 2)
	conn.onlySent(1, 2)
	// remove of messages that have arrived.
	c.publish(4, 3)
	c.set("fail_outbox", fields{"count": 1})
	conn.Reset()
	conn = s.sessionWith(authReply{Published: second.ID})
	c.problem("storage")
	c.gone(2, nil)
	conn.answer(conn.published(4, 3), `{}`)
	c.gone(3, []byte(`{}`))
	conn.onlySent(3)
	if n := c.publishedEvents(); n != 3 {
		w.Errorf("%d published events, want 3", n)
	}
}

// playOutboxRestored puts an old file back: with nothing that waits, and with messages.
func playOutboxRestored(w *world) {
	for waiting := range uint64(3) {
		o := device(options{"outbox": w.path()})
		path := o["outbox"].(string)
		s, c, conn := live(w, o, authReply{Published: 5})
		c.publish(4, 1)
		conn.answer(conn.published(4, 1), `{}`)
		c.gone(1, []byte(`{}`))
		for n := range waiting {
			c.publish(4, n+2)
		}
		c.close()
		conn.end()
		old := w.readFile(path)

		c = w.client(s, o)
		c.connect()
		conn = s.sessionWith(authReply{Published: s.outbox.upTo(1)})
		last := waiting + 2
		c.publish(4, last)
		for n := uint64(2); n <= last; n++ {
			conn.answer(conn.published(4, n), `{}`)
			c.gone(n, []byte(`{}`))
		}
		c.close()
		conn.end()
		if err := os.WriteFile(path, old, 0o600); err != nil {
			w.Fatal(err)
		}

		c = w.client(s, o)
		published := s.outbox.upTo(last)
		s.outbox.anew()
		c.connect()
		conn = s.sessionWith(authReply{Published: published})
		c.publish(4, last)
		for n := uint64(2); n <= last; n++ {
			conn.answer(conn.published(4, n), `{}`)
			c.gone(n, []byte(`{}`))
		}
		c.close()
		conn.end()

		// The file has the new base.
		c = w.client(s, o)
		c.connect()
		conn = s.sessionWith(authReply{Published: s.outbox.upTo(last)})
		c.publish(4, last+1)
		conn.answer(conn.published(4, last+1), `{}`)
		c.gone(last+1, []byte(`{}`))
		c.close()
		conn.end()
	}
}

func playOutboxFull(w *world) {
	const most = 1024
	s := w.server()
	c := w.client(s, device(nil))
	for n := range uint64(most) {
		c.publish(4, n+1)
	}
	c.fails(c.start("publish", sendBody(0)), "too_many")
	c.connect()
	conn := s.session()
	conn.answer(conn.published(4, 1), `{}`)
	c.gone(1, []byte(`{}`))
	conn.published(4, 2)
	// There is room for one.
	c.publish(4, most+1)
	c.fails(c.start("publish", sendBody(0)), "too_many")
}

func playOutboxTorn(w *world) {
	o := device(options{"outbox": w.path()})
	path := o["outbox"].(string)
	s := w.server()
	c := w.client(s, o)
	c.publish(4, 1)
	whole := w.readFile(path)
	c.publish(4, 2)
	grown := w.readFile(path)
	c.ok(c.start("close", nil))
	torn := len(grown) > len(whole) && bytes.HasPrefix(grown, whole)
	if torn {
		// The last write is torn. What was before it is known, and the file can be used again.
		if err := os.WriteFile(path, grown[:len(grown)-1], 0o600); err != nil {
			w.Fatal(err)
		}
		c = w.client(s, o)
		c.publish(4, 2)
		c.ok(c.start("close", nil))
	}
	w.appendZeros(path)
	c = w.client(s, o)
	c.publish(4, 3)
	c.connect()
	conn := s.session()
	for n := range uint64(3) {
		conn.answer(conn.published(4, n+1), `{}`)
		c.gone(n+1, []byte(`{}`))
	}
}

func playOutboxBounded(w *world) {
	path := w.path()
	_, c, conn := live(w, device(options{"outbox": path}), authReply{})
	const count, size, most = 150, 10_000, 600_000
	body := append(append([]byte{'"'}, bytes.Repeat([]byte{'a'}, size)...), '"')
	for n := range uint64(count) {
		c.ok(c.start("publish", fields{"op": 4, "body": body}))
		conn.answer(conn.packet(4), `{}`)
		c.gone(n+1, []byte(`{}`))
	}
	if n := len(w.readFile(path)); n > most {
		w.Errorf("the outbox is empty and has %d bytes after %d messages of %d bytes", n, count, size)
	}
	c.publish(4, count+1)
	conn.answer(conn.published(4, count+1), `{}`)
	c.gone(count+1, []byte(`{}`)) // nothing writes to the file when its folder is removed
}

func playOutboxTwoInTurn(w *world) {
	o := device(options{"outbox": w.path()})
	s, first, conn := live(w, o, authReply{Published: 5})
	first.publish(4, 1)
	conn.answer(conn.published(4, 1), `{}`)
	first.gone(1, []byte(`{}`))
	first.close()
	conn.end()

	second := w.client(s, o)
	second.connect()
	conn = s.sessionWith(authReply{Published: s.outbox.upTo(1)})
	second.publish(4, 2)
	conn.answer(conn.published(4, 2), `{}`)
	second.gone(2, []byte(`{}`))
	second.publish(4, 3)
	conn.published(4, 3)
	second.close()
	conn.end()

	first.connect()
	conn = s.sessionWith(authReply{Published: s.outbox.upTo(2)})
	first.publish(4, 4)
	conn.answer(conn.published(4, 3), `{}`)
	first.gone(3, []byte(`{}`))
	conn.answer(conn.published(4, 4), `{}`)
	first.gone(4, []byte(`{}`))
}

func playOutboxAfterClose(w *world) {
	o := device(options{"outbox": w.path()})
	s, c, conn := live(w, o, authReply{Published: 5})
	c.publish(4, 1)
	c.publish(4, 2)
	conn.answer(conn.published(4, 1), `{}`)
	c.gone(1, []byte(`{}`))
	conn.published(4, 2)
	c.close()
	again := w.client(s, o)
	again.publish(4, 3)
	again.connect()
	conn = s.sessionWith(authReply{Published: s.outbox.upTo(1)})
	conn.answer(conn.published(4, 2), `{}`)
	conn.answer(conn.published(4, 3), `{}`)
	again.gone(2, []byte(`{}`))
	again.gone(3, []byte(`{}`))
}
