package comet_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/comet"
	"imgo/transport"
)

// sink is a connection whose client authenticates, takes everything at once and
// sends nothing more, so that a benchmark measures only comet.
type sink struct {
	auth   atomic.Bool
	closed chan struct{}
	once   sync.Once
	frames *atomic.Int64
}

func (c *sink) ReadStep() (transport.Packet, error) {
	if c.auth.CompareAndSwap(false, true) {
		return transport.Packet{Version: 2, Op: protocol.OpAuth, Seq: 1, Body: []byte("ann")}, nil
	}
	<-c.closed
	return transport.Packet{}, io.EOF
}

func (c *sink) Write(_ time.Time, frames ...[]byte) error {
	c.frames.Add(int64(len(frames)))
	return nil
}

func (c *sink) Close(protocol.CloseCode, string) error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func (c *sink) Authenticated()                  {}
func (c *sink) SetReadDeadline(time.Time) error { return nil }
func (c *sink) Text() bool                      { return false }
func (c *sink) Traits() transport.Traits        { return transport.Traits{Scheme: "tcp"} }
func (c *sink) Remote() netip.AddrPort          { return netip.AddrPort{} }
func (c *sink) Unacked() (int64, bool)          { return 0, true }
func (c *sink) Written() int64                  { return c.frames.Load() }
func (c *sink) LastSign() time.Time             { return time.Now() }

// BenchmarkBroadcast measures one message to every session. ns/op is the time for all sessions
// together.
func BenchmarkBroadcast(b *testing.B) {
	const sessions = 10_000
	cfg := comet.DefaultConfig()
	cfg.Name = "c1"
	c, err := comet.New(cfg, &fakeLogic{}, nopLog, nil)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	var frames atomic.Int64
	for range sessions {
		c.Serve(&sink{closed: make(chan struct{}), frames: &frames})
	}
	for frames.Load() < sessions {
		time.Sleep(time.Millisecond)
	}
	req := &envelope.PushRequest{Deliveries: []*envelope.Delivery{{Op: 5, Body: make([]byte, 200), All: true}}}
	frames.Store(0)
	b.ReportAllocs()
	for n := int64(1); b.Loop(); n++ {
		if _, err := c.Push(ctx, req); err != nil {
			b.Fatal(err)
		}
		for frames.Load() < n*sessions {
			time.Sleep(10 * time.Microsecond)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/sessions, "ns/session")
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

// BenchmarkIdle reports the heap and the stacks of an idle TCP session. A few hundred
// bytes of that are the client's net.Conn, which is in this process too.
func BenchmarkIdle(b *testing.B) {
	const sessions = 2_000
	cfg := comet.DefaultConfig()
	cfg.Name, cfg.Listen = "c1", []transport.ListenFunc{overTCP("127.0.0.1:0")}
	c, err := comet.New(cfg, &fakeLogic{}, nopLog, nil)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	before := inUse()
	clients := make([]net.Conn, sessions)
	for i := range clients {
		if clients[i], err = net.Dial("tcp", c.Addr("tcp").String()); err != nil {
			b.Fatal(err)
		}
	}
	for _, conn := range clients {
		if _, err := io.WriteString(conn, wire("00000013 0010 0002 00000007 00000001", "ann")); err != nil {
			b.Fatal(err)
		}
	}
	for c.Sessions() < sessions {
		time.Sleep(time.Millisecond)
	}
	for b.Loop() { // No work: the sessions are what is measured.
	}
	b.ReportMetric(float64(inUse()-before)/sessions, "B/session")
	for _, conn := range clients {
		_ = conn.Close()
	}
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

// inUse returns the bytes of heap and stacks in use.
func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// BenchmarkAuthBody measures the parsing of auth bodies as clients send them at each connect.
func BenchmarkAuthBody(b *testing.B) {
	for name, body := range map[string]string{
		"v2":    `{"token":"0123456789abcdef0123456789abcdef","device":"phone-1","ack":true}`,
		"goim":  `{"mid":123, "room_id":"live://1000", "platform":"web", "accepts":[1000,1001,1002]}`,
		"token": "0123456789abcdef0123456789abcdef",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := comet.ParseAuth([]byte(body)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
