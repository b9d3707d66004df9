package conformance

import (
	"bytes"
	"encoding/binary"
	"math"
	"strings"

	"imgo/clients/conformance/driver"
	"imgo/protocol"
	"imgo/transport"
)

func frameScenarios() []scenario {
	return []scenario{
		{
			name: "byte_by_byte", on: onEach, play: playByteByByte,
			about: "packets may come a byte at a time",
		},
		{
			name: "many_in_one_write", on: onEach, play: playManyInOneWrite,
			about: "many packets may come in one read",
		},
		{
			name: "fragments", on: onWebSocket, play: playFragments,
			about: "a WebSocket message may come in several frames with pings between them",
		},
		{
			name: "ids_of_64_bits", on: onEach, play: playLargeIDs,
			about: "ids up to 2^64-1 are told and acknowledged exactly",
		},
		{
			name: "bodies", on: onEach, play: playBodies,
			about: "a body arrives as it was pushed: text, bytes that are no UTF-8, nothing",
		},
		{
			name: "largest_body", on: onEach, play: playLargestBody,
			about: "a body of max_body bytes is accepted",
		},
		{
			name: "oversize", on: onEach, play: playOversize,
			about: "a body over max_body ends the connection with the error protocol",
		},
		{
			name: "oversize_header", play: playOversizeHeader,
			about: "a header that announces too much ends the connection before the body has come",
		},
		{
			name: "garbage", on: onEach, play: playGarbage,
			about: "bytes that are no packet end the connection with the error protocol",
		},
		{
			name: "half_packet_then_end", on: onEach, play: playHalfThenEnd,
			about: "half a packet is no message when the connection ends within it",
		},
		{
			name: "unknown_operation", play: playUnknownOperation,
			about: "an operation that the client does not know has no effect",
		},
		{
			name: "operations_from_1000", play: playOperations,
			about: "a message says its operation",
		},
		{
			name: "server_killed", on: onEach, play: playServerKilled,
			about: "the client comes again, whenever the server dies",
		},
	}
}

// live starts a server and a client, and returns them with a live session.
func live(w *world, o options, reply authReply) (*server, *client, *connection) {
	w.Helper()
	s := w.server()
	c := w.client(s, o)
	tag := c.connect()
	conn := s.sessionWith(reply)
	c.state("live")
	c.ok(tag)
	return s, c, conn
}

func playByteByByte(w *world) {
	s := w.server()
	c := w.client(s, nil)
	tag := c.connect()
	conn := s.authenticate()
	all := conn.Message(append([]transport.Packet{conn.reply(conn.packets[0].Seq, authReply{})}, kept(1, 2)...)...)
	for i := range all {
		conn.bytes(all[i : i+1])
	}
	conn.serve()
	c.ok(tag)
	c.message(1, numbered(1))
	c.message(2, numbered(2))
	conn.waitAcked(1, 2)
}

// upTo returns the numbers from a to b.
func upTo(a, b uint64) (ids []uint64) {
	for id := a; id <= b; id++ {
		ids = append(ids, id)
	}
	return ids
}

func playManyInOneWrite(w *world) {
	_, c, conn := live(w, nil, authReply{})
	ids := upTo(1, 200)
	conn.write(kept(ids...)...)
	for _, id := range ids {
		c.message(id, numbered(id))
	}
	conn.waitAcked(ids...)
}

func playFragments(w *world) {
	_, c, conn := live(w, nil, authReply{})
	conn.bytes(conn.Fragments(kept(1)[0], 5))
	conn.bytes(conn.Fragments(kept(2)[0], 100))
	c.message(1, numbered(1))
	c.message(2, numbered(2))
	conn.waitAcked(1, 2)
}

func playLargeIDs(w *world) {
	_, c, conn := live(w, nil, authReply{})
	ids := []uint64{1, 1<<32 + 1, 1 << 53, 1<<53 + 1, 1<<53 + 2, 1<<63 - 1, 1 << 63, 1<<63 + 1, math.MaxUint64 - 1, math.MaxUint64}
	send := func() {
		for i, id := range ids {
			conn.write(message(id, numbered(uint64(i))))
		}
	}
	send()
	for i, id := range ids {
		c.message(id, numbered(uint64(i)))
	}
	conn.waitAcked(ids...)
	send() // each of them is known
	conn.write(kept(7)...)
	c.message(7, numbered(7))
	for _, id := range ids {
		if n := c.given(id); n != 1 {
			w.Errorf("the handler got message %d %d times, want once", id, n)
		}
	}
}

func playBodies(w *world) {
	_, c, conn := live(w, nil, authReply{})
	everyByte := make([]byte, 256)
	for i := range everyByte {
		everyByte[i] = byte(i)
	}
	for i, body := range [][]byte{
		[]byte("hello"), []byte("grüße 😀\x00"), []byte(`[1,null,"a"]`), []byte("\xff\xfe"), everyByte, []byte(`{"a":`), []byte(" "),
	} {
		id := uint64(i + 1)
		conn.write(message(id, body))
		c.message(id, body)
	}
	want := []byte{}
	if conn.Text() {
		want = []byte("{}")
	}
	conn.write(message(100, nil))
	c.message(100, want)
	conn.waitAcked(100)
}

func playLargestBody(w *world) {
	const limit = 300_000
	_, c, conn := live(w, options{"max_body": limit}, authReply{})
	body := []byte(`"` + strings.Repeat("x", limit-2) + `"`)
	shown := body
	if conn.Text() {
		shown = body[1 : len(body)-1]
	}
	conn.write(message(1, body))
	c.message(1, shown)
	conn.waitAcked(1)
}

func playOversize(w *world) {
	const limit = 1000
	s, c, conn := live(w, options{"max_body": limit}, authReply{})
	conn.write(append(kept(1), message(2, bytes.Repeat([]byte("x"), 4*limit)), message(3, numbered(3)))...)
	c.problem("protocol")
	c.state("waiting")
	conn.end()
	s.session()
	c.state("live")
	if c.given(2)+c.given(3) > 0 {
		w.Error("the handler got the message that is too large, or the one after it")
	}
}

func playOversizeHeader(w *world) {
	s, c, conn := live(w, nil, authReply{})
	head := binary.BigEndian.AppendUint32(nil, math.MaxInt32)
	head = append(head, 0, 24, 0, 2, 0, 0, 0, 5, 0, 0, 0, 0)
	if conn.WebSocket() {
		head = []byte{0x82, 127, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff} // a frame of 2 GiB
		if conn.Text() {
			head[0] = 0x81
		}
	}
	conn.bytes(head)
	c.problem("protocol")
	c.state("waiting")
	conn.end()
	s.session()
	c.state("live")
}

func playGarbage(w *world) {
	s, c, conn := live(w, nil, authReply{})
	for _, garbage := range []string{
		strings.Repeat("garbage ", 10), "\x00\x00\x00\x10\x00\x00\x00\x02" + strings.Repeat("\x00", 16),
		"\x00\x00\x00\x17\x00\x18\x00\x02\x00\x00\x00\x05" + strings.Repeat("\x00", 12), `{"ver":2,"op":5,"seq":0,"id":"5","body":1}`,
	} {
		conn.write(kept(1)...)
		conn.bytes(conn.Frame([]byte(garbage)))
		c.problem("protocol")
		c.state("waiting")
		conn.end()
		conn = s.session()
		c.state("live")
	}
	conn.write(kept(1, 2)...) // 1 was written before each fault, and the handler may have got it
	c.message(1, numbered(1))
	c.message(2, numbered(2))
	conn.waitAcked(1, 2)
}

func playHalfThenEnd(w *world) {
	s, c, conn := live(w, nil, authReply{})
	whole := conn.Message(kept(1)...)
	for _, n := range []int{1, 3, 10, len(whole) - 1} {
		conn.bytes(whole[:n])
		conn.Close()
		c.state("waiting")
		conn = s.session()
		c.state("live")
	}
	if n := c.given(1); n > 0 {
		w.Errorf("the handler got a part of a message %d times", n)
	}
	conn.write(kept(1)...)
	c.message(1, numbered(1))
	conn.waitAcked(1)
}

func playUnknownOperation(w *world) {
	_, c, conn := live(w, nil, authReply{})
	conn.write(append([]transport.Packet{unknown(), {Version: 2, Op: protocol.OpHeartbeatReply, Seq: 12345}}, kept(1)...)...)
	c.message(1, numbered(1))
	conn.waitAcked(1)
	if n := c.count(func(e driver.Event) bool { return e.Event == "state" && e.State == "waiting" }); n > 0 {
		w.Error("the session ended")
	}
}

func playOperations(w *world) {
	_, c, conn := live(w, options{"accepts": []int{1000, math.MaxInt32}}, authReply{})
	for i, op := range []int32{5, 1000, math.MaxInt32} {
		id := uint64(i + 1)
		conn.write(transport.Packet{Version: 2, Op: op, ID: id, Body: numbered(id)})
		if e := c.message(id, numbered(id)); e.Op != op {
			w.Errorf("the message has operation %d, want %d", e.Op, op)
		}
	}
	conn.waitAcked(1, 2, 3)
}

func playServerKilled(w *world) {
	s := w.server()
	c := w.client(s, options{"auth_timeout_ms": 20_000})
	tag := c.connect()
	raw, err := s.AcceptRaw(quiet * 50)
	if err != nil {
		w.Fatal(err)
	}
	raw.Reset() // before any handshake
	s.accept().Reset()
	s.authenticate().Reset()
	half := s.authenticate()
	reply := half.Message(half.reply(half.packets[0].Seq, authReply{}))
	half.bytes(reply[:len(reply)/2])
	half.Reset()
	c.state("waiting")
	conn := s.session()
	c.ok(tag)
	c.state("live")
	conn.Reset()
	conn = s.session()
	c.state("live")
	part := conn.Message(kept(1)...)
	conn.bytes(part[:len(part)-2])
	conn.Reset()
	conn = s.session()
	c.state("live")
	// While the handler works, and before the acknowledgement has come.
	c.set("hold", nil)
	conn.write(kept(1)...)
	c.message(1, numbered(1))
	conn.Reset()
	conn = s.session()
	c.state("live")
	c.do("release", nil)
	conn.waitAcked(1)
	if n := c.given(1); n != 1 {
		w.Errorf("the handler got the message %d times, want once", n)
	}
}
