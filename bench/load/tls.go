//go:build linux

package load

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"imgo/protocol"
	"imgo/transport"
)

// tlsWindow is the number of simultaneous connection attempts if the request sets
// none.
const tlsWindow = 64

// tlsHolder holds connections with TLS. crypto/tls needs one goroutine for each
// connection, so a tlsHolder costs more than a holder. The cost of the server is the
// same. It sends no heartbeats, so a measurement must take less than two minutes.
type tlsHolder struct {
	req     HoldRequest
	counts  counts
	mu      sync.Mutex
	latency Histogram
}

func holdTLS(req HoldRequest, dec *json.Decoder, enc *json.Encoder) error {
	h := &tlsHolder{req: req}
	started := time.Now()
	err := h.connect()
	stats := Stats{Connected: req.Count, Took: time.Since(started)}
	if err != nil {
		stats.Error = err.Error()
	}
	for {
		c := &h.counts
		stats.Packets, stats.Bytes, stats.Reads, stats.Closed = c.packets.Load(), c.bytes.Load(), c.reads.Load(), c.closed.Load()
		h.mu.Lock()
		stats.Latency, h.latency = h.latency, Histogram{}
		h.mu.Unlock()
		if err := enc.Encode(stats); err != nil || stats.Error != "" {
			return err
		}
		var next struct{}
		if err := dec.Decode(&next); err != nil {
			return err // the connections end with the process
		}
	}
}

func (h *tlsHolder) connect() error {
	window := h.req.Window
	if window < 1 {
		window = tlsWindow
	}
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(window)
	for i := range h.req.Count {
		g.Go(func() error {
			conn, s, err := h.dial(ctx, i)
			if err != nil {
				return fmt.Errorf("connection %d: %w", i, err)
			}
			go h.read(conn, s)
			return nil
		})
	}
	return g.Wait()
}

func (h *tlsHolder) dial(ctx context.Context, i int) (_ net.Conn, _ *stream, err error) {
	// The certificate was made for this run, and only this machine can reach loopback.
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	conn, err := dialer.DialContext(ctx, "tcp", h.req.Addr)
	if err != nil {
		return nil, nil, fmt.Errorf("connect: %w", err)
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, nil, fmt.Errorf("connect: %w", err)
		}
	}
	s := &stream{ws: h.req.Kind == WSS}
	r := bufio.NewReader(conn)
	if s.ws {
		if _, err := io.WriteString(conn, upgrade); err != nil {
			return nil, nil, fmt.Errorf("upgrade: %w", err)
		}
		answer, err := http.ReadResponse(r, nil)
		if err != nil {
			return nil, nil, fmt.Errorf("upgrade: %w", err)
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusSwitchingProtocols {
			return nil, nil, fmt.Errorf("upgrade: the answer is %.100q", answer.Status)
		}
	}
	auth, err := h.req.auth(i)
	if err != nil {
		return nil, nil, err
	}
	if _, err := conn.Write(auth); err != nil {
		return nil, nil, fmt.Errorf("authenticate: %w", err)
	}
	buf := make([]byte, 4096)
	for admitted := false; !admitted; {
		n, err := r.Read(buf)
		if err != nil {
			return nil, nil, fmt.Errorf("authenticate: %w", err)
		}
		if admitted, _, err = s.admission(buf[:n], &h.counts.packets); err != nil {
			return nil, nil, err
		}
	}
	return conn, s, conn.SetDeadline(time.Time{})
}

func (h *tlsHolder) read(conn net.Conn, s *stream) {
	defer conn.Close()
	buf := make([]byte, 4<<10)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			h.counts.bytes.Add(int64(n))
			h.counts.reads.Add(1)
			now, pushed := time.Now().UnixNano(), int64(0)
			feedErr := s.feed(buf[:n], func(p transport.Packet) {
				if p.Op != protocol.OpMessage {
					return
				}
				pushed++
				if sent, ok := stampOf(p.Body); ok && h.req.Stamped {
					h.mu.Lock()
					h.latency.Add(time.Duration(now - sent))
					h.mu.Unlock()
				}
			})
			h.counts.packets.Add(pushed)
			err = errors.Join(err, feedErr)
		}
		if err != nil {
			h.counts.closed.Add(1)
			return
		}
	}
}
