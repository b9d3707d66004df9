package transporttest

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"imgo/protocol"
	"imgo/transport"
)

// promptLimit bounds the duration of a call that must not block.
const promptLimit = 5 * time.Second

func testCloseWhileWriting(t *testing.T, h Harness) {
	type outcome struct {
		err   error
		write time.Duration // from Close to Write's return
		close time.Duration
	}
	got := newResult[outcome]()
	h.serve(t, Options{WriteBuffer: 8 << 10}, func(c transport.Conn) {
		frame := transport.EncodeReply(h.form(), 1, 5, 0, 0, []byte(body(256<<10)))
		started := time.Now()
		closed := make(chan time.Duration, 1)
		timer := time.AfterFunc(50*time.Millisecond, func() {
			started = time.Now()
			_ = c.Close(protocol.CloseSlow, "too slow")
			closed <- time.Since(started)
		})
		defer timer.Stop()
		var err error
		for err == nil {
			err = c.Write(time.Now().Add(time.Hour), frame)
		}
		took := <-closed
		got.put(outcome{err, time.Since(started), took})
	})
	o := got.wait(t) // the client reads nothing during this wait
	if o.err == nil || o.write > promptLimit || o.close > promptLimit {
		t.Errorf("Close of a connection that writes to a silent client took %s, and its Write %s, which ended with: %v", o.close, o.write, o.err)
	}
}

func testCloseCodes(t *testing.T, h Harness) {
	long := strings.Repeat("é", 200)
	for name, test := range map[string]struct {
		code       protocol.CloseCode
		reason     string
		wantCode   protocol.CloseCode
		wantReason string
	}{
		"code and reason": {protocol.CloseShutdown, "see you", protocol.CloseShutdown, "see you"},
		"no reason":       {protocol.CloseKicked, "", protocol.CloseKicked, ""},
		"plain end":       {0, "", 1000, ""},
		"long reason":     {protocol.CloseOverload, long, protocol.CloseOverload, long[:122]},
	} {
		t.Run(name, func(t *testing.T) {
			c := h.serve(t, Options{}, func(c transport.Conn) {
				_ = c.Write(soon(), transport.EncodeReply(h.form(), 1, 6, 0, 0, nil))
				_ = c.Close(test.code, test.reason)
			})
			h.expect(t, c, 6, 0, "")
			if h.Scheme == "pipe" { // a pipe passes on the code and reason unchanged
				h.expectClose(t, c, test.code, test.reason)
			} else {
				h.expectClose(t, c, test.wantCode, test.wantReason)
			}
		})
	}
}

func testReadAndWrite(t *testing.T, h Harness) {
	const n = 300
	got := newResult[error]()
	c := h.serve(t, Options{}, func(c transport.Conn) {
		done := make(chan error, 1)
		go func() {
			var err error
			for i := int32(0); i < n && err == nil; i++ {
				err = c.Write(soon(), transport.EncodeReply(h.form(), 1, 5, i, 0, []byte(body(500))))
			}
			done <- err
		}()
		for i := range int32(n) {
			p, err := ReadPacket(c)
			if err != nil || p.Seq != i || string(p.Body) != body(300) {
				got.put(errors.Join(errors.New("wrong packet"), err))
				break
			}
		}
		err := <-done
		got.put(err)
	})
	sent := make(chan error, 1)
	go func() {
		var err error
		for i := int32(0); i < n && err == nil; i++ {
			err = c.Send(c.Frame(h.packet(4, i, body(300))))
		}
		sent <- err
	}()
	for i := range int32(n) {
		h.expect(t, c, 5, i, body(500))
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if err := got.wait(t); err != nil {
		t.Error(err)
	}
}

func testAccounting(t *testing.T, h Harness) {
	type counts struct{ before, after, payload int64 }
	got := newResult[counts]()
	acked := newResult[bool]()
	read := make(chan struct{})
	c := h.serve(t, Options{}, func(c transport.Conn) {
		var frames [][]byte
		n := counts{before: c.Written()}
		for i := range 20 {
			f := transport.EncodeReply(h.form(), 1, 5, int32(i), 0, []byte(body(i*20)))
			frames = append(frames, f)
			n.payload += int64(len(f))
			if h.Framing != nil {
				n.payload += int64(h.Framing(len(f)))
			}
		}
		if c.Write(soon(), frames...) != nil {
			return
		}
		n.after = c.Written()
		got.put(n)
		<-read
		for end := time.Now().Add(WaitLimit); ; time.Sleep(time.Millisecond) {
			written := c.Written()
			unacked, ok := c.Unacked()
			if done := unacked == 0 && written == n.after; done || !ok || time.Now().After(end) {
				acked.put(done || !ok)
				break
			}
		}
		h.echo(c)
	})
	for i := range 20 {
		h.expect(t, c, 5, int32(i), body(i*20))
	}
	close(read)
	n := got.wait(t)
	if wrote := n.after - n.before; h.Framing != nil && wrote != n.payload || wrote < n.payload {
		t.Errorf("Written grew by %d for %d bytes", wrote, n.payload)
	}
	if !acked.wait(t) {
		t.Error("Unacked does not come down to 0 though the client has read everything")
	}
}

func testWriteDeadline(t *testing.T, h Harness) {
	type outcome struct {
		err, again error
		took       time.Duration
		close      time.Duration
		unacked    int64
		ok         bool
		atEnd      int64
		written    int64
	}
	got := newResult[outcome]()
	h.serve(t, Options{WriteBuffer: 8 << 10}, func(c transport.Conn) {
		frame := transport.EncodeReply(h.form(), 1, 5, 0, 0, []byte(body(256<<10)))
		var o outcome
		for o.err == nil {
			started := time.Now()
			// The deadline leaves time to fill the kernel's buffers on a busy machine too. Until
			// they are full, a write does not block.
			o.err = c.Write(started.Add(time.Second), frame)
			o.took = time.Since(started)
		}
		o.unacked, o.ok = c.Unacked()
		started := time.Now()
		o.again = c.Write(started.Add(100*time.Millisecond), frame)
		_ = c.Close(protocol.CloseSlow, "too slow")
		o.close = time.Since(started)
		o.atEnd, _ = c.Unacked()
		o.written = c.Written()
		got.put(o)
	})
	o := got.wait(t) // the client reads nothing during this wait
	if !errors.Is(o.err, os.ErrDeadlineExceeded) {
		t.Errorf("Write to a client that never reads: %v, want os.ErrDeadlineExceeded", o.err)
	}
	if o.took > promptLimit || o.close > promptLimit {
		t.Errorf("Write took %s for a deadline of a second, and a second Write with Close %s", o.took, o.close)
	}
	if o.again == nil {
		t.Error("Write after a failed Write succeeded")
	}
	if o.ok && (o.unacked <= 0 || o.atEnd <= 0 || o.atEnd > o.written) {
		t.Errorf("Unacked says %d, and %d at the end, of %d written to a client that never reads", o.unacked, o.atEnd, o.written)
	}
}
