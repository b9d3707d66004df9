package socket_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"imgo/internal/wait/waittest"
	"imgo/transport"
	"imgo/transport/internal/socket"
	"imgo/transport/transporttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns an accepted socket and its client. secure asks for TLS.
func pair(t *testing.T, secure bool, cfg transport.ListenConfig) (*socket.Socket, net.Conn) {
	t.Helper()
	return pairWithKeys(t, secure, cfg, nil)
}

// pairWithKeys is pair with a writer that gets the client's keys of TLS, in the format of NSS. It may be nil.
func pairWithKeys(t *testing.T, secure bool, cfg transport.ListenConfig, keys io.Writer) (*socket.Socket, net.Conn) {
	t.Helper()
	var clientTLS *tls.Config
	if secure {
		certFile, keyFile := transporttest.WriteCert(t, t.TempDir(), "imgo")
		var err error
		if cfg.TLS, err = transport.ReloadingTLS(certFile, keyFile, zerolog.Nop()); err != nil {
			t.Fatal(err)
		}
		clientTLS = transporttest.ClientTLS(t, certFile)
		clientTLS.KeyLogWriter = keys
	}
	cfg.Addr, cfg.Linger = "127.0.0.1:0", 10*time.Millisecond
	a, err := socket.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", a.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.Next(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		s.Release()
		a.Ended(s)
		a.Wait()
		_ = a.Close()
	})
	_ = c.SetDeadline(time.Now().Add(transporttest.WaitLimit))
	if !secure {
		return s, c
	}
	client := tls.Client(c, clientTLS)
	var server sync.WaitGroup
	server.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), transporttest.WaitLimit)
		defer cancel()
		if !s.Begin(ctx) {
			t.Error("the TLS handshake failed")
		}
	})
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	server.Wait()
	return s, client
}

func head(dst []byte, n int) []byte { return binary.BigEndian.AppendUint32(dst, uint32(n)) }

// TestSendArrivesWhole checks that the bytes arrive unchanged for frames of all sizes, which may be
// copied together, gathered or cut into TLS records.
func TestSendArrivesWhole(t *testing.T) {
	sizes := []int{0, 1, 100, 4096, 16<<10 - 5, 16<<10 - 4, 16<<10 - 3, 16 << 10, 16<<10 + 1, 40000, 100000}
	for _, secure := range []bool{false, true} {
		s, c := pair(t, secure, transport.ListenConfig{})
		rng := rand.New(rand.NewPCG(1, 2))
		for round := range 60 {
			h := socket.Head(head)
			if round%2 == 0 {
				h = nil
			}
			var frames [][]byte
			var want []byte
			for range 1 + rng.IntN(5) {
				f := make([]byte, sizes[rng.IntN(len(sizes))])
				for i := range f {
					f[i] = byte(rng.Uint32())
				}
				frames = append(frames, f)
				if h != nil {
					want = h(want, len(f))
				}
				want = append(want, f...)
			}
			sent := make(chan error, 1)
			before := s.Written()
			go func() { sent <- s.Send(time.Now().Add(transporttest.WaitLimit), frames, h) }()
			got := make([]byte, len(want))
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("TLS %v: %d frames, %d bytes arrived otherwise, %v", secure, len(frames), len(want), err)
			}
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
			if n := s.Written() - before; n < int64(len(want)) || !secure && n != int64(len(want)) {
				t.Fatalf("TLS %v: Written grew by %d for %d bytes", secure, n, len(want))
			}
		}
	}
}

// TestCloseWith checks that only the first call sends its last bytes. They arrive, followed by the end
// of the stream. Afterwards the socket cannot be used.
func TestCloseWith(t *testing.T) {
	for _, secure := range []bool{false, true} {
		s, c := pair(t, secure, transport.ListenConfig{})
		if !s.CloseWith([]byte("bye")) || s.CloseWith([]byte("again")) {
			t.Error("not just the first CloseWith counted")
		}
		if b, err := io.ReadAll(c); string(b) != "bye" || err != nil {
			t.Errorf("TLS %v: got %q, %v", secure, b, err)
		}
		if err := s.Send(time.Now().Add(time.Second), [][]byte{{1}}, nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Send: %v", err)
		}
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read: %v", err)
		}
		if err := s.SetReadDeadline(time.Now().Add(time.Hour)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("SetReadDeadline: %v", err)
		}
	}
}

// TestNobodyWaitsForASend checks that urgent bytes and CloseWith return at once while a Send is
// blocked. Only the newest urgent bytes are sent after the Send.
func TestNobodyWaitsForASend(t *testing.T) {
	s, c := pair(t, false, transport.ListenConfig{WriteBuffer: 8 << 10})
	frame := make([]byte, 1<<20)
	sent := make(chan error, 1)
	go func() { sent <- s.Send(time.Now().Add(transporttest.WaitLimit), [][]byte{frame}, nil) }()
	waittest.Eventually(t, "the Send is under way", func() bool { n, ok := s.Unacked(); return n > 0 || !ok })
	time.Sleep(20 * time.Millisecond)
	started := time.Now()
	s.Urgent([]byte("old"))
	s.Urgent([]byte("new"))
	if d := time.Since(started); d > transporttest.WaitLimit/2 {
		t.Errorf("Urgent took %s", d)
	}
	got := make([]byte, len(frame)+3)
	if _, err := io.ReadFull(c, got); err != nil || string(got[len(frame):]) != "new" {
		t.Errorf("behind the frame came %q, %v", got[len(frame):], err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	// A CloseWith that waits for the Send would use up the grace period in every try. A busy machine
	// makes only some tries slow.
	for try := 1; ; try++ {
		d := closeTime(t)
		if d < 200*time.Millisecond {
			return
		}
		if try == 10 {
			t.Fatalf("CloseWith took %s, and not less in %d tries", d, try)
		}
	}
}

// closeTime returns the duration of CloseWith while a Send is blocked.
func closeTime(t *testing.T) time.Duration {
	t.Helper()
	s, _ := pair(t, false, transport.ListenConfig{WriteBuffer: 8 << 10})
	frame := make([]byte, 1<<20)
	sent := make(chan error, 1)
	go func() {
		var err error
		for err == nil {
			err = s.Send(time.Now().Add(transporttest.WaitLimit), [][]byte{frame}, nil)
		}
		sent <- err
	}()
	waittest.Eventually(t, "the Send is under way", func() bool { n, ok := s.Unacked(); return n > 0 || !ok })
	time.Sleep(20 * time.Millisecond) // time for the kernel's buffers to fill up
	started := time.Now()
	s.CloseWith([]byte("bye"))
	took := time.Since(started)
	if err := <-sent; !errors.Is(err, net.ErrClosed) || time.Since(started) > transporttest.WaitLimit/2 {
		t.Errorf("the stuck Send ended with %v after %s", err, time.Since(started))
	}
	return took
}

// TestWait checks that Wait gives connections their time and then resets the others.
func TestWait(t *testing.T) {
	a, err := socket.Listen(transport.ListenConfig{Addr: "127.0.0.1:0", Grace: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", a.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := a.Next(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		defer a.Ended(s)
		_, err := s.Read(make([]byte, 1))
		read <- err
		s.Release()
	}()
	_ = a.Close()
	if _, err := a.Next(context.Background()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Next on a closed port: %v", err)
	}
	a.Wait()
	if err := <-read; !errors.Is(err, net.ErrClosed) {
		t.Errorf("the read ended with %v", err)
	}
}
