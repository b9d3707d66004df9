package verify

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

const (
	// maxPacket bounds what a device takes, in bytes of body: more than any
	// push of a run.
	maxPacket = 1 << 20
	// dialTimeout bounds connecting, up to the answer to who we are.
	dialTimeout = 10 * time.Second
	// writeTimeout bounds one write.
	writeTimeout = 5 * time.Second
	// tcpBuffer is how much is read from TCP at a time: a run has thousands of
	// connections, and its messages are small.
	tcpBuffer = 1 << 10
)

// wire is a connection that carries packets as they are. read is for one
// goroutine; it has no deadline, so whoever finds the connection too quiet
// closes it. The rest may be called from anywhere.
type wire interface {
	read() (transport.Packet, error)
	// more says that read will not have to wait.
	more() bool
	// write sends a whole packet.
	write(packet []byte, within time.Duration) error
	// close ends the connection; abruptly: without the farewell that TCP has.
	close(abruptly bool)
}

// place is where devices connect.
type place struct {
	ws      bool
	tls     bool
	address string // host:port, or a WebSocket's URL
}

func (p place) String() string {
	if p.tls && !p.ws {
		return "tls://" + p.address
	}
	return p.address
}

// parsePlace reads an address: host:port, tls://host:port, ws://… or wss://….
func parsePlace(text string) (place, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		scheme, rest = "tcp", text
	}
	switch scheme {
	case "tcp", "tls":
		if _, port, err := net.SplitHostPort(rest); err != nil || port == "" {
			return place{}, fmt.Errorf("client address %q has no port: write host:port", text)
		}
		return place{tls: scheme == "tls", address: rest}, nil
	case "ws", "wss":
		u, err := url.Parse(text)
		if err != nil || u.Host == "" {
			return place{}, fmt.Errorf("client address %q is no WebSocket address: write ws://host:port/sub", text)
		}
		if u.Path == "" || u.Path == "/" {
			u.Path = "/sub"
		}
		return place{ws: true, tls: scheme == "wss", address: u.String()}, nil
	}
	return place{}, fmt.Errorf("client address %q has an unknown scheme: write host:port, tls://host:port or ws://host:port/sub", text)
}

// dial connects; ctx bounds that alone.
func (p *places) dial(ctx context.Context, to place) (wire, error) {
	if to.ws {
		conn, _, err := websocket.Dial(ctx, to.address, &websocket.DialOptions{HTTPClient: p.http}) //nolint:bodyclose // the library says that it need not be closed
		if err != nil {
			return nil, err
		}
		conn.SetReadLimit(maxPacket + protocol.HeaderV2)
		return &wsWire{conn: conn}, nil
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", to.address)
	if err != nil {
		return nil, err
	}
	w := &tcpWire{raw: conn, conn: conn}
	if to.tls {
		config := p.tls.Clone()
		if config.ServerName == "" {
			config.ServerName, _, _ = net.SplitHostPort(to.address)
		}
		secure := tls.Client(conn, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("TLS: %w", err), conn.Close())
		}
		w.conn = secure
	}
	w.r = bufio.NewReaderSize(w.conn, tcpBuffer)
	return w, nil
}

// tcpWire is a packet stream.
type tcpWire struct {
	raw, conn net.Conn // conn is raw or, over it, TLS
	r         *bufio.Reader
	header    [protocol.HeaderV2]byte
	writing   sync.Mutex
}

func (w *tcpWire) read() (transport.Packet, error) {
	return transport.ReadPacket(w.r, &w.header, maxPacket)
}

func (w *tcpWire) more() bool { return w.r.Buffered() > 0 }

func (w *tcpWire) write(packet []byte, within time.Duration) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	if err := w.conn.SetWriteDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	_, err := w.conn.Write(packet)
	return err
}

func (w *tcpWire) close(abruptly bool) {
	if tcp, ok := w.raw.(*net.TCPConn); ok && abruptly {
		_ = tcp.SetLinger(0) // where it fails, the end is an orderly one
	}
	_ = w.raw.Close()
}

// wsWire carries a packet in each binary message, or several.
type wsWire struct {
	conn *websocket.Conn
	rest []byte
}

func (w *wsWire) read() (transport.Packet, error) {
	if len(w.rest) == 0 {
		kind, data, err := w.conn.Read(context.Background())
		switch {
		case err != nil:
			return transport.Packet{}, err
		case kind != websocket.MessageBinary:
			return transport.Packet{}, errors.New("the server sent text where binary was asked for")
		}
		w.rest = data
	}
	p, rest, err := transport.DecodePacket(w.rest, maxPacket)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // an empty message is no packet
	}
	w.rest = rest
	return p, err
}

func (w *wsWire) more() bool { return len(w.rest) > 0 }

func (w *wsWire) write(packet []byte, within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	return w.conn.Write(ctx, websocket.MessageBinary, packet)
}

func (w *wsWire) close(bool) { _ = w.conn.CloseNow() }

// newHTTP is a client that makes connections of its own to a few addresses.
func newHTTP(config *tls.Config, idle int) *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: config, MaxIdleConnsPerHost: idle, IdleConnTimeout: 30 * time.Second,
		DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
	}}
}
