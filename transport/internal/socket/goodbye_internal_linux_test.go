package socket

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"imgo/transport"
	"imgo/transport/transporttest"
)

// goodbyeListener binds a port whose connections have a small send buffer.
func goodbyeListener(t *testing.T, cfg transport.ListenConfig) (*Acceptor, net.Conn) {
	t.Helper()
	cfg.Addr, cfg.WriteBuffer = "127.0.0.1:0", 8<<10
	a, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", a.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(transporttest.WaitLimit))
	t.Cleanup(func() {
		_ = c.Close()
		a.Wait()
		_ = a.Close()
	})
	return a, c
}

// fill writes until the kernel takes nothing more for some time.
func fill(t *testing.T, write func([]byte) int) {
	t.Helper()
	b := bytes.Repeat([]byte("x"), 1000)
	for full := 0; full < 20; {
		if write(b) > 0 {
			full = 0
			continue
		}
		full++
		time.Sleep(5 * time.Millisecond)
	}
}

// TestGoodbyeWaitsForRoom checks that the last frame of a connection arrives if the kernel has no room
// for it when the connection is closed, and the client then reads. CloseWith does not wait for that.
func TestGoodbyeWaitsForRoom(t *testing.T) {
	certFile, keyFile := transporttest.WriteCert(t, t.TempDir(), "imgo")
	certificate, err := transport.ReloadingTLS(certFile, keyFile, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	arrives := func(t *testing.T, r io.Reader) {
		t.Helper()
		got, err := io.ReadAll(r)
		if err != nil || !bytes.HasSuffix(got, []byte("xgoodbye")) {
			t.Errorf("at the end of %d bytes came %q, %v", len(got), got[max(0, len(got)-20):], err)
		}
	}
	t.Run("epoll", func(t *testing.T) {
		a, c := goodbyeListener(t, transport.ListenConfig{})
		p := &Polled{}
		if err := a.NextPolled(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		p.Watch(newBlocking())
		fill(t, func(b []byte) int {
			n, _ := unix.SendmsgN(int(p.fd), b, nil, nil, unix.MSG_DONTWAIT)
			return n
		})
		p.CloseWith([]byte("goodbye"))
		go p.Release()
		arrives(t, c)
	})
	t.Run("goroutines", func(t *testing.T) {
		a, c := goodbyeListener(t, transport.ListenConfig{Goroutines: true})
		s, err := a.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		fill(t, func(b []byte) int {
			n, _ := tryWrite(s.tcp, b)
			return n
		})
		s.CloseWith([]byte("goodbye"))
		go func() {
			s.Release()
			a.Ended(s)
		}()
		arrives(t, c)
	})
	t.Run("TLS", func(t *testing.T) {
		a, c := goodbyeListener(t, transport.ListenConfig{TLS: certificate})
		s, err := a.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		client := tls.Client(c, transporttest.ClientTLS(t, certFile))
		shaken := make(chan bool)
		go func() { shaken <- s.Begin(context.Background()) }()
		if err := client.Handshake(); err != nil || !<-shaken {
			t.Fatal(err)
		}
		// Whole records: the last one waits in the kernel's queue, and no room is left behind it.
		record := bytes.Repeat([]byte("x"), 1000)
		for full := 0; full < 20; {
			before := s.written.Load()
			done := make(chan struct{})
			go func() {
				_ = s.Send(time.Now().Add(time.Minute), [][]byte{record}, nil)
				close(done)
			}()
			select {
			case <-done:
			case <-time.After(100 * time.Millisecond):
				full = 20 // the record is under way, and CloseWith lets it finish
			}
			if s.written.Load() == before {
				full++
			}
		}
		s.CloseWith([]byte("goodbye"))
		go func() {
			s.Release()
			a.Ended(s)
		}()
		arrives(t, client)
	})
}

// TestUnwatchedConnectionIsClosed checks that a connection that epoll does not take ends like any other:
// the reader gets an error, the last frame and FIN arrive, and what is unacknowledged is known.
func TestUnwatchedConnectionIsClosed(t *testing.T) {
	a, c := goodbyeListener(t, transport.ListenConfig{})
	p := &Polled{}
	if err := a.NextPolled(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	p.Watch(newBlocking())
	// A socket that is there already cannot be added.
	ev := unix.EpollEvent{Fd: int32(p.slot), Pad: -1}
	if err := unix.EpollCtl(a.poller.fd, unix.EPOLL_CTL_ADD, int(p.fd), &ev); err != nil {
		t.Fatal(err)
	}
	if p.Park() {
		t.Fatal("the reader is parked, and nothing would wake it")
	}
	if err := p.Fill(1); !errors.Is(err, errUnwatched) {
		t.Errorf("reading: %v", err)
	}
	if !p.CloseWith([]byte("goodbye")) {
		t.Error("the connection counts as closed before it was closed")
	}
	released := make(chan struct{})
	go func() {
		defer close(released)
		p.Release()
	}()
	if got, err := io.ReadAll(c); err != nil || string(got) != "goodbye" {
		t.Errorf("the client got %q, %v", got, err)
	}
	<-released
	if p.out.final < 0 {
		t.Error("it is not known what was unacknowledged at the end")
	}
}
