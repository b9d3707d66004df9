package imgoclient_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	imgoclient "imgo/clients/go"
	"imgo/clients/go/raw"
)

func TestRefusedCalls(t *testing.T) {
	s := newServer(t, "tcp")
	r := start(t, s, nil)
	p := s.welcome()
	<-r.live
	ctx := context.Background()
	for name, test := range map[string]struct {
		op   int32
		code string
		call func() error
	}{
		"join": {raw.OpJoinRoom, "forbidden", func() error { return r.Join(ctx, "private") }},
		"send": {raw.OpSend, "unsupported", func() error { _, err := r.Send(ctx, raw.OpSend, []byte("up")); return err }},
	} {
		answer := make(chan error, 1)
		go func() { answer <- test.call() }()
		asked := p.expect(test.op)
		p.send(raw.OpError, asked.Seq, 0, fmt.Sprintf(`{"op":%d,"code":%q,"reason":"as the test wants it"}`, test.op, test.code))
		var denied *imgoclient.Error
		if err := <-answer; !errors.Is(err, imgoclient.ErrDenied) || !errors.As(err, &denied) || denied.ServerCode != test.code ||
			!strings.Contains(err.Error(), "as the test wants it") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The connection goes on, and the next one does not ask for the room again.
	p.push(1)
	r.expect(1)
	p.close()
	if p := s.welcome(); len(p.auth.Rooms) != 0 {
		t.Errorf("came back for the rooms %q", p.auth.Rooms)
	}
	r.stop()
}

func TestRoomsThatTheServerChanges(t *testing.T) {
	s := newServer(t, "tcp")
	changes := make(chan imgoclient.RoomChange, 10)
	r := start(t, s, func(cfg *imgoclient.Config) {
		cfg.Rooms = []string{"a", "busy", "private"}
		cfg.OnRoom = func(change imgoclient.RoomChange) { changes <- change }
	})
	p := s.accept()
	p.send(raw.OpAuthReply, 1, 0, `{"session":"test-1","heartbeat":60,"rooms":["team"],"refused":[`+
		`{"room":"private","code":"forbidden","reason":"no"},{"room":"busy","code":"unavailable","reason":"later"}]}`)
	if session := <-r.live; !reflect.DeepEqual(session.Rooms, []string{"team"}) {
		t.Errorf("session %+v", session)
	}
	p.send(raw.OpRoomChanged, 0, 0, `{"room":"b","joined":true,"reason":"put in"}`)
	p.send(raw.OpRoomChanged, 0, 0, `{"room":"a","joined":false,"reason":"taken out"}`)
	got := map[string]imgoclient.RoomChange{}
	for range 4 {
		change := <-changes
		got[change.Room] = change
	}
	want := map[string]imgoclient.RoomChange{
		"private": {Room: "private", Code: "forbidden", Reason: "no"}, "busy": {Room: "busy", Code: "unavailable", Reason: "later"},
		"b": {Room: "b", Joined: true, Reason: "put in"}, "a": {Room: "a", Reason: "taken out"},
	}
	if diff := diff(want, got); diff != "" {
		t.Error(diff)
	}
	p.close()
	if p := s.welcome(); !reflect.DeepEqual(p.auth.Rooms, []string{"busy"}) {
		t.Errorf("came back for the rooms %q", p.auth.Rooms)
	}
	r.stop()
}

// TestRefusedRoomOfTheHandshake checks that a room of a Join during the handshake, which the server refuses, is told by an event,
// and that the next session does not ask for it.
func TestRefusedRoomOfTheHandshake(t *testing.T) {
	s := newServer(t, "tcp")
	changes := make(chan imgoclient.RoomChange, 10)
	r := start(t, s, func(cfg *imgoclient.Config) { cfg.OnRoom = func(change imgoclient.RoomChange) { changes <- change } })
	p := s.accept()
	must(t, r.Join(t.Context(), "private"))
	p.send(raw.OpAuthReply, 1, 0, `{"session":"test-1","heartbeat":60}`)
	p.send(raw.OpError, p.expect(raw.OpJoinRoom).Seq, 0, `{"op":20,"code":"forbidden","reason":"a rule"}`)
	p.push(1)
	r.expect(1)
	select {
	case change := <-changes:
		if change.Room != "private" || change.Joined || change.Code != "forbidden" || !strings.Contains(change.Reason, "a rule") {
			t.Errorf("%+v", change)
		}
	case <-time.After(testTimeout):
		t.Error("no event tells of the refusal")
	}
	p.close()
	if p := s.welcome(); len(p.auth.Rooms) != 0 {
		t.Errorf("came back for the rooms %q", p.auth.Rooms)
	}
	r.stop()
}

// TestTokenIsReplacedBeforeItEnds checks that the connection goes on with new tokens, one after the
// other, also if one could not be had or was refused.
func TestTokenIsReplacedBeforeItEnds(t *testing.T) {
	t.Parallel() // it takes as long as a token
	s := newServer(t, "tcp")
	var calls atomic.Int32
	r := start(t, s, func(cfg *imgoclient.Config) {
		cfg.TokenSource = func(context.Context) (string, error) {
			n := calls.Add(1)
			if n == 2 {
				return "", errors.New("not now")
			}
			return fmt.Sprint("token-", n), nil
		}
	})
	p := s.accept()
	began := time.Now()
	p.send(raw.OpAuthReply, 1, 0, `{"session":"test-1","heartbeat":60,"expires_in":10}`)
	if session := <-r.live; session.ExpiresIn != 10*time.Second {
		t.Errorf("session %+v", session)
	}
	again := p.expect(raw.OpAuth)
	if string(again.Body) != `{"token":"token-3"}` || time.Since(began) < 8*time.Second {
		t.Errorf("after %s sent %s", time.Since(began), again.Body)
	}
	p.send(raw.OpError, again.Seq, 0, `{"op":7,"code":"unauthorized","reason":"no"}`)
	again = p.expect(raw.OpAuth)
	p.send(raw.OpAuthReply, again.Seq, 0, `{"session":"test-1","expires_in":2}`)
	again = p.expect(raw.OpAuth)
	p.send(raw.OpAuthReply, again.Seq, 0, `{"session":"test-1"}`) // for ever
	p.push(1)
	r.expect(1)
	r.stop()
}

// TestRoomChangesOfTheApplicationComeLast checks that the server gets a change of the application after the changes that the auth
// packet did not contain, however early the application makes it.
func TestRoomChangesOfTheApplicationComeLast(t *testing.T) {
	const count = 200
	s := newServer(t, "tcp")
	var client *imgoclient.Client
	joined := make(chan error, 1)
	r := start(t, s, func(cfg *imgoclient.Config) {
		for i := range count {
			cfg.Rooms = append(cfg.Rooms, fmt.Sprint(i))
		}
		tell := cfg.OnState
		cfg.OnState = func(to imgoclient.StateChange) {
			tell(to)
			if to.State == imgoclient.Live {
				joined <- client.Join(t.Context(), fmt.Sprint(count-1))
			}
		}
	})
	client = r.Client
	p := s.accept()
	for i := range count {
		must(t, r.Leave(t.Context(), fmt.Sprint(i)))
	}
	p.send(raw.OpAuthReply, 1, 0, `{"session":"test-1","heartbeat":60}`)
	for range count {
		p.expect(raw.OpLeaveRoom) // it ends the test at a join that comes too early
	}
	join := p.expect(raw.OpJoinRoom)
	p.send(raw.OpJoinRoomReply, join.Seq, 0, "")
	must(t, <-joined)
	r.stop()
}

// TestRoomChangeBehindALongPacket checks that changes of rooms reach the server with the next session if they cannot be sent in
// time, because a long packet leaves slowly. One change waits for the packet, and the other for that change.
func TestRoomChangeBehindALongPacket(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer listener.Close()
	r := start(t, &server{t: t, address: "tcp://" + listener.Addr().String()}, func(cfg *imgoclient.Config) {
		cfg.RequestTimeout = 300 * time.Millisecond
		cfg.Rooms = []string{"left"}
	})
	authenticate := func() (net.Conn, raw.Packet) {
		conn, err := listener.Accept()
		must(t, err)
		must(t, conn.SetReadDeadline(time.Now().Add(testTimeout)))
		packet, err := raw.ReadPacket(conn, 1<<20)
		must(t, err)
		_, err = conn.Write(raw.AppendPacket(nil, raw.Packet{Long: true, Op: raw.OpAuthReply, Seq: packet.Seq, Body: []byte(`{"heartbeat":60}`)}))
		must(t, err)
		return conn, packet
	}
	conn, _ := authenticate()
	defer conn.Close()
	<-r.live
	sent, joined, left := make(chan error, 1), make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := r.Send(t.Context(), raw.OpSend, make([]byte, 32<<20))
		sent <- err
	}()
	piece := make([]byte, 32<<10)
	_, err = conn.Read(piece) // the long packet is being written
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // the end of the callers does not take the changes back
	go func() { joined <- r.Join(ctx, "room") }()
	go func() { left <- r.Leave(ctx, "left") }()
	for err == nil {
		_, err = conn.Read(piece)
		<-time.After(time.Millisecond) // a slow network
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the session goes on without the change")
	}
	if err := <-sent; err == nil {
		t.Error("send succeeded")
	}
	if join, leave := <-joined, <-left; join == nil && leave == nil { // the later one may meet no session
		t.Error("join and leave succeeded")
	}
	conn, packet := authenticate()
	defer conn.Close()
	if !strings.Contains(string(packet.Body), `"rooms":["room"]`) {
		t.Errorf("the next session says %s", packet.Body)
	}
	r.stop()
}
