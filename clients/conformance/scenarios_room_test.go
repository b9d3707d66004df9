package conformance

import (
	"bytes"
	"slices"

	"imgo/clients/conformance/driver"
	"imgo/protocol"
	"imgo/transport"
)

func roomScenarios() []scenario {
	return []scenario{
		{
			name: "join_and_leave", on: onEach, play: playJoinAndLeave,
			about: "a joined room is joined by each later session, and a room that was left is not",
		},
		{
			name: "join_refused", play: playJoinRefused,
			about: "a refused join fails with the server's word, and the room is not asked for again",
		},
		{
			name: "room_refused_at_auth", play: playRoomRefusedAtAuth,
			about: "a room that the auth reply refuses is told by the event room and is not asked for again",
		},
		{
			name: "room_changed_by_server", play: playRoomChanged,
			about: "op 29 is told by the event room",
		},
		{
			name: "rooms_while_away", play: playRoomsWhileAway,
			about: "join and leave without a connection count for the next session",
		},
		{
			name: "rooms_during_auth", play: playRoomsDuringAuth,
			about: "join and leave between the auth packet and its reply count for this session; the event room tells a refusal",
		},
		{
			name: "room_changed_after_auth", play: playRoomChangedAfterAuth,
			about: "a change of the application reaches the server after the ones between the auth packet and its reply",
		},
		{
			name: "late_join_undecided", play: playLateJoinUndecided,
			about: "a room that was joined between the auth packet and its reply stays, if the server could not decide",
		},
		{
			name: "room_behind_long_packet", on: onEach, play: playRoomBehindLongPacket,
			about: "a join behind a packet that leaves for longer than request_timeout reaches the server in this session or the next",
		},
		{
			name: "join_without_answer", play: playJoinWithoutAnswer,
			about: "a join without an answer fails with timeout after request_timeout",
		},
		{
			name: "join_lost", play: playJoinLost,
			about: "a join whose connection ends has an end as well, and the next session has the room",
		},
		{
			name: "bad_room", play: playBadRoom,
			about: "a room without a valid name is refused with invalid",
		},
	}
}

// rooms returns the rooms of an auth packet in order.
func (c *connection) rooms() []string {
	rooms := slices.Clone(c.auth.Rooms)
	slices.Sort(rooms)
	return rooms
}

func playJoinAndLeave(w *world) {
	s, c, conn := live(w, options{"rooms": []string{"a"}}, authReply{})
	tag := c.start("join", fields{"room": "räume/1"})
	if room := conn.text(protocol.OpJoinRoom); room != "räume/1" {
		w.Errorf("the client joins %q", room)
	}
	c.ok(tag)
	conn.Reset()
	conn = s.session()
	c.state("live")
	if got := conn.rooms(); !slices.Equal(got, []string{"a", "räume/1"}) {
		w.Errorf("the next session joins %q, want a and räume/1", got)
	}
	tag = c.start("leave", fields{"room": "a"})
	if room := conn.text(protocol.OpLeaveRoom); room != "a" {
		w.Errorf("the client leaves %q", room)
	}
	c.ok(tag)
	conn.Reset()
	conn = s.session()
	if got := conn.rooms(); !slices.Equal(got, []string{"räume/1"}) {
		w.Errorf("the next session joins %q, want räume/1", got)
	}
}

// refusal returns op 28.
func refusal(to transport.Packet, body string) transport.Packet {
	return transport.Packet{Version: 2, Op: protocol.OpError, Seq: to.Seq, Body: []byte(body)}
}

func playJoinRefused(w *world) {
	s, c, conn := live(w, nil, authReply{})
	conn.mute(protocol.OpJoinRoom)
	for _, code := range []string{"forbidden", "too_many"} {
		tag := c.start("join", fields{"room": "private"})
		conn.write(refusal(conn.packet(protocol.OpJoinRoom), `{"op":20,"code":"`+code+`","reason":"a rule"}`))
		if e := c.fails(tag, "denied"); e.ServerCode != code {
			w.Errorf("the server's word is %q, want %s", e.ServerCode, code)
		}
	}
	tag := c.start("join", fields{"room": "private"})
	conn.write(refusal(conn.packet(protocol.OpJoinRoom), `"?"`)) // a refusal that cannot be read
	c.fails(tag, "denied")
	conn.Reset()
	next := s.session()
	if len(next.auth.Rooms) > 0 {
		w.Errorf("the next session joins %q, want none", next.auth.Rooms)
	}
}

// room waits for the next room event.
func (c *client) room(room string, joined bool) driver.Event {
	c.w.Helper()
	e := c.next("room", "the event room for "+room, nil)
	if e.Room != room || e.Joined != joined {
		c.w.Errorf("the event says room %q, joined %t; want %q, %t", e.Room, e.Joined, room, joined)
	}
	return e
}

func playRoomRefusedAtAuth(w *world) {
	s := w.server()
	c := w.client(s, options{"rooms": []string{"ok", "private"}})
	c.connect()
	conn := s.sessionWith(authReply{Refused: []roomRefusal{{Room: "private", Code: "forbidden", Reason: "a rule"}}})
	if e := c.room("private", false); e.Code != "forbidden" || e.Reason != "a rule" {
		w.Errorf("the event says code %q and reason %q", e.Code, e.Reason)
	}
	c.state("live")
	conn.Reset()
	if next := s.session(); !slices.Equal(next.rooms(), []string{"ok"}) {
		w.Errorf("the next session joins %q, want ok", next.rooms())
	}
}

func playRoomChanged(w *world) {
	s, c, conn := live(w, nil, authReply{})
	change := func(body string) {
		conn.write(transport.Packet{Version: 2, Op: protocol.OpRoomChanged, Body: []byte(body)})
	}
	change(`{"room":"räume/1","joined":true,"reason":"the backend"}`)
	if e := c.room("räume/1", true); e.Reason != "the backend" {
		w.Errorf("the reason is %q", e.Reason)
	}
	change(`{"room":"räume/1","joined":false,"code":"forbidden","reason":"a rule"}`)
	if e := c.room("räume/1", false); e.Code != "forbidden" || e.Reason != "a rule" {
		w.Errorf("the event says code %q and reason %q", e.Code, e.Reason)
	}
	change(`["not an object"]`)
	c.problem("protocol")
	c.state("waiting")
	s.session()
	c.state("live")
}

func playRoomsWhileAway(w *world) {
	s := w.server()
	c := w.client(s, options{"rooms": []string{"a", "b"}, "min_backoff_ms": 3_600_000, "max_backoff_ms": 3_600_000})
	c.connect()
	conn := s.session()
	c.state("live")
	conn.Reset()
	c.state("waiting")
	c.ok(c.start("join", fields{"room": "c"})) // there is nobody to wait for
	c.ok(c.start("leave", fields{"room": "a"}))
	tag := c.connect()
	next := s.authenticate()
	if got := next.rooms(); !slices.Equal(got, []string{"b", "c"}) {
		w.Errorf("the next session joins %q, want b and c", got)
	}
	next.admit(authReply{})
	c.ok(tag)
}

func playRoomsDuringAuth(w *world) {
	s := w.server()
	c := w.client(s, options{"rooms": []string{"a", "b"}})
	c.connect()
	conn := s.authenticate()
	// A library may answer at once, or with the reply to the change.
	c.start("join", fields{"room": "c"})
	c.start("leave", fields{"room": "a"})
	last := c.start("join", fields{"room": "private"})
	c.fails(c.start("join", fields{"room": ""}), "invalid") // the driver has begun the ones before
	conn.mute(protocol.OpJoinRoom)
	conn.admit(authReply{})
	for range 2 {
		p := conn.packet(protocol.OpJoinRoom)
		room, err := conn.BodyText(p)
		switch {
		case err != nil:
			w.Fatal(err)
		case room == "private":
			conn.write(refusal(p, `{"op":20,"code":"forbidden","reason":"a rule"}`))
		case room == "c":
			conn.write(transport.Packet{Version: 2, Op: protocol.OpJoinRoomReply, Seq: p.Seq})
		default:
			w.Errorf("the client joins %q, want c and private", room)
		}
	}
	if room := conn.text(protocol.OpLeaveRoom); room != "a" {
		w.Errorf("the client leaves %q, want a", room)
	}
	if e := c.finish(last); e.Event == "done" {
		if e := c.room("private", false); e.Code != "forbidden" {
			w.Errorf("the event says code %q", e.Code)
		}
	}
	conn.Reset()
	if got := s.session().rooms(); !slices.Equal(got, []string{"b", "c"}) {
		w.Errorf("the next session joins %q, want b and c", got)
	}
}

func playRoomChangedAfterAuth(w *world) {
	s := w.server()
	c := w.client(s, options{"rooms": []string{"a", "b", "c"}})
	c.connect()
	conn := s.authenticate()
	for _, room := range []string{"a", "b", "c"} {
		c.start("leave", fields{"room": room})
	}
	c.fails(c.start("join", fields{"room": ""}), "invalid") // the driver has begun the ones before
	conn.mute(protocol.OpLeaveRoom)
	conn.admit(authReply{})
	left := conn.packet(protocol.OpLeaveRoom)
	c.ok(c.start("join", fields{"room": "b"}))
	for {
		room, err := conn.BodyText(left)
		if err != nil {
			w.Fatal(err)
		}
		conn.write(transport.Packet{Version: 2, Op: protocol.OpLeaveRoomReply, Seq: left.Seq})
		if room == "c" { // a library that sends one change after the other sends this one last
			break
		}
		left = conn.packet(protocol.OpLeaveRoom)
	}
	var last int32
	conn.mu.Lock()
	defer conn.mu.Unlock()
	for _, p := range conn.packets {
		if p.Op != protocol.OpJoinRoom && p.Op != protocol.OpLeaveRoom {
			continue
		}
		if room, err := conn.BodyText(p); err == nil && room == "b" {
			last = p.Op
		}
	}
	if last != protocol.OpJoinRoom {
		w.Errorf("the last change of b has operation %d, want %d: the application has joined it last", last, protocol.OpJoinRoom)
	}
}

func playLateJoinUndecided(w *world) {
	s := w.server()
	c := w.client(s, nil)
	c.connect()
	conn := s.authenticate()
	tag := c.start("join", fields{"room": "r"})
	c.fails(c.start("join", fields{"room": ""}), "invalid") // the driver has begun the one before
	conn.mute(protocol.OpJoinRoom)
	conn.admit(authReply{})
	conn.write(refusal(conn.packet(protocol.OpJoinRoom), `{"op":20,"code":"unavailable","reason":"a test"}`))
	if e := c.finish(tag); e.Event == "done" {
		if e := c.room("r", false); e.Code != "unavailable" {
			w.Errorf("the event says code %q", e.Code)
		}
	}
	conn.Reset()
	if got := s.session().rooms(); !slices.Equal(got, []string{"r"}) {
		w.Errorf("the next session joins %q, want r", got)
	}
}

func playRoomBehindLongPacket(w *world) {
	s := w.server()
	if err := s.Slow(); err != nil {
		w.Fatal(err)
	}
	c := w.client(s, options{"request_timeout_ms": 500})
	c.connect()
	conn := s.session()
	c.state("live")
	c.start("send", fields{"op": protocol.OpSend, "body": bytes.Repeat([]byte("x"), 1000<<10)}) // it leaves for 2.5 s
	c.start("join", fields{"room": "r"})
	joined := false
	if !conn.await(nil, func() bool {
		joined = slices.ContainsFunc(conn.packets, func(p transport.Packet) bool { return p.Op == protocol.OpJoinRoom })
		return joined || conn.ended
	}) {
		w.Fatal("the session goes on without the join")
	}
	if joined {
		return
	}
	if got := s.session().rooms(); !slices.Equal(got, []string{"r"}) {
		w.Errorf("the next session joins %q, want r", got)
	}
}

func playJoinWithoutAnswer(w *world) {
	_, c, conn := live(w, options{"request_timeout_ms": 300}, authReply{})
	conn.mute(protocol.OpJoinRoom)
	tag := c.start("join", fields{"room": "r"})
	late := conn.packet(protocol.OpJoinRoom)
	c.fails(tag, "timeout")
	conn.unmute()
	conn.write(transport.Packet{Version: 2, Op: protocol.OpJoinRoomReply, Seq: late.Seq})
	conn.write(kept(1)...)
	c.message(1, numbered(1)) // the late answer has no effect
	conn.waitAcked(1)
}

func playJoinLost(w *world) {
	s, c, conn := live(w, nil, authReply{})
	conn.mute(protocol.OpJoinRoom)
	tag := c.start("join", fields{"room": "r"})
	conn.packet(protocol.OpJoinRoom)
	conn.Reset()
	next := s.session()
	if got := next.rooms(); !slices.Equal(got, []string{"r"}) {
		w.Errorf("the next session joins %q, want r", got)
	}
	if e := c.finish(tag); e.Event == "failed" && e.Code != "lost" {
		w.Errorf("join failed with %s (%s), want lost, or success with the next session", e.Code, e.Message)
	}
}

func playBadRoom(w *world) {
	_, c, _ := live(w, nil, authReply{})
	for _, room := range []string{"", "a\nb", string(make([]byte, 129))} {
		c.fails(c.start("join", fields{"room": room}), "invalid")
		c.fails(c.start("leave", fields{"room": room}), "invalid")
	}
}
