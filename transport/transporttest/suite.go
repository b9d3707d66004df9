package transporttest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"imgo/protocol"
	"imgo/transport"
)

// Run runs the suite for h. Each test uses connections of its own.
func Run(t *testing.T, h Harness) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Harness)
	}{
		{"Echo", testEcho},
		{"ManyPacketsInOneWrite", testManyPackets},
		{"ByteByByte", testByteByByte},
		{"ManyFramesInOneWrite", testManyFrames},
		{"LargeFrames", testLargeFrames},
		{"ReadDeadline", testReadDeadline},
		{"End", testEnd},
		{"BadPackets", testBadPackets},
		{"CloseWhileReading", testCloseWhileReading},
		{"CloseWhileWriting", testCloseWhileWriting},
		{"CloseCodes", testCloseCodes},
		{"ReadAndWriteAtOnce", testReadAndWrite},
		{"Accounting", testAccounting},
		{"WriteDeadline", testWriteDeadline},
		{"Batches", testBatches},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, h) })
	}
}

// echo answers every packet with its op + 1 until the connection ends.
func (h Harness) echo(c transport.Conn) {
	for {
		p, err := ReadPacket(c)
		if err != nil {
			return
		}
		if c.Write(soon(), transport.EncodeReply(h.form(), p.Version, p.Op+1, p.Seq, 0, p.Body)) != nil {
			return
		}
	}
}

func testEcho(t *testing.T, h Harness) {
	type facts struct {
		scheme      string
		remote      bool
		early, late bool
		signs       bool
		monotonic   bool
	}
	seen := newResult[facts]()
	c := h.run(t, Options{MaxBody: 8192}, func(c transport.Conn) {
		f := facts{scheme: c.Traits().Scheme, remote: c.Remote().IsValid() && !c.Remote().Addr().Is4In6(), early: c.Text()}
		before := c.LastSign()
		p, err := ReadPacket(c)
		if err != nil {
			return
		}
		sign := c.LastSign()
		f.late, f.signs, f.monotonic = c.Text(), sign.After(before), sign != sign.Round(0)
		seen.put(f)
		_ = c.Write(soon(), transport.EncodeReply(h.form(), p.Version, p.Op+1, p.Seq, 0, p.Body))
		h.echo(c)
	})
	time.Sleep(time.Millisecond) // so that LastSign can change
	send(t, c, h.packet(2, 7, ""))
	h.expect(t, c, 3, 7, "")
	if got, want := seen.wait(t), (facts{h.Scheme, true, false, h.Text, true, true}); got != want {
		t.Errorf("the connection says %+v, want %+v", got, want)
	}
	for i, n := range []int{0, 1, 100, 125, 126, 4000, 8190} {
		b := body(n)
		send(t, c, h.packet(4, int32(i), b))
		h.expect(t, c, 5, int32(i), b)
	}
}

func testManyPackets(t *testing.T, h Harness) {
	if !h.Pieces {
		t.Skip("a write is a message")
	}
	c := h.run(t, Options{}, h.echo)
	var all []byte
	for i := range int32(50) {
		all = append(all, c.Frame(h.packet(4, i, body(int(i))))...)
	}
	if err := c.Send(all); err != nil {
		t.Fatal(err)
	}
	for i := range int32(50) {
		h.expect(t, c, 5, i, body(int(i)))
	}
}

func testByteByByte(t *testing.T, h Harness) {
	if !h.Pieces {
		t.Skip("a write is a message")
	}
	c := h.run(t, Options{}, h.echo)
	for i, b := range []string{"", body(40), body(200)} {
		for _, one := range c.Frame(h.packet(4, int32(i), b)) {
			if err := c.Send([]byte{one}); err != nil {
				t.Fatal(err)
			}
		}
		h.expect(t, c, 5, int32(i), b)
	}
}

func testManyFrames(t *testing.T, h Harness) {
	const n = 1500 // more than one gathered write holds
	for _, size := range []int{0, 10, 200} {
		wrote := newResult[error]()
		intact := newResult[bool]()
		c := h.serve(t, Options{}, func(c transport.Conn) {
			frames := make([][]byte, n)
			for i := range frames {
				frames[i] = transport.EncodeReply(h.form(), 1, 5, int32(i), 0, []byte(body(size)))
			}
			before := bytes.Join(frames, nil)
			wrote.put(c.Write(soon(), frames...))
			intact.put(bytes.Equal(before, bytes.Join(frames, nil)))
			h.echo(c)
		})
		for i := range int32(n) {
			h.expect(t, c, 5, i, body(size))
		}
		if err := wrote.wait(t); err != nil {
			t.Fatal(err)
		}
		if !intact.wait(t) {
			t.Error("Write changed its frames")
		}
	}
}

func testLargeFrames(t *testing.T, h Harness) {
	sizes := []int{1 << 20, 3, 65535, 65536, 20000, 17, 300000}
	wrote := newResult[error]()
	c := h.serve(t, Options{}, func(c transport.Conn) {
		var frames [][]byte
		for i, n := range sizes {
			frames = append(frames, transport.EncodeReply(h.form(), 1, 5, int32(i), 0, []byte(body(n))))
		}
		if err := c.Write(soon(), frames...); err != nil {
			wrote.put(err)
			return
		}
		wrote.put(c.Write(soon(), frames[0]))
		h.echo(c)
	})
	for i, n := range sizes {
		h.expect(t, c, 5, int32(i), body(n))
	}
	h.expect(t, c, 5, 0, body(sizes[0]))
	if err := wrote.wait(t); err != nil {
		t.Fatal(err)
	}
}

func testReadDeadline(t *testing.T, h Harness) {
	first, second := newResult[error](), newResult[error]()
	c := h.serve(t, Options{}, func(c transport.Conn) {
		// The deadline is shortened during the read.
		_ = c.SetReadDeadline(time.Now().Add(time.Hour))
		timer := time.AfterFunc(20*time.Millisecond, func() { _ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond)) })
		defer timer.Stop()
		_, err := ReadPacket(c)
		first.put(err)
		// The server can still write its close packet.
		second.put(c.Write(soon(), transport.EncodeReply(h.form(), 1, 6, 0, 0, []byte(`{"code":3004}`))))
		_ = c.Close(protocol.CloseStaleHeartbeat, "no heartbeat")
	})
	if err := first.wait(t); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("ReadPacket past its deadline: %v, want os.ErrDeadlineExceeded", err)
	}
	if err := second.wait(t); err != nil {
		t.Errorf("Write after a read deadline: %v", err)
	}
	h.expect(t, c, 6, 0, `{"code":3004}`)
	h.expectClose(t, c, protocol.CloseStaleHeartbeat, "no heartbeat")
}

// expectClose expects the end of the connection. It checks code and reason if the transport carries
// them.
func (h Harness) expectClose(t *testing.T, c Client, code protocol.CloseCode, reason string) {
	t.Helper()
	err := expectEnd(t, c)
	var closed *Closed
	switch {
	case !h.CloseCodes && err != io.EOF:
		t.Errorf("the end is %v, want io.EOF", err)
	case h.CloseCodes && !errors.As(err, &closed):
		t.Errorf("the end is %v, want code %d", err, code)
	case h.CloseCodes && *closed != Closed{code, reason}:
		t.Errorf("the end is %v, want code %d %q", err, code, reason)
	}
}

func testEnd(t *testing.T, h Harness) {
	whole := func(c Client) []byte { return c.Frame(h.packet(4, 1, body(100))) }
	for name, test := range map[string]struct {
		sent func(c Client) []byte
		want error
	}{
		"between packets":  {func(Client) []byte { return nil }, io.EOF},
		"in the header":    {func(c Client) []byte { return whole(c)[:10] }, io.ErrUnexpectedEOF},
		"before the body":  {func(c Client) []byte { return whole(c)[:16] }, io.ErrUnexpectedEOF},
		"in the body":      {func(c Client) []byte { return whole(c)[:60] }, io.ErrUnexpectedEOF},
		"before last byte": {func(c Client) []byte { w := whole(c); return w[:len(w)-1] }, io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			got := newResult[error]()
			c := h.serve(t, Options{}, func(c transport.Conn) {
				_, err := ReadPacket(c)
				got.put(err)
			})
			if b := test.sent(c); len(b) > 0 {
				if !h.Pieces {
					t.Skip("a write is a message")
				}
				if err := c.Send(b); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.End(); err != nil {
				t.Fatal(err)
			}
			if err := got.wait(t); !errors.Is(err, test.want) || test.want == io.EOF && err != io.EOF {
				t.Errorf("ReadPacket: %v, want %v", err, test.want)
			}
		})
	}
}

func testBadPackets(t *testing.T, h Harness) {
	const maxBody = 1000
	type bad struct {
		name    string
		payload []byte
		kind    string
		code    protocol.CloseCode
	}
	var cases []bad
	if h.Text {
		long := []byte(`{"op":4,"body":` + body(2*maxBody+1024) + `}`)
		deep := append([]byte(`{"op":4,"body":`), bytes.Repeat([]byte("["), 1000)...)
		cases = []bad{
			{"array", []byte(`[{"ver":1,"op":7,"seq":1}]`), "bad_json", protocol.CloseBadPacket},
			{"truncated", []byte(`{"ver":1,"op":7,`), "bad_json", protocol.CloseBadPacket},
			{"empty", nil, "bad_json", protocol.CloseBadPacket},
			{"op out of range", []byte(`{"op":2147483648}`), "bad_json", protocol.CloseBadPacket},
			{"deep", deep, "bad_json", protocol.CloseBadPacket},
			{"invalid UTF-8", []byte("{\"op\":4,\"body\":\"\xff\"}"), "bad_utf8", protocol.CloseBadPacket},
			{"too large", long, "too_large", protocol.CloseTooLarge},
			{"body too large", []byte(`{"op":4,"body":` + body(maxBody+1) + `}`), "too_large", protocol.CloseTooLarge},
		}
	} else {
		head := func(length int32, headerLen int16) []byte {
			b := h.packet(4, 1, "")
			b[0], b[1], b[2], b[3] = byte(length>>24), byte(length>>16), byte(length>>8), byte(length)
			b[4], b[5] = byte(headerLen>>8), byte(headerLen)
			return b
		}
		cases = []bad{
			{"negative length with the longer header", head(-1, 24), "bad_length", protocol.CloseBadPacket},
			{"length under the longer header's", head(16, 24), "bad_length", protocol.CloseBadPacket},
			{"zero header length", head(16, 0), "bad_header", protocol.CloseBadPacket},
			{"odd header length", head(40, 20), "bad_header", protocol.CloseBadPacket},
			{"negative header length", head(16, -16), "bad_header", protocol.CloseBadPacket},
			{"too large", head(16+maxBody+1, 16), "too_large", protocol.CloseTooLarge},
			{"most that can be said", head(1<<31-1, 24), "too_large", protocol.CloseTooLarge},
		}
	}
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			got := newResult[error]()
			c := h.serve(t, Options{MaxBody: maxBody}, func(c transport.Conn) {
				_, err := ReadPacket(c)
				got.put(err)
				var bad *transport.ProtocolError
				if errors.As(err, &bad) {
					_ = c.Write(soon(), transport.EncodeReply(h.form(), 1, 6, 0, 0, []byte(`{"code":1}`)))
					_ = c.Close(bad.Code, bad.Kind)
				}
			})
			// Bytes after the bad packet must not prevent the client from getting the answer.
			_ = c.Send(append(c.Frame(test.payload), make([]byte, 2000)...))
			err := got.wait(t)
			var bad *transport.ProtocolError
			if !errors.As(err, &bad) || bad.Kind != test.kind || bad.Code != test.code || bad.Reason == "" {
				t.Fatalf("ReadPacket: %#v, want kind %s, code %d", err, test.kind, test.code)
			}
			h.expect(t, c, 6, 0, `{"code":1}`)
			h.expectClose(t, c, test.code, test.kind)
		})
	}
}

func testCloseWhileReading(t *testing.T, h Harness) {
	got := newResult[error]()
	after := newResult[error]()
	c := h.serve(t, Options{}, func(c transport.Conn) {
		timer := time.AfterFunc(20*time.Millisecond, func() { _ = c.Close(protocol.CloseKicked, "go away") })
		defer timer.Stop()
		_, err := ReadPacket(c)
		got.put(err)
		_ = c.Close(protocol.CloseSlow, "only the first call counts")
		after.put(c.Write(soon(), transport.EncodeReply(h.form(), 1, 5, 0, 0, nil)))
	})
	if err := got.wait(t); !errors.Is(err, net.ErrClosed) {
		t.Errorf("ReadPacket on a connection that was closed here: %v, want net.ErrClosed", err)
	}
	if err := after.wait(t); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write after Close: %v, want net.ErrClosed", err)
	}
	h.expectClose(t, c, protocol.CloseKicked, "go away")
}
