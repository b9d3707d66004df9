package soak

import (
	"bufio"
	"context"
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

// maxBody bounds what a client takes, in bytes.
const maxBody = 1 << 20

// wire is a connection as the protocol has it, without an SDK's help: what the
// server sends is seen as it is. receive is for one goroutine; the rest for any.
type wire interface {
	send(p transport.Packet) error
	// receive waits for packets, at least one, for at most this long.
	receive(within time.Duration) ([]transport.Packet, error)
	close()
}

// narrow makes the kernel hold little for a connection: one that reads slowly
// is then felt by the server.
func narrow(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(4 << 10)
	}
}

// tcpWire is a packet stream on TCP.
type tcpWire struct {
	conn   net.Conn
	r      *bufio.Reader
	header [protocol.HeaderV2]byte
	mu     sync.Mutex // held while writing
}

func dialTCP(ctx context.Context, address string, slow bool) (*tcpWire, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if slow {
		narrow(conn)
	}
	return &tcpWire{conn: conn, r: bufio.NewReader(conn)}, nil
}

func (w *tcpWire) send(p transport.Packet) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.conn.SetWriteDeadline(time.Now().Add(callLimit)); err != nil {
		return err
	}
	_, err := w.conn.Write(transport.AppendPacket(nil, protocol.Version2, protocol.HeaderV1, p.Op, p.Seq, 0, p.Body))
	return err
}

func (w *tcpWire) receive(within time.Duration) ([]transport.Packet, error) {
	if err := w.conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		return nil, err
	}
	p, err := transport.ReadPacket(w.r, &w.header, maxBody)
	return []transport.Packet{p}, err
}

func (w *tcpWire) close() { _ = w.conn.Close() }

// reset ends the connection without a farewell.
func (w *tcpWire) reset() {
	if tcp, ok := w.conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = w.conn.Close()
}

// closeWrite says that nothing more will be sent; what the server has sent can
// still be read.
func (w *tcpWire) closeWrite() {
	if tcp, ok := w.conn.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
}

// wsWire is a WebSocket, with binary messages or with text.
type wsWire struct {
	conn *websocket.Conn
	text bool
	idle func()
}

func dialWS(ctx context.Context, address string, text, slow bool) (*wsWire, error) {
	carrier := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err == nil && slow {
			narrow(conn)
		}
		return conn, err
	}}
	conn, _, err := websocket.Dial(ctx, "ws://"+address+"/sub", &websocket.DialOptions{ //nolint:bodyclose // the library says that it need not be closed
		HTTPClient: &http.Client{Transport: carrier},
	})
	if err != nil {
		carrier.CloseIdleConnections()
		return nil, err
	}
	conn.SetReadLimit(2 * maxBody)
	return &wsWire{conn: conn, text: text, idle: carrier.CloseIdleConnections}, nil
}

func (w *wsWire) send(p transport.Packet) error {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	if !w.text {
		return w.conn.Write(ctx, websocket.MessageBinary,
			transport.AppendPacket(nil, protocol.Version2, protocol.HeaderV1, p.Op, p.Seq, 0, p.Body))
	}
	body := p.Body
	if len(body) == 0 {
		body = []byte("{}")
	}
	frame := fmt.Appendf(nil, `{"ver":2,"op":%d,"seq":%d,"body":%s}`, p.Op, p.Seq, body)
	return w.conn.Write(ctx, websocket.MessageText, frame)
}

func (w *wsWire) receive(within time.Duration) ([]transport.Packet, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	kind, data, err := w.conn.Read(ctx)
	switch {
	case err != nil:
		return nil, err
	case w.text != (kind == websocket.MessageText):
		return nil, errors.New("the server answered in another form than it was spoken to")
	case w.text:
		return readFrame(data)
	}
	var packets []transport.Packet
	for rest := data; len(rest) > 0; {
		var p transport.Packet
		if p, rest, err = transport.DecodePacket(rest, maxBody); err != nil {
			return nil, fmt.Errorf("read a binary message: %w", err)
		}
		packets = append(packets, p)
	}
	if len(packets) == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	return packets, nil
}

// readFrame reads a text message: an array of objects.
func readFrame(data []byte) ([]transport.Packet, error) {
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
	packets := make([]transport.Packet, len(objects))
	for i, o := range objects {
		id, err := strconv.ParseUint(o.ID, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("read a text message: id %q of op %d: %w", o.ID, o.Op, err)
		}
		packets[i] = transport.Packet{Version: o.Ver, Op: o.Op, Seq: o.Seq, ID: id, Body: o.Body}
	}
	return packets, nil
}

func (w *wsWire) close() {
	_ = w.conn.CloseNow()
	w.idle()
}

// ackBody is the body of an ack packet.
func ackBody(text bool, ids []uint64) []byte {
	if !text {
		body := make([]byte, 0, 8*len(ids))
		for _, id := range ids {
			for shift := 56; shift >= 0; shift -= 8 {
				body = append(body, byte(id>>shift))
			}
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
