package transporttest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"

	"imgo/protocol"
	"imgo/transport/pipe"
)

// Stream is a Client over TCP or TLS, where packets follow one another without framing.
type Stream struct{ net.Conn }

// Frame returns the payload unchanged.
func (s *Stream) Frame(payload []byte) []byte { return payload }

// Send writes b. It returns an error after WaitLimit.
func (s *Stream) Send(b []byte) error {
	_ = s.SetWriteDeadline(time.Now().Add(WaitLimit))
	_, err := s.Write(b)
	return err
}

// Next reads one packet.
func (s *Stream) Next() ([]byte, error) {
	_ = s.SetReadDeadline(time.Now().Add(WaitLimit))
	return nextPacket(s)
}

// End closes the writing side of the stream.
func (s *Stream) End() error {
	if c, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return s.Close()
}

// Reset closes the connection with a TCP reset.
func (s *Stream) Reset() error {
	_ = s.Conn.(*net.TCPConn).SetLinger(0)
	return s.Close()
}

// nextPacket reads one packet.
func nextPacket(r io.Reader) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, ended(err)
	}
	b := make([]byte, binary.BigEndian.Uint32(length[:]))
	copy(b, length[:])
	_, err := io.ReadFull(r, b[4:])
	return b, err
}

// ended treats a reset after the last byte as an end too. A client that is still sending may see
// either of the two, depending on timing.
func ended(err error) error {
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return io.EOF
	}
	return err
}

// WebSocket is a Client that writes WebSocket frames byte by byte, valid or not.
type WebSocket struct {
	Stream
	r    *bufio.Reader
	Text bool // Frame makes text messages instead of binary ones
}

// Upgrade sends a WebSocket handshake for path on c and reads the answer. header holds extra lines
// of the form "Name: value".
func Upgrade(c net.Conn, path string, header ...string) (*WebSocket, *http.Response, error) {
	req := "GET " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	for _, h := range header {
		req += h + "\r\n"
	}
	_ = c.SetDeadline(time.Now().Add(WaitLimit))
	if _, err := io.WriteString(c, req+"\r\n"); err != nil {
		return nil, nil, fmt.Errorf("send upgrade: %w", err)
	}
	w := &WebSocket{Stream: Stream{c}, r: bufio.NewReader(c)}
	resp, err := http.ReadResponse(w.r, &http.Request{Method: http.MethodGet})
	if err != nil {
		return nil, nil, fmt.Errorf("read answer to upgrade: %w", err)
	}
	return w, resp, nil
}

// RawFrame returns a client frame. first is its first byte (FIN, RSV and opcode).
func RawFrame(first byte, masked bool, payload []byte) []byte {
	b := []byte{first}
	bit := byte(0)
	if masked {
		bit = 0x80
	}
	switch n := len(payload); {
	case n <= 125:
		b = append(b, bit|byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, bit|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, bit|127), uint64(n))
	}
	if !masked {
		return append(b, payload...)
	}
	mask := [4]byte{0x12, 0x34, 0x56, 0x78}
	b = append(b, mask[:]...)
	for i, c := range payload {
		b = append(b, c^mask[i%4])
	}
	return b
}

// Frame returns one message in a single frame.
func (w *WebSocket) Frame(payload []byte) []byte {
	if w.Text {
		return RawFrame(0x81, true, payload)
	}
	return RawFrame(0x82, true, payload)
}

// ReadFrame reads one frame of any kind. It returns its first byte and its payload.
func (w *WebSocket) ReadFrame() (first byte, payload []byte, err error) {
	_ = w.SetReadDeadline(time.Now().Add(WaitLimit))
	var h [8]byte
	if _, err := io.ReadFull(w.r, h[:2]); err != nil {
		return 0, nil, ended(err)
	}
	first = h[0]
	n := uint64(h[1])
	switch n { // the length; a server frame has no mask bit
	case 126:
		_, err = io.ReadFull(w.r, h[:2])
		n = uint64(binary.BigEndian.Uint16(h[:]))
	case 127:
		_, err = io.ReadFull(w.r, h[:8])
		n = binary.BigEndian.Uint64(h[:])
	}
	if err != nil || n > 64<<20 {
		return 0, nil, fmt.Errorf("server frame of %d bytes: %w", n, err)
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(w.r, payload)
	return first, payload, err
}

// Next reads one message. It skips pongs and returns a close frame as *Closed.
func (w *WebSocket) Next() ([]byte, error) {
	want := byte(0x82)
	if w.Text {
		want = 0x81
	}
	for {
		first, payload, err := w.ReadFrame()
		switch {
		case err != nil:
			return nil, err
		case first == want:
			return payload, nil
		case first == 0x8a: // pong
		case first == 0x88 && len(payload) >= 2:
			return nil, &Closed{protocol.CloseCode(binary.BigEndian.Uint16(payload)), string(payload[2:])}
		case first == 0x88:
			return nil, &Closed{}
		default:
			return nil, fmt.Errorf("a server frame begins with %#x, want %#x", first, want)
		}
	}
}

// Pipe is a Client over an in-memory pipe.
type Pipe struct {
	*pipe.Client
	Text bool
}

// Frame returns the payload unchanged.
func (p *Pipe) Frame(payload []byte) []byte { return payload }

// Send writes b. It returns an error after WaitLimit.
func (p *Pipe) Send(b []byte) error {
	p.SetDeadline(time.Now().Add(WaitLimit))
	_, err := p.Write(b)
	return err
}

// Next reads one packet or text message.
func (p *Pipe) Next() ([]byte, error) {
	p.SetDeadline(time.Now().Add(WaitLimit))
	var b []byte
	var err error
	if p.Text {
		b, err = p.Client.Frame()
	} else {
		b, err = nextPacket(p)
	}
	if err == io.EOF {
		if code, reason, ok := p.Closed(); ok {
			return nil, &Closed{code, reason}
		}
	}
	return b, err
}

// End closes the client's side of the pipe.
func (p *Pipe) End() error { return p.Close() }
