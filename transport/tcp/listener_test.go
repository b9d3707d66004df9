package tcp_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"imgo/internal/wait/waittest"
	"imgo/protocol"
	"imgo/transport"
	"imgo/transport/tcp"
	"imgo/transport/transporttest"
)

// echo answers every packet with its body as op 5.
func echo(c transport.Conn) {
	for {
		p, err := transporttest.ReadPacket(c)
		if err != nil {
			return
		}
		b := transport.EncodeReply(transport.FormGoim, p.Version, protocol.OpMessage, p.Seq, 0, p.Body)
		if c.Write(time.Now().Add(transporttest.WaitLimit), b) != nil {
			return
		}
	}
}

// ping sends a packet and expects its echo.
func ping(t *testing.T, c *transporttest.Stream) {
	t.Helper()
	if err := c.Send(transport.AppendPacket(nil, 1, protocol.HeaderV1, 4, 9, 0, []byte("ping"))); err != nil {
		t.Fatal(err)
	}
	b, err := c.Next()
	if err != nil || !bytes.HasSuffix(b, []byte("ping")) {
		t.Fatalf("echo: %q, %v", b, err)
	}
}

// counter counts the calls of Config.Refused.
type counter struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *counter) add(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[reason]++
}

func (c *counter) of(reason string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[reason]
}

func TestListensOnBothFamilies(t *testing.T) {
	l := listen(t, transport.ListenConfig{Addr: ":0"})
	remotes := make(chan netip.AddrPort, 2)
	transporttest.Serve(t, l, func(c transport.Conn) {
		remotes <- c.Remote()
		echo(c)
	})
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for _, host := range []string{"127.0.0.1", "::1"} {
		c, err := net.Dial("tcp", net.JoinHostPort(host, port))
		if err != nil && host == "::1" {
			t.Skipf("no IPv6 here: %v", err)
		} else if err != nil {
			t.Fatal(err)
		}
		ping(t, &transporttest.Stream{Conn: c})
		if got := (<-remotes).Addr().String(); got != host {
			t.Errorf("a client from %s is said to come from %s", host, got)
		}
		_ = c.Close()
	}
}

func TestListenSaysWhatFailed(t *testing.T) {
	l := listen(t, transport.ListenConfig{})
	defer l.Close()
	if _, err := tcp.Listen(transport.ListenConfig{Addr: l.Addr().String()}); err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("a second listener on %s: %v", l.Addr(), err)
	}
}

func TestAdmitRefuses(t *testing.T) {
	var open atomic.Bool
	var refused counter
	l := listen(t, transport.ListenConfig{
		Refused: refused.add,
		Admit: func(a netip.Addr) error {
			if a != netip.AddrFrom4([4]byte{127, 0, 0, 1}) {
				t.Errorf("asked to admit %s", a)
			}
			if open.Load() {
				return nil
			}
			return errors.New("too many from there")
		},
	})
	transporttest.Serve(t, l, echo)
	c := &transporttest.Stream{Conn: transporttest.Dial(t, l, nil)}
	if b, err := c.Next(); err != io.EOF {
		t.Errorf("a refused client got %q, %v; want its end", b, err)
	}
	if n := refused.of("admit"); n != 1 {
		t.Errorf("%d refused, want 1", n)
	}
	open.Store(true)
	ping(t, &transporttest.Stream{Conn: transporttest.Dial(t, l, nil)})
}

// TestTLSHandshakeIsBounded checks that a client without TLS, or a silent one, does not pass the
// handshake. It delays no other client.
func TestTLSHandshakeIsBounded(t *testing.T) {
	certFile, keyFile := transporttest.WriteCert(t, t.TempDir(), "imgo")
	cfg, err := transport.ReloadingTLS(certFile, keyFile, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	var refused counter
	l := listen(t, transport.ListenConfig{TLS: cfg, HandshakeTimeout: 100 * time.Millisecond, Refused: refused.add})
	transporttest.Serve(t, l, echo)

	silent := &transporttest.Stream{Conn: transporttest.Dial(t, l, nil)}
	plain := &transporttest.Stream{Conn: transporttest.Dial(t, l, nil)}
	if err := plain.Send(transport.AppendPacket(nil, 1, protocol.HeaderV1, 7, 1, 0, []byte("token"))); err != nil {
		t.Fatal(err)
	}
	old := &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11}
	if err := transporttest.Dial(t, l, old).(*tls.Conn).Handshake(); err == nil {
		t.Error("TLS 1.1 was let in")
	}
	ping(t, &transporttest.Stream{Conn: transporttest.Dial(t, l, transporttest.ClientTLS(t, certFile))})
	if _, err := silent.Next(); err != io.EOF {
		t.Errorf("a silent client: %v, want its end", err)
	}
	waittest.Eventually(t, "all three are counted", func() bool { return refused.of("tls") == 3 })
}

// TestRunEndsInOrder checks that a handler gets its time after ctx is done. A handler that does not
// end its connection loses it.
func TestRunEndsInOrder(t *testing.T) {
	l := listen(t, transport.ListenConfig{Grace: 100 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	handled := make(chan error, 2)
	done := make(chan error, 1)
	go func() {
		done <- l.Run(ctx, func(c transport.Conn) {
			if p, err := transporttest.ReadPacket(c); err != nil || p.Op != protocol.OpAuth {
				handled <- errors.New("no first packet")
				return
			}
			handled <- nil
			_, err := transporttest.ReadPacket(c) // The handler ignores ctx.
			handled <- err
		})
	}()
	c := &transporttest.Stream{Conn: transporttest.Dial(t, l, nil)}
	if err := c.Send(transport.AppendPacket(nil, 1, protocol.HeaderV1, protocol.OpAuth, 1, 0, nil)); err != nil {
		t.Fatal(err)
	}
	if err := <-handled; err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-handled; !errors.Is(err, net.ErrClosed) {
		t.Errorf("the handler's read ended with %v, want net.ErrClosed", err)
	}
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		_ = c.Close()
		t.Error("the port is still open after Run")
	}
}

func TestRunSaysWhenThePortIsTakenAway(t *testing.T) {
	l := listen(t, transport.ListenConfig{})
	done := make(chan error, 1)
	go func() { done <- l.Run(context.Background(), echo) }()
	ping(t, &transporttest.Stream{Conn: transporttest.Dial(t, l, nil)})
	_ = l.Close()
	select {
	case err := <-done:
		if err == nil {
			t.Error("Run ended without a reason")
		}
	case <-time.After(transporttest.WaitLimit):
		t.Fatal("Run goes on without a port")
	}
}

func TestResetIsTheEnd(t *testing.T) {
	got := make(chan error, 1)
	l := listen(t, transport.ListenConfig{})
	transporttest.Serve(t, l, func(c transport.Conn) {
		if _, err := transporttest.ReadPacket(c); err != nil {
			got <- err
			return
		}
		_ = c.Write(time.Now().Add(time.Second), transport.EncodeReply(transport.FormGoim, 1, 8, 0, 0, nil))
		_, err := transporttest.ReadPacket(c)
		got <- err
	})
	c := &transporttest.Stream{Conn: transporttest.Dial(t, l, nil)}
	if err := c.Send(transport.AppendPacket(nil, 1, protocol.HeaderV1, 7, 1, 0, nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Next(); err != nil {
		t.Fatal(err)
	}
	if err := c.Reset(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("ReadPacket after a reset: %v, want io.ErrUnexpectedEOF", err)
	}
}

// TestSlowlorisWithinAPacket checks that single bytes do not extend the read deadline.
func TestSlowlorisWithinAPacket(t *testing.T) {
	got := make(chan error, 1)
	l := listen(t, transport.ListenConfig{})
	transporttest.Serve(t, l, func(c transport.Conn) {
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, err := transporttest.ReadPacket(c)
		got <- err
		_ = c.Close(protocol.CloseHandshakeTimeout, "")
	})
	c := &transporttest.Stream{Conn: transporttest.Dial(t, l, nil)}
	for _, b := range transport.AppendPacket(nil, 1, protocol.HeaderV1, 7, 1, 0, make([]byte, 5000)) {
		if _, err := c.Write([]byte{b}); err != nil {
			break
		}
		select {
		case err := <-got:
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("ReadPacket: %v, want os.ErrDeadlineExceeded", err)
			}
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
	t.Error("ReadPacket outlived its deadline")
}

// TestLastPacketSurvivesInput checks that a client that continues to send still gets the last packet.
// The connection must not be reset before.
func TestLastPacketSurvivesInput(t *testing.T) {
	l := listen(t, transport.ListenConfig{Linger: time.Second})
	transporttest.Serve(t, l, func(c transport.Conn) {
		if _, err := transporttest.ReadPacket(c); err == nil {
			_ = c.Write(time.Now().Add(time.Second), transport.EncodeReply(transport.FormGoim, 1, protocol.OpDisconnect, 0, 0, []byte("bye")))
			_ = c.Close(protocol.CloseKicked, "")
		}
	})
	for range 20 {
		c := &transporttest.Stream{Conn: transporttest.Dial(t, l, nil)}
		packet := transport.AppendPacket(nil, 1, protocol.HeaderV1, 7, 1, 0, make([]byte, 1000))
		for range 20 {
			if err := c.Send(packet); err != nil {
				break
			}
		}
		if b, err := c.Next(); err != nil || !bytes.HasSuffix(b, []byte("bye")) {
			t.Fatalf("got %q, %v; want the last packet", b, err)
		}
		if _, err := c.Next(); err != io.EOF {
			t.Fatalf("the end: %v, want io.EOF", err)
		}
		_ = c.Close()
	}
}

// TestUnackedAtTheEnd checks that the number of unacknowledged bytes stays known after the client
// vanished, however the connection ends.
func TestUnackedAtTheEnd(t *testing.T) {
	type counts struct {
		before, after, closed int64
		ok                    bool
		err                   error
	}
	got := make(chan counts, 1)
	full := make(chan struct{})
	l := listen(t, transport.ListenConfig{WriteBuffer: 64 << 10})
	transporttest.Serve(t, l, func(c transport.Conn) {
		frame := make([]byte, 64<<10)
		for c.Write(time.Now().Add(50*time.Millisecond), frame) == nil {
		}
		var n counts
		n.before, n.ok = c.Unacked()
		close(full)
		_, n.err = transporttest.ReadPacket(c)
		n.after, _ = c.Unacked()
		_ = c.Close(0, "")
		n.closed, _ = c.Unacked()
		got <- n
	})
	c := &transporttest.Stream{Conn: transporttest.Dial(t, l, nil)}
	<-full
	if err := c.Reset(); err != nil {
		t.Fatal(err)
	}
	n := <-got
	if !n.ok {
		t.Skip("this system does not tell")
	}
	if n.err == nil || n.before <= 0 || n.after != n.before || n.closed != n.before {
		t.Errorf("unacknowledged: %d before the reset, %d after it (%v), %d after Close", n.before, n.after, n.err, n.closed)
	}
}

// TestReleasedFollowsAdmit checks that every Admit is followed by one Released before Run returns,
// even if the connection never reached its handler.
func TestReleasedFollowsAdmit(t *testing.T) {
	certFile, keyFile := transporttest.WriteCert(t, t.TempDir(), "imgo")
	cfg, err := transport.ReloadingTLS(certFile, keyFile, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	var admitted, released atomic.Int32
	l := listen(t, transport.ListenConfig{
		TLS:      cfg,
		Grace:    100 * time.Millisecond,
		Admit:    func(netip.Addr) error { admitted.Add(1); return nil },
		Released: func(netip.Addr) { released.Add(1) },
	})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx, echo) }()
	for range 3 {
		ping(t, &transporttest.Stream{Conn: transporttest.Dial(t, l, transporttest.ClientTLS(t, certFile))})
		if err := (&transporttest.Stream{Conn: transporttest.Dial(t, l, nil)}).Send([]byte("no TLS at all")); err != nil {
			t.Fatal(err)
		}
	}
	waittest.Eventually(t, "all six are admitted", func() bool { return admitted.Load() == 6 })
	waittest.Eventually(t, "those without TLS are released", func() bool { return released.Load() == 3 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := released.Load(); n != 6 {
		t.Errorf("%d of 6 are released after Run", n)
	}
}
