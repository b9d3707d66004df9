package peer

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
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"imgo/protocol"
	"imgo/transport"
)

// maxBody bounds the body of a client's packet, in bytes.
const maxBody = 1 << 20

// Conn is a connection of a client. One goroutine at a time reads, and one writes.
type Conn struct {
	socket    *net.TCPConn
	stream    net.Conn // socket, or a slow one, or TLS over it
	r         *bufio.Reader
	webSocket bool
	text      atomic.Bool // the client speaks JSON frames
	pongs     atomic.Int32
	header    [protocol.HeaderV2]byte

	writing sync.Mutex
	// Request is the request line and the header of a WebSocket's HTTP request.
	Request []string
	// CloseCode is the code of the client's WebSocket close frame. It is 0 if there was none.
	CloseCode int
}

func newConn(socket *net.TCPConn, slow bool) *Conn {
	var stream net.Conn = socket
	if slow {
		stream = slowConn{socket}
	}
	return &Conn{socket: socket, stream: stream, r: bufio.NewReader(stream)}
}

// slowRate is the number of bytes a second that a slow connection takes.
const slowRate = 400 << 10

// slowConn is a connection that takes slowRate bytes a second.
type slowConn struct{ *net.TCPConn }

func (c slowConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b[:min(len(b), 8<<10)])
	time.Sleep(time.Duration(n) * time.Second / slowRate)
	return n, err
}

func (c *Conn) startTLS(config *tls.Config) error {
	secure := tls.Server(c.stream, config)
	ctx, cancel := context.WithTimeout(context.Background(), Limit)
	defer cancel()
	if err := secure.HandshakeContext(ctx); err != nil {
		return err
	}
	c.stream, c.r = secure, bufio.NewReader(secure)
	return nil
}

// Text reports whether the client speaks JSON frames. It is known when the first packet was read.
func (c *Conn) Text() bool { return c.text.Load() }

// Pongs returns the number of pongs of the client.
func (c *Conn) Pongs() int { return int(c.pongs.Load()) }

// Read waits for the client's next packet. The error is io.EOF at the end of the connection.
func (c *Conn) Read() (transport.Packet, error) {
	if err := c.stream.SetReadDeadline(time.Now().Add(Limit)); err != nil {
		return transport.Packet{}, err
	}
	if !c.webSocket {
		return transport.ReadPacket(c.r, &c.header, maxBody)
	}
	b, isText, err := c.readMessage()
	if err != nil {
		return transport.Packet{}, err
	}
	p, isJSON, err := transport.DecodeMessage(b, isText, maxBody)
	c.text.Store(isJSON)
	if err == nil && isJSON {
		p.ID, err = idOf(b)
	}
	return p, err
}

// idOf returns the id of a JSON object, which is decimal text. It is 0 if there is none.
func idOf(object []byte) (id uint64, err error) {
	var o struct {
		ID *string `json:"id"`
	}
	if err := json.Unmarshal(object, &o); err != nil {
		return 0, fmt.Errorf("the id of the frame %.200q: %w", object, err)
	}
	if o.ID == nil {
		return 0, nil
	}
	if id, err = strconv.ParseUint(*o.ID, 10, 64); err != nil {
		err = fmt.Errorf("the id of the frame %.200q: %w", object, err)
	}
	return id, err
}

// Write sends bytes as they are.
func (c *Conn) Write(b []byte) error {
	_, err := c.WriteSome(b, time.Now().Add(Limit))
	return err
}

// WriteSome is Write that gives up at a deadline. It returns the number of bytes that were written.
func (c *Conn) WriteSome(b []byte, deadline time.Time) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.stream.SetWriteDeadline(deadline); err != nil {
		return 0, err
	}
	return c.stream.Write(b)
}

// Message returns the packets of the server in the client's form: one after the other, or on a WebSocket each in a
// message of its own.
func (c *Conn) Message(packets ...transport.Packet) []byte {
	var b []byte
	for _, p := range packets {
		b = append(b, c.Frame(c.payload(p))...)
	}
	return b
}

// payload returns a packet without the frame of a WebSocket.
func (c *Conn) payload(p transport.Packet) []byte {
	if c.Text() {
		b := transport.AppendJSONObject([]byte{'['}, p.Version == protocol.Version2, p.Version, p.Op, p.Seq, p.ID, p.Body)
		return append(b, ']')
	}
	header := protocol.HeaderV1
	if p.Version == protocol.Version2 {
		header = protocol.HeaderV2
	}
	return transport.AppendPacket(nil, p.Version, header, p.Op, p.Seq, p.ID, p.Body)
}

// Frame returns bytes as one message of a WebSocket, and as they are on a stream.
func (c *Conn) Frame(b []byte) []byte {
	if !c.webSocket {
		return b
	}
	return append(transport.AppendFrameHead(nil, c.Text(), len(b)), b...)
}

// BodyText returns the body of a client's packet that is a text: its bytes, or the string of a JSON frame.
func (c *Conn) BodyText(p transport.Packet) (string, error) {
	if !c.Text() {
		return string(p.Body), nil
	}
	var text string
	err := json.Unmarshal(p.Body, &text)
	return text, err
}

// IDs returns the body of a packet with a list of ids in the client's form.
func (c *Conn) IDs(ids ...uint64) []byte {
	texts := make([]string, len(ids))
	var b []byte
	for i, id := range ids {
		texts[i] = strconv.FormatUint(id, 10)
		b = binary.BigEndian.AppendUint64(b, id)
	}
	if c.Text() {
		b, _ = json.Marshal(texts) // a list of strings always encodes
	}
	return b
}

// AckedIDs returns the ids in an acknowledgement.
func (c *Conn) AckedIDs(p transport.Packet) (ids []uint64, err error) {
	if c.Text() {
		var texts []string
		if err := json.Unmarshal(p.Body, &texts); err != nil {
			return nil, fmt.Errorf("acknowledgement %q: %w", p.Body, err)
		}
		for _, text := range texts {
			id, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("acknowledgement %q: %w", p.Body, err)
			}
			ids = append(ids, id)
		}
		return ids, nil
	}
	if len(p.Body) == 0 || len(p.Body)%8 != 0 {
		return nil, fmt.Errorf("acknowledgement of %d bytes, want one or more ids of 8", len(p.Body))
	}
	for b := p.Body; len(b) > 0; b = b[8:] {
		ids = append(ids, binary.BigEndian.Uint64(b))
	}
	return ids, nil
}

// Close ends the connection in order: the client reads the end of the stream.
func (c *Conn) Close() { c.stream.Close() }

// Reset ends the connection as the kernel does for a process that was killed while bytes were under way: with a TCP
// reset.
func (c *Conn) Reset() {
	_ = c.socket.SetLinger(0) // if it fails, the client reads the end of the stream
	c.socket.Close()
}

// CloseWrite ends the stream and goes on reading.
func (c *Conn) CloseWrite() error {
	if secure, ok := c.stream.(*tls.Conn); ok {
		return errors.Join(secure.CloseWrite(), c.socket.CloseWrite())
	}
	return c.socket.CloseWrite()
}

// WaitEnd waits until the client has ended the connection.
func (c *Conn) WaitEnd() error {
	if err := c.stream.SetReadDeadline(time.Now().Add(Limit)); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, c.r); errors.Is(err, net.ErrClosed) || isTimeout(err) {
		return fmt.Errorf("wait until the client ends the connection: %w", err)
	}
	return nil // the end of the stream, or a reset
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// WebSocket reports whether the connection is a WebSocket.
func (c *Conn) WebSocket() bool { return c.webSocket }

// SmallBuffer makes the kernel hold little of what is written, so that a client that does not read is noticed early.
func (c *Conn) SmallBuffer() {
	_ = c.socket.SetWriteBuffer(16 << 10) // on error the script must write more bytes
}
