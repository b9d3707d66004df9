package peer

import (
	"crypto/sha1" //nolint:gosec // RFC 6455 wants it, and nothing is secured by it
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"imgo/transport"
)

// The opcodes of RFC 6455.
const (
	frameContinuation = 0x0
	frameText         = 0x1
	frameBinary       = 0x2
	frameClose        = 0x8
	framePing         = 0x9
	framePong         = 0xa
	frameFinal        = 0x80
	frameMasked       = 0x80
)

// maxRequest bounds the lines of an HTTP request.
const maxRequest = 100

// startWebSocket answers the HTTP request of a WebSocket.
func (c *Conn) startWebSocket() error {
	if err := c.ReadRequest(); err != nil {
		return err
	}
	key := ""
	for _, line := range c.Request {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.EqualFold(name, "Sec-WebSocket-Key") {
			key = strings.TrimSpace(value)
		}
	}
	if key == "" || !strings.HasPrefix(c.Request[0], "GET ") {
		return fmt.Errorf("no request for a WebSocket: %q", c.Request)
	}
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // see above
	c.webSocket = true
	return c.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
		base64.StdEncoding.EncodeToString(sum[:]) + "\r\n\r\n"))
}

// ReadRequest reads an HTTP request without a body into c.Request.
func (c *Conn) ReadRequest() error {
	if err := c.stream.SetReadDeadline(time.Now().Add(Limit)); err != nil {
		return err
	}
	for range maxRequest {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return fmt.Errorf("read the HTTP request: %w", err)
		}
		if line = strings.TrimRight(line, "\r\n"); line == "" {
			if len(c.Request) == 0 {
				return errors.New("read the HTTP request: it is empty")
			}
			return nil
		}
		c.Request = append(c.Request, line)
	}
	return errors.New("read the HTTP request: it is too long")
}

// readMessage reads the next message and answers pings. The error is io.EOF after a close frame.
func (c *Conn) readMessage() (message []byte, text bool, err error) {
	for {
		op, final, payload, err := c.readFrame()
		if err != nil {
			return nil, false, err
		}
		switch op {
		case framePing:
			if err := c.Write(append([]byte{frameFinal | framePong, byte(len(payload))}, payload...)); err != nil {
				return nil, false, err
			}
			continue
		case framePong:
			c.pongs.Add(1)
			continue
		case frameClose:
			c.CloseCode = 1005 // none was given
			if len(payload) >= 2 {
				c.CloseCode = int(binary.BigEndian.Uint16(payload))
			}
			// The client waits for a close frame, and for the server to end the connection. It may have gone already.
			_ = c.Write([]byte{frameFinal | frameClose, 0})
			c.Close()
			return nil, false, io.EOF
		case frameText:
			text = true
		case frameBinary, frameContinuation:
		default:
			return nil, false, fmt.Errorf("a WebSocket frame with opcode %d", op)
		}
		if message = append(message, payload...); final {
			return message, text, nil
		}
	}
}

// readFrame reads one frame and takes the mask away.
func (c *Conn) readFrame() (op byte, final bool, payload []byte, err error) {
	var head [14]byte
	if _, err := io.ReadFull(c.r, head[:2]); err != nil {
		return 0, false, nil, err
	}
	if head[1]&frameMasked == 0 {
		return 0, false, nil, errors.New("a WebSocket frame of the client without a mask")
	}
	n := uint64(head[1] &^ frameMasked)
	switch n {
	case 126:
		if _, err := io.ReadFull(c.r, head[2:4]); err != nil {
			return 0, false, nil, err
		}
		n = uint64(binary.BigEndian.Uint16(head[2:]))
	case 127:
		if _, err := io.ReadFull(c.r, head[2:10]); err != nil {
			return 0, false, nil, err
		}
		n = binary.BigEndian.Uint64(head[2:])
	}
	if n > 2*maxBody {
		return 0, false, nil, fmt.Errorf("a WebSocket frame of %d bytes", n)
	}
	mask := head[10:14]
	if _, err := io.ReadFull(c.r, mask); err != nil {
		return 0, false, nil, err
	}
	payload = make([]byte, n)
	if _, err := io.ReadFull(c.r, payload); err != nil {
		return 0, false, nil, err
	}
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return head[0] & 0x0f, head[0]&frameFinal != 0, payload, nil
}

// Fragments returns a message of a WebSocket in several frames, with a ping after each but the last.
func (c *Conn) Fragments(p transport.Packet, size int) []byte {
	payload := c.payload(p)
	op := byte(frameBinary)
	if c.Text() {
		op = frameText
	}
	var b []byte
	for len(payload) > size {
		b = append(b, op, byte(size)) // size is below 126
		b = append(append(b, payload[:size]...), frameFinal|framePing, 0)
		payload, op = payload[size:], frameContinuation
	}
	return append(append(b, frameFinal|op, byte(len(payload))), payload...)
}

// CloseFrame returns the close frame of a WebSocket.
func CloseFrame(code int, reason string) []byte {
	b := []byte{frameFinal | frameClose, byte(2 + len(reason))} // the reason has at most 123 bytes
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	return append(b, reason...)
}
