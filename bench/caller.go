//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// callTimeout bounds one HTTP call.
const callTimeout = 30 * time.Second

// call is an HTTP request that is made once and sent many times: only bytes of
// a fixed place in it change.
type call struct {
	bytes []byte
	user  int // where the user's digits begin
	body  int // where the message's body begins, its quote left out
}

// bodySize is the size of a pushed body, in bytes.
const bodySize = 100

// pushCall is a push of a bodySize JSON string to a user.
func pushCall(kept bool) call {
	more := ""
	if !kept {
		more = `,"kept":false`
	}
	body := fmt.Sprintf(`{"user":"%s","body":"%s"%s}`, userID(0), bytes.Repeat([]byte("x"), bodySize-2), more)
	return newCall("/v1/push", body)
}

// broadcastCall is a push to everyone of a packet of 26 bytes.
func broadcastCall() call { return newCall("/v1/push", `{"all":true,"body_text":"hi"}`) }

func newCall(path, body string) call {
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", path, len(body))
	c := call{bytes: []byte(head + body)}
	c.user = len(head) + len(`{"user":"u`)
	c.body = c.user + len(userID(0)) - 1 + len(`","body":"`)
	return c
}

// clone is a copy for one goroutine.
func (c call) clone() call {
	c.bytes = bytes.Clone(c.bytes)
	return c
}

// to sets the user.
func (c *call) to(n int) {
	for i := len(userID(0)) - 2; i >= 0; i-- {
		c.bytes[c.user+i] = '0' + byte(n%10)
		n /= 10
	}
}

// stampSize is how many digits a stamp has.
const stampSize = 19

// stamp writes a time to the front of the message's body.
func (c *call) stamp(d time.Duration) {
	for i := stampSize - 1; i >= 0; i-- {
		c.bytes[c.body+i] = '0' + byte(d%10)
		d /= 10
	}
}

// caller is one HTTP/1.1 keep-alive connection, next to no work a call. It is
// for one goroutine.
type caller struct {
	conn net.Conn
	r    *bufio.Reader
}

func dialCaller(ctx context.Context, addr string) (*caller, error) {
	conn, err := (&net.Dialer{Timeout: callTimeout}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", addr, err)
	}
	return newCaller(conn), nil
}

func newCaller(conn net.Conn) *caller {
	return &caller{conn: conn, r: bufio.NewReaderSize(conn, 4<<10)}
}

func (c *caller) close() { _ = c.conn.Close() }

// do sends a request and reads the answer. text is the answer's body where it
// is not the 202 of an accepted push.
func (c *caller) do(request []byte) (accepted bool, text string, err error) {
	if err := c.conn.SetDeadline(time.Now().Add(callTimeout)); err != nil {
		return false, "", fmt.Errorf("call: %w", err)
	}
	if _, err := c.conn.Write(request); err != nil {
		return false, "", fmt.Errorf("call: %w", err)
	}
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return false, "", fmt.Errorf("read the answer: %w", err)
	}
	accepted = bytes.HasPrefix(line, []byte("HTTP/1.1 202"))
	status := ""
	if !accepted {
		status = string(bytes.TrimSpace(line))
	}
	length := -1
	for {
		if line, err = c.r.ReadSlice('\n'); err != nil {
			return false, "", fmt.Errorf("read the answer: %w", err)
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(value)); err != nil {
				return false, "", fmt.Errorf("read the answer: %w", err)
			}
		}
	}
	switch {
	case length < 0:
		return false, "", errors.New("read the answer: it has no Content-Length")
	case accepted:
		_, err = c.r.Discard(length)
	default:
		body := make([]byte, length)
		_, err = io.ReadFull(c.r, body)
		text = status + ": " + string(body)
	}
	if err != nil {
		return false, "", fmt.Errorf("read the answer: %w", err)
	}
	return accepted, text, nil
}

// loaded is what a load came to.
type loaded struct {
	accepted int64
	refused  int64
	why      string // the first refusal
	seconds  float64
	server   time.Duration // CPU time of the loaded process
	bench    time.Duration // CPU time of this one
	answers  []time.Duration
}

func (l *loaded) perSecond() float64 { return float64(l.accepted) / l.seconds }

// load calls addr from callers connections at once, one call after another on
// each, to random users below users. After warm it measures for d; pid is the
// process that is loaded.
func load(ctx context.Context, addr string, pid int, c call, callers, users int, warm, d time.Duration) (*loaded, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	result := &loaded{}
	var measuring atomic.Bool
	var accepted, refused atomic.Int64
	var mu sync.Mutex
	work := func(caller *caller, c call) error {
		defer caller.close()
		var answers []time.Duration
		for ctx.Err() == nil {
			c.to(rand.IntN(users))
			started := time.Now()
			ok, why, err := caller.do(c.bytes)
			if err != nil {
				return err
			}
			if !measuring.Load() {
				continue
			}
			if !ok {
				if refused.Add(1) == 1 {
					mu.Lock()
					result.why = why
					mu.Unlock()
				}
				continue
			}
			accepted.Add(1)
			answers = append(answers, time.Since(started))
		}
		mu.Lock()
		result.answers = append(result.answers, answers...)
		mu.Unlock()
		return nil
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for range callers {
		caller, err := dialCaller(ctx, addr)
		if err != nil {
			cancel(err)
			return nil, err
		}
		wg.Go(func() {
			if err := work(caller, c.clone()); err != nil {
				cancel(err)
			}
		})
	}
	sleep(ctx, warm)
	before, err := cpuOf(pid)
	if err != nil {
		cancel(err)
		return nil, err
	}
	own, _ := ownCPU()
	started := time.Now()
	measuring.Store(true)
	sleep(ctx, d)
	result.seconds = time.Since(started).Seconds()
	result.accepted, result.refused = accepted.Load(), refused.Load()
	after, err := cpuOf(pid)
	ownAfter, _ := ownCPU()
	measuring.Store(false)
	failed := context.Cause(ctx)
	cancel(nil)
	wg.Wait()
	result.server, result.bench = after-before, ownAfter-own
	if failed != nil {
		return nil, failed
	}
	return result, err
}

// sleep waits for d or until ctx is done.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
