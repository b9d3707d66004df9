//go:build linux

package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"imgo/bench/load"
	"imgo/protocol"
	"imgo/transport"
)

// startsPerRun is the number of starts of imgo in one run.
const startsPerRun = 3

// retryPause is the pause before another try while imgo is not ready. It is short,
// because it is a part of the measured time.
const retryPause = 200 * time.Microsecond

// start measures the time from the execution of imgo in an empty directory to the
// first delivery to a listening client.
func start(ctx context.Context, t *trial) error {
	for range startsPerRun {
		if err := startOnce(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// startTimeout bounds one start with its first push.
const startTimeout = 30 * time.Second

func startOnce(ctx context.Context, t *trial) (err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	begun := time.Now()
	s, err := t.exec(serverOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	c, err := connectEarly(ctx, s.tcp, load.UserID(0))
	if err != nil {
		return fmt.Errorf("connect to imgo as it starts: %w", err)
	}
	defer c.close()
	connected := time.Since(begun)
	if err := pushEarly(ctx, s.HTTP); err != nil {
		return fmt.Errorf("push as imgo starts: %w", err)
	}
	accepted := time.Since(begun)
	if err := c.conn.SetReadDeadline(time.Now().Add(startTimeout)); err != nil {
		return fmt.Errorf("wait for the delivery: %w", err)
	}
	for {
		p, err := c.next()
		if err != nil {
			return fmt.Errorf("wait for the delivery: %w", err)
		}
		if p.Op == protocol.OpMessage {
			break
		}
	}
	delivered := time.Since(begun)
	t.add("a client is connected", "ms", ms(connected))
	t.add("the first kept push is accepted", "ms", ms(accepted))
	t.add("the first push is delivered", "ms", ms(delivered))
	return nil
}

// client is one TCP client of protocol version 2. It is not safe for concurrent use.
type client struct {
	conn   net.Conn
	r      *bufio.Reader
	header [protocol.HeaderV2]byte
	begun  time.Time // when it sent its auth packet
}

func (c *client) close() { _ = c.conn.Close() }

func (c *client) next() (transport.Packet, error) {
	return transport.ReadPacket(c.r, &c.header, load.MaxBody)
}

// skip returns the operation of the next packet and discards its body. So the cost of
// the client distorts the measurement less.
func (c *client) skip() (op int32, err error) {
	head, err := c.r.Peek(protocol.HeaderV1)
	if err != nil {
		return 0, err
	}
	h, err := transport.ParseHeader(head, load.MaxBody)
	if err != nil {
		return 0, err
	}
	_, err = c.r.Discard(h.HeaderLen + h.BodyLen)
	return h.Op, err
}

// connect connects a client that acknowledges, and waits for the auth reply. It copies the incoming bytes to received
// if that is not nil.
func connect(ctx context.Context, addr, user string, received *bytes.Buffer) (*client, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if received != nil {
		conn = &recording{Conn: conn, received: received}
	}
	c := &client{conn: conn, r: bufio.NewReaderSize(conn, 64<<10)}
	if err := c.authenticate(user); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *client) authenticate(user string) error {
	auth, err := json.Marshal(map[string]any{"token": user, "ack": true})
	if err != nil {
		return fmt.Errorf("encode the auth body: %w", err)
	}
	if err := c.conn.SetDeadline(time.Now().Add(startTimeout)); err != nil {
		return fmt.Errorf("authenticate: %w", err)
	}
	c.begun = time.Now()
	if _, err := c.conn.Write(load.Request(load.TCP, protocol.OpAuth, auth)); err != nil {
		return fmt.Errorf("authenticate: %w", err)
	}
	p, err := c.next()
	if err != nil {
		return fmt.Errorf("authenticate: %w", err)
	}
	if p.Op != protocol.OpAuthReply {
		return fmt.Errorf("authenticate: the answer is operation %d: %.200s", p.Op, p.Body)
	}
	return c.conn.SetDeadline(time.Time{})
}

// recording is a connection that copies everything it reads to received.
type recording struct {
	net.Conn
	received *bytes.Buffer
}

func (r *recording) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	r.received.Write(b[:n])
	return n, err
}

// connectEarly retries until the server admits the client.
func connectEarly(ctx context.Context, addr, user string) (*client, error) {
	for {
		c, err := connect(ctx, addr, user, nil)
		if err == nil || ctx.Err() != nil {
			return c, err
		}
		load.Sleep(ctx, retryPause)
	}
}

// pushEarly pushes to user 0. It retries until the server accepts the push.
func pushEarly(ctx context.Context, addr string) error {
	for {
		_, err := load.CallAtRate(ctx, addr, load.PushCall(true), 1, 1, 1, 1)
		if err == nil || ctx.Err() != nil {
			return err
		}
		load.Sleep(ctx, retryPause)
	}
}
