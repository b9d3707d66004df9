package comet_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/comet"
	"imgo/transport"
	"imgo/transport/pipe"
)

// sendID sends a packet of version 2 with an id.
func (c *client) sendID(op, seq int32, id uint64, body string) {
	c.t.Helper()
	if !c.text {
		c.put(string(transport.AppendPacket(nil, 2, protocol.HeaderV2, op, seq, id, []byte(body))))
		return
	}
	frame := fmt.Sprintf(`{"ver":2,"op":%d,"seq":%d,"id":"%d"`, op, seq, id)
	if body != "" {
		frame += `,"body":` + body
	}
	c.put(frame + "}")
}

// eight returns ids as a binary body has them.
func eight(ids ...uint64) (body string) {
	for _, id := range ids {
		for shift := 56; shift >= 0; shift -= 8 {
			body += string([]byte{byte(id >> shift)})
		}
	}
	return body
}

// readers is a logic that notes what was read.
type readers struct {
	fakeLogic
	mu   sync.Mutex
	got  []*envelope.ReadRequest
	fail error
}

func newReaders() *readers {
	l := &readers{}
	l.read = func(r *envelope.ReadRequest) (*envelope.ReadReply, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.got = append(l.got, r)
		return &envelope.ReadReply{}, l.fail
	}
	return l
}

func (l *readers) taken() (got []*envelope.ReadRequest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	got, l.got = l.got, nil
	return got
}

// TestRead checks what logic is told of a packet in each form, and that the answer waits for logic.
func TestRead(t *testing.T) {
	l := newReaders()
	s := start(t, &l.fakeLogic, nil)
	for _, text := range []bool{false, true} {
		c := s.dialPipe(pipe.Options{Text: text})
		c.login("ann", `,"device":"phone"`)
		both, none := eight(7, 1<<63), ""
		if text {
			both, none = `["7","9223372036854775808"]`, `[]`
		}
		for i, test := range []struct {
			id   uint64
			body string
			ids  []uint64
		}{{0, both, []uint64{7, 1 << 63}}, {1<<64 - 1, both, []uint64{7, 1 << 63}}, {5, none, nil}, {5, "", nil}} {
			c.sendID(protocol.OpRead, int32(100+i), test.id, test.body)
			if p := c.expect(protocol.OpReadReply, 0, map[bool]string{false: "", true: "{}"}[text]); p.Seq != int32(100+i) || p.Version != 2 {
				t.Errorf("text %v, packet %d is answered with %+v", text, i, p)
			}
			got := l.taken()
			if len(got) != 1 {
				t.Fatalf("text %v, packet %d: logic was called %d times", text, i, len(got))
			}
			r, from := got[0].Read, got[0].From
			if r.User != "ann" || r.Device != "phone" || r.UpTo != test.id || !slices.Equal(r.Ids, test.ids) || from.GetComet() != "c1" ||
				from.GetSession() != s.logic.session(map[bool]int{false: 0, true: 1}[text]) {
				t.Errorf("text %v, packet %d: logic was told %v from %v", text, i, r, from)
			}
		}
	}
	if n := s.metric("imgo_comet_packets_total", "op=read"); n != 8 {
		t.Errorf("%v packets were counted", n)
	}
}

// TestReadIsRefused checks the packets that are refused, and that the session goes on.
func TestReadIsRefused(t *testing.T) {
	l := newReaders()
	s := start(t, &l.fakeLogic, nil)
	many := make([]uint64, protocol.MaxReadIDs+1)
	for _, test := range []struct {
		name       string
		text       bool
		id         uint64
		body       string
		fail       error
		code, says string
	}{
		{name: "nothing", code: "invalid", says: "name the messages"},
		{name: "text: nothing", text: true, code: "invalid", says: "name the messages"},
		{name: "text: an empty list", text: true, body: "[]", code: "invalid", says: "name the messages"},
		{name: "text: an empty object", text: true, body: "{}", code: "invalid", says: "name the messages"},
		{name: "part of an id", body: "1234567", code: "invalid", says: "7 bytes"},
		{name: "part of an id, with an id", id: 7, body: "123456789", code: "invalid", says: "9 bytes"},
		{name: "text: numbers", text: true, id: 7, body: "[5]", code: "invalid", says: "decimal strings"},
		{name: "text: words", text: true, body: `["5x"]`, code: "invalid", says: "5x"},
		{name: "text: a string", text: true, body: `"5"`, code: "invalid", says: "array"},
		{name: "text: too large a number", text: true, body: `["18446744073709551616"]`, code: "invalid", says: "18446744073709551616"},
		{name: "too many", body: eight(many...), code: "invalid", says: "501 ids"},
		{name: "an unfinished upgrade", id: 7, fail: envelope.ErrUpgradeUnfinished, code: "unavailable", says: "try again"},
		{name: "no logic", id: 7, fail: errors.New("broken"), code: "unavailable", says: "try again"},
		{name: "a refusal", id: 7, fail: envelope.Invalid("ids", "is wrong"), code: "invalid", says: "ids is wrong"},
	} {
		l.mu.Lock()
		l.fail = test.fail
		l.mu.Unlock()
		c := s.dialPipe(pipe.Options{Text: test.text})
		c.login("ann", "")
		c.sendID(protocol.OpRead, 9, test.id, test.body)
		p := c.receive()
		if body := string(p.Body); p.Op != protocol.OpError || p.Seq != 9 || !strings.Contains(body, test.says) ||
			!strings.Contains(body, fmt.Sprintf(`{"op":24,"code":%q`, test.code)) {
			t.Errorf("%s: got op %d, sequence %d, %s", test.name, p.Op, p.Seq, body)
		}
		if calls := len(l.taken()); calls > 0 != (test.fail != nil) {
			t.Errorf("%s: logic was called %d times", test.name, calls)
		}
		c.send(2, protocol.OpHeartbeat, 10, "")
		if p := c.receive(); p.Op != protocol.OpHeartbeatReply {
			t.Errorf("%s: the session answers a heartbeat with %+v", test.name, p)
		}
	}
}

// TestReadOfOldClients checks that old clients get for op 24 what they always got.
func TestReadOfOldClients(t *testing.T) {
	l := newReaders()
	s := start(t, &l.fakeLogic, nil)
	goim := s.dialPipe(pipe.Options{})
	goim.send(1, protocol.OpAuth, 1, `{"mid":123,"key":"","room_id":"live://1","platform":"web","accepts":[]}`)
	goim.receive()
	goim.send(1, protocol.OpRead, 7, "12345678")
	goim.expect(protocol.OpRead, 0, "")
	imgo := s.dialPipe(pipe.Options{Text: true})
	imgo.send(0, protocol.OpAuth, 1, `"tok"`)
	imgo.receive()
	imgo.send(0, protocol.OpRead, 7, `["5"]`)
	imgo.wantEnd(protocol.CloseBadPacket)
	if n := len(l.taken()); n != 0 {
		t.Errorf("logic was called %d times", n)
	}
}

// TestReadHoldsNobodyUp checks that a logic that does not answer holds up only the session that asks.
func TestReadHoldsNobodyUp(t *testing.T) {
	l, hung := newReaders(), make(chan struct{})
	answer := sync.OnceFunc(func() { close(hung) })
	defer answer() // also if the test fails
	note := l.read
	l.read = func(r *envelope.ReadRequest) (*envelope.ReadReply, error) {
		<-hung
		return note(r)
	}
	s := start(t, &l.fakeLogic, func(cfg *comet.Config) { listening(cfg) })
	waiting, others := s.dialTCP(), s.dialTCP()
	waiting.login("ann", "")
	others.login("bob", "")
	waiting.sendID(protocol.OpRead, 1, 7, "")
	for i := range int32(20) {
		others.send(2, protocol.OpHeartbeat, i, "")
		others.expect(protocol.OpHeartbeatReply, 0, "")
	}
	s.push(s.live(0, protocol.OpMessage, `"pushed meanwhile"`))
	waiting.expect(protocol.OpMessage, 0, `"pushed meanwhile"`)
	answer()
	waiting.expect(protocol.OpReadReply, 0, "")
}

// TestReadCountsAsTen checks what a packet costs of the session's budget.
func TestReadCountsAsTen(t *testing.T) {
	l := newReaders()
	s := start(t, &l.fakeLogic, func(cfg *comet.Config) { cfg.UpstreamRate, cfg.UpstreamBurst = 100, 25 })
	c := s.dialPipe(pipe.Options{})
	c.login("ann", "")
	for i := range int32(2) {
		c.sendID(protocol.OpRead, i, 7, "")
		c.receive()
	}
	if n := s.metric("imgo_comet_throttled_packets_total"); n != 0 {
		t.Fatalf("%v packets were throttled at once", n)
	}
	begin := time.Now()
	c.sendID(protocol.OpRead, 3, 7, "")
	c.receive()
	if n := s.metric("imgo_comet_throttled_packets_total"); n != 1 && time.Since(begin) < 20*time.Millisecond {
		t.Errorf("%v packets were throttled", n)
	}
}

// TestDismiss checks what the sessions get of messages that were read elsewhere.
func TestDismiss(t *testing.T) {
	s := start(t, &fakeLogic{}, nil)
	binary, text := s.dialPipe(pipe.Options{}), s.dialPipe(pipe.Options{Text: true})
	goim, imgo := s.dialPipe(pipe.Options{}), s.dialPipe(pipe.Options{Text: true})
	binary.login("ann", "")
	text.login("ann", "")
	goim.send(1, protocol.OpAuth, 1, `{"mid":123,"key":"","room_id":"live://1","platform":"web","accepts":[]}`)
	goim.receive()
	imgo.send(0, protocol.OpAuth, 1, `"tok"`)
	imgo.receive()
	var to []*envelope.Address
	for n := range 4 {
		to = append(to, &envelope.Address{Comet: "c1", Session: s.logic.session(n)})
	}
	to = append(to, &envelope.Address{Comet: "c1", Session: 1 << 60}) // it is gone
	s.push(
		&envelope.Delivery{Dismiss: &envelope.Dismiss{To: to, Ids: []uint64{7, 1 << 63}, UpTo: 5}},
		&envelope.Delivery{Dismiss: &envelope.Dismiss{To: to, UpTo: 9}},
		&envelope.Delivery{Dismiss: &envelope.Dismiss{To: to, Ids: []uint64{8}}},
	)
	for _, want := range []struct {
		id           uint64
		binary, text string
	}{{5, eight(7, 1<<63), `["7","9223372036854775808"]`}, {9, "", "{}"}, {0, eight(8), `["8"]`}} {
		if p := binary.expect(protocol.OpDismiss, want.id, want.binary); p.Version != 2 || p.Seq != 0 {
			t.Errorf("got %+v", p)
		}
		if p := text.expect(protocol.OpDismiss, want.id, want.text); p.Version != 2 || p.Seq != 0 {
			t.Errorf("text: got %+v", p)
		}
	}
	for n, c := range []*client{goim, imgo} { // they get the next message, and nothing before
		s.push(s.live(2+n, protocol.OpMessage, `"next"`))
		if p := c.receive(); p.Op != protocol.OpMessage {
			t.Errorf("an old client got %+v", p)
		}
	}
}
