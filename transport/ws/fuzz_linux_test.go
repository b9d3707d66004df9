package ws_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imgo/protocol"
	"imgo/transport"
	"imgo/transport/batch"
	"imgo/transport/transporttest"
	"imgo/transport/ws"
)

// busy is the owner of a connection that is written to from all sides: it
// queues what the socket has no room for, as comet does, and reads.
type busy struct {
	t    *testing.T
	conn transport.Pollable
	read chan struct{}

	batches *batch.Pool // nil: there are none here
	sink    int32       // a socket, for a second write in a batch

	mu      sync.Mutex
	blocked bool
	queue   [][]byte
	failed  error
}

func (b *busy) Readable(bool) { b.read <- struct{}{} }

func (b *busy) Writable() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.blocked = false
	b.flush()
}

// flush writes what is queued. Holds mu.
func (b *busy) flush() {
	for len(b.queue) > 0 && !b.blocked && b.failed == nil {
		taken, left, err := b.conn.TryWrite(b.queue)
		b.queue, b.blocked, b.failed = b.queue[taken:], left > 0, err
	}
}

// give writes a frame, by way of a batch or not.
func (b *busy) give(frame []byte, batched bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.blocked || len(b.queue) > 0 {
		b.queue = append(b.queue, frame)
		return
	}
	taken, left, err := b.write(frame, batched)
	if taken == 0 && err == nil {
		b.queue = append(b.queue, frame)
	}
	b.blocked, b.failed = left > 0, err
}

func (b *busy) write(frame []byte, batched bool) (taken, left int, err error) {
	together := b.batches.Take()
	defer b.batches.Put(together)
	if !batched || together == nil || !b.conn.StartWrite(together, frame) {
		return b.conn.TryWriteOne(frame)
	}
	together.Add(b.sink, []byte("x"))
	return b.conn.FinishWrite(frame, together.Send()[0])
}

// reading reads to the end, as often as there is something, and answers nothing.
func (b *busy) reading() error {
	for {
		_, err := b.conn.TryReadPacket()
		switch {
		case err == nil:
		case err != transport.ErrIdle: //nolint:errorlint // it is never wrapped
			return err
		case b.conn.Park():
			<-b.read
		}
	}
}

// TestFramesAreNeverTorn: broadcasts of all sizes, pongs, packets and a close
// meet on one connection whose client reads in fits and starts: it gets whole
// frames, those of each writer in order, every pong with the payload of a ping
// that it sent, and nothing after the close frame.
func TestFramesAreNeverTorn(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { tearAt(t, seed) })
	}
}

// FuzzFramesAreNeverTorn is the same from seeds of the fuzzer's.
func FuzzFramesAreNeverTorn(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(tearAt)
}

func tearAt(t *testing.T, seed uint64) {
	if *goroutines {
		t.Skip("a connection with a goroutine has one writer")
	}
	const writers = 4
	rng := rand.New(rand.NewPCG(seed, 7))
	var ended sync.WaitGroup
	owner := make(chan *busy, 1)
	batches, err := batch.NewPool(writers)
	if err != nil {
		t.Logf("without batches: %v", err)
	}
	defer batches.Close()
	sink, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = unix.Close(sink[0]), unix.Close(sink[1]) }()
	l := listen(t, ws.Config{ListenConfig: transport.ListenConfig{WriteBuffer: 16 << 10, Linger: 50 * time.Millisecond}})
	transporttest.Serve(t, l, func(c transport.Conn) {
		b := &busy{t: t, conn: c.(transport.Pollable), read: make(chan struct{}, 1), batches: batches, sink: int32(sink[0])}
		b.conn.Attach(b)
		owner <- b
		_ = b.reading()
		ended.Wait() // nobody writes any more
		b.conn.Release()
	})
	c := dial(t, l, nil, false)
	_ = c.Conn.(*net.TCPConn).SetReadBuffer(48 << 10) // so that the server's socket is full most of the time
	b := <-owner
	frames := 50 + rng.IntN(150)
	sizes := []int{0, 1, 10, 100, 125, 126, 1000, 5000, 20000, 70000}
	for w := range writers {
		wrng := rand.New(rand.NewPCG(seed, uint64(w)+100))
		ended.Go(func() {
			for i := range frames {
				body := make([]byte, 8+sizes[wrng.IntN(len(sizes))])
				binary.BigEndian.PutUint32(body, uint32(w))
				binary.BigEndian.PutUint32(body[4:], uint32(i))
				fill(body[8:], byte(w+i))
				b.give(transport.EncodeReply(transport.FormGoim.Framed(), 1, 5, int32(i), 0, body), wrng.IntN(2) == 0)
				if wrng.IntN(20) == 0 {
					time.Sleep(time.Duration(wrng.IntN(2000)) * time.Microsecond)
				}
			}
		})
	}
	// Every other time the close comes into the midst of it, else it comes when
	// the client has everything.
	var closed atomic.Bool
	early, all := seed%2 == 0, make(chan struct{})
	closeAfter := time.Duration(rng.IntN(300)) * time.Millisecond
	ended.Go(func() {
		if early {
			time.Sleep(closeAfter)
			closed.Store(true)
		} else {
			<-all
		}
		_ = b.conn.Close(protocol.CloseKicked, "enough")
	})
	var pings sync.WaitGroup
	pings.Go(func() {
		prng := rand.New(rand.NewPCG(seed, 55))
		for i := range 300 {
			frame := transporttest.RawFrame(0x89, true, fmt.Appendf(nil, "ping %d", i))
			if prng.IntN(3) == 0 {
				frame = append(frame, transporttest.RawFrame(0x82, true, transport.AppendPacket(nil, 1, protocol.HeaderV1, 4, 1, 0, nil))...)
			}
			cut := prng.IntN(len(frame))
			if _, err := c.Write(frame[:cut]); err != nil {
				return
			}
			if _, err := c.Write(frame[cut:]); err != nil {
				return
			}
			time.Sleep(time.Duration(prng.IntN(400)) * time.Microsecond)
		}
	})
	defer pings.Wait()
	next := [writers]uint32{}
	got := 0
	defer func() {
		if got < writers*frames { // it ended otherwise, or failed: let the writers go
			close(all)
		}
	}()
	lastPong := -1
	for n := 0; ; n++ {
		first, payload, err := c.ReadFrame()
		if err != nil {
			// The goodbye may have found no room: then the end is a reset, or a
			// frame that is cut off. Before it there is no end.
			if !closed.Load() || strings.Contains(err.Error(), "server frame") {
				t.Fatalf("frame %d: %v", n, err)
			}
			return
		}
		switch first {
		case 0x82:
			p, rest, err := transport.DecodePacket(payload, 1<<20)
			if err != nil || len(rest) > 0 || len(p.Body) < 8 {
				t.Fatalf("frame %d: %v, %d bytes after the packet", n, err, len(rest))
			}
			w, i := binary.BigEndian.Uint32(p.Body), binary.BigEndian.Uint32(p.Body[4:])
			want := make([]byte, len(p.Body)-8)
			fill(want, byte(w+i))
			if w >= writers || i != next[w] || !bytes.Equal(p.Body[8:], want) {
				t.Fatalf("frame %d is number %d of writer %d, want %d; or its body is another", n, i, w, next[w])
			}
			next[w]++
			if got++; got == writers*frames {
				close(all)
			}
		case 0x8a:
			var i int
			if _, err := fmt.Sscanf(string(payload), "ping %d", &i); err != nil || i <= lastPong {
				t.Fatalf("frame %d: pong %q after that of ping %d", n, payload, lastPong)
			}
			lastPong = i
		case 0x88:
			if string(payload[2:]) != "enough" {
				t.Fatalf("closed with %q", payload)
			}
			if first, _, err := c.ReadFrame(); err == nil {
				t.Fatalf("after the close frame comes %#x", first)
			}
			return
		default:
			t.Fatalf("frame %d begins with %#x", n, first)
		}
		if rng.IntN(10) == 0 {
			time.Sleep(time.Duration(rng.IntN(2000)) * time.Microsecond)
		}
	}
}

func fill(b []byte, with byte) {
	for i := range b {
		b[i] = with + byte(i)
	}
}

// FuzzHandshake: what the listener takes by its own reading of a request
// net/http takes, too, and answers alike; and it reads what clients send.
func FuzzHandshake(f *testing.F) {
	const key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	const rest = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" + key
	l, err := ws.Listen(ws.Config{Origins: []string{"https://*.example.com"}, ListenConfig: transport.ListenConfig{Addr: "127.0.0.1:0"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = l.Close() })
	for _, head := range []string{
		"Host: bench\r\n" + rest,
		"host:bench:80\r\nconnection: keep-alive , Upgrade\r\nUPGRADE:WebSocket\t\r\nsec-websocket-version:13\r\nsec-websocket-KEY:\tdGhlIHNhbXBsZSBub25jZQ==\r\n",
		"Host: x\r\nUser-Agent: Mozilla/5.0 (X11; Linux)\r\nOrigin: https://a.example.com\r\nConnection: x\r\n" + rest,
	} {
		request := "GET /sub HTTP/1.1\r\n" + head + "\r\n"
		own, nets := l.Handshake([]byte(request))
		if want := "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="; nets != want || own != want && !strings.Contains(head, "Connection: x") {
			f.Errorf("%q: %q, and by net/http %q", request, own, nets)
		}
		f.Add(request)
	}
	for _, request := range []string{
		"GET /sub?x HTTP/1.1\r\nHost: x\r\n" + rest, "GET http://y/sub HTTP/1.1\r\n" + rest, "GET //sub HTTP/1.1\r\nHost: x\r\n" + rest,
		"GET /sub HTTP/1.1\r\nHost: \r\n" + rest, "GET /sub HTTP/1.1\r\nHost: x\r\n folded\r\n" + rest, "GET /sub HTTP/1.1\r\nHost : x\r\n" + rest,
		"GET /sub HTTP/1.1\r\nHost: x\r\nHost: y\r\n" + rest, "GET /sub HTTP/1.1\r\nHost: x\r\n" + rest + key, "GET /sub HTTP/1.1\nHost: x\n" + rest,
		"GET /sub HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n" + rest, "GET /sub HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: y\r\n" + rest,
		"GET /sub HTTP/1.1\r\nHost: x\r\nOrigin: https://a.example.org\r\n" + rest, "GET /sub HTTP/1.1\r\nHost: x\r\nA: \x80\x00\r\n" + rest,
		"GET /sub HTTP/1.1\r\nHost: x\r\nConnection: Upgrades\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" + key,
		"GET  /sub HTTP/1.1\r\nHost: x\r\n" + rest, "GET /sub  HTTP/1.1\r\nHost: x\r\n" + rest, "POST /sub HTTP/1.1\r\nHost: x\r\n" + rest,
	} {
		f.Add(request + "\r\n")
	}
	f.Fuzz(func(t *testing.T, request string) {
		at := strings.Index(request, "\r\n\r\n") // where a request's header ends
		if at < 0 {
			return
		}
		request = request[:at+4]
		if own, nets := l.Handshake([]byte(request)); own != "" && own != nets {
			t.Errorf("%q is taken with %s, and by net/http with %q", request, own, nets)
		}
	})
}
