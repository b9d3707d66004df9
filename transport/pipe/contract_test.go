package pipe_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"imgo/protocol"
	"imgo/transport"
	"imgo/transport/pipe"
)

// TestDeadlinesInABubble checks that deadlines expire exactly on time by the clock of a synctest
// bubble.
func TestDeadlinesInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := pipe.New(pipe.Options{Buffer: 100})
		defer server.Close(0, "")
		start := time.Now()

		_ = server.SetReadDeadline(start.Add(5 * time.Minute))
		if _, err := server.ReadStep(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 5*time.Minute {
			t.Errorf("ReadPacket: %v after %s", err, time.Since(start))
		}
		start = time.Now()
		err := server.Write(start.Add(3*time.Second), make([]byte, 60), make([]byte, 60))
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 3*time.Second {
			t.Errorf("Write: %v after %s", err, time.Since(start))
		}
		if n, ok := server.Unacked(); n != 100 || !ok || server.Written() != 100 || client.Unread() != 100 {
			t.Errorf("Unacked %d %v, Written %d, Unread %d; want 100 of each", n, ok, server.Written(), client.Unread())
		}
		if err := server.Write(time.Time{}, nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write to a torn stream: %v", err)
		}

		start = time.Now()
		client.SetDeadline(start.Add(time.Second))
		if n, err := client.Write(make([]byte, 101)); n != 100 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("the client's Write: %d, %v after %s", n, err, time.Since(start))
		}
	})
}

// TestSlowReader checks that a slow reader blocks the server, and that no more bytes than the buffer
// holds are in flight.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := pipe.New(pipe.Options{Buffer: 1000})
		frame := transport.EncodeReply(transport.FormGoim, 1, 5, 0, 0, make([]byte, 284)) // 300 bytes
		done := make(chan error, 1)
		go func() {
			var err error
			for i := 0; i < 10 && err == nil; i++ {
				err = server.Write(time.Now().Add(time.Minute), frame)
			}
			done <- err
		}()
		for range 10 {
			time.Sleep(time.Second)
			if n, _ := server.Unacked(); n > 1000 {
				t.Errorf("%d bytes under way", n)
			}
			if p, err := client.Receive(); err != nil || len(p.Body) != 284 {
				t.Fatalf("%+v, %v", p, err)
			}
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n, _ := server.Unacked(); n != 0 {
			t.Errorf("%d bytes are unacknowledged at the end", n)
		}
	})
}

func TestPackets(t *testing.T) {
	for _, text := range []bool{false, true} {
		client, server := pipe.New(pipe.Options{Text: text})
		sent := []transport.Packet{
			{Version: 1, Op: 7, Seq: 1, Body: []byte(`"token"`)},
			{Version: 2, Op: 2, Seq: 2},
		}
		for _, p := range sent {
			if err := client.Send(p); err != nil {
				t.Fatal(err)
			}
			if got, err := server.ReadStep(); err != nil || !reflect.DeepEqual(got, p) {
				t.Errorf("server got %+v, %v; want %+v", got, err, p)
			}
		}
		form, id := transport.FormV2, uint64(1<<48|5)
		if text {
			form = transport.FormV2JSON
		}
		m := transport.NewMessage(5, id, []byte(`{"a":1}`))
		if err := server.Write(time.Time{}, m.Frame(form), m.Frame(form)); err != nil {
			t.Fatal(err)
		}
		want := transport.Packet{Version: 2, Op: 5, ID: id, Long: !text, Body: []byte(`{"a":1}`)}
		for range 2 {
			if got, err := client.Receive(); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("client got %+v, %v; want %+v", got, err, want)
			}
		}
	}
	// With an id, a packet has a 24-byte header.
	client, server := pipe.New(pipe.Options{})
	p := transport.Packet{Version: 2, Op: 7, ID: 3, Long: true}
	if err := client.Send(p); err != nil {
		t.Fatal(err)
	}
	if got, err := server.ReadStep(); err != nil || !reflect.DeepEqual(got, p) {
		t.Errorf("server got %+v, %v; want %+v", got, err, p)
	}
}

func TestEnds(t *testing.T) {
	client, server := pipe.New(pipe.Options{})
	if _, _, ok := client.Closed(); ok {
		t.Error("closed from the start")
	}
	if err := server.Write(time.Time{}, transport.EncodeReply(transport.FormGoim, 1, 6, 0, 0, nil)); err != nil {
		t.Fatal(err)
	}
	_ = server.Close(protocol.CloseKicked, "bye")
	_ = server.Close(protocol.CloseSlow, "again")
	if p, err := client.Receive(); err != nil || p.Op != 6 {
		t.Errorf("what was written before Close: %+v, %v", p, err)
	}
	if _, err := client.Receive(); err != io.EOF {
		t.Errorf("the end: %v", err)
	}
	if code, reason, ok := client.Closed(); code != protocol.CloseKicked || reason != "bye" || !ok {
		t.Errorf("closed with %d %q %v", code, reason, ok)
	}
	if err := client.Send(transport.Packet{Op: 2}); err == nil {
		t.Error("the client still sends")
	}

	client, server = pipe.New(pipe.Options{})
	if err := client.Send(transport.Packet{Version: 1, Op: 2}); err != nil {
		t.Fatal(err)
	}
	if err := server.Write(time.Time{}, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	_ = client.Close()
	if p, err := server.ReadStep(); err != nil || p.Op != 2 {
		t.Errorf("what was sent before the end: %+v, %v", p, err)
	}
	if _, err := server.ReadStep(); err != io.EOF {
		t.Errorf("the client's end: %v", err)
	}
	if err := server.Write(time.Time{}, make([]byte, 10)); err == nil {
		t.Error("the server still writes")
	}
	if n, _ := server.Unacked(); n != 10 {
		t.Errorf("%d bytes are unacknowledged, want the 10 that were not read", n)
	}
	_ = server.Close(0, "")
	if _, err := server.ReadStep(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("ReadPacket after Close: %v", err)
	}
}

func TestOptions(t *testing.T) {
	remote := netip.MustParseAddrPort("[2001:db8::1]:99")
	client, server := pipe.New(pipe.Options{Text: true, MaxBody: 10, NoUnacked: true, Remote: remote})
	if _, ok := server.Unacked(); ok || server.Remote() != remote || server.Traits().Scheme != pipe.Scheme {
		t.Errorf("Unacked known %v, remote %s, network %s", ok, server.Remote(), server.Traits().Scheme)
	}
	before := server.LastSign()
	time.Sleep(time.Millisecond)
	client.Ping()
	if !server.LastSign().After(before) {
		t.Error("a ping is no sign of life")
	}
	if _, err := client.Write(make([]byte, transport.JSONLimit(10)+1)); err != nil {
		t.Fatal(err)
	}
	var bad *transport.ProtocolError
	if _, err := server.ReadStep(); !errors.As(err, &bad) || bad.Kind != "too_large" {
		t.Errorf("a long text message: %v", err)
	}
}
