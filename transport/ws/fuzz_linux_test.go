package ws_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
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

// sharedConn owns a connection with many concurrent writers. Like comet, it queues the frames for which the
// socket has no room, and it reads.
type sharedConn struct {
	t    *testing.T
	conn transport.Pollable
	read chan struct{}

	batches *batch.Pool // nil without io_uring
	sink    int32       // a socket that gets the second write of each batch

	mu      sync.Mutex
	blocked bool
	queue   [][]byte
	failed  error
}

func (b *sharedConn) Readable(bool) { b.read <- struct{}{} }

func (b *sharedConn) Writable() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.blocked = false
	b.flushLocked()
}

// flushLocked writes the queue.
func (b *sharedConn) flushLocked() {
	for len(b.queue) > 0 && !b.blocked && b.failed == nil {
		taken, left, err := b.conn.TryWrite(b.queue)
		b.queue, b.blocked, b.failed = b.queue[taken:], left > 0, err
	}
}

// These are the ways to write a frame.
const (
	byItself    = iota
	inBatch     // mu stays locked until the batch was sent
	inOpenBatch // mu is unlocked while the batch is sent
	writeModes
)

// enqueue writes a frame, or queues it.
func (b *sharedConn) enqueue(frame []byte, mode int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.blocked || len(b.queue) > 0 {
		b.queue = append(b.queue, frame)
		return
	}
	taken, left, err := b.write(frame, mode)
	if taken == 0 && err == nil {
		b.queue = append(b.queue, frame)
	}
	b.blocked = b.blocked || left > 0
	if err != nil {
		b.failed = err
	}
}

func (b *sharedConn) write(frame []byte, mode int) (taken, left int, err error) {
	writes := b.batches.Get()
	defer b.batches.Put(writes)
	if mode == byItself || writes == nil || !b.conn.StartWrite(writes, frame) {
		return b.conn.TryWriteOne(frame)
	}
	writes.Add(b.sink, []byte("x"))
	if mode == inOpenBatch {
		b.mu.Unlock()
		runtime.Gosched()
	}
	result := writes.Send()[0]
	if mode == inOpenBatch {
		runtime.Gosched()
		b.mu.Lock()
	}
	return b.conn.FinishWrite(frame, result)
}

// readAll reads whatever has arrived, and answers nothing. It returns the error that ended the
// connection.
func (b *sharedConn) readAll() error {
	for {
		_, err := b.conn.TryReadPacket()
		switch {
		case err == nil:
		case err != transport.ErrIdle: //nolint:errorlint // The error is never wrapped.
			return err
		case b.conn.Park():
			<-b.read
		}
	}
}

// TestFramesAreNeverTorn writes broadcasts of all sizes, pongs, packets and a close frame to one
// connection. The client reads at an irregular pace. It must get whole frames, those of each writer in
// order, and nothing after the close frame. Every pong must have the payload of a ping that the client
// sent.
func TestFramesAreNeverTorn(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { testSharedConn(t, seed) })
	}
}

// FuzzFramesAreNeverTorn is TestFramesAreNeverTorn with seeds from the fuzzer.
func FuzzFramesAreNeverTorn(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(testSharedConn)
}

func testSharedConn(t *testing.T, seed uint64) {
	if *goroutines {
		t.Skip("a connection with a goroutine has one writer")
	}
	const writers = 4
	rng := rand.New(rand.NewPCG(seed, 7))
	var ended sync.WaitGroup
	ended.Add(1) // until all have begun: the handler may wait earlier
	owner := make(chan *sharedConn, 1)
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
		b := &sharedConn{t: t, conn: c.(transport.Pollable), read: make(chan struct{}, 1), batches: batches, sink: int32(sink[0])}
		b.conn.Attach(b)
		owner <- b
		_ = b.readAll()
		ended.Wait() // All writers have ended.
		b.conn.Release()
	})
	c := dial(t, l, nil, false)
	_ = c.Conn.(*net.TCPConn).SetReadBuffer(48 << 10) // Small, so that the server's socket is full most of the time.
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
				b.enqueue(transport.EncodeReply(transport.FormGoim.Framed(), 1, 5, int32(i), 0, body), wrng.IntN(writeModes))
				if wrng.IntN(20) == 0 {
					time.Sleep(time.Duration(wrng.IntN(2000)) * time.Microsecond)
				}
			}
		})
	}
	// In every other run the close frame is sent during the writes, else after the client has read
	// everything.
	var closed atomic.Bool
	early, all := seed%2 == 0, make(chan struct{})
	closeAfter := time.Duration(rng.IntN(300)) * time.Millisecond
	ended.Go(func() {
		if early {
			time.Sleep(closeAfter)
		} else {
			<-all
		}
		closed.Store(true)
		_ = b.conn.Close(protocol.CloseKicked, "enough")
	})
	ended.Done()
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
		if got < writers*frames { // The connection ended early or failed, so the writers are released.
			close(all)
		}
	}()
	lastPong := -1
	for n := 0; ; n++ {
		first, payload, err := c.ReadFrame()
		if err != nil {
			// The close frame may have found no room in time. Then the connection ends with a reset or a
			// truncated frame. Before the close frame it must not end.
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

// FuzzHandshake sends the same request to two listeners. One reads it from a polled socket, the other
// on a goroutine. Both must enqueue the same status and the same headers.
func FuzzHandshake(f *testing.F) {
	const key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	const rest = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" + key
	polled, blocking := handshakeListener(f, false), handshakeListener(f, true)
	for _, head := range []string{
		"Host: bench\r\n" + rest,
		"host:bench:80\r\nconnection: keep-alive , Upgrade\r\nUPGRADE:WebSocket\t\r\nsec-websocket-version:13\r\n" +
			"sec-websocket-KEY:\tdGhlIHNhbXBsZSBub25jZQ==\r\n",
		"Host: x\r\nUser-Agent: Mozilla/5.0 (X11; Linux)\r\nOrigin: https://a.example.com\r\nConnection: x\r\n" + rest,
	} {
		request := "GET /sub HTTP/1.1\r\n" + head + "\r\n"
		if a := answerTo(f, polled, request); a.status != 101 || a.accept != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
			f.Errorf("%q is answered with %+v", request, a)
		}
		f.Add(request)
	}
	for _, request := range []string{
		"GET /sub?x HTTP/1.1\r\nHost: x\r\n" + rest, "GET http://y/sub HTTP/1.1\r\n" + rest, "GET //sub HTTP/1.1\r\nHost: x\r\n" + rest,
		"GET http://y/sub HTTP/1.1\r\nHost: x\r\n" + rest, "GET http://y/sub HTTP/1.1\r\nHost: [\r\n" + rest,
		"GET /sub HTTP/1.1\r\nHost: \r\n" + rest, "GET /sub HTTP/1.1\r\nHost: x\r\n folded\r\n" + rest,
		"GET /sub HTTP/1.1\r\nHost : x\r\n" + rest,
		"GET /sub HTTP/1.1\r\n" + rest, "GET /sub HTTP/1.1\r\nHost: a b\r\n" + rest, "GET /sub HTTP/1.1\r\nHost: x/\r\n" + rest,
		"GET /sub HTTP/1.1\r\nHost: x\r\nHost: y\r\n" + rest, "GET /sub HTTP/1.1\r\nHost: x\r\n" + rest + key,
		"GET /sub HTTP/1.1\nHost: x\n" + rest,
		"GET /sub HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n" + rest, "GET /sub HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: y\r\n" + rest,
		"GET /sub HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n" + rest, "GET /sub HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" + rest,
		"GET /sub HTTP/1.1\r\nHost: x\r\nOrigin: https://a.example.org\r\n" + rest, "GET /sub HTTP/1.1\r\nHost: x\r\nA: \x80\x00\r\n" + rest,
		"GET /sub HTTP/1.1\r\nHost: x\r\nConnection: Upgrades\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" + key,
		"GET  /sub HTTP/1.1\r\nHost: x\r\n" + rest, "GET /sub  HTTP/1.1\r\nHost: x\r\n" + rest, "POST /sub HTTP/1.1\r\nHost: x\r\n" + rest,
		"GET /sub HTTP/2.0\r\nHost: x\r\n" + rest, "GET /sub HTTP/0.9\r\nHost: x\r\n" + rest, "GET /sub HTTP/1.9\r\nHost: x\r\n" + rest,
		"GET /sub HTTP/1.0\r\n" + rest, "GET /sub HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n" + rest,
		"GET /sub HTTP/1.1\r\nHost: x\r\nExpect: more\r\n" + rest, "CONNECT x:80 HTTP/1.1\r\n" + rest, "CONNECT /sub HTTP/1.1\r\n" + rest,
		"\r\nGET /sub HTTP/1.1\r\nHost: x\r\n" + rest, "GET /%73ub HTTP/1.1\r\nHost: x\r\n" + rest, "GET /sub HTTP/1.1\r\n Host: x\r\n" + rest,
		"GET /sub HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Protocol: chat\r\n" + rest, "nonsense\r\n", "GET * HTTP/1.1\r\nHost: x\r\n" + rest,
		"GET /sub HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Key: AAAA\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
		"GET /sub HTTP/1.1\r\nHost: x\r\n" + strings.Replace(rest, "13", "8", 1),
		"GET /sub HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 4<<10) + "\r\n" + rest,
		"GET /sub HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 8<<10) + "\r\n" + rest,
	} {
		f.Add(request + "\r\n")
	}
	f.Fuzz(func(t *testing.T, request string) {
		// The listener waits for the end of a request.
		request += "\r\n\r\n"
		if a, b := answerTo(t, polled, request), answerTo(t, blocking, request); a != b {
			t.Errorf("%q is answered with %+v, and on a goroutine with %+v", request, a, b)
		}
	})
}

// handshakeListener runs a listener whose handler ends every connection.
func handshakeListener(f *testing.F, goroutines bool) *ws.Listener {
	f.Helper()
	l, err := ws.Listen(ws.Config{Origins: []string{"https://*.example.com"}, ListenConfig: transport.ListenConfig{
		Addr: "127.0.0.1:0", Goroutines: goroutines, Linger: time.Millisecond,
	}})
	if err != nil {
		f.Fatal(err)
	}
	transporttest.Serve(f, l, func(transport.Conn) {})
	return l
}

// handshakeAnswer has the parts of an answer that are compared.
type handshakeAnswer struct {
	status                         int
	accept, upgrade, allow, number string
}

func answerTo(t testing.TB, l *ws.Listener, request string) (a handshakeAnswer) {
	t.Helper()
	c := transporttest.Dial(t, l, nil)
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(transporttest.WaitLimit))
	_, _ = io.WriteString(c, request) // The listener may refuse the request before its end.
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return a
	}
	_ = resp.Body.Close()
	return handshakeAnswer{
		status: resp.StatusCode, accept: resp.Header.Get("Sec-WebSocket-Accept"), upgrade: resp.Header.Get("Upgrade"),
		allow: resp.Header.Get("Allow"), number: resp.Header.Get("Sec-WebSocket-Version"),
	}
}
