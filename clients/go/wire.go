package imgoclient

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"imgo/protocol"
	"imgo/transport"
)

// wire is a connection that carries packets. read is for one goroutine at a
// time; write and close may be called from anywhere.
type wire interface {
	// read waits for the next packet until the deadline.
	read(deadline time.Time) (transport.Packet, error)
	// write sends whole packets.
	write(deadline time.Time, packets []byte) error
	// close ends the connection at once; a read under way returns.
	close()
}

// target is where to connect.
type target struct {
	network string // "tcp" or "ws"
	address string // host:port, or the WebSocket's URL
	tls     *tls.Config
}

// parseTarget reads Config.Address.
func parseTarget(address string, config *tls.Config) (target, error) {
	bad := func(why string) (target, error) {
		return target{}, fmt.Errorf("address %q %s: write host:port, tls://host:port or ws://host:port/sub", address, why)
	}
	scheme, rest, ok := strings.Cut(address, "://")
	if !ok {
		scheme, rest = "tcp", address
	}
	switch scheme {
	case "tcp", "tls":
		host, port, err := net.SplitHostPort(rest)
		if err != nil || port == "" {
			return bad("has no port")
		}
		if scheme == "tcp" {
			return target{network: "tcp", address: rest}, nil
		}
		if config == nil {
			config = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		config = config.Clone()
		if config.ServerName == "" {
			config.ServerName = host
		}
		return target{network: "tcp", address: rest, tls: config}, nil
	case "ws", "wss":
		u, err := url.Parse(address)
		if err != nil || u.Host == "" {
			return bad("is no WebSocket address")
		}
		if u.Path == "" || u.Path == "/" {
			u.Path = "/sub"
		}
		return target{network: "ws", address: u.String(), tls: config}, nil
	}
	return bad("has an unknown scheme")
}

// dial connects; ctx bounds that alone.
func (t target) dial(ctx context.Context, maxBody int) (wire, error) {
	if t.network == "ws" {
		return t.dialWS(ctx, maxBody)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.address)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if t.tls != nil {
		secure := tls.Client(conn, t.tls)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("TLS with %s: %w", t.address, err), conn.Close())
		}
		conn = secure
	}
	return &tcpWire{conn: conn, r: bufio.NewReader(conn), maxBody: maxBody}, nil
}

// tcpWire is a packet stream on TCP.
type tcpWire struct {
	conn    net.Conn
	r       *bufio.Reader
	header  [protocol.HeaderV2]byte
	maxBody int
	mu      sync.Mutex // held while writing
}

func (w *tcpWire) read(deadline time.Time) (transport.Packet, error) {
	if err := w.conn.SetReadDeadline(deadline); err != nil {
		return transport.Packet{}, fmt.Errorf("set the read deadline: %w", err)
	}
	return transport.ReadPacket(w.r, &w.header, w.maxBody)
}

func (w *tcpWire) write(deadline time.Time, packets []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.conn.SetWriteDeadline(deadline); err != nil {
		return fmt.Errorf("set the write deadline: %w", err)
	}
	_, err := w.conn.Write(packets)
	return err
}

func (w *tcpWire) close() {
	// Nothing hangs on the result: what matters was written and flushed, and
	// the peer of a broken connection finds out by itself.
	_ = w.conn.Close()
}

// dialWS connects by WebSocket.
func (t target) dialWS(ctx context.Context, maxBody int) (wire, error) {
	options := &websocket.DialOptions{}
	idle := func() {}
	if t.tls != nil {
		transport := &http.Transport{TLSClientConfig: t.tls}
		options.HTTPClient = &http.Client{Transport: transport}
		idle = transport.CloseIdleConnections
	}
	conn, response, err := websocket.Dial(ctx, t.address, options) //nolint:bodyclose // the library says that it need not be closed
	if err != nil {
		idle()
		if response != nil && response.StatusCode != http.StatusSwitchingProtocols {
			return nil, fmt.Errorf("connect to %s: the answer is %s", t.address, response.Status)
		}
		return nil, fmt.Errorf("connect to %s: %w", t.address, err)
	}
	conn.SetReadLimit(int64(maxBody) + protocol.HeaderV2)
	return &wsWire{conn: conn, maxBody: maxBody, idle: idle}, nil
}

// wsWire carries a packet in each binary message.
type wsWire struct {
	conn    *websocket.Conn
	maxBody int
	rest    []byte // packets of the last message that are still to be given out
	idle    func()
}

func (w *wsWire) read(deadline time.Time) (transport.Packet, error) {
	if len(w.rest) == 0 {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		defer cancel()
		kind, data, err := w.conn.Read(ctx)
		var closed websocket.CloseError
		switch {
		case errors.As(err, &closed) && closed.Code >= 3000:
			code := protocol.CloseCode(closed.Code)
			return transport.Packet{}, &CloseError{Code: int(code), Reason: closed.Reason, Reconnect: code.Reconnect()}
		case err != nil:
			return transport.Packet{}, err
		case kind != websocket.MessageBinary:
			return transport.Packet{}, errors.New("the server sent text where binary was asked for")
		}
		w.rest = data
	}
	packet, rest, err := transport.DecodePacket(w.rest, w.maxBody)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // an empty message is no packet
	}
	w.rest = rest
	return packet, err
}

func (w *wsWire) write(deadline time.Time, packets []byte) error {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	return w.conn.Write(ctx, websocket.MessageBinary, packets)
}

func (w *wsWire) close() {
	_ = w.conn.CloseNow()
	w.idle()
}
