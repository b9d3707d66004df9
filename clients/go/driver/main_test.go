package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"imgo/clients/go/raw"
)

// testTimeout bounds every wait of these tests.
const testTimeout = time.Minute

// script is a driver whose input a test writes.
type script struct {
	t      *testing.T
	in     *io.PipeWriter
	events chan map[string]any
	others []map[string]any // events that no expect has fitted yet
	ended  chan error
}

func run(t *testing.T) *script {
	t.Helper()
	in, commands := io.Pipe()
	events, out := io.Pipe()
	s := &script{t: t, in: commands, events: make(chan map[string]any, 1000), ended: make(chan error, 1)}
	go func() { s.ended <- drive(in, out, io.Discard) }()
	go func() {
		lines := bufio.NewScanner(events)
		for lines.Scan() {
			var e map[string]any
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				t.Errorf("%q: %v", lines.Text(), err)
			}
			s.events <- e
		}
	}()
	t.Cleanup(func() { commands.Close(); out.Close() })
	return s
}

func (s *script) do(format string, args ...any) {
	s.t.Helper()
	if _, err := fmt.Fprintf(s.in, format+"\n", args...); err != nil {
		s.t.Fatal(err)
	}
}

// expect waits for an event that has all the fields. Other events stay for later calls.
func (s *script) expect(fields ...any) map[string]any {
	s.t.Helper()
	fits := func(e map[string]any) bool {
		for i := 0; i < len(fields); i += 2 {
			if fmt.Sprint(e[fields[i].(string)]) != fmt.Sprint(fields[i+1]) {
				return false
			}
		}
		return true
	}
	if i := slices.IndexFunc(s.others, fits); i >= 0 {
		e := s.others[i]
		s.others = slices.Delete(s.others, i, i+1)
		return e
	}
	timeout := time.After(testTimeout)
	for {
		select {
		case e := <-s.events:
			if fits(e) {
				return e
			}
			s.others = append(s.others, e)
		case <-timeout:
			s.t.Fatalf("there is no event with %v; there are %v", fields, s.others)
		}
	}
}

// server accepts one connection after the other and answers the auth packet of each.
func server(t *testing.T) (address string, accepted chan net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted = make(chan net.Conn, 10)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := raw.ReadPacket(conn, 1<<20); err == nil {
				send(t, conn, raw.Packet{Op: raw.OpAuthReply, Seq: 1, Body: []byte(`{"session":"s","user":"u","heartbeat":60,"pending":2}`)})
			}
			accepted <- conn
		}
	}()
	t.Cleanup(func() { l.Close() })
	return l.Addr().String(), accepted
}

func send(t *testing.T, conn net.Conn, p raw.Packet) {
	if _, err := conn.Write(raw.AppendPacket(nil, p)); err != nil {
		t.Logf("server: %v", err)
	}
}

func TestConversation(t *testing.T) {
	address, accepted := server(t)
	s := run(t)
	s.expect("event", "ready", "language", "go", "pauses", true)
	s.do(`{"do":"connect","tag":1}`)
	s.expect("event", "failed", "tag", 1, "code", "invalid")
	s.do(`{"do":"new","options":{"address":"nowhere"}}`)
	s.expect("event", "failed", "tag", 0, "code", "invalid")
	s.do(`{"do":"new","tag":2,"options":{"address":%q,"token_source":true,"store":%q,"min_backoff_ms":1,"close_timeout_ms":60000}}`,
		address, filepath.Join(t.TempDir(), "ids"))
	s.expect("event", "done", "tag", 2)
	s.do(`{"do":"hold"}`)
	s.do(`{"do":"fail"}`)
	s.do(`{"do":"connect","tag":3}`)
	s.expect("event", "state", "state", "connecting")
	s.expect("event", "token_wanted")
	s.do(`{"do":"token","error":"not now"}`)
	s.expect("event", "error", "code", "token")
	s.expect("event", "state", "state", "waiting", "code", 0)
	s.expect("event", "token_wanted")
	s.do(`{"do":"token","token":"t"}`)
	s.expect("event", "state", "state", "live", "session", "s", "user", "u", "pending", 2, "heartbeat_ms", 60000)
	s.expect("event", "done", "tag", 3)
	conn := <-accepted
	defer conn.Close()

	send(t, conn, raw.Packet{Op: raw.OpMessage, ID: 1 << 63, Body: []byte("a")})
	send(t, conn, raw.Packet{Op: raw.OpMessage, Body: []byte("b")})
	s.expect("event", "message", "id", "9223372036854775808", "kept", true, "body", "YQ==", "op", 5)
	s.do(`{"do":"release","count":1}`)
	s.expect("event", "error", "code", "handler")
	s.expect("event", "message", "id", "0", "kept", false)
	s.do(`{"do":"release"}`)
	s.expect("event", "handled", "id", "0")

	s.do(`{"do":"join","room":"r","tag":4}`)
	joining, err := raw.ReadPacket(conn, 1<<20)
	if err != nil || joining.Op != raw.OpJoinRoom {
		t.Fatalf("%+v, %v", joining, err)
	}
	send(t, conn, raw.Packet{Op: raw.OpError, Seq: joining.Seq, Body: []byte(`{"op":20,"code":"forbidden","reason":"no"}`)})
	s.expect("event", "failed", "tag", 4, "code", "denied", "server_code", "forbidden")
	send(t, conn, raw.Packet{Op: raw.OpRoomChanged, Body: []byte(`{"room":"q","joined":true,"reason":"put in"}`)})
	s.expect("event", "room", "room", "q", "joined", true)
	s.do(`{"do":"threads","tag":5}`)
	if e := s.expect("event", "done", "tag", 5); e["result"].(map[string]any)["count"].(float64) < 3 {
		t.Errorf("a live client has %v", e["result"])
	}
	s.do(`{"do":"close","tag":6}`)
	s.expect("event", "state", "state", "closed", "failed", false)
	s.expect("event", "done", "tag", 6)
	s.do(`{"do":"exit"}`)
	if err := <-s.ended; err != nil {
		t.Error(err)
	}
}

// TestClients checks that the clients of two names are apart, and that a store fails when it is told so.
func TestClients(t *testing.T) {
	address, accepted := server(t)
	s := run(t)
	dir := t.TempDir()
	for i, name := range []string{"", "b"} {
		s.do(`{"do":"new","client":%q,"tag":%d,"options":{"address":%q,"token":"t","ack_delay_ms":1,`+
			`"max_backoff_ms":1,"min_backoff_ms":1,"store":%q}}`, name, i+1, address, filepath.Join(dir, fmt.Sprint("ids", i)))
		s.expect("event", "done", "tag", i+1)
	}
	s.do(`{"do":"new","client":"c","tag":9,"options":{"colour":"red"}}`)
	s.expect("event", "failed", "tag", 9, "code", "invalid", "client", "c")
	s.do(`{"do":"fail_store","client":"b"}`)
	s.do(`{"do":"hold"}`)
	s.do(`{"do":"connect","tag":3}`)
	s.expect("event", "done", "tag", 3)
	a := <-accepted
	defer a.Close()
	s.do(`{"do":"connect","client":"b","tag":4}`)
	if e := s.expect("event", "done", "tag", 4); e["client"] != "b" {
		t.Errorf("%v", e)
	}
	b := <-accepted
	defer b.Close()
	send(t, a, raw.Packet{Op: raw.OpMessage, ID: 1})
	send(t, b, raw.Packet{Op: raw.OpMessage, ID: 2})
	s.expect("event", "handled", "id", "2", "client", "b")
	s.expect("event", "error", "code", "storage", "client", "b")
	if e := s.expect("event", "message", "id", "1"); e["client"] != nil {
		t.Errorf("%v", e)
	}
	if ack, err := raw.ReadPacket(b, 1<<20); err != nil || ack.Op != raw.OpAck {
		t.Errorf("after the store works again: %+v, %v", ack, err)
	}
	s.do(`{"do":"new","client":"b","tag":5,"options":{"address":%q,"token":"t"}}`, address)
	s.expect("event", "failed", "tag", 5)
	s.do(`{"do":"release"}`)
	s.do(`{"do":"close","tag":6}`)
	s.do(`{"do":"close","client":"b","tag":7}`)
	s.expect("event", "done", "tag", 6)
	s.expect("event", "done", "tag", 7)
	for end := time.Now().Add(testTimeout); ; {
		s.do(`{"do":"threads","tag":8}`)
		if s.expect("event", "done", "tag", 8)["result"].(map[string]any)["count"].(float64) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatal("threads are left after the end of all clients")
		}
	}
}

// TestPublish checks the commands and events of messages for the backend and of reading.
func TestPublish(t *testing.T) {
	address, accepted := server(t)
	s := run(t)
	s.expect("event", "ready", "publishes", true)
	s.do(`{"do":"new","options":{"address":%q,"token":"t","device":"d","min_backoff_ms":1,"max_backoff_ms":1,"outbox":%q}}`,
		address, filepath.Join(t.TempDir(), "outbox"))
	s.do(`{"do":"fail_outbox"}`)
	s.do(`{"do":"publish","op":4,"body":"YQ==","tag":1}`)
	s.expect("event", "failed", "tag", 1, "code", "storage")
	s.do(`{"do":"publish","op":4,"body":"YQ==","tag":2}`)
	if e := s.expect("event", "done", "tag", 2); e["result"].(map[string]any)["number"] != 1.0 {
		t.Errorf("%v", e)
	}
	s.do(`{"do":"publish","op":1000,"tag":3}`)
	s.do(`{"do":"fail_outbox","count":1}`)
	s.do(`{"do":"connect","tag":4}`)
	s.expect("event", "error", "code", "storage") // the base
	conn := <-accepted
	defer conn.Close()
	first, err := raw.ReadPacket(conn, 1<<20)
	if err != nil || first.Op != 4 {
		t.Fatalf("%+v, %v", first, err)
	}
	next := func(op int32, id uint64) raw.Packet {
		t.Helper()
		p, err := raw.ReadPacket(conn, 1<<20)
		if err != nil || p.Op != op || p.ID != id {
			t.Fatalf("%+v, %v", p, err)
		}
		return p
	}
	s.do(`{"do":"fail_outbox"}`)
	s.do(`{"do":"send","op":4,"tag":5}`) // the outbox is told to fail before this
	send(t, conn, raw.Packet{Op: 4, Seq: next(4, 0).Seq})
	send(t, conn, raw.Packet{Op: 4, Seq: first.Seq, Body: []byte("b")})
	s.expect("event", "error", "code", "storage")
	s.expect("event", "published", "number", 1, "body", "Yg==")
	send(t, conn, raw.Packet{Op: raw.OpError, Seq: next(1000, first.ID+1).Seq, Body: []byte(`{"code":"forbidden","reason":"no"}`)})
	if e := s.expect("event", "published", "number", 2, "code", "denied", "server_code", "forbidden"); e["body"] != nil || e["message"] == "" {
		t.Errorf("%v", e)
	}
	s.do(`{"do":"read","ids":["18446744073709551615"],"up_to":"7","tag":6}`)
	read := next(raw.OpRead, 7)
	send(t, conn, raw.Packet{Op: raw.OpReadReply, Seq: read.Seq})
	s.expect("event", "done", "tag", 6)
	send(t, conn, raw.Packet{Op: raw.OpDismiss, ID: 1 << 63, Body: read.Body})
	s.expect("event", "dismiss", "ids", []any{"18446744073709551615"}, "up_to", "9223372036854775808")
	s.do(`{"do":"read","up_to":"0","tag":7}`)
	s.expect("event", "failed", "tag", 7, "code", "invalid")
	s.do(`{"do":"exit"}`)
	if err := <-s.ended; err != nil {
		t.Error(err)
	}
}

func TestRefusal(t *testing.T) {
	address, accepted := server(t)
	s := run(t)
	s.do(`{"do":"new","options":{"address":%q,"token":"t"}}`, address)
	s.do(`{"do":"connect","tag":1}`)
	s.expect("event", "done", "tag", 1)
	conn := <-accepted
	defer conn.Close()
	send(t, conn, raw.Packet{Op: raw.OpDisconnect, Body: []byte(`{"code":3506,"reason":"kicked","reconnect":false}`)})
	s.expect("event", "state", "state", "closed", "failed", true, "code", 3506, "reason", "kicked")
	s.in.Close()
	if err := <-s.ended; err != nil {
		t.Error(err)
	}
}

func TestBadInput(t *testing.T) {
	var out strings.Builder
	if err := drive(strings.NewReader("x\n"), &out, os.Stderr); err == nil || !strings.Contains(err.Error(), "read the command") {
		t.Errorf("%v, %s", err, &out)
	}
}
