package comet_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"imgo/envelope"
	"imgo/internal/settings"
	"imgo/internal/upstream"
	"imgo/protocol"
	"imgo/roles/comet"
	"imgo/transport"
	"imgo/transport/pipe"
)

// carries has comet carry op 4 and the operations from 1000 to 1999.
func carries(cfg *comet.Config) {
	rule := settings.Default[upstream.Rule]()
	rule.Ops, rule.To = []string{"4", "1000-1999"}, upstream.ToEvents
	cfg.Upstream = upstream.Rules{Upstream: []upstream.Rule{rule}}
	listening(cfg)
}

// upstreamLogic records messages. While held it answers none.
type upstreamLogic struct {
	fakeLogic
	hold chan struct{} // closed: messages are answered

	mu  sync.Mutex
	got []*envelope.UpstreamRequest
}

func newUpstreamLogic() *upstreamLogic {
	l := &upstreamLogic{hold: make(chan struct{})}
	l.upstream = func(ctx context.Context, r *envelope.UpstreamRequest) (*envelope.UpstreamReply, error) {
		select {
		case <-l.hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.got = append(l.got, r)
		switch string(r.Body) {
		case `"refuse"`:
			return &envelope.UpstreamReply{Code: "forbidden", Reason: "no"}, nil
		case `"later"`:
			return &envelope.UpstreamReply{Code: "unavailable", Reason: "busy", RetryMs: 700}, nil
		case `"broken"`:
			return nil, envelope.Errorf(envelope.CodeInternal, "secret detail")
		case `"answer"`:
			return &envelope.UpstreamReply{Body: []byte(`{"order":7}`)}, nil
		}
		return &envelope.UpstreamReply{}, nil
	}
	return l
}

// carried returns what logic was told: user, generation, operation, client id and body.
func (l *upstreamLogic) carried(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	eventually(t, fmt.Sprintf("logic has %d messages", len(want)), func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		got = nil
		for _, r := range l.got {
			got = append(got, fmt.Sprintf("%s %s %d %d %s", r.Session.User, r.Session.Generation, r.Op, r.ClientId, r.Body))
			if len(r.Id) != 12 || r.Session.Address.GetSession() == 0 {
				t.Errorf("the request %v has no id or session", r)
			}
		}
		return len(got) >= len(want)
	})
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Fatalf("logic was told\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestUpstreamV2(t *testing.T) {
	for _, text := range []bool{false, true} {
		t.Run(fmt.Sprintf("text %v", text), func(t *testing.T) {
			logic := newUpstreamLogic()
			close(logic.hold)
			s := start(t, &logic.fakeLogic, carries)
			c := s.dialWS(text)
			c.login("u", `,"device":"d"`)
			put := func(op, seq int32, id uint64, body string) {
				t.Helper()
				if text {
					c.put(fmt.Sprintf(`{"ver":2,"op":%d,"seq":%d,"id":"%d","body":%s}`, op, seq, id, body))
					return
				}
				c.put(string(transport.AppendPacket(nil, 2, protocol.HeaderV2, op, seq, id, []byte(body))))
			}
			empty := ""
			if text {
				empty = "{}"
			}
			for i, tt := range []struct {
				op       int32
				body     string
				answerOp int32
				answer   string
			}{
				{4, `"a"`, 4, empty},
				{1000, `"answer"`, 1000, `{"order":7}`},
				{4, `"refuse"`, 28, `{"op":4,"code":"forbidden","reason":"no"}`},
				{4, `"later"`, 28, `{"op":4,"code":"unavailable","reason":"busy","retry_ms":700}`},
				{1999, `"broken"`, 28, `{"op":1999,"code":"unavailable","reason":"the server cannot do this now; try again later","retry_ms":1000}`},
				{2000, `"x"`, 28, `{"op":2000,"code":"unsupported","reason":"this server takes no messages from clients: this one went nowhere"}`},
			} {
				put(tt.op, int32(10+i), uint64(40+i), tt.body)
				if p := c.expect(tt.answerOp, 0, tt.answer); p.Seq != int32(10+i) {
					t.Errorf("sequence %d, want %d", p.Seq, 10+i)
				}
			}
			logic.carried(t, `u v2 4 40 "a"`, `u v2 1000 41 "answer"`, `u v2 4 42 "refuse"`, `u v2 4 43 "later"`, `u v2 1999 44 "broken"`)
		})
	}
}

// A client of version 2 is told the last id of its device.
func TestPublishedInAuthReply(t *testing.T) {
	logic := &fakeLogic{}
	logic.connect = func(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
		reply, err := admit(r)
		reply.Published = 1<<64 - 1
		return reply, err
	}
	s := start(t, logic, listening)
	c := s.dialTCP()
	c.send(2, protocol.OpAuth, 1, `{"token":"u"}`)
	if p := c.receive(); !strings.HasSuffix(string(p.Body), `,"published":"18446744073709551615"}`) {
		t.Errorf("auth reply %s", p.Body)
	}
}

// Old clients get at once what they always got, and what they send is carried. Their other operations are as before.
func TestUpstreamImgo(t *testing.T) {
	logic := newUpstreamLogic()
	s := start(t, &logic.fakeLogic, carries)
	c := s.dialTCP()
	c.put(wire("00000013 0010 0001 00000007 00000001", "tok"))
	c.want(wire("00000010 0010 0001 00000008 00000001", ""))
	c.put(wire("00000012 0010 0001 00000004 00000005", "hi"))
	c.want(wire("00000012 0010 0001 00000005 00000005", "hi"))
	c.put(wire("00000010 0010 0001 000003e8 00000006", "")) // op 1000
	c.wantEnd(protocol.CloseBadPacket)
	close(logic.hold)
	logic.carried(t, "tok imgo 4 0 hi")
}

func TestUpstreamGoim(t *testing.T) {
	logic := newUpstreamLogic()
	s := start(t, &logic.fakeLogic, carries)
	c := s.dialTCP()
	const mid = `{"mid":7,"key":"k"}` // the fake logic takes it for the name of the user
	c.send(1, protocol.OpAuth, 1, mid)
	c.expect(protocol.OpAuthReply, 0, "")
	for _, op := range []int32{4, 1000, 2000, 99} {
		c.send(1, op, 9, "hi")
		c.expect(op, 0, "")
	}
	close(logic.hold)
	logic.carried(t, mid+" goim 4 0 hi", mid+" goim 1000 0 hi")
}

// A message of an old client, which has its answer, is repeated until logic takes it, with the same id.
func TestUpstreamOldClientIsRepeated(t *testing.T) {
	var mu sync.Mutex
	var ids []string
	logic := &fakeLogic{}
	logic.upstream = func(_ context.Context, r *envelope.UpstreamRequest) (*envelope.UpstreamReply, error) {
		mu.Lock()
		defer mu.Unlock()
		switch ids = append(ids, string(r.Id)); len(ids) {
		case 1:
			return nil, envelope.Errorf(envelope.CodeUnavailable, "no logic")
		case 2:
			return &envelope.UpstreamReply{Code: "unavailable", RetryMs: 1}, nil
		}
		return &envelope.UpstreamReply{}, nil
	}
	s := start(t, logic, carries)
	c := s.dialTCP()
	c.send(1, protocol.OpAuth, 1, `{"mid":7,"key":"k"}`)
	c.expect(protocol.OpAuthReply, 0, "")
	c.send(1, 4, 2, "hi")
	c.expect(4, 0, "")
	_ = c.Close()
	eventually(t, "the message is taken", func() bool { return s.metric("imgo_comet_upstream_total", "outcome=taken") == 1 })
	mu.Lock()
	defer mu.Unlock()
	if len(ids) != 3 || ids[0] != ids[1] || ids[1] != ids[2] {
		t.Errorf("calls with the ids %x", ids)
	}
}

// The backlog of a session is bounded: comet reads no more, drops nothing, answers in order, and serves others.
func TestUpstreamBacklog(t *testing.T) {
	logic := newUpstreamLogic()
	s := start(t, &logic.fakeLogic, carries)
	c := s.dialPipe(pipe.Options{})
	c.login("u", "")
	const n = 100
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i := range n {
			frame := transport.AppendPacket(nil, 2, protocol.HeaderV1, protocol.OpSend, int32(i), 0, fmt.Appendf(nil, `%d`, i))
			if c.Send(frame) != nil {
				return
			}
		}
	}()
	eventually(t, "the backlog is full", func() bool { return s.metric("imgo_comet_upstream_bytes") >= 32*512 })
	if bytes := s.metric("imgo_comet_upstream_bytes"); bytes > 33*600 {
		t.Errorf("%v bytes wait", bytes)
	}
	other := s.dialTCP()
	other.login("v", "")
	other.send(2, protocol.OpHeartbeat, 1, "")
	other.expect(protocol.OpHeartbeatReply, 0, "")
	close(logic.hold)
	for i := range n {
		if p := c.expect(protocol.OpSend, 0, ""); p.Seq != int32(i) {
			t.Fatalf("answer %d has the sequence %d", i, p.Seq)
		}
	}
	<-sent
	eventually(t, "nothing waits", func() bool { return s.metric("imgo_comet_upstream_bytes") == 0 })
}

// A heartbeat is answered while logic does not answer a message.
func TestUpstreamDoesNotHoldHeartbeats(t *testing.T) {
	logic := newUpstreamLogic()
	s := start(t, &logic.fakeLogic, carries)
	c := s.dialTCP()
	c.login("u", "")
	c.send(2, protocol.OpSend, 2, "a")
	c.send(2, protocol.OpHeartbeat, 3, "")
	c.expect(protocol.OpHeartbeatReply, 0, "")
	close(logic.hold)
	c.expect(protocol.OpSend, 0, "")
}

// The poller's goroutine looks whether there is space for a message before it handles it. It does not wait if the
// others have used the space since.
func TestHandleDoesNotWaitForSpace(t *testing.T) {
	logic := newUpstreamLogic()
	s := start(t, &logic.fakeLogic, func(cfg *comet.Config) {
		carries(cfg)
		cfg.UpstreamBytes = 600 // one message
		cfg.CallTimeout = time.Minute
	})
	full := s.dialPipe(pipe.Options{})
	full.login("full", "")
	full.send(2, protocol.OpSend, 1, "a")
	eventually(t, "the space is used", func() bool { return s.metric("imgo_comet_upstream_bytes") > 0 })
	late := s.dialPipe(pipe.Options{})
	const mid = `{"mid":7,"key":"k"}` // the fake logic takes it for the name of the user
	late.send(1, protocol.OpAuth, 1, mid)
	late.receive()
	handled := make(chan struct{})
	go func() {
		defer close(handled)
		comet.Handle(s.Comet, mid, transport.Packet{Op: protocol.OpSend, Seq: 2, Body: []byte("b")})
	}()
	select {
	case <-handled:
	case <-time.After(10 * time.Second):
		t.Error("the goroutine waits while logic does not answer")
	}
	close(logic.hold)
	<-handled
	late.expect(protocol.OpSend, 0, "")
}

// upstreamOutage has comet carry op 4 to a logic that is away until it is called with nil.
func upstreamOutage(t *testing.T, change func(*comet.Config)) (s *server, answer func(error)) {
	logic := newUpstreamLogic()
	answer = func(err error) {
		logic.fakeLogic.mu.Lock()
		defer logic.fakeLogic.mu.Unlock()
		logic.upstream = func(ctx context.Context, _ *envelope.UpstreamRequest) (*envelope.UpstreamReply, error) {
			if err != nil {
				<-ctx.Done()
			}
			return &envelope.UpstreamReply{}, err
		}
	}
	answer(envelope.ErrUnavailable)
	s = start(t, &logic.fakeLogic, func(cfg *comet.Config) {
		carries(cfg)
		cfg.Listen = nil
		change(cfg)
	})
	return s, answer
}

// All messages of a session are given up half a minute after its end, not one after the other.
func TestUpstreamIsGivenUpTogether(t *testing.T) {
	for _, version := range []int16{0, 1, 2} {
		t.Run(fmt.Sprint("version ", version), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := upstreamOutage(t, func(*comet.Config) {})
				c := s.dialPipe(pipe.Options{})
				c.send(version, protocol.OpAuth, 1, `{"token":"ann"}`)
				c.receive()
				const messages = 32
				for seq := range int32(messages) {
					c.send(version, protocol.OpSend, seq, "x")
				}
				synctest.Wait()
				_ = c.pipe.Close()
				given := func() float64 {
					return s.metric("imgo_comet_upstream_total", "outcome=lost") + s.metric("imgo_comet_upstream_total", "outcome=failed")
				}
				time.Sleep(25 * time.Second)
				if n := given(); n > 5 { // a client of version 2 repeats by itself what failed
					t.Errorf("%v messages were given up early", n)
				}
				time.Sleep(15 * time.Second)
				if n := given(); n != messages {
					t.Errorf("%v messages were given up, want %d", n, messages)
				}
			})
		})
	}
}

// While the messages of all sessions take all space, a client of version 2 is told to repeat its message, and read on.
func TestUpstreamWithoutSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, answer := upstreamOutage(t, func(cfg *comet.Config) {
			cfg.UpstreamBytes = 600 // one message
			cfg.Heartbeat = 2 * time.Second
		})
		old := s.dialPipe(pipe.Options{})
		old.send(1, protocol.OpAuth, 1, "ann")
		old.receive()
		old.send(1, protocol.OpSend, 2, "x")
		old.receive()
		c := s.dialPipe(pipe.Options{})
		c.login("bob", "")
		for seq := range int32(10) {
			c.send(2, protocol.OpSend, seq, "x")
			p := c.expect(protocol.OpError, 0,
				`{"op":4,"code":"unavailable","reason":"the server cannot do this now; try again later","retry_ms":1000}`)
			if p.Seq != seq {
				t.Errorf("sequence %d, want %d", p.Seq, seq)
			}
			c.send(2, protocol.OpHeartbeat, 99, "")
			c.expect(protocol.OpHeartbeatReply, 0, "")
			time.Sleep(time.Second)
		}
		if n := s.metric("imgo_comet_upstream_total", "outcome=failed"); n != 10 {
			t.Errorf("%v messages failed, want 10", n)
		}
		answer(nil)
		time.Sleep(4 * time.Second)
		c.send(2, protocol.OpSend, 10, "x")
		c.expect(protocol.OpSend, 0, "")
	})
}
