package transport_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"imgo/protocol"
	"imgo/transport"
)

var update = flag.Bool("update", false, "write the golden files anew")

var formNames = map[transport.Form]string{
	transport.FormImgo: "imgo", transport.FormGoim: "goim", transport.FormGoimWS: "goim_ws", transport.FormV2: "v2",
	transport.FormImgoJSON: "imgo_json", transport.FormV2JSON: "v2_json",
}

// TestGolden compares each form with a golden file, because existing clients depend on every byte.
func TestGolden(t *testing.T) {
	bodies := []struct{ name, body string }{
		{"empty", ""}, {"json", `{"test":1}`}, {"text", "hello\n\"wörld\""}, {"bytes", "\x00\xff\x10"},
	}
	for form, name := range formNames {
		var out bytes.Buffer
		line := func(name string, frame []byte) {
			if form.JSON() {
				fmt.Fprintf(&out, "%s: %s\n", name, frame)
			} else {
				fmt.Fprintf(&out, "%s: %s\n", name, hex.EncodeToString(frame))
			}
		}
		for _, b := range bodies {
			line("push not kept, "+b.name, transport.NewMessage(protocol.OpMessage, 0, []byte(b.body)).Frame(form))
			line("push kept, "+b.name, transport.NewMessage(1001, 1<<48|42, []byte(b.body)).Frame(form))
			line("reply, "+b.name, transport.EncodeReply(form, 1, protocol.OpAuthReply, 7, 0, []byte(b.body)))
		}
		line("reply with odd version and sequence", transport.EncodeReply(form, -3, protocol.OpHeartbeatReply, -1, 0, nil))
		line("reply of version 2", transport.EncodeReply(form, 2, protocol.OpAuthReply, 1, 0, []byte(`{"heartbeat":60}`)))

		file := filepath.Join("testdata", "golden", name+".txt")
		if *update {
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.Bytes(), want) {
			t.Errorf("%s: the encoding has changed:\n%swant:\n%s", file, out.Bytes(), want)
		}
	}
}

// TestGoimOnWebSocket compares a push with the bytes that goim's server sent: a packet with operation 9
// around the whole packet. Its replies are bare.
func TestGoimOnWebSocket(t *testing.T) {
	want := unhex(t, "00000021 0010 0001 00000009 00000000 00000011 0010 0001 000003e8 00000000 61")
	for form, head := range map[transport.Form][]byte{
		transport.FormGoimWS: nil, transport.FormGoimWS.Framed(): {0x82, 0x21},
	} {
		want := append(bytes.Clone(head), want...)
		for _, got := range [][]byte{
			transport.NewMessage(1000, 7, []byte("a")).Frame(form), transport.AppendMessage(nil, form, 1000, 7, []byte("a")),
		} {
			if !bytes.Equal(got, want) || form.FrameSize(1) < len(got) {
				t.Errorf("% x, want % x; its size is told as %d", got, want, form.FrameSize(1))
			}
		}
	}
	reply := transport.EncodeReply(transport.FormGoimWS, 1, protocol.OpHeartbeatReply, 3, 0, []byte{0, 0, 0, 1})
	if want := unhex(t, "00000014 0010 0001 00000003 00000003 00000001"); !bytes.Equal(reply, want) {
		t.Errorf("a reply is % x, want % x", reply, want)
	}
}

// TestFramed checks that a framed form is the plain form after a frame header, for every length.
func TestFramed(t *testing.T) {
	for form, name := range formNames {
		if framed := form.Framed(); framed == form || framed.Framed() != framed || framed.JSON() != form.JSON() {
			t.Errorf("%s framed is %d", name, framed)
		}
		for _, n := range []int{0, 1, 60, 109, 110, 125, 126, 200, 65000, 65535, 65536, 200000} {
			body := bytes.Repeat([]byte("1"), n)
			plain := transport.NewMessage(5, 9, body).Frame(form)
			want := append(transport.AppendFrameHead(nil, form.JSON(), len(plain)), plain...)
			if got := transport.NewMessage(5, 9, body).Frame(form.Framed()); !bytes.Equal(got, want) {
				t.Errorf("%s, %d bytes: framed it begins with % x, want % x", name, n, got[:20], want[:20])
			}
		}
	}
}

// TestMessageIsEncodedOnce checks that a message is encoded once for each form, whatever the number of
// callers.
func TestMessageIsEncodedOnce(t *testing.T) {
	m := transport.NewMessage(protocol.OpMessage, 7, bytes.Repeat([]byte("x"), 1000))
	if m.Op() != protocol.OpMessage || m.ID() != 7 || len(m.Body()) != 1000 {
		t.Errorf("op %d, id %d, body of %d bytes", m.Op(), m.ID(), len(m.Body()))
	}
	const askers = 8
	var frames [askers][transport.NumForms]*byte
	var all sync.WaitGroup
	for i := range askers {
		all.Go(func() {
			for form := range transport.NumForms {
				frames[i][form] = &m.Frame(form)[0]
			}
		})
	}
	all.Wait()
	for i := range askers {
		if frames[i] != frames[0] {
			t.Fatal("two connections got two encodings of one message")
		}
	}
	if n := testing.AllocsPerRun(100, func() { m.Frame(transport.FormV2) }); n != 0 {
		t.Errorf("asking again allocates %.0f times", n)
	}
}

func BenchmarkEncode(b *testing.B) {
	body := []byte(`{"from":"alice","text":"` + string(bytes.Repeat([]byte("x"), 200)) + `"}`)
	for form, name := range formNames {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				transport.NewMessage(protocol.OpMessage, 7, body).Frame(form)
			}
		})
	}
}
