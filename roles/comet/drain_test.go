package comet_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/comet"
	"imgo/transport/pipe"
)

// TestDrain checks that at shutdown the sessions are closed at the drain rate with 3001. Logic gets
// their acknowledgements and is told that they ended. A late client is refused.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logic := &fakeLogic{}
		s := start(t, logic, func(cfg *comet.Config) { cfg.DrainRate, cfg.AckInterval = 10, time.Hour })
		clients := make([]*client, 20)
		for i := range clients {
			clients[i] = s.connected(i, fmt.Sprint("u", i), 0)
			s.push(s.kept(i, 1, 0))
			clients[i].receive()
			clients[i].send(2, protocol.OpAck, 0, "\x00\x00\x00\x00\x00\x00\x00\x01")
		}
		waiting := s.dialPipe(pipe.Options{}) // This client has not authenticated.
		synctest.Wait()

		began := time.Now()
		done := make(chan error)
		go func() { done <- s.stop() }()
		synctest.Wait()
		if err := s.Ready(); !errors.Is(err, envelope.ErrUnavailable) {
			t.Fatalf("Ready while it drains: %v", err)
		}
		waiting.closedWith(protocol.CloseShutdown)
		late := s.dialPipe(pipe.Options{})
		late.closedWith(protocol.CloseShutdown)
		time.Sleep(time.Second)
		if n := s.Sessions(); n < 8 || n > 10 {
			t.Fatalf("%d of 20 sessions are left after 1 s at 10 a second", n)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 1800*time.Millisecond || took > 3*time.Second {
			t.Fatalf("20 sessions at 10 a second took %s", took)
		}
		for _, c := range clients {
			c.closedWith(protocol.CloseShutdown)
		}
		if acks, gone := logic.acked(), logic.gone(); len(acks) != 20 || len(gone) != 20 {
			t.Fatalf("%d ids acknowledged, %d sessions detached, want 20 of each", len(acks), len(gone))
		}
		_, err := s.Push(context.Background(), &envelope.PushRequest{})
		if !errors.Is(err, envelope.ErrUnavailable) {
			t.Fatalf("Push after the end: %v", err)
		}
	})
}

// TestDrainIsBounded checks the shutdown with clients that do not read and a logic that does not
// answer. They delay it only for a bounded time. The drain is then faster than its rate.
func TestDrainIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logic := &fakeLogic{
			connect: func(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
				if r.Token != "late" {
					return admit(r)
				}
				time.Sleep(5 * time.Second)
				return nil, envelope.ErrUnavailable
			},
			ack: func(*envelope.AckRequest) error { return envelope.ErrUnavailable },
		}
		s := start(t, logic, func(cfg *comet.Config) {
			cfg.DrainRate, cfg.DrainTimeout, cfg.SlowTimeout = 1, 4*time.Second, time.Hour
		})
		for i := range 20 {
			c := s.dialPipe(pipe.Options{Buffer: 512})
			c.login("ann", "")
			s.push(s.live(i, protocol.OpMessage, string(make([]byte, 4<<10))))
		}
		s.dialPipe(pipe.Options{}).send(2, protocol.OpAuth, 1, "late")
		synctest.Wait()
		began := time.Now()
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Fatalf("the drain took %s", took)
		}
		if n := len(logic.gone()); n != 20 {
			t.Fatalf("%d sessions were detached", n)
		}
	})
}

// TestRunTwice checks that a Comet runs only once.
func TestRunTwice(t *testing.T) {
	s := start(t, &fakeLogic{}, nil)
	if err := s.Run(context.Background()); err == nil {
		t.Fatal("a second Run worked")
	}
}

// TestDetachReason checks that logic is told once for each session why it ended.
func TestDetachReason(t *testing.T) {
	s := start(t, &fakeLogic{}, nil)
	left, kicked := s.connected(0, "ann", 0), s.connected(1, "bob", 0)
	_ = left.Close()
	s.push(s.kick(1, protocol.CloseKicked, "go away"), s.kick(1, protocol.CloseKicked, "twice"))
	kicked.closedWith(protocol.CloseKicked)
	eventually(t, "both are detached", func() bool { return len(s.logic.gone()) == 2 })
	reasons := map[string]string{}
	for _, d := range s.logic.gone() {
		reasons[d.User] = d.Reason
	}
	if reasons["ann"] != "closed by the client" || reasons["bob"] != "go away" {
		t.Fatalf("reasons %v", reasons)
	}
	// Deliveries for these sessions still arrive, and find no session.
	s.push(s.kept(0, 5, 0), s.live(0, 5, "x"), s.backlog(1, 0, 9, false, 9), s.nudge(1, 9), s.kick(0, 3506, ""))
	if n := s.metric("imgo_comet_messages_total", "outcome=gone"); n != 3 {
		t.Fatalf("%v were counted as gone", n)
	}
}
