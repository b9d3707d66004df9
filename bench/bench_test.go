//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"imgo/transport"
)

// TestMain lets the test binary be the bench's child processes.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "child" {
		if err := runChild(os.Args[2], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// TestSmoke runs every scenario, small, on a real imgo.
func TestSmoke(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts imgo")
	}
	var names []string
	for _, s := range scenarios() {
		names = append(names, s.name)
	}
	var out, log bytes.Buffer
	dir := t.TempDir()
	err := run(t.Context(), []string{
		"-runs", "1", "-duration", "200ms", "-conns", "40", "-users", "40", "-callers", "4", "-rate", "50",
		"-scenarios", strings.Join(names, ","), "-dir", dir, "-json", "-",
	}, &out, &log)
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	var r report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	got := map[string]*figure{}
	for _, f := range r.Figures {
		got[f.Scenario+"/"+f.Name] = f
	}
	for _, want := range []string{
		"start/the first push is delivered", "latency/kept, push to receipt, p99", "latency/not kept, push to receipt, p50",
		"latency/one write and fdatasync of 256 bytes, p50", "latency/bare HTTP server, push to answer, p50",
		"throughput/kept, users away, accepted", "throughput/not kept, users connected, accepted",
		"throughput/kept, users connected, accepted", "throughput/bare HTTP server, accepted",
		"idle-tcp/goroutines a connection", "idle-ws/connected a second, with auth",
		"broadcast-tcp/deliveries", "broadcast-ws/deliveries",
	} {
		if f := got[want]; f == nil || f.Median <= 0 {
			t.Errorf("%s was not measured: %+v", want, f)
		}
	}
	for _, note := range r.Notes {
		t.Log(note)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%d things are left in the temporary directory, %v", len(left), err)
	}
	if table := r.table(); !strings.Contains(table, "broadcast-ws\n") {
		t.Errorf("the table has no broadcast:\n%s", table)
	}
}

func TestOptionsRefused(t *testing.T) {
	for _, args := range [][]string{{"-runs", "0"}, {"-scenarios", "nothing"}, {"-duration", "1ms"}, {"more"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}

// TestStream cuts a server's bytes at every place.
func TestStream(t *testing.T) {
	var packets []byte
	for i, body := range []string{"one", "", strings.Repeat("long", 100)} {
		packets = transport.AppendPacket(packets, 2, transport.HeaderV2, transport.OpMessage, 0, uint64(i+1), []byte(body))
	}
	frames := append([]byte{0x82, 126, byte(len(packets) >> 8), byte(len(packets))}, packets...)
	frames = append(append(frames, 0x89, 0), frames...) // a ping between them
	for _, tt := range []struct {
		ws   bool
		data []byte
		want int
	}{{false, packets, 3}, {true, frames, 6}} {
		for cut := range len(tt.data) {
			s := stream{ws: tt.ws}
			var ids []uint64
			for _, part := range [][]byte{tt.data[:cut], tt.data[cut:]} {
				// The reader's buffer is used again.
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
	s := stream{ws: true}
	if err := s.feed([]byte{0x88, 0}, nil); err != errClosed {
		t.Errorf("a close frame: %v", err)
	}
}

func TestCallTemplate(t *testing.T) {
	c := pushCall(false).clone()
	c.to(1234)
	c.stamp(987654321)
	head, body, _ := bytes.Cut(c.bytes, []byte("\r\n\r\n"))
	if want := fmt.Sprintf("Content-Length: %d", len(body)); !bytes.Contains(head, []byte(want)) {
		t.Errorf("no %q in %q", want, head)
	}
	var push struct {
		User string
		Body json.RawMessage
		Kept *bool
	}
	if err := json.Unmarshal(body, &push); err != nil {
		t.Fatal(err)
	}
	if push.User != userID(1234) || push.Kept == nil || *push.Kept || len(push.Body) != bodySize ||
		!bytes.HasPrefix(push.Body, []byte(`"0000000000987654321x`)) {
		t.Errorf("the push is %s", body)
	}
}

func TestCallerReadsAnswers(t *testing.T) {
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		buf := make([]byte, 1<<10)
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
	c := newCaller(client)
	defer c.close()
	if ok, why, err := c.do([]byte("x")); !ok || why != "" || err != nil {
		t.Errorf("accepted: %t, %q, %v", ok, why, err)
	}
	if ok, why, err := c.do([]byte("x")); ok || why != "HTTP/1.1 507 Insufficient Storage: full" || err != nil {
		t.Errorf("refused: %t, %q, %v", ok, why, err)
	}
	if _, _, err := c.do([]byte("x")); err == nil {
		t.Error("an answer without a length was understood")
	}
}

func TestFigures(t *testing.T) {
	sorted := []time.Duration{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 5, 0.99: 10, 1: 10} {
		if got := quantile(sorted, q); got != want {
			t.Errorf("quantile %g is %d, want %d", q, got, want)
		}
	}
	if got := median([]float64{9, 1, 5}); got != 5 {
		t.Errorf("the median of three is %g", got)
	}
	if got := median([]float64{9, 1}); got != 5 {
		t.Errorf("the median of two is %g", got)
	}
	for v, want := range map[float64]string{0: "0", 0.1234: "0.123", 1.234: "1.23", 12.34: "12.3", 123.4: "123", 1234.5: "1,230", 1234567: "1,230,000", -98765: "-98,800"} {
		if got := digits(v); got != want {
			t.Errorf("%g is written %s, want %s", v, got, want)
		}
	}
}

func TestProc(t *testing.T) {
	rss, err := rssOf(os.Getpid())
	if err != nil || rss < 1<<20 || rss > 1<<34 {
		t.Errorf("resident memory %d, %v", rss, err)
	}
	before, err := cpuOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for begun := time.Now(); time.Since(begun) < 30*time.Second; {
		if now, err := cpuOf(os.Getpid()); err != nil || now > before {
			break
		}
	}
	if now, err := cpuOf(os.Getpid()); err != nil || now <= before {
		t.Errorf("CPU time does not grow: %s, %v", now, err)
	}
	if m := describeMachine(); m.Cores < 1 || m.Memory == 0 || m.Kernel == "" {
		t.Errorf("the machine is %+v", m)
	}
}
