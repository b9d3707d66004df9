package imgoclient_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	imgoclient "imgo/clients/go"
	"imgo/clients/go/raw"
)

// overBoth runs a test on each transport.
func overBoth(t *testing.T, test func(t *testing.T, s *server)) {
	for _, network := range []string{"tcp", "ws"} {
		t.Run(network, func(t *testing.T) { test(t, newServer(t, network)) })
	}
}

func TestReceivesAndAcknowledges(t *testing.T) {
	overBoth(t, func(t *testing.T, s *server) {
		r := start(t, s, func(cfg *imgoclient.Config) {
			cfg.Device, cfg.Key, cfg.Platform = "laptop", "k", "test"
			cfg.Rooms, cfg.Accepts = []string{"b", "a"}, []int32{1000}
		})
		p := s.welcome()
		want := auth{Token: "secret", Device: "laptop", Key: "k", Platform: "test", Ack: true, Rooms: []string{"a", "b"}, Accepts: []int32{1000}}
		if diff := diff(want, p.auth); diff != "" {
			t.Errorf("auth: %s", diff)
		}
		if diff := diff(imgoclient.Session{ID: "test-1", Heartbeat: time.Minute, Pending: 3}, <-r.live); diff != "" {
			t.Errorf("session: %s", diff)
		}
		p.push(1, 2)
		p.send(1001, 0, 0, "not kept")
		p.push(3)
		r.expect(1, 2, 0, 3)
		if diff := diff([]uint64{1, 2, 3}, p.expectAcks(3)); diff != "" {
			t.Errorf("acks: %s", diff)
		}
		r.stop()
	})
}

// Under load a server delays the auth reply. The client waits longer than ConnectTimeout, but not
// longer than AuthTimeout.
func TestWaitsForItsTurn(t *testing.T) {
	overBoth(t, func(t *testing.T, s *server) {
		r := start(t, s, func(cfg *imgoclient.Config) { cfg.ConnectTimeout = time.Second })
		p := s.accept()
		<-time.After(1500 * time.Millisecond) // longer than ConnectTimeout
		p.send(raw.OpAuthReply, 1, 0, `{"session":"test-1","heartbeat":60}`)
		p.push(1)
		r.expect(1)
		p.expectAcks(1)
		r.stop()
	})
	t.Run("in vain", func(t *testing.T) {
		s := newServer(t, "tcp")
		r := start(t, s, func(cfg *imgoclient.Config) { cfg.AuthTimeout = 50 * time.Millisecond })
		s.accept()
		s.accept() // the client gave up and connects again
		r.stop()
	})
}

func TestBatchedPackets(t *testing.T) {
	overBoth(t, func(t *testing.T, s *server) {
		r := start(t, s, nil)
		p := s.welcome()
		var batch []byte
		for id := uint64(1); id <= 3; id++ {
			batch = raw.AppendPacket(batch, raw.Packet{Long: true, Op: raw.OpMessage, Seq: 0, ID: id, Body: fmt.Append(nil, id)})
		}
		if err := p.write(batch); err != nil { // several packets in one write
			t.Fatal(err)
		}
		inner := raw.AppendPacket(nil, raw.Packet{Long: true, Op: raw.OpMessage, Seq: 0, ID: 4, Body: []byte("4")})
		p.send(raw.OpRaw, 0, 0, string(inner))
		r.expect(1, 2, 3, 4)
		p.expectAcks(4)
		r.stop()
	})
}

func TestReconnectsAndDropsWhatItHad(t *testing.T) {
	overBoth(t, func(t *testing.T, s *server) {
		r := start(t, s, nil)
		p := s.welcome()
		p.push(1, 2)
		r.expect(1, 2)
		p.close() // the acknowledgements are lost
		p = s.welcome()
		p.push(1, 2, 3)
		r.expect(3)
		acked := map[uint64]bool{}
		for len(acked) < 3 { // a repeated message may be acknowledged twice
			for _, id := range p.expectAcks(1) {
				acked[id] = true
			}
		}
		if diff := diff(map[uint64]bool{1: true, 2: true, 3: true}, acked); diff != "" {
			t.Errorf("acks: %s", diff)
		}
		r.nothing()
		if err := <-r.lost; err == nil {
			t.Error("the loss has no error")
		}
		r.stop()
	})
}

func TestAcknowledgesOverTheNextConnection(t *testing.T) {
	s := newServer(t, "tcp")
	r := start(t, s, func(cfg *imgoclient.Config) { cfg.AckDelay = time.Hour })
	p := s.welcome()
	p.push(7)
	r.expect(7)
	p.close()
	<-r.live
	p = s.welcome()
	<-r.live
	r.cancel() // the delay ends with the client
	if diff := diff([]uint64{7}, p.expectAcks(1)); diff != "" {
		t.Errorf("acks: %s", diff)
	}
	if err := r.wait(); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNotHandledIsNotAcknowledged(t *testing.T) {
	s := newServer(t, "tcp")
	var failing atomic.Bool
	failing.Store(true)
	var calls atomic.Int32
	r := start(t, s, func(cfg *imgoclient.Config) {
		handle := cfg.OnMessage
		cfg.OnMessage = func(ctx context.Context, m imgoclient.Message) error {
			calls.Add(1)
			if m.ID == 1 && failing.Load() {
				return errHandling
			}
			return handle(ctx, m)
		}
	})
	p := s.welcome()
	p.push(1, 2)
	r.expect(2)
	if diff := diff([]uint64{2}, p.expectAcks(1)); diff != "" {
		t.Errorf("acks: %s", diff)
	}
	failing.Store(false)
	p.close()
	p = s.welcome()
	p.push(1)
	r.expect(1)
	p.expectAcks(1)
	if n := calls.Load(); n != 3 {
		t.Errorf("%d calls, want 3", n)
	}
	r.stop()
}

func TestNoAck(t *testing.T) {
	s := newServer(t, "tcp")
	r := start(t, s, func(cfg *imgoclient.Config) { cfg.NoAck = true })
	p := s.welcome()
	if !p.auth.Ack {
		t.Error("the server would acknowledge by itself")
	}
	p.push(1, 1)
	r.expect(1)
	sent := make(chan error, 1)
	go func() {
		reply, err := r.Send(context.Background(), raw.OpSend, []byte("up"))
		if err == nil && string(reply) != "down" {
			err = fmt.Errorf("the reply is %q", reply)
		}
		sent <- err
	}()
	up := p.expect(raw.OpSend) // and no ack before it
	if string(up.Body) != "up" {
		t.Errorf("sent %q", up.Body)
	}
	p.send(raw.OpSend, up.Seq, 0, "down")
	if err := <-sent; err != nil {
		t.Errorf("send: %v", err)
	}
	r.stop()
}

func TestCloseCodes(t *testing.T) {
	for name, test := range map[string]struct {
		body string
		back bool
	}{
		"shutdown":          {`{"code":3001,"reason":"shutting down","reconnect":true}`, true},
		"slow":              {`{"code":3002,"reason":"too slow"}`, true},
		"kicked":            {`{"code":3506,"reason":"kicked","reconnect":false}`, false},
		"kicked by code":    {`{"code":3506,"reason":"kicked"}`, false},
		"the word counts":   {`{"code":3999,"reason":"x","reconnect":true}`, true},
		"token is not good": {`{"code":3501,"reason":"who are you?","reconnect":false}`, false},
		"unreadable":        {`<html>`, true},
	} {
		t.Run(name, func(t *testing.T) {
			for _, when := range []string{"at auth", "later"} {
				t.Run(when, func(t *testing.T) {
					s := newServer(t, "tcp")
					r := start(t, s, nil)
					p := s.accept()
					if when == "later" {
						p.send(raw.OpAuthReply, 1, 0, `{}`)
					}
					p.send(raw.OpDisconnect, 0, 0, test.body)
					if test.back {
						s.welcome()
						r.stop()
						return
					}
					var refused *raw.CloseError
					if err := r.wait(); !errors.As(err, &refused) || refused.Reconnect || refused.Code < 3500 {
						t.Errorf("Run returned %v", err)
					}
					s.none(30 * time.Millisecond)
				})
			}
		})
	}
}

func TestWebSocketCloseCode(t *testing.T) {
	// This server sends the close code only in the WebSocket close frame.
	s := newServer(t, "ws")
	r := start(t, s, nil)
	p := s.welcome()
	p.closeWith(3503, "revoked")
	var refused *raw.CloseError
	if err := r.wait(); !errors.As(err, &refused) || refused.Code != raw.CloseTokenRevoked || refused.Reason != "revoked" {
		t.Errorf("Run returned %v", err)
	}
}

func TestExpiredTokenIsReplacedOnce(t *testing.T) {
	const expired = `{"code":3502,"reason":"token expired","reconnect":false}`
	s := newServer(t, "tcp")
	var tokens atomic.Int32
	r := start(t, s, func(cfg *imgoclient.Config) {
		cfg.TokenSource = func(context.Context) (string, error) {
			return fmt.Sprintf("token-%d", tokens.Add(1)), nil
		}
	})
	s.accept().send(raw.OpDisconnect, 0, 0, expired)
	p := s.welcome()
	if p.auth.Token != "token-2" {
		t.Errorf("came back with %s", p.auth.Token)
	}
	p.send(raw.OpDisconnect, 0, 0, expired)
	s.accept().send(raw.OpDisconnect, 0, 0, expired)
	var refused *raw.CloseError
	if err := r.wait(); !errors.As(err, &refused) || refused.Code != 3502 {
		t.Errorf("Run returned %v", err)
	}
}

func TestRooms(t *testing.T) {
	s := newServer(t, "tcp")
	r := start(t, s, func(cfg *imgoclient.Config) { cfg.Rooms = []string{"a"} })
	p := s.welcome()
	ctx := context.Background()
	answers := make(chan error, 1)
	<-r.live

	go func() { answers <- r.Join(ctx, "b") }()
	join := p.expect(raw.OpJoinRoom)
	p.send(raw.OpJoinRoomReply, join.Seq, 0, "")
	if err := <-answers; err != nil || string(join.Body) != "b" {
		t.Errorf("join %q: %v", join.Body, err)
	}
	go func() { answers <- r.Leave(ctx, "a") }()
	leave := p.expect(raw.OpLeaveRoom)
	p.send(raw.OpLeaveRoomReply, leave.Seq, 0, "")
	if err := <-answers; err != nil {
		t.Errorf("leave: %v", err)
	}
	if err := r.Join(ctx, ""); err == nil || !strings.Contains(err.Error(), "must not be empty") {
		t.Errorf("join nothing: %v", err)
	}
	p.close()
	p = s.welcome()
	if diff := diff([]string{"b"}, p.auth.Rooms); diff != "" {
		t.Errorf("rooms after a reconnect: %s", diff)
	}
	// A connection that ends answers no call.
	<-r.live
	go func() { answers <- r.Join(ctx, "c") }()
	p.expect(raw.OpJoinRoom)
	p.send(raw.OpDisconnect, 0, 0, `{"code":3506,"reason":"kicked","reconnect":false}`)
	var refused *raw.CloseError
	if err := <-answers; !errors.Is(err, imgoclient.ErrRefused) || !errors.As(err, &refused) {
		t.Errorf("join: %v", err)
	}
	if err := r.wait(); !errors.As(err, &refused) {
		t.Errorf("Run: %v", err)
	}
}

func TestHeartbeatAndSilence(t *testing.T) {
	s := newServer(t, "tcp")
	r := start(t, s, func(cfg *imgoclient.Config) { cfg.HeartbeatTimeout = 50 * time.Millisecond })
	p := s.accept()
	p.send(raw.OpAuthReply, 1, 0, `{"heartbeat":0.02}`)
	for range 3 {
		beat, err := p.read()
		if err != nil || beat.Op != raw.OpHeartbeat || beat.Seq == 0 {
			t.Fatalf("got %+v, %v, want a heartbeat", beat, err)
		}
		p.send(raw.OpHeartbeatReply, beat.Seq, 0, "")
	}
	s.welcome() // the first connection is silent, so the client makes a new one
	r.stop()
}

// TestSlowHandler checks that a full queue stops the reading, without a lost message or a
// reconnect.
func TestSlowHandler(t *testing.T) {
	s := newServer(t, "tcp")
	opened := make(chan struct{})
	r := start(t, s, func(cfg *imgoclient.Config) {
		handle := cfg.OnMessage
		cfg.Queue = 1
		cfg.OnMessage = func(ctx context.Context, m imgoclient.Message) error {
			select {
			case <-opened:
			case <-ctx.Done():
				return ctx.Err()
			}
			return handle(ctx, m)
		}
	})
	p := s.welcome()
	var ids []uint64
	for id := range uint64(20) {
		ids = append(ids, id+1)
	}
	p.push(ids...)
	close(opened)
	r.expect(ids...)
	p.expectAcks(len(ids))
	r.stop()
}

// TestStopWhileBusy checks that Run waits for the message that is being handled and drops the
// messages behind it. A second Run receives those again.
func TestStopWhileBusy(t *testing.T) {
	s := newServer(t, "tcp")
	entered, release := make(chan struct{}, 10), make(chan struct{})
	r := start(t, s, func(cfg *imgoclient.Config) {
		handle := cfg.OnMessage
		cfg.OnMessage = func(ctx context.Context, m imgoclient.Message) error {
			entered <- struct{}{}
			if m.ID == 1 {
				<-release
				if err := ctx.Err(); err != nil {
					return err // the handler has time until CloseTimeout
				}
			}
			return handle(ctx, m)
		}
	})
	p := s.welcome()
	p.push(1, 2, 3)
	<-entered
	r.cancel()
	close(release)
	if diff := diff([]uint64{1}, p.expectAcks(1)); diff != "" {
		t.Errorf("acks: %s", diff)
	}
	if err := r.wait(); err != nil {
		t.Error(err)
	}
	r.expect(1)
	r.nothing()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { r.result <- r.Run(ctx) }()
	p = s.welcome()
	if err := r.Run(ctx); !errors.Is(err, imgoclient.ErrInvalid) {
		t.Errorf("a second Run at the same time: %v", err)
	}
	p.push(1, 2, 3)
	r.expect(2, 3)
	p.expectAcks(3)
	cancel()
	if err := r.wait(); err != nil {
		t.Error(err)
	}
}

func TestServerThatIsNotThere(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	for _, address := range []string{address, "ws://" + address} {
		r := start(t, &server{t: t, address: address}, nil)
		for range 3 {
			if err := <-r.lost; err == nil || !strings.Contains(err.Error(), "connect") {
				t.Errorf("lost: %v", err)
			}
		}
		if _, err := r.Send(context.Background(), raw.OpSend, nil); !errors.Is(err, imgoclient.ErrNotLive) {
			t.Errorf("send: %v", err)
		}
		r.stop()
	}
}

// TestGarbage checks that the client leaves a server that does not speak the protocol and retries
// later. It must not read unlimited data.
func TestGarbage(t *testing.T) {
	s := newServer(t, "tcp")
	r := start(t, s, nil)
	p := s.welcome()
	if err := p.write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	var bad *raw.FormatError
	if err := <-r.lost; !errors.As(err, &bad) {
		t.Errorf("lost: %v", err)
	}
	s.welcome()
	r.stop()
}

func TestBadConfig(t *testing.T) {
	good := imgoclient.Config{Address: "h:1", Token: "t", OnMessage: func(context.Context, imgoclient.Message) error { return nil }}
	for name, test := range map[string]struct {
		change func(*imgoclient.Config)
		want   string
	}{
		"no port":        {func(c *imgoclient.Config) { c.Address = "host" }, "no port"},
		"scheme":         {func(c *imgoclient.Config) { c.Address = "ftp://h:1" }, "scheme"},
		"no host":        {func(c *imgoclient.Config) { c.Address = "ws://" }, "WebSocket"},
		"no token":       {func(c *imgoclient.Config) { c.Token = "" }, "Token"},
		"no handler":     {func(c *imgoclient.Config) { c.OnMessage = nil }, "OnMessage"},
		"room":           {func(c *imgoclient.Config) { c.Rooms = []string{"a\n"} }, "Rooms[0]"},
		"device too big": {func(c *imgoclient.Config) { c.Device = strings.Repeat("x", 129) }, "Device"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			test.change(&cfg)
			if _, err := imgoclient.New(cfg); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error about %s", err, test.want)
			}
		})
	}
	for _, address := range []string{"h:1", "tcp://h:1", "tls://h:1", "ws://h:1", "wss://h/sub", "[::1]:8080"} {
		cfg := good
		cfg.Address = address
		if _, err := imgoclient.New(cfg); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
}
