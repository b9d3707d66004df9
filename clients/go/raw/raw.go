// Package raw implements the wire protocol of imgo for clients, without the logic of a client. It
// connects, reads packets and writes packets. It does not reconnect, acknowledge, send heartbeats
// or drop duplicates. The caller sees exactly what the server sends.
//
// Programs that receive messages use package imgoclient, which is built on this package. Package
// raw is for tools that test or measure a server.
package raw

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// DefaultMaxBody is the default of Options.MaxBody, in bytes. No server can be configured for
// larger bodies.
const DefaultMaxBody = 1 << 20

// Options configures Dial. The zero value is usable.
type Options struct {
	// TLS is for tls:// and wss:// addresses. Nil means the root certificates of the system.
	TLS *tls.Config
	// MaxBody bounds the body of a received packet, in bytes. 0 means DefaultMaxBody.
	MaxBody int
	// Text makes a WebSocket use text messages with JSON frames.
	Text bool
	// ReadBuffer is the size of the read buffer of a TCP connection, in bytes. 0 means 4 KiB. Tools
	// with thousands of connections use a small one.
	ReadBuffer int
	// Dial opens the network connection. Nil means net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Conn is a connection. Only one goroutine at a time may call Read. All other methods are safe for
// concurrent use.
type Conn struct {
	// link carries the packets over a stream or over WebSocket messages.
	link
	writing sync.Mutex
}

// link is the part of a connection that depends on the transport.
type link interface {
	read(deadline time.Time) (Packet, error)
	// buffered reports whether read returns without waiting for the network.
	buffered() bool
	write(deadline time.Time, packets []Packet) error
	// shut ends the connection. If abort is true, TCP resets it and unsent data is discarded.
	shut(abort bool)
}

// Dial connects to a target. ctx bounds only the connecting.
func Dial(ctx context.Context, to Target, o Options) (*Conn, error) {
	if o.MaxBody == 0 {
		o.MaxBody = DefaultMaxBody
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	if o.Text && !to.WebSocket() {
		return nil, fmt.Errorf("connect to %s: JSON goes over WebSocket only", to)
	}
	var l link
	var err error
	if to.WebSocket() {
		l, err = dialWebSocket(ctx, to, o)
	} else {
		l, err = dialStream(ctx, to, o)
	}
	if err != nil {
		return nil, err
	}
	return &Conn{link: l}, nil
}

// Read waits for the next packet until the deadline. The zero time means no deadline. It returns a
// *CloseError if the server closes a WebSocket with an application close code. After an error only
// Close may be called.
func (c *Conn) Read(deadline time.Time) (Packet, error) { return c.read(deadline) }

// Buffered reports whether Read returns without waiting for the network.
func (c *Conn) Buffered() bool { return c.buffered() }

// Write sends packets. On a stream they go into one write. A packet without a version gets version
// 2. Write returns when the kernel has taken all packets, or at the deadline. The zero time means no deadline.
func (c *Conn) Write(deadline time.Time, packets ...Packet) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.write(deadline, packets)
}

// Close ends the connection at once. A concurrent Read returns.
func (c *Conn) Close() { c.shut(false) }

// Abort ends the connection like a crash of the client: TCP resets it, and unsent data is
// discarded.
func (c *Conn) Abort() { c.shut(true) }

// CloseWrite closes the sending side of a TCP connection. Read still returns what the server sends.
// It does nothing on WebSocket.
func (c *Conn) CloseWrite() {
	if s, ok := c.link.(*stream); ok {
		if half, ok := s.conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}
}

// stream carries packets over TCP or TLS.
type stream struct {
	raw, conn net.Conn // conn is raw, or TLS over raw
	r         *bufio.Reader
	header    [HeaderV2]byte
	maxBody   int
}

func dialStream(ctx context.Context, to Target, o Options) (*stream, error) {
	conn, err := o.Dial(ctx, "tcp", to.address)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	s := &stream{raw: conn, conn: conn, maxBody: o.MaxBody}
	if to.scheme == schemeTLS {
		config := &tls.Config{MinVersion: tls.VersionTLS12}
		if o.TLS != nil {
			config = o.TLS.Clone()
		}
		if config.ServerName == "" {
			config.ServerName, _, _ = net.SplitHostPort(to.address)
		}
		secure := tls.Client(conn, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("TLS with %s: %w", to.address, err), conn.Close())
		}
		s.conn = secure
	}
	s.r = bufio.NewReaderSize(s.conn, max(o.ReadBuffer, 0))
	if o.ReadBuffer == 0 {
		s.r = bufio.NewReader(s.conn)
	}
	return s, nil
}

func (s *stream) read(deadline time.Time) (Packet, error) {
	if err := s.conn.SetReadDeadline(deadline); err != nil {
		return Packet{}, fmt.Errorf("set the read deadline: %w", err)
	}
	p, err := readPacket(s.r, &s.header, s.maxBody)
	if err != nil && string(s.header[:5]) == "HTTP/" {
		return p, fmt.Errorf("the server answers in HTTP, so this is not its TCP port for clients: %w", err)
	}
	return p, err
}

func (s *stream) buffered() bool { return s.r.Buffered() > 0 }

func (s *stream) write(deadline time.Time, packets []Packet) error {
	var b []byte
	for _, p := range packets {
		b = AppendPacket(b, p)
	}
	if err := s.conn.SetWriteDeadline(deadline); err != nil {
		return fmt.Errorf("set the write deadline: %w", err)
	}
	_, err := s.conn.Write(b)
	return err
}

func (s *stream) shut(abort bool) {
	if tcp, ok := s.raw.(*net.TCPConn); ok && abort {
		_ = tcp.SetLinger(0) // if this fails, Close ends the connection in the normal way
	}
	// The error is ignored, because the peer of a broken connection notices it anyway.
	_ = s.conn.Close()
}

// messages carries packets in WebSocket messages. A binary message has one or more packets. A text
// message has an array of them.
type messages struct {
	conn    *websocket.Conn
	text    bool
	maxBody int
	rest    []byte   // the unread packets of a binary message
	parsed  []Packet // the unread packets of a text message
	idle    func()
}

func dialWebSocket(ctx context.Context, to Target, o Options) (*messages, error) {
	carrier := &http.Transport{TLSClientConfig: o.TLS, DialContext: o.Dial}
	//nolint:bodyclose // the library says that the body need not be closed
	conn, response, err := websocket.Dial(ctx, to.address, &websocket.DialOptions{HTTPClient: &http.Client{Transport: carrier}})
	if err != nil {
		carrier.CloseIdleConnections()
		if response != nil && response.StatusCode != http.StatusSwitchingProtocols {
			return nil, fmt.Errorf("connect to %s: the answer is %s", to.address, response.Status)
		}
		return nil, fmt.Errorf("connect to %s: %w", to.address, err)
	}
	limit := int64(o.MaxBody) + HeaderV2
	if o.Text {
		limit *= 2 // escapes can make JSON longer
	}
	conn.SetReadLimit(limit)
	return &messages{conn: conn, text: o.Text, maxBody: o.MaxBody, idle: carrier.CloseIdleConnections}, nil
}

func (m *messages) read(deadline time.Time) (Packet, error) {
	if !m.buffered() {
		if err := m.next(deadline); err != nil {
			return Packet{}, err
		}
	}
	if m.text {
		p := m.parsed[0]
		m.parsed = m.parsed[1:]
		return p, nil
	}
	p, rest, err := DecodePacket(m.rest, m.maxBody)
	m.rest = rest
	return p, whole(err)
}

// whole turns the end of the bytes into a *FormatError, for bytes that must have whole packets.
func whole(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return bad("it ends within its message")
	}
	return err
}

// next reads the next message into rest or parsed.
func (m *messages) next(deadline time.Time) error {
	ctx := context.Background()
	if !deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	kind, data, err := m.conn.Read(ctx)
	var closed websocket.CloseError
	switch {
	case errors.As(err, &closed) && closed.Code >= 3000:
		code := int(closed.Code)
		return &CloseError{Code: code, Reason: closed.Reason, Reconnect: reconnects(code)}
	case errors.Is(err, websocket.ErrMessageTooBig):
		return bad("a WebSocket message is larger than a body of %d bytes needs", m.maxBody)
	case err != nil:
		return err
	case m.text != (kind == websocket.MessageText):
		return bad("the server answered in another form (text or binary) than it was spoken to")
	case m.text:
		m.parsed, err = parseText(data)
		return err
	}
	m.rest = data
	return nil
}

// parseText parses a text message, which is an array of packets.
func parseText(data []byte) ([]Packet, error) {
	var objects []struct {
		Ver  int16           `json:"ver"`
		Op   int32           `json:"op"`
		Seq  int32           `json:"seq"`
		ID   string          `json:"id"`
		Body json.RawMessage `json:"body"`
	}
	if err := json.Unmarshal(data, &objects); err != nil {
		return nil, bad("a text message is no array of packets: %v", err)
	}
	if len(objects) == 0 {
		return nil, bad("a text message has no packet")
	}
	packets := make([]Packet, len(objects))
	for i, o := range objects {
		p := Packet{Version: o.Ver, Op: o.Op, Seq: o.Seq, Body: o.Body}
		if o.ID != "" {
			var err error
			if p.ID, err = strconv.ParseUint(o.ID, 10, 64); err != nil {
				return nil, bad("the id %q of op %d is no number of 64 bits", o.ID, o.Op)
			}
		}
		packets[i] = p
	}
	return packets, nil
}

func (m *messages) buffered() bool { return len(m.rest) > 0 || len(m.parsed) > 0 }

func (m *messages) write(deadline time.Time, packets []Packet) error {
	ctx := context.Background()
	if !deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	for _, p := range packets {
		var data []byte
		kind := websocket.MessageBinary
		if m.text {
			kind, data = websocket.MessageText, textFrame(p)
		} else {
			data = AppendPacket(nil, p)
		}
		if err := m.conn.Write(ctx, kind, data); err != nil {
			return err
		}
	}
	return nil
}

// textFrame returns a packet as a JSON object.
func textFrame(p Packet) []byte {
	if p.Version == 0 {
		p.Version = Version2
	}
	body := p.Body
	if len(body) == 0 {
		body = []byte("{}")
	}
	id := ""
	if p.ID != 0 {
		id = fmt.Sprintf(`"id":"%d",`, p.ID)
	}
	return fmt.Appendf(nil, `{"ver":%d,"op":%d,"seq":%d,%s"body":%s}`, p.Version, p.Op, p.Seq, id, body)
}

func (m *messages) shut(bool) {
	_ = m.conn.CloseNow()
	m.idle()
}

// AckBody returns the body of an acknowledgement (OpAck) of ids, and of OpRead. It is JSON if text is
// true.
func AckBody(text bool, ids []uint64) []byte {
	if !text {
		body := make([]byte, 0, 8*len(ids))
		for _, id := range ids {
			body = binary.BigEndian.AppendUint64(body, id)
		}
		return body
	}
	body := []byte{'['}
	for i, id := range ids {
		if i > 0 {
			body = append(body, ',')
		}
		body = strconv.AppendUint(append(body, '"'), id, 10)
		body = append(body, '"')
	}
	return append(body, ']')
}

// ParseIDs parses the list of ids in the body of OpDismiss, which has the form of AckBody. The error is a
// *FormatError.
func ParseIDs(text bool, body []byte) ([]uint64, error) {
	if !text {
		if len(body)%8 != 0 {
			return nil, bad("a list of ids has %d bytes, not 8 for each id", len(body))
		}
		ids := make([]uint64, 0, len(body)/8)
		for ; len(body) > 0; body = body[8:] {
			ids = append(ids, binary.BigEndian.Uint64(body))
		}
		return ids, nil
	}
	var list []string
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, bad("a list of ids is no array of decimal strings")
	}
	ids := make([]uint64, len(list))
	for i, text := range list {
		var err error
		if ids[i], err = strconv.ParseUint(text, 10, 64); err != nil {
			return nil, bad("a list of ids has %.32q, which is no number of 64 bits", text)
		}
	}
	return ids, nil
}

// Batch returns the packets in the body of a packet with the operation OpRaw. maxBody
// bounds the body of each packet, in bytes.
func Batch(body []byte, maxBody int) ([]Packet, error) {
	var packets []Packet
	for rest := body; len(rest) > 0; {
		var p Packet
		var err error
		if p, rest, err = DecodePacket(rest, maxBody); err != nil {
			return packets, fmt.Errorf("read a batch: %w", whole(err))
		}
		if p.Op == OpRaw {
			return packets, bad("a batch has a batch in it")
		}
		packets = append(packets, p)
	}
	return packets, nil
}
