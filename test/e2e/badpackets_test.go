package e2e_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"imgo/protocol"
	"imgo/transport/transporttest"
)

// TestBadPackets breaks the packet protocol before and after auth, on every transport and with
// clients of every generation. Each client must be told the reason, each error must be counted
// once, and other clients must not be affected.
func TestBadPackets(t *testing.T) {
	n := start(t, nil)
	w := n.witness(t)
	const limit = 64 << 10
	long := wire("00000018 0018 0002 00000002 00000001 0000000000000000", "")
	for _, test := range []struct {
		name  string
		as    string // tcp, ws or text
		who   string // the generation that authenticated; "": no auth was sent
		put   string // one packet or JSON object
		times int    // number of repetitions; 0: once
		code  int
		kind  string
		says  string
	}{
		// Invalid lengths before and after auth.
		{name: "negative length", as: "tcp", put: wire("ffffffff 0018 0002 00000007 00000001", ""), code: 3500, kind: "bad_length",
			says: "package length -1"},
		{name: "least length", as: "tcp", put: wire("80000000 0018 0002 00000007 00000001", ""), code: 3500, kind: "bad_length",
			says: "-2147483648"},
		{name: "zero length", as: "tcp", put: wire("00000000 0018 0002 00000007 00000001", ""), code: 3500, kind: "bad_length",
			says: "package length 0"},
		{name: "length under the header", as: "tcp", put: wire("0000000f 0018 0002 00000007 00000001", ""), code: 3500, kind: "bad_length",
			says: "15"},
		{name: "most length", as: "tcp", put: wire("7fffffff 0010 0001 00000007 00000001", ""), code: 3507, kind: "too_large",
			says: "limit of 65536"},
		{name: "one byte over the limit", as: "tcp", put: wire(fmt.Sprintf("%08x 0010 0001 00000007 00000001", 16+limit+1), ""), code: 3507,
			kind: "too_large", says: "body of 65537 bytes"},
		{name: "header length", as: "tcp", put: wire("00000010 0011 0001 00000007 00000001", ""), code: 3500, kind: "bad_header",
			says: "header length 17"},
		{name: "zero header length", as: "tcp", put: wire("00000010 0000 0001 00000007 00000001", ""), code: 3500, kind: "bad_header",
			says: "header length 0"},
		{name: "negative length", as: "ws", put: wire("ffffffff 0018 0002 00000007 00000001", ""), code: 3500, kind: "bad_length",
			says: "package length -1"},
		{name: "most length", as: "ws", put: wire("7fffffff 0010 0001 00000007 00000001", ""), code: 3507, kind: "too_large", says: "65536"},
		{name: "truncated", as: "ws", put: packet(1, 7, 1, "token")[:10], code: 3500, kind: "bad_length", says: "ends within its packet"},
		{name: "negative length", as: "tcp", who: "imgo", put: wire("ffffffff 0018 0002 00000002 00000001", ""), code: 3500, kind: "bad_length",
			says: "-1"},
		{name: "zero length", as: "tcp", who: "goim", put: wire("00000000 0018 0002 00000002 00000001", ""), code: 3500, kind: "bad_length",
			says: "0"},
		{name: "most length", as: "tcp", who: "v2", put: wire("7fffffff 0018 0002 00000002 00000001", ""), code: 3507, kind: "too_large",
			says: "65536"},
		{name: "length under the long header", as: "tcp", who: "v2", put: wire("00000017 0018 0002 00000002 00000001", ""), code: 3500,
			kind: "bad_length", says: "23"},
		{name: "two packets in a message", as: "ws", who: "v2", put: long + long, code: 3500, kind: "bad_length",
			says: "more than one packet"},
		{name: "truncated", as: "ws", who: "goim", put: packet(1, 2, 1, "abc")[:9], code: 3500, kind: "bad_length",
			says: "ends within its packet"},

		// Unknown operations. Before auth, every operation but auth is unknown. A binary goim
		// client may send a few before auth, because goim's server ignored them.
		{name: "unknown op", as: "tcp", put: packet(1, 99, 1, ""), times: 17, code: 3500, kind: "before_auth",
			says: "the first packet must be auth"},
		{name: "unknown op", as: "tcp", put: long, code: 3500, kind: "before_auth", says: "the first packet must be auth"},
		{name: "unknown op", as: "ws", put: long, code: 3500, kind: "before_auth", says: "the first packet must be auth"},
		{name: "unknown op", as: "text", put: `{"ver":1,"op":99,"seq":1}`, code: 3500, kind: "before_auth",
			says: "the first packet must be auth"},
		{name: "heartbeat", as: "text", put: `{"ver":1,"op":2,"seq":1}`, code: 3500, kind: "before_auth", says: "the first packet must be auth"},
		{name: "unknown op", as: "tcp", who: "imgo", put: packet(1, 99, 1, ""), code: 3500, kind: "unknown_op", says: "operation 99 is unknown"},
		{name: "negative op", as: "tcp", who: "imgo", put: packet(1, -1, 1, ""), code: 3500, kind: "unknown_op", says: "operation -1 is unknown"},
		{name: "unknown op", as: "text", who: "imgo", put: `{"ver":1,"op":12,"seq":1}`, code: 3500, kind: "unknown_op",
			says: "operation 12 is unknown"},

		// A second auth packet.
		{name: "second auth", as: "tcp", who: "imgo", put: packet(1, 7, 2, "other"), code: 3500, kind: "second_auth", says: "twice"},

		// Invalid bodies.
		{name: "auth body field", as: "tcp", put: packet(2, 7, 1, `{"token":"u","rooms":"x"}`), code: 3500, kind: "auth_body",
			says: "auth rooms must be an array"},
		{name: "auth body of no UTF-8", as: "tcp", put: packet(1, 7, 1, "\xff\xfe"), code: 3500, kind: "auth_body",
			says: "auth body is not valid UTF-8"},
		{name: "ack of 7 bytes", as: "tcp", who: "v2", put: packet(2, 18, 0, "1234567"), code: 3500, kind: "bad_ack", says: "7 bytes"},
		{name: "no JSON", as: "text", put: `{"ver":1,"op":7`, code: 3500, kind: "bad_json", says: "text message"},
		{name: "an array", as: "text", who: "imgo", put: `[{"ver":1,"op":2,"seq":1}]`, code: 3500, kind: "bad_json", says: "an array"},
		{name: "op is a string", as: "text", who: "imgo", put: `{"ver":1,"op":"2","seq":1}`, code: 3500, kind: "bad_json",
			says: "op is not an integer"},
		{name: "seq overflows", as: "text", who: "imgo", put: `{"ver":1,"op":2,"seq":2147483648}`, code: 3500, kind: "bad_json",
			says: "seq is not an integer"},
		{name: "no op", as: "text", who: "v2", put: `{"ver":2,"seq":1}`, code: 3500, kind: "bad_json", says: "no op"},
		{name: "nested 10,000 deep", as: "text", who: "v2",
			put: `{"ver":2,"op":4,"body":` + strings.Repeat("[", 10_000) + strings.Repeat("]",
				10_000) + `}`, code: 3500, kind: "bad_json", says: "too deeply nested"},
		{name: "invalid UTF-8", as: "text", put: "{\"ver\":1,\"op\":7,\"body\":\"\xff\"}", code: 3500, kind: "bad_utf8", says: "not valid UTF-8"},
		{name: "invalid UTF-8", as: "text", who: "imgo", put: "{\"ver\":1,\"op\":4,\"body\":\"\xed\xa0\x80\"}", code: 3500, kind: "bad_utf8",
			says: "not valid UTF-8"},
		{name: "too large", as: "text", who: "v2", put: `{"ver":2,"op":4,"body":"` + strings.Repeat("x", 2*limit+2048) + `"}`, code: 3507,
			kind: "too_large", says: "over the limit"},
	} {
		who := test.who
		if who == "" {
			who = "nobody"
		}
		t.Run(fmt.Sprintf("%s/%s/%s", test.as, who, test.name), func(t *testing.T) {
			moved := n.grows(t, badPacket(test.kind), closed(test.code))
			c := n.dialAs(t, test.as)
			if test.who != "" {
				c.login(test.who, "7", "")
			}
			for range max(test.times, 1) {
				c.put(test.put)
			}
			c.closedWith(test.code, test.says)
			moved()
			w.fine(t)
		})
	}
	eventually(t, "only the witness has a session", func() bool {
		return n.metric(t, "imgo_comet_sessions") == 1 && n.metric(t, "imgo_comet_connections") == 1
	})
}

// TestUnknownOperationsOfGoim sends operations that imgo does not know. goim took any operation for
// a message to the business system and answered it. So these are no errors, but they are counted.
func TestUnknownOperationsOfGoim(t *testing.T) {
	n := start(t, nil)
	w := n.witness(t)
	for _, as := range []string{"tcp", "ws"} {
		moved := n.grows(t, counter{"imgo_comet_packets_total", []string{`op="upstream"`}})
		c := n.dialAs(t, as)
		c.login("goim", "7", "")
		c.put(packet(1, 99, 3, "up"))
		c.want(packet(1, 99, 3, ""))
		moved()
	}
	w.fine(t)
}

// TestTruncatedPackets ends connections in the middle of a packet. No session may remain.
func TestTruncatedPackets(t *testing.T) {
	n := start(t, nil)
	w := n.witness(t)
	for _, as := range []string{"tcp", "ws"} {
		for _, who := range []string{"", "v2"} {
			t.Run(as+"/"+who, func(t *testing.T) {
				ended := refused("client_left")
				if who != "" {
					ended = closed(0)
				}
				moved := n.grows(t, ended)
				c := n.dialAs(t, as)
				if who != "" {
					c.login(who, "7", "")
				}
				whole := c.Frame([]byte(packet(2, 7, 1, "a body of some length")))
				c.raw(string(whole[:len(whole)-5]))
				if err := c.End(); err != nil {
					t.Fatal(err)
				}
				for {
					if _, err := c.Next(); err != nil {
						break
					}
				}
				moved()
				w.fine(t)
			})
		}
	}
	eventually(t, "only the witness is connected", func() bool {
		return n.metric(t, "imgo_comet_connections") == 1 && n.metric(t, "imgo_router_sessions") == 1
	})
}

// TestBadFrames breaks the WebSocket protocol before and after auth.
func TestBadFrames(t *testing.T) {
	n := start(t, nil)
	w := n.witness(t)
	binary := []byte(packet(2, protocol.OpSend, 1, "hi"))
	text := []byte(`{"ver":2,"op":4,"seq":1}`)
	compressed := transporttest.RawFrame(0x82|0x40, true, binary)
	for _, test := range []struct {
		name   string
		frames []byte
		kind   string
		text   bool // whether the client speaks text frames, in which it gets the answer
	}{
		{"unmasked", transporttest.RawFrame(0x82, false, binary), "bad_frame", false},
		{"unmasked text", transporttest.RawFrame(0x81, false, text), "bad_frame", true},
		{"compressed", compressed, "bad_frame", false},
		{"compressed text", transporttest.RawFrame(0x81|0x40, true, text), "bad_frame", true},
		{"reserved bit", transporttest.RawFrame(0x82|0x10, true, binary), "bad_frame", false},
		{"reserved opcode", transporttest.RawFrame(0x83, true, binary), "bad_frame", false},
		{"continuation of nothing", transporttest.RawFrame(0x80, true, binary), "bad_frame", false},
		{"message within a fragmented one",
			append(transporttest.RawFrame(0x02, true, binary[:5]), transporttest.RawFrame(0x82, true, binary)...), "bad_frame", false},
		{"fragmented ping", transporttest.RawFrame(0x09, true, nil), "bad_frame", false},
		{"long ping", transporttest.RawFrame(0x89, true, make([]byte, 126)), "bad_frame", false},
		{"frame of a negative length", []byte{0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, "bad_frame", false},
		{"text after binary", transporttest.RawFrame(0x81, true, text), "mixed_forms", false},
		{"binary after text", transporttest.RawFrame(0x82, true, binary), "mixed_forms", true},
	} {
		for _, after := range []bool{false, true} {
			if !after && test.kind == "mixed_forms" {
				continue // without a first message no form can be mixed
			}
			t.Run(fmt.Sprintf("%s, authenticated %t", test.name, after), func(t *testing.T) {
				moved := n.grows(t, badPacket(test.kind), closed(3500))
				c := n.ws(t, test.text)
				if after {
					c.login("v2", "7", "")
				}
				c.raw(string(test.frames))
				if !after && test.text { // before auth the server does not know the form, and answers in binary
					c.text, c.Client.(*transporttest.WebSocket).Text = false, false
				}
				c.closedWith(3500, "")
				moved()
				w.fine(t)
			})
		}
	}
}

// TestFragments sends fragmented messages. They are valid. The size limit applies to the whole
// message.
func TestFragments(t *testing.T) {
	n := start(t, nil)
	w := n.witness(t)
	fragments := func(first byte, payload []byte, size int) []byte {
		var b []byte
		for len(payload) > size {
			b = append(b, transporttest.RawFrame(first, true, payload[:size])...)
			b = append(b, transporttest.RawFrame(0x89, true, []byte("ping"))...)
			payload, first = payload[size:], 0
		}
		return append(b, transporttest.RawFrame(first|0x80, true, payload)...)
	}
	for _, text := range []bool{false, true} {
		c := n.ws(t, text)
		first := byte(2)
		if text {
			first = 1
		}
		c.raw(string(fragments(first, []byte(c.encode(1, protocol.OpAuth, 1, `"ü"`)), 3)))
		if p := c.receive(); p.Op != protocol.OpAuthReply {
			t.Fatalf("a fragmented auth was answered with op %d %s", p.Op, p.Body)
		}
		// The limit applies to the whole message, even if its fragments are small.
		kind, code, says := "too_large", 3507, "over the limit"
		head := c.encode(1, protocol.OpSend, 1, `"`)
		if !text { // a packet with the largest body, and more bytes after it than a message may have
			head = wire(fmt.Sprintf("%08x 0010 0001 00000004 00000001", 16+64<<10), "")
		}
		moved := n.grows(t, badPacket(kind), closed(code))
		long := transporttest.RawFrame(first, true, []byte(head))
		for range 200 {
			long = append(long, transporttest.RawFrame(0, true, bytes.Repeat([]byte("x"), 1000))...)
		}
		c.raw(string(long))
		c.closedWith(code, says)
		moved()
		w.fine(t)
	}
}
