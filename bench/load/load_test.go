//go:build linux

package load

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imgo/protocol"
	"imgo/transport"
)

func packets(bodies ...string) []byte {
	var b []byte
	for i, body := range bodies {
		b = transport.AppendPacket(b, 2, protocol.HeaderV2, protocol.OpMessage, 0, uint64(i+1), []byte(body))
	}
	return b
}

// framed returns the packets in one WebSocket frame of a server.
func framed(p []byte) []byte {
	head := []byte{0x82, byte(len(p))}
	switch {
	case len(p) > 65535:
		head = binary.BigEndian.AppendUint64([]byte{0x82, 127}, uint64(len(p)))
	case len(p) > 125:
		head = binary.BigEndian.AppendUint16([]byte{0x82, 126}, uint16(len(p)))
	}
	return append(head, p...)
}

// TestStream splits the bytes of a server at every position.
func TestStream(t *testing.T) {
	p := packets("one", "", strings.Repeat("long", 100))
	frames := slices.Concat(framed(p), []byte{0x89, 0}, framed(p)) // a ping between them
	for _, tt := range []struct {
		ws   bool
		data []byte
		want int
	}{{false, p, 3}, {true, frames, 6}} {
		for cut := range len(tt.data) {
			s := stream{ws: tt.ws}
			var ids []uint64
			for _, part := range [][]byte{tt.data[:cut], tt.data[cut:]} {
				// The reader's buffer is reused, so a kept body would change.
				buf := bytes.Clone(part)
				if err := s.feed(buf, func(p transport.Packet) { ids = append(ids, p.ID) }); err != nil {
					t.Fatalf("ws %t, cut at %d: %v", tt.ws, cut, err)
				}
				clear(buf)
			}
			if len(ids) != tt.want || ids[2] != 3 || s.rest != nil {
				t.Fatalf("ws %t, cut at %d: ids %v, rest %q", tt.ws, cut, ids, s.rest)
			}
		}
	}
	for name, bad := range map[string][]byte{
		"close": {0x88, 0}, "masked": {0x82, 0x81, 0, 0, 0, 0, 0}, "huge": {0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 0},
		"half a packet": framed(p[:30]),
	} {
		s := stream{ws: true}
		if err := s.feed(bad, func(transport.Packet) {}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestTake checks that the fast path counts the same as the general path.
func TestTake(t *testing.T) {
	data := slices.Concat(packets("hi", "ho", ""), transport.AppendPacket(nil, 2, protocol.HeaderV2, protocol.OpHeartbeatReply, 0, 0, nil),
		packets("x"))
	for range 500 {
		var h holder
		var s stream
		var got int64
		for rest := data; len(rest) > 0; {
			n := 1 + rand.IntN(len(rest))
			pushed, _, err := h.countMessages(&s, bytes.Clone(rest[:n]))
			if err != nil {
				t.Fatal(err)
			}
			got += pushed
			rest = rest[n:]
		}
		if got != 4 || s.rest != nil {
			t.Fatalf("%d messages, rest %q", got, s.rest)
		}
	}
}

// FuzzStream checks that no server bytes cause a panic, and that it makes no
// difference how they are split.
func FuzzStream(f *testing.F) {
	f.Add(false, 3, packets("one", "two"))
	f.Add(true, 7, framed(packets("one", strings.Repeat("x", 300))))
	f.Add(true, 1, []byte{0x89, 1, 'x', 0x88, 0})
	f.Fuzz(func(t *testing.T, ws bool, piece int, data []byte) {
		read := func(piece int) (bodies []string, err error) {
			s := stream{ws: ws}
			for rest := data; len(rest) > 0 && err == nil; {
				n := min(max(piece, 1), len(rest))
				err = s.feed(bytes.Clone(rest[:n]), func(p transport.Packet) { bodies = append(bodies, string(p.Body)) })
				rest = rest[n:]
			}
			return bodies, err
		}
		whole, err := read(len(data))
		pieces, pieceErr := read(piece % 64)
		if (err == nil) != (pieceErr == nil) || !slices.Equal(whole, pieces) {
			t.Fatalf("whole: %q, %v; in pieces: %q, %v", whole, err, pieces, pieceErr)
		}
	})
}

// TestHolderAcknowledges checks that messages that arrive with the answer to the auth packet are acknowledged, and that
// a connection is lost if only a part of a packet was sent.
func TestHolderAcknowledges(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	server := fds[1]
	defer unix.Close(server) //nolint:errcheck // the end of the test
	h := &holder{req: HoldRequest{Kind: TCP, Ack: true}, buf: make([]byte, 4<<10), started: time.Now()}
	c := &heldConn{fd: fds[0], phase: authenticating}
	answer := slices.Concat(transport.AppendPacket(nil, 2, protocol.HeaderV2, protocol.OpAuthReply, 0, 0, nil), packets("one", "two"))
	if _, err := unix.Write(server, answer); err != nil {
		t.Fatal(err)
	}
	if err := h.advance(c, 0); err != nil || c.phase != live {
		t.Fatalf("phase %v, %v", c.phase, err)
	}
	got := make([]byte, 1<<10)
	n, err := unix.Read(server, got)
	want := Request(TCP, protocol.OpAck, binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, 1), 2))
	if err != nil || !bytes.Equal(got[:max(n, 0)], want) {
		t.Errorf("the server got %x, %v; want %x", got[:max(n, 0)], err, want)
	}
	if acks, packets := h.counts.acks.Load(), h.counts.packets.Load(); acks != 2 || packets != 2 {
		t.Errorf("%d messages, %d acknowledged", packets, acks)
	}
	if h.write(c, make([]byte, 16<<20)) || c.phase != gone {
		t.Errorf("phase %v after a part of a packet", c.phase)
	}
	h.ack(c, want[len(want)-16:])
	if lost := h.counts.acksLost.Load(); lost != 2 {
		t.Errorf("%d acknowledgements are lost, want 2", lost)
	}
}

func TestStamp(t *testing.T) {
	now := time.Now()
	for _, body := range []string{stamp(now), `"` + stamp(now) + `xxx"`} {
		if got, ok := stampOf([]byte(body)); !ok || got != now.UnixNano() {
			t.Errorf("the stamp of %s is %d, %t", body, got, ok)
		}
	}
	for _, body := range []string{"", "hi", `"`, strings.Repeat("x", 30), "123456789012345678x"} {
		if got, ok := stampOf([]byte(body)); ok {
			t.Errorf("the stamp of %q is %d", body, got)
		}
	}
}

func TestCalls(t *testing.T) {
	now := time.Now()
	for name, tt := range map[string]struct {
		call Call
		want string
	}{
		"push":     {PushCall(false), `{"user":"u00001234","body":BODY,"kept":false}`},
		"kept":     {PushCall(true), `{"user":"u00001234","body":BODY}`},
		"everyone": {AllCall(), `{"all":true,"body_text":"hi"}`},
		"stamped":  {StampedAllCall(1000), `{"all":true,"body":BODY}`},
		"room":     {RoomCall("den"), `{"room":"den","body":BODY}`},
	} {
		c := tt.call.Clone()
		c.To(1234)
		c.Stamp(now)
		head, body, _ := bytes.Cut(c.bytes, []byte("\r\n\r\n"))
		if want := fmt.Sprintf("Content-Length: %d", len(body)); !bytes.Contains(head, []byte(want)) {
			t.Errorf("%s: no %q in %q", name, want, head)
		}
		var push map[string]json.RawMessage
		if err := json.Unmarshal(body, &push); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		text := string(push["body"])
		if got := strings.Replace(string(body), text, "BODY", 1); text != "" && got != tt.want || text == "" && string(body) != tt.want {
			t.Errorf("%s: the push is %s", name, body)
		}
		if at, ok := stampOf(push["body"]); (text != "") != ok || ok && at != now.UnixNano() {
			t.Errorf("%s: the stamp is %d, %t", name, at, ok)
		}
		if size := map[string]int{"push": BodySize, "kept": BodySize, "stamped": 1000, "room": StampSize + 2}[name]; len(text) != size {
			t.Errorf("%s: the body has %d bytes, want %d", name, len(text), size)
		}
	}
	untouched, c := PushCall(true), PushCall(true)
	other := c.Clone()
	other.To(7)
	if !bytes.Equal(untouched.bytes, c.bytes) {
		t.Error("a clone shares its bytes")
	}
}

func TestCallerReadsAnswers(t *testing.T) {
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		buf := make([]byte, 4<<10)
		for _, answer := range []string{
			"HTTP/1.1 202 Accepted\r\nContent-Length: 3\r\nX: y\r\n\r\n{}\n",
			"HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 4\r\n\r\nfull",
			"HTTP/1.1 202 Accepted\r\n\r\n",
		} {
			if _, err := server.Read(buf); err != nil {
				return
			}
			if _, err := io.WriteString(server, answer); err != nil {
				return
			}
		}
	}()
	c, call := newCaller(client), AllCall()
	defer c.Close()
	if ok, why, err := c.Do(&call); !ok || why != "" || err != nil {
		t.Errorf("accepted: %t, %q, %v", ok, why, err)
	}
	if ok, why, err := c.Do(&call); ok || why != "HTTP/1.1 507 Insufficient Storage: full" || err != nil {
		t.Errorf("refused: %t, %q, %v", ok, why, err)
	}
	if _, _, err := c.Do(&call); err == nil {
		t.Error("an answer without a length was understood")
	}
}

// stamp returns the time in Unix nanoseconds, as it stands at the beginning of a
// stamped message. The opening quote of a JSON string may precede it.
func stamp(t time.Time) string { return strconv.FormatInt(t.UnixNano(), 10) }
