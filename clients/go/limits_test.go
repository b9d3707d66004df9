package imgoclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	imgoclient "imgo/clients/go"
	"imgo/clients/go/raw"
)

// TestCloseTimeout checks that Run does not wait for a handler longer than CloseTimeout, and that the next Run does not call a second
// handler beside it.
func TestCloseTimeout(t *testing.T) {
	s := newServer(t, "tcp")
	release := make(chan struct{})
	gaveUp := make(chan error, 1)
	var active, most atomic.Int32
	r := start(t, s, func(cfg *imgoclient.Config) {
		cfg.CloseTimeout = 20 * time.Millisecond
		handle := cfg.OnMessage
		cfg.OnMessage = func(ctx context.Context, m imgoclient.Message) error {
			most.Store(max(most.Load(), active.Add(1)))
			defer active.Add(-1)
			if m.ID == 1 && len(gaveUp) == 0 {
				<-ctx.Done()
				gaveUp <- ctx.Err()
				<-release
			}
			return handle(ctx, m)
		}
	})
	p := s.welcome()
	p.push(1, 2)
	for active.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	r.cancel()
	if err := r.wait(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { r.result <- r.Run(ctx) }()
	p = s.welcome()
	p.push(1, 2) // 1 is still being handled
	answer := make(chan error, 1)
	go func() { answer <- r.Join(ctx, "room") }()
	p.send(raw.OpJoinRoomReply, p.expect(raw.OpJoinRoom).Seq, 0, "")
	if err := <-answer; err != nil {
		t.Error(err)
	}
	r.nothing()
	close(release)
	r.expect(1, 2)
	p.expectAcks(2)
	cancel()
	if err := r.wait(); err != nil {
		t.Error(err)
	}
	if n := most.Load(); n != 1 {
		t.Errorf("%d handlers ran at the same time", n)
	}
}

// TestCallbackThatNeverReturns checks that CloseTimeout bounds the end of Run also if a callback never returns and more events come than
// may wait for it.
func TestCallbackThatNeverReturns(t *testing.T) {
	for name, end := range map[string]func(r *running, p *peer){
		"cancelled": func(r *running, _ *peer) { r.cancel() },
		"refused":   func(_ *running, p *peer) { p.send(raw.OpDisconnect, 0, 0, `{"code":3506,"reason":"kicked"}`) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, "tcp")
			release := make(chan struct{})
			defer close(release)
			hung := make(chan struct{}, 1)
			r := start(t, s, func(cfg *imgoclient.Config) {
				cfg.CloseTimeout = 20 * time.Millisecond
				cfg.OnRoom = func(imgoclient.RoomChange) {
					select {
					case hung <- struct{}{}:
					default:
					}
					<-release
				}
			})
			p := s.welcome()
			more := 300
			if name == "refused" {
				more = 257 // one that hangs and a full queue: the client reads on until it is refused
			}
			for range more {
				p.send(raw.OpRoomChanged, 0, 0, `{"room":"a","joined":false,"reason":"taken out"}`)
			}
			<-hung
			end(r, p)
			if err := r.wait(); (err != nil) != (name == "refused") {
				t.Errorf("Run returned %v", err)
			}
		})
	}
}

// TestSlowHandlerIsNoSilence checks that a client that does not read, because its queue is full, does not take the server for dead. It
// sends heartbeats meanwhile.
func TestSlowHandlerIsNoSilence(t *testing.T) {
	overBoth(t, func(t *testing.T, s *server) {
		release := make(chan struct{})
		r := start(t, s, func(cfg *imgoclient.Config) {
			cfg.Queue, cfg.HeartbeatTimeout = 1, 20*time.Millisecond
			handle := cfg.OnMessage
			cfg.OnMessage = func(ctx context.Context, m imgoclient.Message) error {
				<-release
				return handle(ctx, m)
			}
		})
		p := s.accept()
		p.send(raw.OpAuthReply, 1, 0, `{"heartbeat":0.02}`)
		p.push(1, 2, 3, 4)
		var beats []raw.Packet
		for range 10 { // far longer than HeartbeatTimeout
			beats = append(beats, p.expectHeartbeat())
		}
		if len(r.lost) > 0 {
			t.Fatalf("lost: %v", <-r.lost)
		}
		for _, beat := range beats {
			p.send(raw.OpHeartbeatReply, beat.Seq, 0, "")
		}
		close(release)
		r.expect(1, 2, 3, 4)
		r.stop()
		if len(r.lost) > 0 {
			t.Errorf("lost: %v", <-r.lost)
		}
	})
}

// expectHeartbeat reads packets until a heartbeat comes.
func (p *peer) expectHeartbeat() raw.Packet {
	p.t.Helper()
	for {
		packet, err := p.read()
		if err != nil {
			p.t.Fatalf("server: wait for a heartbeat: %v", err)
		}
		if packet.Op == raw.OpHeartbeat {
			return packet
		}
	}
}

// TestHalfAPacket checks that a server that falls silent within a packet is left, and that bytes of a long packet are a sign of life.
func TestHalfAPacket(t *testing.T) {
	s := newServer(t, "tcp")
	r := start(t, s, func(cfg *imgoclient.Config) { cfg.HeartbeatTimeout = 100 * time.Millisecond })
	p := s.accept()
	p.send(raw.OpAuthReply, 1, 0, `{"heartbeat":0.02}`)
	packet := raw.AppendPacket(nil, raw.Packet{Op: raw.OpMessage, ID: 1, Body: []byte("1")})
	for _, b := range packet {
		p.expectHeartbeat()
		if err := p.write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	r.expect(1)
	if err := p.write(packet[:20]); err != nil {
		t.Fatal(err)
	}
	if err := <-r.lost; !errors.Is(err, imgoclient.ErrTimeout) {
		t.Errorf("lost: %v", err)
	}
	s.welcome()
	r.stop()
}

func TestOpenCallsAreBounded(t *testing.T) {
	s := newServer(t, "tcp")
	r := start(t, s, nil)
	p := s.welcome()
	<-r.live
	const most = 256
	results := make(chan error, most)
	for range most {
		go func() {
			_, err := r.Send(context.Background(), raw.OpSend, []byte("up"))
			results <- err
		}()
	}
	for range most {
		p.expect(raw.OpSend)
	}
	if _, err := r.Send(context.Background(), raw.OpSend, nil); !errors.Is(err, imgoclient.ErrTooMany) {
		t.Errorf("one more: %v", err)
	}
	p.close()
	for range most {
		if err := <-results; !errors.Is(err, imgoclient.ErrLost) || errors.Is(err, imgoclient.ErrTimeout) {
			t.Fatalf("a call whose connection was lost: %v", err)
		}
	}
	r.stop()
}

func TestCallsThatAreNotAnswered(t *testing.T) {
	s := newServer(t, "tcp")
	r := start(t, s, func(cfg *imgoclient.Config) { cfg.RequestTimeout = 30 * time.Millisecond })
	p := s.welcome()
	<-r.live
	if err := r.Join(context.Background(), "a"); !errors.Is(err, imgoclient.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("join: %v", err)
	}
	late := p.expect(raw.OpJoinRoom)
	p.send(raw.OpJoinRoomReply, late.Seq, 0, "") // nobody waits any more
	if _, err := r.Send(context.Background(), 1000, nil); !errors.Is(err, imgoclient.ErrTimeout) {
		t.Errorf("send: %v", err)
	}
	p.send(1000, p.expect(1000).Seq, 0, "late") // no message, though messages have such operations
	p.push(1)
	r.expect(1)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := r.Send(ctx, raw.OpSend, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("send with a context that has ended: %v", err)
	}
	for _, op := range []int32{0, 5, 7, 999, -1} {
		if _, err := r.Send(context.Background(), op, nil); !errors.Is(err, imgoclient.ErrInvalid) {
			t.Errorf("op %d: %v", op, err)
		}
	}
	r.stop()
	if _, err := r.Send(context.Background(), raw.OpSend, nil); !errors.Is(err, imgoclient.ErrNotLive) {
		t.Errorf("send after the end: %v", err)
	}
}

// TestCloseEndsCalls checks that a call that waits for a reply ends with the client.
func TestCloseEndsCalls(t *testing.T) {
	s := newServer(t, "tcp")
	r := start(t, s, nil)
	p := s.welcome()
	<-r.live
	result := make(chan error, 1)
	go func() { result <- r.Leave(context.Background(), "a") }()
	p.expect(raw.OpLeaveRoom)
	r.stop()
	if err := <-result; !errors.Is(err, imgoclient.ErrClosed) {
		t.Errorf("leave: %v", err)
	}
}

// TestStates checks the order of the events of a life, and that the token stays out of the log.
func TestStates(t *testing.T) {
	s := newServer(t, "tcp")
	var mu sync.Mutex
	var log strings.Builder
	states := make(chan imgoclient.StateChange, 100)
	problems := make(chan *imgoclient.Error, 10)
	tokens := make(chan error, 10)
	r := start(t, s, func(cfg *imgoclient.Config) {
		cfg.TokenSource = func(context.Context) (string, error) { return "hush-hush", <-tokens }
		cfg.OnState = func(to imgoclient.StateChange) { states <- to }
		cfg.OnError = func(err *imgoclient.Error) { problems <- err }
		cfg.Log = func(level slog.Level, line string) {
			mu.Lock()
			defer mu.Unlock()
			fmt.Fprintln(&log, level, line)
		}
		cfg.OnMessage = func(context.Context, imgoclient.Message) error { return errHandling }
	})
	next := func(want imgoclient.State) imgoclient.StateChange {
		t.Helper()
		to := <-states
		if to.State != want {
			t.Fatalf("the state is %+v, want %s", to, want)
		}
		return to
	}
	next(imgoclient.Connecting)
	tokens <- errors.New("no token today")
	if err := <-problems; err.Code != imgoclient.CodeToken || !strings.Contains(err.Error(), "no token today") {
		t.Errorf("the token source failed: %v", err)
	}
	if to := next(imgoclient.Waiting); !errors.Is(to.Err, imgoclient.ErrToken) || to.CloseCode != 0 || to.Reason == "" || to.RetryIn <= 0 {
		t.Errorf("%+v", to)
	}
	next(imgoclient.Connecting)
	tokens <- nil
	p := s.welcome()
	if to := next(imgoclient.Live); to.Session.ID != "test-1" || to.Session.Pending != 3 || r.State() != imgoclient.Live {
		t.Errorf("%+v", to)
	}
	p.push(1)
	if err := <-problems; err.Code != imgoclient.CodeHandler || !errors.Is(err, errHandling) {
		t.Errorf("the handler failed: %v", err)
	}
	p.send(raw.OpDisconnect, 0, 0, `{"code":3005,"reason":"too much","reconnect":true}`)
	if to := next(imgoclient.Waiting); to.CloseCode != raw.CloseOverload || to.Reason != "too much" || to.Failed {
		t.Errorf("%+v", to)
	}
	next(imgoclient.Connecting)
	tokens <- nil
	s.accept().send(raw.OpDisconnect, 0, 0, `{"code":3501,"reason":"who?"}`)
	if to := next(imgoclient.Closed); to.CloseCode != raw.CloseAuthFailed || to.Reason != "who?" || !to.Failed {
		t.Errorf("%+v", to)
	}
	if err := r.wait(); !errors.Is(err, imgoclient.ErrRefused) || r.State() != imgoclient.Closed {
		t.Errorf("Run: %v, %s", err, r.State())
	}
	mu.Lock()
	defer mu.Unlock()
	for _, want := range []string{
		"WARN token: ", "INFO connected: session test-1", "WARN handler: ", "too much", "WARN refused for good: who? (3501)",
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not have %q:\n%s", want, log.String())
		}
	}
	if strings.Contains(log.String(), "hush") {
		t.Error("the log has the token")
	}
}

// TestStableSession checks that a session of StableAfter makes the backoff begin anew, and a shorter one does not.
func TestStableSession(t *testing.T) {
	s := newServer(t, "tcp")
	waits := make(chan time.Duration, 100)
	r := start(t, s, func(cfg *imgoclient.Config) {
		cfg.MinBackoff, cfg.MaxBackoff, cfg.StableAfter = time.Millisecond, time.Hour, 50*time.Millisecond
		cfg.OnState = func(to imgoclient.StateChange) {
			if to.State == imgoclient.Waiting {
				waits <- to.RetryIn
			}
		}
	})
	longest := time.Duration(0)
	for range 25 {
		s.welcome().close()
		longest = max(longest, <-waits)
		r.Connect()
	}
	if longest < time.Second {
		t.Errorf("the longest wait after 25 short sessions is %s", longest)
	}
	p := s.welcome()
	<-time.After(60 * time.Millisecond)
	p.close()
	if wait := <-waits; wait > time.Millisecond+1 {
		t.Errorf("the wait after a stable session is %s", wait)
	}
	r.Connect()
	s.welcome()
	r.stop()
}

// TestHostileServers lets a server do what no server should. Nothing hangs, and the client comes back.
func TestHostileServers(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for name, attack := range map[string]func(p *peer){
		"an ack reply that nobody wants": func(p *peer) { p.send(raw.OpAckReply, 77, 0, "") },
		"a batch of garbage":             func(p *peer) { p.send(raw.OpRaw, 0, 0, "garbage") },
		"a batch in a batch": func(p *peer) {
			p.send(raw.OpRaw, 0, 0, string(raw.AppendPacket(nil, raw.Packet{Op: raw.OpRaw})))
		},
		"a long reason":         func(p *peer) { p.send(raw.OpDisconnect, 0, 0, `{"code":3001,"reason":"`+long+`"}`) },
		"many addresses":        func(p *peer) { p.shutDown(strings.Split(strings.Repeat("127.0.0.1:1,", 1000), ",")...) },
		"a second auth reply":   func(p *peer) { p.send(raw.OpAuthReply, 1, 0, `{"heartbeat":-5}`) },
		"an unknown operation":  func(p *peer) { p.send(77, 0, 0, "") },
		"an early end":          func(p *peer) {},
		"a negative length":     func(p *peer) { _ = p.write([]byte{0xff, 0xff, 0xff, 0xff, 0, 16, 0, 2, 0, 0, 0, 5, 0, 0, 0, 0}) },
		"the largest length":    func(p *peer) { _ = p.write([]byte{0x7f, 0xff, 0xff, 0xff, 0, 16, 0, 2, 0, 0, 0, 5, 0, 0, 0, 0}) },
		"a message without end": func(p *peer) { _ = p.write(raw.AppendPacket(nil, raw.Packet{Op: 5, Body: []byte(long)})[:1000]) },
	} {
		t.Run(name, func(t *testing.T) {
			overBoth(t, func(t *testing.T, s *server) {
				r := start(t, s, nil)
				p := s.welcome()
				attack(p)
				p.push1(1) // it may be too late for it
				p.close()
				p = s.welcome()
				p.push(1, 2)
				for {
					if m := <-r.messages; m.ID == 2 {
						break
					}
				}
				p.close()
				s.welcome()
				r.stop()
			})
		})
	}
}

// push1 sends a message, if the connection can still carry it.
func (p *peer) push1(id uint64) {
	_ = p.write(raw.AppendPacket(nil, raw.Packet{Op: raw.OpMessage, ID: id, Body: fmt.Append(nil, id)}))
}

// TestErrors checks what errors.Is and the texts say.
func TestErrors(t *testing.T) {
	err := error(&imgoclient.Error{Code: imgoclient.CodeLost, Text: "send", CloseCode: 3001, Err: io.EOF})
	if !errors.Is(err, imgoclient.ErrLost) || errors.Is(err, imgoclient.ErrClosed) || !errors.Is(err, io.EOF) || err.Error() != "send: EOF" {
		t.Errorf("%v", err)
	}
	if !errors.Is(fmt.Errorf("wrapped: %w", err), imgoclient.ErrLost) {
		t.Error("a wrapped error is another")
	}
	if imgoclient.ErrNotLive.Error() != "not live" || errors.Is(imgoclient.ErrNotLive, imgoclient.ErrTooMany) {
		t.Errorf("%v", imgoclient.ErrNotLive)
	}
}
