package comet_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/comet"
	"imgo/transport/pipe"
)

// authenticate lets n clients send their auth packets, one after the other.
func (s *server) authenticate(n int) []*client {
	s.t.Helper()
	clients := make([]*client, n)
	for i := range clients {
		clients[i] = s.dialPipe(pipe.Options{})
		clients[i].send(2, protocol.OpAuth, 1, fmt.Sprintf(`{"token":"u%04d"}`, i))
		synctest.Wait() // The packet must arrive before the next one is sent.
	}
	return clients
}

// TestAdmissionOrder checks that waiting clients are admitted in the order in
// which they came, and that the handshake timeout does not count for them.
func TestAdmissionOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logic := &fakeLogic{}
		s := start(t, logic, func(cfg *comet.Config) {
			cfg.ConnectRate, cfg.ConnectBurst, cfg.HandshakeTimeout = 10, 1, time.Second
		})
		s.authenticate(200)
		time.Sleep(20 * time.Second)
		if n := s.Sessions(); n != 200 {
			t.Fatalf("%d sessions, want 200", n)
		}
		for i := range 200 {
			if got, want := logic.connected(i).Token, fmt.Sprintf("u%04d", i); got != want {
				t.Fatalf("client %d to be admitted was %s, want %s", i, got, want)
			}
		}
	})
}

// TestAdmissionLogicAway checks that clients wait while no logic answers. Only a few Connect calls are
// made meanwhile, and all clients are admitted later.
func TestAdmissionLogicAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		var asked atomic.Int64
		away.Store(true)
		logic := &fakeLogic{connect: func(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
			asked.Add(1)
			time.Sleep(10 * time.Millisecond)
			if away.Load() {
				return nil, envelope.ErrUnavailable
			}
			return admit(r)
		}}
		s := start(t, logic, nil)
		s.authenticate(1000)
		time.Sleep(20 * time.Second)
		// At first 64 calls are in progress, then 16 at a time, about a second apart.
		if n := asked.Load(); n < 64+15 || n > 64+16*40 {
			t.Errorf("logic was asked %d times in 20 s without an answer", n)
		}
		away.Store(false)
		time.Sleep(3 * time.Second)
		if n := s.Sessions(); n != 1000 {
			t.Errorf("%d sessions after logic was back, want 1,000", n)
		}
		if n := s.metric("imgo_comet_refused_total"); n != 0 {
			t.Errorf("%v were refused", n)
		}
	})
}

// TestAdmissionBound checks that no client waits for longer than ConnectWait,
// whether logic fails or hangs.
func TestAdmissionBound(t *testing.T) {
	for name, connect := range map[string]func(*envelope.ConnectRequest) (*envelope.ConnectReply, error){
		"fails": func(*envelope.ConnectRequest) (*envelope.ConnectReply, error) { return nil, envelope.ErrUnavailable },
		"hangs": func(*envelope.ConnectRequest) (*envelope.ConnectReply, error) {
			time.Sleep(5 * time.Second) // the deadline of comet's call
			return nil, envelope.ErrUnavailable
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := start(t, &fakeLogic{connect: connect}, func(cfg *comet.Config) { cfg.ConnectWait = 12 * time.Second })
				clients := s.authenticate(300)
				time.Sleep(11900 * time.Millisecond)
				if n := s.metric("imgo_comet_refused_total"); n != 0 {
					t.Errorf("%v were refused before", n)
				}
				time.Sleep(6 * time.Second) // A call that has begun is not cancelled.
				for _, c := range clients {
					c.closedWith(protocol.CloseOverload)
				}
				if n := s.metric("imgo_comet_refused_total", "reason=connect_wait"); n != 300 {
					t.Errorf("%v were refused for having waited, want 300", n)
				}
			})
		})
	}
}

// TestWaitingIsNoSilence checks that a client that waits for logic is not closed for a missing heartbeat: it need not
// send anything before it is let in.
func TestWaitingIsNoSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		away.Store(true)
		logic := &fakeLogic{connect: func(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
			if away.Load() {
				return nil, envelope.ErrUnavailable
			}
			return admit(r)
		}}
		s := start(t, logic, func(cfg *comet.Config) { cfg.Heartbeat, cfg.ConnectWait = 5*time.Second, time.Minute })
		s.authenticate(3)
		time.Sleep(50 * time.Second)
		away.Store(false)
		time.Sleep(9 * time.Second)
		if n := s.Sessions(); n != 3 {
			t.Errorf("%d of 3 clients were let in", n)
		}
	})
}

// TestAdmissionConcurrency checks that a slow logic gets fewer calls at a time.
func TestAdmissionConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var running, most int
		logic := &fakeLogic{connect: func(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			time.Sleep(2 * time.Second) // This is more than a fifth of the call's time.
			mu.Lock()
			running--
			mu.Unlock()
			return admit(r)
		}}
		s := start(t, logic, func(cfg *comet.Config) { cfg.ConnectWait, cfg.Heartbeat = 5*time.Minute, time.Minute })
		s.authenticate(1000)
		time.Sleep(19 * time.Second)
		mu.Lock()
		first := most
		most = 0
		mu.Unlock()
		if first != 64 {
			t.Errorf("logic was asked about %d clients at a time at first, want 64", first)
		}
		time.Sleep(10 * time.Second)
		mu.Lock()
		later := most
		mu.Unlock()
		if later > 16 || later < 10 {
			t.Errorf("a slow logic was asked about %d clients at a time, want 16", later)
		}
		time.Sleep(2 * time.Minute)
		if n := s.Sessions(); n != 1000 {
			t.Errorf("%d sessions, want 1,000", n)
		}
	})
}

// TestAdmissionStop checks that a comet that stops refuses waiting clients at once.
func TestAdmissionStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, &fakeLogic{connect: func(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
			time.Sleep(100 * time.Millisecond)
			return nil, envelope.ErrUnavailable
		}}, nil)
		clients := s.authenticate(200)
		time.Sleep(time.Second)
		began := time.Now()
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("stopping took %s", took)
		}
		for _, c := range clients {
			c.closedWith(protocol.CloseShutdown)
		}
	})
}

// TestAdmissionLeft checks that logic gets no call for a client that left while it waited.
func TestAdmissionLeft(t *testing.T) {
	if *goroutines {
		t.Skip("only a connection that epoll watches tells that without being read")
	}
	logic := &fakeLogic{}
	s := start(t, logic, func(cfg *comet.Config) {
		listening(cfg)
		cfg.ConnectRate, cfg.ConnectBurst = 2, 1
	})
	sent := 0
	for _, test := range []struct {
		name string
		dial func() *client
	}{{"tcp", s.dialTCP}, {"ws", func() *client { return s.dialWS(false) }}} {
		first, second, third := test.dial(), test.dial(), test.dial()
		for i, c := range []*client{first, second, third} {
			c.send(2, protocol.OpAuth, 1, fmt.Sprintf(`{"token":"%s%d"}`, test.name, i))
			sent++
			eventually(t, "the packet has come", func() bool {
				return s.metric("imgo_comet_packets_total", "op=auth") == float64(sent)
			})
			if c == second {
				if err := c.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if p := third.receive(); p.Op != protocol.OpAuthReply {
			t.Fatalf("the third got op %d", p.Op)
		}
	}
	logic.mu.Lock()
	defer logic.mu.Unlock()
	for _, r := range logic.connects {
		if r.Token[len(r.Token)-1] == '1' {
			t.Errorf("logic was asked about %s", r.Token)
		}
	}
	if len(logic.connects) != 4 {
		t.Errorf("logic was asked about %d clients, want 4", len(logic.connects))
	}
}

// TestAdmissionLeftBetweenTries checks that logic gets no further call for a client that left while it waited for another
// try.
func TestAdmissionLeftBetweenTries(t *testing.T) {
	if *goroutines {
		t.Skip("only a connection that epoll watches tells that without being read")
	}
	var left atomic.Bool
	var tries, late atomic.Int64
	logic := &fakeLogic{connect: func(*envelope.ConnectRequest) (*envelope.ConnectReply, error) {
		tries.Add(1)
		if left.Load() {
			late.Add(1)
		}
		return nil, envelope.ErrUnavailable
	}}
	s := start(t, logic, listening)
	c := s.dialTCP()
	c.send(2, protocol.OpAuth, 1, `{"token":"ann","key":"k"}`)
	eventually(t, "it is tried again", func() bool { return tries.Load() >= 3 })
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	left.Store(true)
	eventually(t, "it is refused", func() bool { return s.metric("imgo_comet_refused_total", "reason=client_left") == 1 })
	eventually(t, "it is gone", func() bool { return s.metric("imgo_comet_connections") == 0 })
	if n := late.Load(); n > 1 { // one try may have begun before
		t.Errorf("logic was asked %d times about a client that had left", n)
	}
}

// TestBlockedLogicHoldsUpOneClient blocks the Connect calls of two clients in logic, like a slow disk.
// Meanwhile other clients of the same listener are answered and admitted. After a failure the Connect
// call of a client is repeated.
func TestBlockedLogicHoldsUpOneClient(t *testing.T) {
	late, slow := make(chan struct{}), make(chan struct{})
	var asked, blocked atomic.Int64
	s := start(t, &fakeLogic{connect: func(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
		switch {
		case r.Token == "slow":
			blocked.Add(1)
			<-slow
		case r.Token == "late" && asked.Add(1) == 1:
			blocked.Add(1)
			<-late
			return nil, envelope.ErrUnavailable
		}
		return admit(r)
	}}, listening)
	answerLate, answerSlow := sync.OnceFunc(func() { close(late) }), sync.OnceFunc(func() { close(slow) })
	t.Cleanup(answerLate) // Cleanups run in reverse order: this one before the comet's.
	t.Cleanup(answerSlow)
	beside := s.dialTCP()
	beside.login("beside", "")
	var waiting []*client
	for _, token := range []string{"slow", "late"} {
		c := s.dialTCP()
		c.send(2, protocol.OpAuth, 1, fmt.Sprintf(`{"token":%q}`, token))
		waiting = append(waiting, c)
	}
	eventually(t, "logic was asked about both", func() bool { return blocked.Load() == 2 })
	beside.send(2, protocol.OpHeartbeat, 1, "")
	beside.expect(protocol.OpHeartbeatReply, 0, "")
	s.dialTCP().login("quick", "")
	s.dialWS(true).login("quick", "")
	answerLate()
	if p := waiting[1].receive(); p.Op != protocol.OpAuthReply {
		t.Errorf("the client of the late answer got %+v", p)
	}
	answerSlow()
	if p := waiting[0].receive(); p.Op != protocol.OpAuthReply {
		t.Errorf("the client of the slow answer got %+v", p)
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("logic was asked %d times about the client of the late answer, want 2", n)
	}
}
