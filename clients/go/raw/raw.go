// Package raw is imgo's client protocol without a client's logic: it connects,
// and it reads and writes packets as they are. It does not reconnect, does not
// acknowledge, does not beat and does not drop duplicates. What the server sends
// is what the caller sees.
//
// Programs that receive messages use package imgoclient, which is built on this
// one. Package raw is for tools that test or measure a server.
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

	"imgo/protocol"
	"imgo/transport"
)

// Packet is one packet. In a JSON frame the body is JSON.
type Packet = transport.Packet

// DefaultMaxBody is the largest body of a packet that Read takes unless Options
// say otherwise, in bytes. It is the largest that any server can be set to.
const DefaultMaxBody = 1 << 20

// Options are the ways to connect.
type Options struct {
	// TLS is for tls:// and wss:// addresses. Nil: the system's certificates.
	TLS *tls.Config
	// MaxBody bounds the body of a packet, in bytes. 0: DefaultMaxBody.
	MaxBody int
	// Text sends and expects text messages with JSON, on WebSocket.
	Text bool
	// ReadBuffer is the size of the buffer before a TCP stream, in bytes. 0: 4 KiB.
	// Tools with thousands of connections make it small.
	ReadBuffer int
	// Dial makes the connection below. Nil: net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Conn is a connection. Read is for one goroutine at a time. Everything else may
// be called from anywhere at any time.
type Conn struct {
	// link carries the bytes: a stream, or WebSocket messages.
	link
	writing sync.Mutex
}

// link is what the two transports do differently.
type link interface {
	read(deadline time.Time) (Packet, error)
	// buffered reports whether read returns without waiting for the network.
	buffered() bool
	write(deadline time.Time, packets []Packet) error
	// shut ends the connection. abort leaves the goodbye of TCP out.
	shut(abort bool)
}

// Dial connects to a target. ctx bounds the connecting alone.
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

// Read waits for the next packet until the deadline; the zero time means for
// ever. A server that closes a WebSocket with a code of its own gives a
// *CloseError. After an error the connection is only good for Close.
func (c *Conn) Read(deadline time.Time) (Packet, error) { return c.read(deadline) }

// Buffered reports whether Read returns without waiting for the network.
func (c *Conn) Buffered() bool { return c.buffered() }

// Write sends packets, those of a stream in one write. The version is 2 where a
// packet has none. It returns when the kernel has taken all of them, or at the
// deadline.
func (c *Conn) Write(deadline time.Time, packets ...Packet) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.write(deadline, packets)
}

// Close ends the connection at once. A Read under way returns.
func (c *Conn) Close() { c.shut(false) }

// Abort ends the connection as a crash of the client does: without the goodbye of
// TCP, and without what was not sent yet.
func (c *Conn) Abort() { c.shut(true) }

// CloseWrite tells the server that nothing more will come. What it has sent can
// still be read. It does nothing on WebSocket.
func (c *Conn) CloseWrite() {
	if s, ok := c.link.(*stream); ok {
		if half, ok := s.conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}
}

// appendPacket appends a binary packet with the short header, or with the long one
// where it has an id.
func appendPacket(dst []byte, p Packet) []byte {
	if p.Version == 0 {
		p.Version = protocol.Version2
	}
	header := protocol.HeaderV1
	if p.ID != 0 {
		header = protocol.HeaderV2
	}
	return transport.AppendPacket(dst, p.Version, header, p.Op, p.Seq, p.ID, p.Body)
}

// stream carries packets over TCP or TLS.
type stream struct {
	raw, conn net.Conn // conn is raw or, over it, TLS
	r         *bufio.Reader
	header    [protocol.HeaderV2]byte
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
	return transport.ReadPacket(s.r, &s.header, s.maxBody)
}

func (s *stream) buffered() bool { return s.r.Buffered() > 0 }

func (s *stream) write(deadline time.Time, packets []Packet) error {
	var b []byte
	for _, p := range packets {
		b = appendPacket(b, p)
	}
	if err := s.conn.SetWriteDeadline(deadline); err != nil {
		return fmt.Errorf("set the write deadline: %w", err)
	}
	_, err := s.conn.Write(b)
	return err
}

func (s *stream) shut(abort bool) {
	if tcp, ok := s.raw.(*net.TCPConn); ok && abort {
		_ = tcp.SetLinger(0) // an orderly end is good enough where this fails
	}
	// The result does not matter: the peer of a broken connection finds out.
	_ = s.conn.Close()
}

// messages carries packets in WebSocket messages: one or more in a binary message,
// an array of them in a text message.
type messages struct {
	conn    *websocket.Conn
	text    bool
	maxBody int
	rest    []byte   // the packets of a binary message that Read has yet to return
	parsed  []Packet // the same of a text message
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
	limit := int64(o.MaxBody) + protocol.HeaderV2
	if o.Text {
		limit *= 2 // JSON escapes
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
	p, rest, err := transport.DecodePacket(m.rest, m.maxBody)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // an empty message is no packet
	}
	m.rest = rest
	return p, err
}

// next reads the next message.
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
		code := protocol.CloseCode(closed.Code)
		return &CloseError{Code: int(code), Reason: closed.Reason, Reconnect: code.Reconnect()}
	case err != nil:
		return err
	case m.text != (kind == websocket.MessageText):
		return errors.New("the server answered in another form (text or binary) than it was spoken to")
	case m.text:
		m.parsed, err = parseText(data)
		return err
	}
	m.rest = data
	return nil
}

// parseText reads a text message: an array of packets.
func parseText(data []byte) ([]Packet, error) {
	var objects []struct {
		Ver  int16           `json:"ver"`
		Op   int32           `json:"op"`
		Seq  int32           `json:"seq"`
		ID   string          `json:"id"`
		Body json.RawMessage `json:"body"`
	}
	if err := json.Unmarshal(data, &objects); err != nil {
		return nil, fmt.Errorf("read a text message: %w", err)
	}
	if len(objects) == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	packets := make([]Packet, len(objects))
	for i, o := range objects {
		p := Packet{Version: o.Ver, Op: o.Op, Seq: o.Seq, Body: o.Body}
		if o.ID != "" {
			var err error
			if p.ID, err = strconv.ParseUint(o.ID, 10, 64); err != nil {
				return nil, fmt.Errorf("read a text message: id %q of op %d: %w", o.ID, o.Op, err)
			}
		}
		packets[i] = p
	}
	return packets, nil
}

func (m *messages) buffered() bool { return len(m.rest) > 0 || len(m.parsed) > 0 }

func (m *messages) write(deadline time.Time, packets []Packet) error {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	for _, p := range packets {
		var data []byte
		kind := websocket.MessageBinary
		if m.text {
			kind, data = websocket.MessageText, textFrame(p)
		} else {
			data = appendPacket(nil, p)
		}
		if err := m.conn.Write(ctx, kind, data); err != nil {
			return err
		}
	}
	return nil
}

// textFrame is a packet as a JSON object.
func textFrame(p Packet) []byte {
	if p.Version == 0 {
		p.Version = protocol.Version2
	}
	body := p.Body
	if len(body) == 0 {
		body = []byte("{}")
	}
	return fmt.Appendf(nil, `{"ver":%d,"op":%d,"seq":%d,"body":%s}`, p.Version, p.Op, p.Seq, body)
}

func (m *messages) shut(bool) {
	_ = m.conn.CloseNow()
	m.idle()
}

// AckBody returns the body of an acknowledgement (protocol.OpAck) of ids, for JSON
// frames if text is true.
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

// Batch returns the packets in the body of a packet of operation protocol.OpRaw.
// maxBody bounds the body of each one.
func Batch(body []byte, maxBody int) ([]Packet, error) {
	var packets []Packet
	for rest := body; len(rest) > 0; {
		var p Packet
		var err error
		if p, rest, err = transport.DecodePacket(rest, maxBody); err != nil {
			return packets, fmt.Errorf("read a batch: %w", err)
		}
		if p.Op == protocol.OpRaw {
			return packets, errors.New("read a batch: it has a batch in it")
		}
		packets = append(packets, p)
	}
	return packets, nil
}
