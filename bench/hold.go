//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"imgo/transport"
)

const (
	// connectTimeout bounds each step of one connection's beginning.
	connectTimeout = 20 * time.Second
	// beatEvery is how often each connection sends a heartbeat; 60 s is what
	// the server asks for.
	beatEvery = 45 * time.Second
)

// holdRequest is what a holder is told first: connect.
type holdRequest struct {
	Addr  string `json:"addr"`
	Kind  string `json:"kind"`
	First int    `json:"first"` // number of the first user
	Count int    `json:"count"`
	// Ack: the clients acknowledge what is kept.
	Ack bool `json:"ack"`
	// Parallel is how many connect at a time.
	Parallel int `json:"parallel"`
}

// holdStats is every answer of a holder: counts since its start.
type holdStats struct {
	Error     string  `json:"error,omitempty"`
	Connected int     `json:"connected"`
	Seconds   float64 `json:"seconds"` // that connecting took
	Packets   int64   `json:"packets"` // pushed messages
	Bytes     int64   `json:"bytes"`
	Closed    int64   `json:"closed"` // connections that ended
	Acks      int64   `json:"acks"`
	AcksLost  int64   `json:"acks_lost"` // the socket had no room
}

// userID is the id of the n-th user, always as long.
func userID(n int) string { return fmt.Sprintf("u%08d", n) }

// holder holds client connections in one event loop.
type holder struct {
	req   holdRequest
	epoll int
	conns []*held

	packets, bytes, closed, acks, acksLost atomic.Int64
}

// held is one connection.
type held struct {
	fd     int
	gone   bool
	stream stream
}

func holdMain(dec *json.Decoder, enc *json.Encoder) error {
	h := &holder{}
	if err := dec.Decode(&h.req); err != nil {
		return err
	}
	started := time.Now()
	err := h.connect()
	stats := holdStats{Connected: len(h.conns), Seconds: time.Since(started).Seconds()}
	if err != nil {
		stats.Error = err.Error()
	} else {
		go h.loop()
	}
	for {
		stats.Packets, stats.Bytes, stats.Closed = h.packets.Load(), h.bytes.Load(), h.closed.Load()
		stats.Acks, stats.AcksLost = h.acks.Load(), h.acksLost.Load()
		if err := enc.Encode(stats); err != nil {
			return err
		}
		var next struct{}
		if err := dec.Decode(&next); err != nil {
			return err
		}
	}
}

// connect makes all connections; they are read from only after it.
func (h *holder) connect() error {
	addr, err := netip.ParseAddrPort(h.req.Addr)
	if err != nil {
		return fmt.Errorf("address %q: %w", h.req.Addr, err)
	}
	if h.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("make an epoll: %w", err)
	}
	h.conns = make([]*held, h.req.Count)
	var next, failed atomic.Int64
	var first error
	var once sync.Once
	var wg sync.WaitGroup
	for range max(1, h.req.Parallel) {
		wg.Go(func() {
			for failed.Load() == 0 {
				i := int(next.Add(1)) - 1
				if i >= h.req.Count {
					return
				}
				c, err := h.dial(addr, h.req.First+i)
				if err != nil {
					failed.Store(1)
					once.Do(func() { first = fmt.Errorf("connection %d: %w", i, err) })
					return
				}
				h.conns[i] = c
			}
		})
	}
	wg.Wait()
	if first != nil {
		return first
	}
	for i, c := range h.conns {
		ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP, Fd: int32(i)} // the kernel keeps Fd for us
		err := unix.SetNonblock(c.fd, true)
		if err == nil {
			err = unix.EpollCtl(h.epoll, unix.EPOLL_CTL_ADD, c.fd, &ev)
		}
		if err != nil {
			return fmt.Errorf("watch connection %d: %w", i, err)
		}
	}
	return nil
}

// dial makes one connection, up to the answer to its auth packet. It blocks
// its thread, which is what Parallel bounds.
func (h *holder) dial(addr netip.AddrPort, user int) (c *held, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket: %w", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	limit := unix.NsecToTimeval(int64(connectTimeout))
	for _, err := range []error{
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		// Ends with a reset: no TIME_WAIT is left for the next run.
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
	} {
		if err != nil {
			return nil, fmt.Errorf("set up a socket: %w", err)
		}
	}
	if err := connectTo(fd, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	c = &held{fd: fd, stream: stream{ws: h.req.Kind == kindWS}}
	if h.req.Kind == kindRaw {
		return c, nil
	}
	return c, h.hello(c, user)
}

// hello upgrades where that is needed, and authenticates.
func (h *holder) hello(c *held, user int) error {
	buf := make([]byte, 4096)
	if h.req.Kind == kindWS {
		const upgrade = "GET /sub HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
		if err := writeAll(c.fd, []byte(upgrade)); err != nil {
			return fmt.Errorf("upgrade: %w", err)
		}
		have := 0
		for !bytes.Contains(buf[:have], []byte("\r\n\r\n")) {
			n, err := readSome(c.fd, buf[have:])
			if err != nil {
				return fmt.Errorf("upgrade: %w", err)
			}
			have += n
		}
		head, rest, _ := bytes.Cut(buf[:have], []byte("\r\n\r\n"))
		if !bytes.HasPrefix(head, []byte("HTTP/1.1 101")) {
			return fmt.Errorf("upgrade: the answer is %.100q", head)
		}
		c.stream.rest = append(c.stream.rest, rest...)
	}
	auth, err := json.Marshal(map[string]any{"token": userID(user), "ack": h.req.Ack})
	if err != nil {
		return fmt.Errorf("encode the auth body: %w", err)
	}
	if err := writeAll(c.fd, request(h.req.Kind, transport.OpAuth, auth)); err != nil {
		return fmt.Errorf("authenticate: %w", err)
	}
	for welcome := false; !welcome; {
		n, err := readSome(c.fd, buf)
		if err != nil {
			return fmt.Errorf("authenticate: %w", err)
		}
		var refused []byte
		err = c.stream.feed(buf[:n], func(p transport.Packet) {
			switch p.Op {
			case transport.OpAuthReply:
				welcome = true
			case transport.OpDisconnect:
				refused = bytes.Clone(p.Body)
			}
		})
		if refused != nil {
			return fmt.Errorf("authenticate: refused: %s", refused)
		}
		if err != nil {
			return fmt.Errorf("authenticate: %w", err)
		}
	}
	return nil
}

// connectTo connects a blocking socket. A socket with timeouts is interrupted
// by the runtime's signals, and its connect goes on by itself then.
func connectTo(fd int, to unix.Sockaddr) error {
	err := unix.Connect(fd, to)
	for errors.Is(err, unix.EINTR) || errors.Is(err, unix.EALREADY) {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		_, _ = unix.Poll(ready, int(connectTimeout.Milliseconds())) // what came of it, connect says
		err = unix.Connect(fd, to)
	}
	if errors.Is(err, unix.EISCONN) {
		return nil
	}
	return err
}

// readSome reads at least a byte from a blocking socket.
func readSome(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil && n == 0:
			return 0, errClosed
		}
		return n, err
	}
}

// writeAll writes to a blocking socket.
func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		b = b[max(n, 0):]
	}
	return nil
}

// loop reads what comes until the process ends.
func (h *holder) loop() {
	runtime.LockOSThread()
	events := make([]unix.EpollEvent, 512)
	buf := make([]byte, 64<<10)
	beats := newBeats(h)
	for {
		n, err := unix.EpollWait(h.epoll, events, 250)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		for _, ev := range events[:max(n, 0)] {
			h.read(h.conns[ev.Fd], buf)
		}
		beats.send(time.Now())
	}
}

// read takes what one connection has.
func (h *holder) read(c *held, buf []byte) {
	if c.gone {
		return
	}
	n, err := unix.Read(c.fd, buf)
	switch {
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		return
	case err != nil || n <= 0:
		h.drop(c)
		return
	}
	h.bytes.Add(int64(n))
	if h.req.Kind == kindRaw {
		return
	}
	var pushed int64
	var ids []byte
	err = c.stream.feed(buf[:n], func(p transport.Packet) {
		if p.Op != transport.OpMessage {
			return
		}
		pushed++
		if h.req.Ack && p.ID != 0 {
			ids = binary.BigEndian.AppendUint64(ids, p.ID)
		}
	})
	h.packets.Add(pushed)
	if err != nil && !errors.Is(err, io.EOF) {
		h.drop(c)
		return
	}
	const most = 96 // what fits into a short WebSocket frame
	for len(ids) > 0 {
		k := min(len(ids), most)
		if _, err := unix.Write(c.fd, request(h.req.Kind, transport.OpAck, ids[:k])); err != nil {
			h.acksLost.Add(int64(k / 8))
		} else {
			h.acks.Add(int64(k / 8))
		}
		ids = ids[k:]
	}
}

func (h *holder) drop(c *held) {
	c.gone = true
	h.closed.Add(1)
	_ = unix.Close(c.fd)
}

// beats sends heartbeats, those of all connections evenly spread.
type beats struct {
	h      *holder
	packet []byte
	next   time.Time
	at     int
}

func newBeats(h *holder) *beats {
	return &beats{h: h, packet: request(h.req.Kind, transport.OpHeartbeat, nil), next: time.Now().Add(beatEvery)}
}

func (b *beats) send(now time.Time) {
	if now.Before(b.next) || b.h.req.Kind == kindRaw {
		return
	}
	const steps = 45
	b.next = now.Add(beatEvery / steps)
	for range len(b.h.conns)/steps + 1 {
		c := b.h.conns[b.at%len(b.h.conns)]
		b.at++
		if !c.gone {
			// A full socket has had other signs of life.
			_, _ = unix.Write(c.fd, b.packet)
		}
	}
}
