package ws_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"imgo/internal/wait/waittest"
	"imgo/protocol"
	"imgo/transport"
	"imgo/transport/transporttest"
	"imgo/transport/ws"
)

// outcome is the error that ended the reading of a connection, and the number of packets before it.
type outcome struct {
	packets int
	err     error
}

// watch runs a server that reads every connection to its end and reports the outcome. It sends op 6
// with the reason after a protocol error.
func watch(t *testing.T, cfg ws.Config, deadline time.Duration) (*ws.Listener, <-chan outcome) {
	t.Helper()
	ended := make(chan outcome, 1)
	l := listen(t, cfg)
	transporttest.Serve(t, l, func(c transport.Conn) {
		if deadline > 0 {
			_ = c.SetReadDeadline(time.Now().Add(deadline))
		}
		var o outcome
		for o.err == nil {
			if _, o.err = transporttest.ReadPacket(c); o.err == nil {
				o.packets++
			}
		}
		var bad *transport.ProtocolError
		if errors.As(o.err, &bad) {
			form := transport.FormGoim
			if c.Text() {
				form = transport.FormImgoJSON
			}
			_ = c.Write(time.Now().Add(time.Second), transport.EncodeReply(form, 1, protocol.OpDisconnect, 0, 0, []byte(bad.Kind)))
			_ = c.Close(bad.Code, bad.Kind)
		}
		ended <- o
	})
	return l, ended
}

func wait(t *testing.T, ended <-chan outcome) outcome {
	t.Helper()
	select {
	case o := <-ended:
		return o
	case <-time.After(transporttest.WaitLimit):
		t.Fatal("the connection does not end")
		panic("unreachable")
	}
}

// TestBadFrames checks that a client that breaks the rules of WebSocket or of this server gets the
// reason and is disconnected.
func TestBadFrames(t *testing.T) {
	const maxBody = 1000
	auth := transport.AppendPacket(nil, 1, protocol.HeaderV1, 7, 1, 0, []byte("token"))
	json := []byte(`{"ver":1,"op":7,"seq":1,"body":"token"}`)
	masked := func(first byte, payload []byte) []byte { return transporttest.RawFrame(first, true, payload) }
	whole := masked(0x82, auth)
	two := masked(0x82, append(transport.AppendPacket(nil, 2, protocol.HeaderV2, 7, 1, 0, nil), auth...))
	for name, test := range map[string]struct {
		text   bool
		frames []byte
		kind   string
		code   protocol.CloseCode
	}{
		"unmasked":                 {false, transporttest.RawFrame(0x82, false, auth), "bad_frame", 3500},
		"unmasked text":            {true, transporttest.RawFrame(0x81, false, json), "bad_frame", 3500},
		"compressed":               {false, masked(0xc2, auth), "bad_frame", 3500},
		"second reserved bit":      {false, masked(0xa2, auth), "bad_frame", 3500},
		"third reserved bit":       {true, masked(0x91, json), "bad_frame", 3500},
		"unknown opcode":           {false, masked(0x83, auth), "bad_frame", 3500},
		"unknown control":          {false, masked(0x8b, nil), "bad_frame", 3500},
		"continuation of nothing":  {false, masked(0x80, auth), "bad_frame", 3500},
		"message within a message": {false, append(masked(0x02, auth[:8]), masked(0x82, auth)...), "bad_frame", 3500},
		"long ping":                {false, masked(0x89, make([]byte, 126)), "bad_frame", 3500},
		"fragmented ping":          {false, masked(0x09, nil), "bad_frame", 3500},
		"close of one byte":        {false, masked(0x88, []byte{3}), "bad_frame", 3500},
		"close with a bad code":    {false, masked(0x88, []byte{0x03, 0xee}), "bad_frame", 3500},
		"negative frame length":    {false, []byte{0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, "bad_frame", 3500},
		"packet then JSON":         {false, append(bytes.Clone(whole), masked(0x81, json)...), "mixed_forms", 3500},
		"packet then binary JSON":  {false, append(bytes.Clone(whole), masked(0x82, json)...), "mixed_forms", 3500},
		"JSON then packet":         {true, append(masked(0x81, json), whole...), "mixed_forms", 3500},
		"two packets of version 2": {false, two, "bad_length", 3500},
		"empty binary message":     {false, masked(0x82, nil), "bad_length", 3500},
		"part of a header":         {false, masked(0x82, auth[:9]), "bad_length", 3500},
		"empty text message":       {true, masked(0x81, nil), "bad_json", 3500},
		"invalid UTF-8":            {true, masked(0x81, []byte("{\"op\":7,\"body\":\"\xff\"}")), "bad_utf8", 3500},
		"frame of 2^62 bytes": {false, []byte{0x82, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
			0x7f, 0xff, 0xff, 0xff, 0, 16, 0, 1, 0, 0, 0, 4, 0, 0, 0, 0}, "too_large", 3507},
		"text over the limit": {true, masked(0x81, []byte(`{"op":4,"body":"`+strings.Repeat("x", 2*maxBody+1024)+`"}`)), "too_large", 3507},
	} {
		t.Run(name, func(t *testing.T) {
			l, ended := watch(t, ws.Config{ListenConfig: transport.ListenConfig{MaxBody: maxBody}}, 0)
			c := dial(t, l, nil, test.text)
			if err := c.Send(test.frames); err != nil {
				t.Fatal(err)
			}
			o := wait(t, ended)
			var bad *transport.ProtocolError
			if !errors.As(o.err, &bad) || bad.Kind != test.kind || bad.Code != test.code || bad.Reason == "" {
				t.Fatalf("ReadPacket: %v, want kind %s with code %d", o.err, test.kind, test.code)
			}
			if o.packets == 0 && test.text { // Without a message from the client the server answers in binary.
				c.Text = test.kind == "bad_json" || test.kind == "bad_utf8"
			}
			if b, err := c.Next(); err != nil || !strings.Contains(string(b), test.kind) {
				t.Errorf("the last message: %q, %v; want op 6 with %s", b, err, test.kind)
			}
			var closed *transporttest.Closed
			if _, err := c.Next(); !errors.As(err, &closed) || closed.Code != test.code || closed.Reason != test.kind {
				t.Errorf("the end: %v, want a close frame with %d %s", err, test.code, test.kind)
			}
		})
	}
}

// TestFragments checks that fragments are joined, with control frames between them.
func TestFragments(t *testing.T) {
	l := listen(t, ws.Config{ListenConfig: transport.ListenConfig{MaxBody: 1000}})
	transporttest.Serve(t, l, echo)
	for _, text := range []bool{false, true} {
		c := dial(t, l, nil, text)
		payload := transport.AppendPacket(nil, 1, protocol.HeaderV1, 4, 9, 0, []byte(`"`+strings.Repeat("ü", 300)+`"`))
		first := byte(0x02)
		if text {
			payload = []byte(`{"op":4,"body":"` + strings.Repeat("ü", 300) + `"}`)
			first = 0x01
		}
		var wire []byte
		for i := range payload { // The cuts are within characters too.
			wire = append(wire, transporttest.RawFrame(first, true, payload[i:i+1])...)
			if first = 0x00; i%50 == 0 {
				wire = append(wire, transporttest.RawFrame(0x89, true, []byte{byte(i)})...)
				wire = append(wire, transporttest.RawFrame(0x00, true, nil)...)
			}
		}
		wire = append(wire, transporttest.RawFrame(0x80, true, nil)...)
		if err := c.Send(wire); err != nil {
			t.Fatal(err)
		}
		if b, err := c.Next(); err != nil || !strings.Contains(string(b), strings.Repeat("ü", 300)) {
			t.Errorf("echo of a fragmented message: %.100q, %v", b, err)
		}
		ping(t, c)
	}
	// The limit applies to the whole message, not to a fragment.
	l2, ended := watch(t, ws.Config{ListenConfig: transport.ListenConfig{MaxBody: 1000}}, 0)
	c := dial(t, l2, nil, true)
	wire := transporttest.RawFrame(0x01, true, []byte(`{"op":4,"body":"`))
	for range 40 {
		wire = append(wire, transporttest.RawFrame(0x00, true, bytes.Repeat([]byte("x"), 100))...)
	}
	if err := c.Send(wire); err != nil {
		t.Fatal(err)
	}
	var bad *transport.ProtocolError
	if o := wait(t, ended); !errors.As(o.err, &bad) || bad.Code != protocol.CloseTooLarge {
		t.Errorf("a fragmented message over the limit: %v", o.err)
	}
}

func TestSlowlorisWithinAFrame(t *testing.T) {
	for name, begin := range map[string][]byte{
		"message": transporttest.RawFrame(0x82, true, transport.AppendPacket(nil, 1, protocol.HeaderV1, 4, 1, 0, make([]byte, 5000))),
		"ping":    transporttest.RawFrame(0x89, true, make([]byte, 120)),
	} {
		t.Run(name, func(t *testing.T) {
			l, ended := watch(t, ws.Config{}, 150*time.Millisecond)
			c := dial(t, l, nil, false)
			for _, b := range begin {
				if _, err := c.Write([]byte{b}); err != nil {
					break
				}
				select {
				case o := <-ended:
					if !errors.Is(o.err, os.ErrDeadlineExceeded) {
						t.Errorf("ReadPacket: %v, want os.ErrDeadlineExceeded", o.err)
					}
					return
				case <-time.After(5 * time.Millisecond):
				}
			}
			t.Error("ReadPacket outlived its deadline")
		})
	}
}

func TestPingsAreSignsOfLife(t *testing.T) {
	signs := make(chan time.Time)
	look := make(chan struct{})
	l := listen(t, ws.Config{})
	transporttest.Serve(t, l, func(c transport.Conn) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range look {
				signs <- c.LastSign()
			}
		}()
		echo(c)
		<-done
	})
	defer close(look)
	sign := func() time.Time {
		look <- struct{}{}
		return <-signs
	}
	c := dial(t, l, nil, false)
	last := sign()
	for i, frame := range [][]byte{
		transporttest.RawFrame(0x89, true, []byte("are you there")),
		transporttest.RawFrame(0x8a, true, nil),
	} {
		time.Sleep(time.Millisecond)
		if err := c.Send(frame); err != nil {
			t.Fatal(err)
		}
		waittest.Eventually(t, "a sign of life", func() bool { return sign().After(last) })
		last = sign()
		if i == 0 {
			if first, payload, err := c.ReadFrame(); err != nil || first != 0x8a || string(payload) != "are you there" {
				t.Errorf("answer to a ping: %#x %q %v", first, payload, err)
			}
		}
	}
	ping(t, c)
}

// TestPingDuringWrite checks that a ping during a long Write is answered between two of its frames or
// after them. The reader and the writer do not wait for each other.
func TestPingDuringWrite(t *testing.T) {
	const frames = 6
	started, goOn := make(chan struct{}), make(chan struct{})
	l := listen(t, ws.Config{ListenConfig: transport.ListenConfig{WriteBuffer: 8 << 10}})
	transporttest.Serve(t, l, func(c transport.Conn) {
		before := c.LastSign()
		wrote := make(chan error, 1)
		go func() {
			frame := transport.EncodeReply(transport.FormGoim, 1, 5, 0, 0, make([]byte, 1<<18))
			all := make([][]byte, frames)
			for i := range all {
				all[i] = frame
			}
			close(started)
			wrote <- c.Write(time.Now().Add(transporttest.WaitLimit), all...)
		}()
		read := make(chan struct{})
		go func() {
			defer close(read)
			echo(c)
		}()
		for c.LastSign() == before { // The reader handles the ping although the writer is blocked.
			time.Sleep(time.Millisecond)
		}
		close(goOn)
		if err := <-wrote; err != nil {
			t.Errorf("Write: %v", err)
		}
		<-read
	})
	c := dial(t, l, nil, false)
	<-started
	time.Sleep(50 * time.Millisecond) // time for the kernel's buffers to fill up
	if err := c.Send(transporttest.RawFrame(0x89, true, []byte("hello"))); err != nil {
		t.Fatal(err)
	}
	<-goOn
	pongs := 0
	for range frames + 1 {
		first, payload, err := c.ReadFrame()
		switch {
		case err == nil && first == 0x8a && string(payload) == "hello":
			pongs++
		case err != nil || first != 0x82 || len(payload) != 1<<18+16:
			t.Fatalf("frame %#x of %d bytes, %v", first, len(payload), err)
		}
	}
	if pongs != 1 {
		t.Errorf("%d pongs", pongs)
	}
}

func TestClientCloses(t *testing.T) {
	for name, payload := range map[string][]byte{
		"normally": {0x03, 0xe8, 'b', 'y', 'e'}, "with a code of its own": {0x0f, 0xa0}, "without a code": nil,
	} {
		t.Run(name, func(t *testing.T) {
			l, ended := watch(t, ws.Config{}, 0)
			c := dial(t, l, nil, false)
			if err := c.Send(transporttest.RawFrame(0x88, true, payload)); err != nil {
				t.Fatal(err)
			}
			if o := wait(t, ended); o.err != io.EOF {
				t.Errorf("ReadPacket: %v, want io.EOF", o.err)
			}
			if first, got, err := c.ReadFrame(); err != nil || first != 0x88 || !bytes.Equal(got, payload[:min(2, len(payload))]) {
				t.Errorf("answered with %#x % x %v, want the code back", first, got, err)
			}
			if _, _, err := c.ReadFrame(); err != io.EOF {
				t.Errorf("after the close frames: %v, want the end", err)
			}
		})
	}
}

// TestCloseOfASilentClient checks that Close returns at once although the client reads nothing. A
// Close that waits would be slow in every try. A busy machine makes only some tries slow.
func TestCloseOfASilentClient(t *testing.T) {
	took := make(chan time.Duration, 1)
	l := listen(t, ws.Config{ListenConfig: transport.ListenConfig{WriteBuffer: 8 << 10}})
	transporttest.Serve(t, l, func(c transport.Conn) {
		frame := transport.EncodeReply(transport.FormGoim, 1, 5, 0, 0, make([]byte, 1<<16))
		for c.Write(time.Now().Add(20*time.Millisecond), frame) == nil {
		}
		started := time.Now()
		_ = c.Close(protocol.CloseSlow, "too slow")
		took <- time.Since(started)
	})
	for try := 1; ; try++ {
		c := dial(t, l, nil, false)
		d := <-took
		_ = c.Close()
		if d < 100*time.Millisecond {
			return
		}
		if try == 10 {
			t.Fatalf("Close took %s, and not less in %d tries", d, try)
		}
	}
}
