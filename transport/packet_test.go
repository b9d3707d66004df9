package transport_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"imgo/protocol"
	"imgo/transport"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPacketLayout compares with bytes that were written by hand from docs/reference/protocol.md.
func TestPacketLayout(t *testing.T) {
	for name, test := range map[string]struct {
		wire      string
		packet    transport.Packet
		headerLen int
	}{
		"v1, empty": {
			"00000010 0010 0001 00000002 00000007",
			transport.Packet{Version: 1, Op: 2, Seq: 7}, 16,
		},
		"v1, body": {
			"00000013 0010 0001 00000007 00000001 616263",
			transport.Packet{Version: 1, Op: 7, Seq: 1, Body: []byte("abc")}, 16,
		},
		"version 0, negative sequence": {
			"00000011 0010 0000 00000005 ffffffff 7a",
			transport.Packet{Version: 0, Op: 5, Seq: -1, Body: []byte("z")}, 16,
		},
		"v2 asked for with a short header": {
			"00000010 0010 0002 00000007 00000000",
			transport.Packet{Version: 2, Op: 7}, 16,
		},
		"v2, id": {
			"0000001a 0018 0002 00000005 00000000 0001000000000102 6869",
			transport.Packet{Version: 2, Op: 5, ID: 0x0001000000000102, Long: true, Body: []byte("hi")}, 24,
		},
		"v2, largest id, no body": {
			"00000018 0018 0002 00000005 00000000 ffffffffffffffff",
			transport.Packet{Version: 2, Op: 5, ID: math.MaxUint64, Long: true}, 24,
		},
	} {
		t.Run(name, func(t *testing.T) {
			wire, p := unhex(t, test.wire), test.packet
			again := transport.AppendPacket([]byte("x"), p.Version, test.headerLen, p.Op, p.Seq, p.ID, p.Body)
			if !bytes.Equal(again[1:], wire) || again[0] != 'x' {
				t.Errorf("AppendPacket: % x, want % x", again[1:], wire)
			}
			got, rest, err := transport.DecodePacket(append(wire, 1, 2), 100)
			if err != nil || !reflect.DeepEqual(got, p) || !bytes.Equal(rest, []byte{1, 2}) {
				t.Errorf("DecodePacket: %+v, rest % x, %v; want %+v", got, rest, err, p)
			}
			var buf [protocol.HeaderV2]byte
			for _, r := range []io.Reader{bytes.NewReader(wire), iotest.OneByteReader(bytes.NewReader(wire))} {
				if got, err := transport.ReadPacket(r, &buf, 100); err != nil || !reflect.DeepEqual(got, p) {
					t.Errorf("ReadPacket: %+v, %v; want %+v", got, err, p)
				}
				if _, err := transport.ReadPacket(r, &buf, 100); err != io.EOF {
					t.Errorf("ReadPacket at the end: %v, want io.EOF", err)
				}
			}
		})
	}
}

// TestShortLength checks that a length under the short header's means an empty body, as it did for both old
// servers. The next packet follows the header.
func TestShortLength(t *testing.T) {
	for _, length := range []string{"ffffffff", "80000000", "00000000", "0000000f"} {
		wire := append(unhex(t, length+" 0010 0001 00000002 00000005"), unhex(t, "00000010 0010 0001 00000002 00000006")...)
		var buf [protocol.HeaderV2]byte
		r := bytes.NewReader(wire)
		for seq := int32(5); seq <= 6; seq++ {
			p, rest, err := transport.DecodePacket(wire, 100)
			p2, err2 := transport.ReadPacket(r, &buf, 100)
			want := transport.Packet{Version: 1, Op: 2, Seq: seq}
			if err != nil || err2 != nil || !reflect.DeepEqual(p, want) || !reflect.DeepEqual(p2, want) {
				t.Errorf("length %s: %+v %v, %+v %v; want %+v", length, p, err, p2, err2, want)
			}
			wire = rest
		}
	}
}

// TestDecodeMessage checks that the first byte of a WebSocket message shows what it is, and that a packet
// with the short header is read as goim read it.
func TestDecodeMessage(t *testing.T) {
	packet := unhex(t, "00000012 0010 0001 00000004 00000005 6869")
	for name, test := range map[string]struct {
		b    []byte
		text bool
		want transport.Packet
		json bool
	}{
		"packet":                 {packet, false, transport.Packet{Version: 1, Op: 4, Seq: 5, Body: []byte("hi")}, false},
		"packet in a text frame": {packet, true, transport.Packet{Version: 1, Op: 4, Seq: 5, Body: []byte("hi")}, false},
		"two packets, the second lost": {append(bytes.Clone(packet), packet...), false,
			transport.Packet{Version: 1, Op: 4, Seq: 5, Body: []byte("hi")}, false},
		"a body that the message ends": {packet[:17], false, transport.Packet{Version: 1, Op: 4, Seq: 5, Body: []byte("h")}, false},
		"negative length": {unhex(t, "ffffffff 0010 0001 00000002 00000001"), false,
			transport.Packet{Version: 1, Op: 2, Seq: 1}, false},
		"JSON":                     {[]byte(`{"op":2}`), true, transport.Packet{Op: 2}, true},
		"JSON in a binary frame":   {[]byte(`{"op":2}`), false, transport.Packet{Op: 2}, true},
		"JSON after space, binary": {[]byte("\n\t {\"op\":2}"), false, transport.Packet{Op: 2}, true},
		"version 2 with the long header": {unhex(t, "00000018 0018 0002 00000002 00000001 0000000000000000"), false,
			transport.Packet{Version: 2, Op: 2, Seq: 1, Long: true}, false},
	} {
		got, isJSON, err := transport.DecodeMessage(test.b, test.text, 100)
		if err != nil || isJSON != test.json || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %+v, JSON %v, %v; want %+v, %v", name, got, isJSON, err, test.want, test.json)
		}
	}
	long := unhex(t, "00000018 0018 0002 00000002 00000001 0000000000000000")
	for name, test := range map[string]struct {
		b    []byte
		text bool
		kind string
	}{
		"nothing":                  {nil, false, "bad_length"},
		"nothing in a text frame":  {nil, true, "bad_json"},
		"a short header":           {packet[:15], false, "bad_length"},
		"a long header that ends":  {long[:20], false, "bad_length"},
		"two packets of version 2": {append(bytes.Clone(long), long...), false, "bad_length"},
		"a body over the limit":    {unhex(t, "00000075 0010 0001 00000002 00000001"), false, "too_large"},
		"text":                     {[]byte("hello"), true, "bad_json"},
		"a length over all":        {unhex(t, "7fffffff 0010 0001 00000002 00000001"), false, "too_large"},
	} {
		_, _, err := transport.DecodeMessage(test.b, test.text, 100)
		var bad *transport.ProtocolError
		if !errors.As(err, &bad) || bad.Kind != test.kind {
			t.Errorf("%s: %v, want kind %s", name, err, test.kind)
		}
	}
}

func TestPacketRefused(t *testing.T) {
	const maxBody = 1000
	for name, test := range map[string]struct {
		head string
		kind string
		code protocol.CloseCode
	}{
		"negative length, v2":          {"ffffffff 0018 0002 00000002 00000000", "bad_length", protocol.CloseBadPacket},
		"length under the v2 header's": {"00000017 0018 0002 00000002 00000000", "bad_length", protocol.CloseBadPacket},
		"zero header length":           {"00000010 0000 0001 00000002 00000000", "bad_header", protocol.CloseBadPacket},
		"header length 17":             {"00000011 0011 0001 00000002 00000000", "bad_header", protocol.CloseBadPacket},
		"negative header length":       {"00000010 fff0 0001 00000002 00000000", "bad_header", protocol.CloseBadPacket},
		"an HTTP request":              {hex.EncodeToString([]byte("GET / HTTP/1.1\r\n")), "bad_header", protocol.CloseBadPacket},
		"one byte too large":           {"000003f9 0010 0001 00000002 00000000", "too_large", protocol.CloseTooLarge},
		"one byte too large, v2":       {"00000401 0018 0001 00000002 00000000", "too_large", protocol.CloseTooLarge},
		"largest":                      {"7fffffff 0018 0001 00000002 00000000", "too_large", protocol.CloseTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			head := unhex(t, test.head)
			var buf [protocol.HeaderV2]byte
			_, err := transport.ReadPacket(bytes.NewReader(head), &buf, maxBody)
			_, _, err2 := transport.DecodePacket(head, maxBody)
			for _, err := range []error{err, err2} {
				var bad *transport.ProtocolError
				if !errors.As(err, &bad) || bad.Kind != test.kind || bad.Code != test.code {
					t.Errorf("got %v, want kind %s with code %d", err, test.kind, test.code)
				}
			}
		})
	}
	largest := transport.AppendPacket(nil, 1, 16, 4, 0, 0, make([]byte, maxBody))
	if p, _, err := transport.DecodePacket(largest, maxBody); err != nil || len(p.Body) != maxBody {
		t.Errorf("a body of just the limit: %d bytes, %v", len(p.Body), err)
	}
}

func TestPacketTruncated(t *testing.T) {
	for _, whole := range [][]byte{
		transport.AppendPacket(nil, 1, 16, 4, 0, 0, []byte("body")),
		transport.AppendPacket(nil, 2, 24, 4, 0, 9, make([]byte, 30000)),
	} {
		for _, n := range []int{0, 1, 15, 16, 17, 20, 23, 24, len(whole) - 1} {
			if n >= len(whole) {
				continue
			}
			want := io.ErrUnexpectedEOF
			if n == 0 {
				want = io.EOF
			}
			var buf [protocol.HeaderV2]byte
			if _, err := transport.ReadPacket(bytes.NewReader(whole[:n]), &buf, 1<<16); err != want {
				t.Errorf("ReadPacket of %d bytes of %d: %v, want %v", n, len(whole), err, want)
			}
			if _, _, err := transport.DecodePacket(whole[:n], 1<<16); err != want {
				t.Errorf("DecodePacket of %d bytes of %d: %v, want %v", n, len(whole), err, want)
			}
		}
	}
}

// TestReadPacketAllocatesAsBytesArrive checks that a client that announces a large packet and sends
// little takes little memory.
func TestReadPacketAllocatesAsBytesArrive(t *testing.T) {
	head := transport.AppendPacket(nil, 1, 16, 4, 0, 0, make([]byte, 60<<10))[:100]
	var buf [protocol.HeaderV2]byte
	const runs = 100
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		if _, err := transport.ReadPacket(bytes.NewReader(head), &buf, 64<<10); err != io.ErrUnexpectedEOF {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if n := (after.TotalAlloc - before.TotalAlloc) / runs; n > 8<<10 {
		t.Errorf("100 bytes of a packet that says 60 KiB cost %d bytes of memory", n)
	}
}

func TestAppendPacketPanicsOnItsCallersMistake(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a header length of 20 was taken")
		}
	}()
	transport.AppendPacket(nil, 1, 20, 5, 0, 0, nil)
}
