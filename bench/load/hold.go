//go:build linux

package load

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"imgo/protocol"
	"imgo/transport"
)

const (
	// connectTimeout bounds the time in which all clients connect if the request sets no
	// bound.
	connectTimeout = 2 * time.Minute
	// beatEvery is the heartbeat interval of each connection. The server asks for 60 s.
	beatEvery = 45 * time.Second
	// refusals bounds the refused attempts of a connection, on average.
	refusals = 5
	// Step is the time between two points of a timeline.
	Step = 50 * time.Millisecond
	// stalledBuffer is the receive buffer of clients that never read, in bytes. It is
	// small, so that unread messages stay in the server.
	stalledBuffer = 4 << 10
)

// HoldRequest is the first message to Hold. It describes the connections to make.
type HoldRequest struct {
	Addr  string `json:"addr"`
	Kind  string `json:"kind"`
	First int    `json:"first"` // number of the first user
	Count int    `json:"count"`
	// Sources are the loopback IPv4 addresses from which the connections come in turn. If
	// it is empty, the system chooses. From one address to one port, the system quickly
	// assigns half of its range of ports (14,116 with the default range of Linux). Beyond
	// that, every connect first searches that half in vain, which takes milliseconds.
	Sources []string `json:"sources,omitempty"`
	// Window is the number of simultaneous connection attempts. 0 means all at once.
	Window int `json:"window"`
	// Within bounds the time in which all clients connect. 0 means 2 minutes.
	Within time.Duration `json:"within,omitempty"`
	// Ack makes the clients acknowledge kept messages.
	Ack bool `json:"ack"`
	// Stamped means that messages carry their time (Stamp), so that Hold measures the
	// latency.
	Stamped bool `json:"stamped"`
	// Stalled clients authenticate and never read again.
	Stalled bool `json:"stalled"`
	// Room is the room that all clients join. Empty means no room.
	Room string `json:"room,omitempty"`
}

// Stats is every answer of Hold. Its counts are since the start.
type Stats struct {
	Error     string        `json:"error,omitempty"`
	Connected int           `json:"connected"`
	Took      time.Duration `json:"took"`    // time until all clients were connected
	Refused   int64         `json:"refused"` // connections that ended before admission and were tried again
	Packets   int64         `json:"packets"` // pushed messages
	Bytes     int64         `json:"bytes"`   // received bytes
	Reads     int64         `json:"reads"`   // reads that returned data; fewer than Packets if messages arrived together
	Closed    int64         `json:"closed"`  // connections that ended
	Acks      int64         `json:"acks"`
	AcksLost  int64         `json:"acks_lost"` // acknowledgements for which the socket had no room
	// Admitted is the number of connected clients at the end of each Step since the start.
	Admitted []int `json:"admitted,omitempty"`
	// Connects are the connecting times of the clients.
	Connects Histogram `json:"connects"`
	// Latency is that of stamped messages since the previous answer.
	Latency Histogram `json:"latency"`
}

// UserID returns the id of the n-th user. All ids have the same length.
func UserID(n int) string { return fmt.Sprintf("u%08d", n) }

// StampSize is the number of digits of a stamp.
const StampSize = 19

// stampOf returns the stamp of a body. ok is false if there is none.
func stampOf(body []byte) (int64, bool) {
	if len(body) > 0 && body[0] == '"' {
		body = body[1:]
	}
	if len(body) < StampSize {
		return 0, false
	}
	n := int64(0)
	for _, c := range body[:StampSize] {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	return n, true
}

// counts are the counts of a holder. Only the event loop writes them; any goroutine
// may read them.
type counts struct {
	packets, bytes, reads, closed, acks, acksLost, refused atomic.Int64
}

// Hold is the main function of a process that holds connections. It reads a
// HoldRequest, connects the clients and answers with Stats. After that it answers
// every JSON object with Stats, until its input ends.
func Hold(dec *json.Decoder, enc *json.Encoder) error {
	var req HoldRequest
	if err := dec.Decode(&req); err != nil {
		return err
	}
	if req.Kind == TLS || req.Kind == WSS {
		return holdTLS(req, dec, enc)
	}
	h, err := newHolder(req)
	if err != nil {
		return enc.Encode(Stats{Error: err.Error()})
	}
	asks, answers := make(chan struct{}, 1), make(chan Stats)
	go func() {
		runtime.LockOSThread()
		answers <- h.connect()
		h.loop(asks, answers)
	}()
	for {
		stats := <-answers
		if err := enc.Encode(stats); err != nil || stats.Error != "" {
			return err
		}
		var next struct{}
		if err := dec.Decode(&next); err != nil {
			return err
		}
		asks <- next
		// The event loop may be blocked in epoll_wait.
		if _, err := unix.Write(h.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
			return fmt.Errorf("wake the loop: %w", err)
		}
	}
}

// Phases of a connection.
const (
	dialing = iota
	upgrading
	authenticating
	live
	gone
)

// heldConn is one connection of a holder.
type heldConn struct {
	fd     int
	phase  uint8
	begun  time.Duration // since the start of the holder
	stream stream
}

// holder holds client connections in one event loop. Only the goroutine of the loop
// may use it, except for counts.
type holder struct {
	req     HoldRequest
	to      *unix.SockaddrInet4
	from    []*unix.SockaddrInet4
	started time.Time
	epoll   int
	wake    int // an eventfd
	conns   []*heldConn
	events  []unix.EpollEvent
	buf     []byte
	beats   beats
	counts  counts

	next, inflight, connected int
	stats                     Stats
	latency                   Histogram
	failed                    error
}

func newHolder(req HoldRequest) (*holder, error) {
	addr, err := netip.ParseAddrPort(req.Addr)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", req.Addr, err)
	}
	if req.Count < 1 {
		return nil, errors.New("nothing to connect")
	}
	if req.Window < 1 {
		req.Window = req.Count
	}
	if req.Within <= 0 {
		req.Within = connectTimeout
	}
	h := &holder{
		req: req, to: &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}, started: time.Now(),
		conns: make([]*heldConn, req.Count), events: make([]unix.EpollEvent, 512), buf: make([]byte, 256<<10),
	}
	for _, source := range req.Sources {
		addr, err := netip.ParseAddr(source)
		if err != nil || !addr.Is4() {
			return nil, fmt.Errorf("source %q is no IPv4 address", source)
		}
		h.from = append(h.from, &unix.SockaddrInet4{Addr: addr.As4()})
	}
	if h.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make an epoll: %w", err)
	}
	if h.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	if err := unix.EpollCtl(h.epoll, unix.EPOLL_CTL_ADD, h.wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1}); err != nil {
		return nil, fmt.Errorf("watch an eventfd: %w", err)
	}
	h.beats = beats{h: h, packet: Request(req.Kind, protocol.OpHeartbeat, nil)}
	return h, nil
}

// connect makes all connections, with at most Window attempts at the same time.
func (h *holder) connect() Stats {
	for h.connected < h.req.Count && h.failed == nil {
		for h.next < h.req.Count && h.inflight < h.req.Window && h.failed == nil {
			if err := h.dial(h.next); err != nil {
				h.failed = err
			}
			h.next++
		}
		h.wait(int(Step.Milliseconds()))
		if time.Since(h.started) > h.req.Within && h.failed == nil {
			h.failed = fmt.Errorf("%d of %d were in after %s, %d were refused and tried again", h.connected, h.req.Count, h.req.Within,
				h.counts.refused.Load())
		}
	}
	h.stats.Connected, h.stats.Took = h.connected, time.Since(h.started)
	if h.failed != nil {
		h.stats.Error = h.failed.Error()
	}
	h.beats.next = time.Now().Add(beatEvery)
	stats := h.answer()
	h.stats = Stats{Connected: h.stats.Connected, Took: h.stats.Took}
	return stats
}

// answer returns the current counts and resets the latency.
func (h *holder) answer() Stats {
	s := h.stats
	c := &h.counts
	s.Packets, s.Bytes, s.Closed, s.Refused = c.packets.Load(), c.bytes.Load(), c.closed.Load(), c.refused.Load()
	s.Acks, s.AcksLost, s.Reads = c.acks.Load(), c.acksLost.Load(), c.reads.Load()
	s.Latency, h.latency = h.latency, Histogram{}
	return s
}

// loop handles events until the process ends.
func (h *holder) loop(asks <-chan struct{}, answers chan<- Stats) {
	for {
		h.wait(250)
		select {
		case <-asks:
			answers <- h.answer()
		default:
		}
		h.beats.send(time.Now())
	}
}

// wait handles the events of at most ms milliseconds.
func (h *holder) wait(ms int) {
	n, err := unix.EpollWait(h.epoll, h.events, ms)
	if err != nil && !errors.Is(err, unix.EINTR) {
		h.failed = fmt.Errorf("wait for events: %w", err)
		return
	}
	for i := range max(n, 0) {
		ev := &h.events[i]
		if ev.Fd < 0 {
			_, _ = unix.Read(h.wake, h.buf[:8]) // it only wakes the loop
			continue
		}
		c := h.conns[ev.Fd]
		switch {
		case c.phase == live:
			h.read(c)
		case c.phase < live:
			if err := h.advance(c, int(ev.Fd)); err != nil {
				h.retry(c, int(ev.Fd), err)
			}
		}
	}
}

// dial starts the i-th connection.
func (h *holder) dial(i int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if err == nil {
		// With this option, close sends a reset. So no socket in TIME_WAIT remains for the
		// next run.
		err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	if err == nil && h.req.Stalled {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, stalledBuffer)
	}
	if err == nil && len(h.from) > 0 {
		if err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err == nil {
			err = unix.Bind(fd, h.from[i%len(h.from)])
		}
	}
	if err == nil {
		if err = unix.Connect(fd, h.to); errors.Is(err, unix.EINPROGRESS) || errors.Is(err, unix.EINTR) {
			err = nil
		}
	}
	if err == nil {
		err = unix.EpollCtl(h.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLOUT, Fd: int32(i)})
	}
	if err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("connect to %s: %w", h.req.Addr, err)
	}
	begun := time.Since(h.started)
	if old := h.conns[i]; old != nil {
		begun = old.begun // a repeated attempt counts from the first one
	}
	h.conns[i] = &heldConn{fd: fd, begun: begun, stream: stream{ws: h.req.Kind == WS}}
	h.inflight++
	return nil
}

// retry retries a connection that ended before admission.
func (h *holder) retry(c *heldConn, i int, err error) {
	_ = unix.Close(c.fd)
	c.phase = gone
	h.inflight--
	if n := h.counts.refused.Add(1); n > refusals*int64(h.req.Count) {
		h.failed = fmt.Errorf("connection %d, after %d that were refused: %w", i, n-1, err)
	} else if err := h.dial(i); err != nil {
		h.failed = err
	}
}

const upgrade = "GET /sub HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"

// auth returns the first packet of the i-th client.
func (r *HoldRequest) auth(i int) ([]byte, error) {
	body := map[string]any{"token": UserID(r.First + i), "ack": r.Ack}
	if r.Room != "" {
		body["rooms"] = []string{r.Room}
	}
	b, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode the auth body: %w", err)
	}
	return Request(r.Kind, protocol.OpAuth, b), nil
}

// advance handles an event of a connection that is not yet admitted.
func (h *holder) advance(c *heldConn, i int) error {
	switch c.phase {
	case dialing:
		return h.dialed(c, i)
	case upgrading:
		n, err := readSome(c.fd, h.buf)
		if err != nil || n == 0 {
			return err
		}
		c.stream.rest = append(c.stream.rest, h.buf[:n]...)
		head, rest, whole := bytes.Cut(c.stream.rest, []byte("\r\n\r\n"))
		if !whole {
			return nil
		}
		if !bytes.HasPrefix(head, []byte("HTTP/1.1 101")) {
			return fmt.Errorf("upgrade: the answer is %.100q", head)
		}
		c.stream.rest = bytes.Clone(rest)
		return h.authenticate(c, i)
	}
	n, err := readSome(c.fd, h.buf)
	if err != nil || n == 0 {
		return err
	}
	admitted, ids, err := c.stream.admission(h.buf[:n], &h.counts.packets)
	if err != nil || !admitted {
		return err
	}
	if err := h.admitted(c); err != nil {
		return err
	}
	h.ack(c, ids)
	return nil
}

// dialed handles the end of connect(2), which may have failed.
func (h *holder) dialed(c *heldConn, i int) error {
	if code, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || code != 0 {
		return fmt.Errorf("connect to %s: %w", h.req.Addr, errors.Join(err, unix.Errno(code)))
	}
	if err := unix.EpollCtl(h.epoll, unix.EPOLL_CTL_MOD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}); err != nil {
		return fmt.Errorf("watch connection %d: %w", i, err)
	}
	switch h.req.Kind {
	case Raw:
		return h.admitted(c)
	case WS:
		c.phase = upgrading
		if _, err := unix.Write(c.fd, []byte(upgrade)); err != nil {
			return fmt.Errorf("upgrade: %w", err)
		}
		return nil
	}
	return h.authenticate(c, i)
}

func (h *holder) authenticate(c *heldConn, i int) error {
	c.phase = authenticating
	packet, err := h.req.auth(i)
	if err != nil {
		return err
	}
	if _, err := unix.Write(c.fd, packet); err != nil { // a new socket has room
		return fmt.Errorf("authenticate: %w", err)
	}
	return nil
}

// admitted records the admission of a client.
func (h *holder) admitted(c *heldConn) error {
	c.phase = live
	h.inflight--
	h.connected++
	now := time.Since(h.started)
	h.stats.Connects.Add(now - c.begun)
	for len(h.stats.Admitted) <= int(now/Step) {
		h.stats.Admitted = append(h.stats.Admitted, h.connected-1)
	}
	h.stats.Admitted[len(h.stats.Admitted)-1] = h.connected
	if h.req.Stalled {
		if err := unix.EpollCtl(h.epoll, unix.EPOLL_CTL_DEL, c.fd, nil); err != nil {
			return fmt.Errorf("stall: %w", err)
		}
	}
	return nil
}

// readSome reads what a socket has. It returns 0 and no error if there is nothing to
// read yet.
func readSome(fd int, b []byte) (int, error) {
	n, err := unix.Read(fd, b)
	switch {
	case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN):
		return 0, nil
	case err != nil:
		return 0, err
	case n == 0:
		return 0, errClosed
	}
	return n, nil
}

// read handles the available bytes of one connection.
func (h *holder) read(c *heldConn) {
	n, err := readSome(c.fd, h.buf)
	if err != nil {
		h.drop(c)
		return
	}
	if n == 0 {
		return
	}
	h.counts.bytes.Add(int64(n))
	h.counts.reads.Add(1)
	if h.req.Kind == Raw {
		return
	}
	pushed, ids, err := h.countMessages(&c.stream, h.buf[:n])
	h.counts.packets.Add(pushed)
	if err != nil {
		h.drop(c)
		return
	}
	h.ack(c, ids)
}

// ack acknowledges messages, if the clients do that.
func (h *holder) ack(c *heldConn, ids []byte) {
	if !h.req.Ack {
		return
	}
	const most = 8 * 1000 // bytes of ids in one packet
	for len(ids) > 0 && c.phase == live {
		k := min(len(ids), most)
		if h.write(c, Request(h.req.Kind, protocol.OpAck, ids[:k])) {
			h.counts.acks.Add(int64(k / 8))
		} else {
			h.counts.acksLost.Add(int64(k / 8))
		}
		ids = ids[k:]
	}
	h.counts.acksLost.Add(int64(len(ids) / 8))
}

// write sends a packet, and reports whether all of it was sent. It does not wait for
// room. After a part of a packet the server cannot read what follows, so the connection
// is dropped.
func (h *holder) write(c *heldConn, packet []byte) bool {
	n, err := unix.Write(c.fd, packet)
	if n > 0 && n < len(packet) {
		h.drop(c)
	}
	return err == nil && n == len(packet)
}

// countMessages counts messages. It returns the ids to acknowledge.
func (h *holder) countMessages(s *stream, b []byte) (pushed int64, ids []byte, err error) {
	if !s.ws && s.rest == nil && !h.req.Stamped && !h.req.Ack {
		// This fast path looks only at lengths and operations. It handles most packets, up to
		// five million a second.
		for len(b) >= protocol.HeaderV2 {
			size := int(binary.BigEndian.Uint32(b))
			if size < protocol.HeaderV2 || size > len(b) {
				break
			}
			if binary.BigEndian.Uint32(b[8:]) == uint32(protocol.OpMessage) {
				pushed++
			}
			b = b[size:]
		}
		if len(b) == 0 {
			return pushed, nil, nil
		}
	}
	var now int64
	if h.req.Stamped {
		now = time.Now().UnixNano()
	}
	err = s.feed(b, func(p transport.Packet) {
		if p.Op != protocol.OpMessage {
			return
		}
		pushed++
		if h.req.Stamped {
			if sent, ok := stampOf(p.Body); ok {
				h.latency.Add(time.Duration(now - sent))
			}
		}
		if h.req.Ack && p.ID != 0 {
			ids = binary.BigEndian.AppendUint64(ids, p.ID)
		}
	})
	return pushed, ids, err
}

func (h *holder) drop(c *heldConn) {
	c.phase = gone
	h.counts.closed.Add(1)
	_ = unix.Close(c.fd)
}

// beats sends the heartbeats of all connections, spread evenly over time.
type beats struct {
	h      *holder
	packet []byte
	next   time.Time
	at     int
}

func (b *beats) send(now time.Time) {
	if now.Before(b.next) || b.h.req.Kind == Raw {
		return
	}
	const steps = 45
	b.next = now.Add(beatEvery / steps)
	for range len(b.h.conns)/steps + 1 {
		c := b.h.conns[b.at%len(b.h.conns)]
		b.at++
		if c.phase == live {
			// A connection whose socket is full needs no heartbeat: it has shown other signs of
			// life.
			b.h.write(c, b.packet)
		}
	}
}
