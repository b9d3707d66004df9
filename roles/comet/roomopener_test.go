package comet_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/comet"
	"imgo/transport/pipe"
)

// openings records the room openings that logic was asked to write. hold may delay them.
type openings struct {
	mu   sync.Mutex
	all  []*envelope.RoomOpened
	hold func(ctx context.Context, room string) error
}

func (o *openings) opened(ctx context.Context, r *envelope.RoomOpened) error {
	o.mu.Lock()
	o.all = append(o.all, r)
	hold := o.hold
	o.mu.Unlock()
	if hold != nil {
		return hold(ctx, r.Room)
	}
	return nil
}

// names returns the rooms that were opened, in order. "" means all rooms.
func (o *openings) names() (names []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range o.all {
		names = append(names, r.Room)
	}
	return names
}

func (o *openings) last() *envelope.RoomOpened {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all[len(o.all)-1]
}

func (s *server) pushRoom(rooms ...string) *envelope.PushReply {
	s.t.Helper()
	req := &envelope.PushRequest{}
	for _, room := range rooms {
		req.Deliveries = append(req.Deliveries, &envelope.Delivery{Op: protocol.OpMessage, Body: []byte("m-" + room), Room: room})
	}
	reply, err := s.Push(context.Background(), req)
	if err != nil {
		s.t.Fatal(err)
	}
	return reply
}

func (c *client) join(room string) { c.send(2, protocol.OpJoinRoom, 2, room) }

func (s *server) client(user string) *client {
	s.t.Helper()
	c := s.dialPipe(pipe.Options{})
	c.login(user, "")
	return c
}

// TestDeniedRoomIsOpenedBeforeTheAnswer checks rooms that Push reported as empty. The join of such a
// room is answered only after logic has written that the room is open. This is also true for a second
// client that joins meanwhile. Other rooms are not opened.
func TestDeniedRoomIsOpenedBeforeTheAnswer(t *testing.T) {
	o := &openings{}
	s := start(t, &fakeLogic{opened: o.opened}, nil)
	ann, bob := s.client("ann"), s.client("bob")
	ann.join("open")
	ann.expect(protocol.OpJoinRoomReply, 0, "open")

	before := s.pushRoom("open", "x", "y")
	if want := []string{"x", "y"}; !slices.Equal(before.EmptyRooms, want) || before.Incarnation == 0 {
		t.Fatalf("answered %v, want %v", before, want)
	}
	ann.expect(protocol.OpMessage, 0, "m-open")
	again := s.pushRoom("x")
	if !slices.Equal(again.EmptyRooms, []string{"x"}) || again.Seq != before.Seq || again.Incarnation != before.Incarnation {
		t.Errorf("answered %v, then %v", before, again)
	}

	free := make(chan struct{})
	o.mu.Lock()
	o.hold = func(ctx context.Context, _ string) error {
		select {
		case <-free:
		case <-ctx.Done():
		}
		return ctx.Err()
	}
	o.mu.Unlock()
	ann.join("x")
	eventually(t, "the room is being opened", func() bool { return slices.Equal(o.names(), []string{"", "x"}) })
	bob.join("x")
	// Both are members now, and get messages even before the answer to their join.
	eventually(t, "both are in the room", func() bool {
		reply, err := s.Rooms(context.Background(), &envelope.RoomsRequest{})
		return err == nil && reply.Counts["x"] == 2
	})
	if reply := s.pushRoom("x"); len(reply.EmptyRooms) > 0 {
		t.Errorf("a room with members was denied: %v", reply)
	}
	ann.expect(protocol.OpMessage, 0, "m-x")
	bob.expect(protocol.OpMessage, 0, "m-x")
	s.push(s.live(0, protocol.OpMessage, "mark"), s.live(1, protocol.OpMessage, "mark"))
	ann.expect(protocol.OpMessage, 0, "mark") // The answer has not been sent before it.
	bob.expect(protocol.OpMessage, 0, "mark")
	close(free)
	ann.expect(protocol.OpJoinRoomReply, 0, "x")
	bob.expect(protocol.OpJoinRoomReply, 0, "x")

	last := o.last()
	if last.Comet != "c1" || last.Incarnation != before.Incarnation || last.Seq <= before.Seq {
		t.Errorf("the room was opened by %v, after %v", last, before)
	}
	if got := o.names(); !slices.Equal(got, []string{"", "x"}) {
		t.Errorf("opened %q", got)
	}
	if n := s.metric("imgo_comet_denied_rooms"); n != 1 {
		t.Errorf("%v rooms are denied, want y alone", n)
	}
}

// TestRoomThatIsBeingOpenedIsNotDenied checks that Push does not report a room as empty while its opening is being
// written, though all its members have left meanwhile: job may have read the opening already, and would leave this
// comet out for good.
func TestRoomThatIsBeingOpenedIsNotDenied(t *testing.T) {
	o := &openings{}
	s := start(t, &fakeLogic{opened: o.opened}, nil)
	s.client("ann")
	eventually(t, "the start is known", func() bool { return len(o.names()) == 1 })
	if reply := s.pushRoom("x"); !slices.Equal(reply.EmptyRooms, []string{"x"}) {
		t.Fatalf("answered %v", reply)
	}
	free := make(chan struct{})
	o.mu.Lock()
	o.hold = until(free)
	o.mu.Unlock()
	session := s.logic.session(0)
	s.push(&envelope.Delivery{SessionRooms: &envelope.SessionRooms{
		To: []*envelope.Address{{Comet: "c1", Session: session}}, Rooms: &envelope.Memberships{At: 1, Rooms: []string{"x"}},
	}})
	eventually(t, "the room is being opened", func() bool { return slices.Equal(o.names(), []string{"", "x"}) })
	if _, err := s.Members(t.Context(), &envelope.MembersRequest{
		Sessions: []uint64{session}, Rooms: &envelope.Memberships{At: 2}, Leave: "x",
	}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the room is empty", func() bool { return s.members() == "map[]" })
	if reply := s.pushRoom("x"); len(reply.EmptyRooms) > 0 {
		t.Errorf("a room that is being opened was denied: %v", reply)
	}
	close(free)
	opened := o.last().Seq
	eventually(t, "the room is denied again", func() bool {
		reply := s.pushRoom("x")
		return slices.Equal(reply.EmptyRooms, []string{"x"}) && reply.Seq >= opened
	})
}

// TestNoJoinBeforeTheStartIsKnown checks that no join is answered before the log says that the denials
// of an earlier run of this comet are void.
func TestNoJoinBeforeTheStartIsKnown(t *testing.T) {
	free := make(chan struct{})
	o := &openings{hold: until(free)}
	s := start(t, &fakeLogic{opened: o.opened}, nil)
	c := s.client("ann")
	c.join("x")
	eventually(t, "the session is in the room", func() bool {
		reply, err := s.Rooms(context.Background(), &envelope.RoomsRequest{})
		return err == nil && reply.Counts["x"] == 1
	})
	s.push(s.live(0, protocol.OpMessage, "mark"))
	c.expect(protocol.OpMessage, 0, "mark")
	close(free)
	c.expect(protocol.OpJoinRoomReply, 0, "x")
}

// TestRoomThatCannotBeOpened checks that a client does not join a room that cannot be opened. The
// client is told to reconnect.
func TestRoomThatCannotBeOpened(t *testing.T) {
	o := &openings{}
	s := start(t, &fakeLogic{opened: o.opened}, func(c *comet.Config) { c.CallTimeout = 100 * time.Millisecond })
	eventually(t, "the start is known", func() bool { return len(o.names()) == 1 })
	s.pushRoom("x")
	o.mu.Lock()
	o.hold = func(context.Context, string) error { return envelope.ErrUnavailable }
	o.mu.Unlock()
	c := s.client("ann")
	c.join("x")
	c.closedWith(protocol.CloseOverload)

	c = s.dialPipe(pipe.Options{})
	c.send(2, protocol.OpAuth, 1, `{"token":"bob","rooms":["x"]}`)
	c.closedWith(protocol.CloseOverload)

	// The next client that joins tries again.
	o.mu.Lock()
	o.hold = nil
	o.mu.Unlock()
	c = s.client("ann")
	c.join("x")
	c.expect(protocol.OpJoinRoomReply, 0, "x")
}

// TestDeniedRoomsAreBounded checks that over the bound all denied rooms are forgotten, after the log
// says so.
func TestDeniedRoomsAreBounded(t *testing.T) {
	o := &openings{}
	s := start(t, &fakeLogic{opened: o.opened}, func(c *comet.Config) { c.DeniedRooms = 3 })
	first := s.pushRoom("r0", "r1", "r2")
	if len(first.EmptyRooms) != 3 {
		t.Fatalf("answered %v", first)
	}
	if reply := s.pushRoom("r3"); len(reply.EmptyRooms) > 0 {
		t.Errorf("a room over the bound was denied: %v", reply)
	}
	eventually(t, "all is opened", func() bool { return slices.Equal(o.names(), []string{"", ""}) })
	if last := o.last(); last.Seq <= first.Seq {
		t.Errorf("opened by %v after %v", last, first)
	}
	if reply := s.pushRoom("r3"); !slices.Equal(reply.EmptyRooms, []string{"r3"}) {
		t.Errorf("answered %v", reply)
	}
	c := s.client("ann")
	c.join("r0") // This room is not denied any more.
	c.expect(protocol.OpJoinRoomReply, 0, "r0")
	if got := fmt.Sprintf("%q", o.names()); got != `["" ""]` {
		t.Errorf("opened %s", got)
	}
}

// until returns an openings.hold that waits until free is closed.
func until(free <-chan struct{}) func(context.Context, string) error {
	return func(ctx context.Context, _ string) error {
		select {
		case <-free:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// TestOpeningRoomsDelaysNobody checks that clients whose rooms cannot be opened do not keep other clients from connecting, and
// are live once their rooms are open.
func TestOpeningRoomsDelaysNobody(t *testing.T) {
	free := make(chan struct{})
	o := &openings{hold: until(free)}
	s := start(t, &fakeLogic{opened: o.opened}, func(cfg *comet.Config) {
		listening(cfg)
		cfg.CallTimeout = time.Minute
	})
	const waiting = 100 // more than logic is asked to admit at the same time
	clients := make([]*client, waiting)
	for i := range clients {
		if clients[i] = s.dialTCP(); i%2 == 1 {
			clients[i] = s.dialPipe(pipe.Options{})
		}
		clients[i].send(2, protocol.OpAuth, 1, `{"token":"ann","rooms":["x"]}`)
	}
	eventually(t, "the clients are in the room", func() bool { return s.members() == fmt.Sprintf("map[x:%d]", waiting) })
	s.dialTCP().login("bob", "")
	s.client("eve")
	left := clients[0]
	_ = left.Close()
	close(free)
	for _, c := range clients[1:] {
		if p := c.receive(); p.Op != protocol.OpAuthReply {
			t.Fatalf("got op %d %s", p.Op, p.Body)
		}
		c.send(2, protocol.OpHeartbeat, 2, "")
		c.expect(protocol.OpHeartbeatReply, 0, "")
	}
	eventually(t, "the client that left is gone", func() bool { return s.members() == fmt.Sprintf("map[x:%d]", waiting-1) })
}

// TestSessionThatWaitsClosesNoNewerOne has a client that gives up while its room is being opened, and comes back without the
// room. The older session must not take the key from the newer one when its wait is over.
func TestSessionThatWaitsClosesNoNewerOne(t *testing.T) {
	free := make(chan struct{})
	o := &openings{hold: until(free)}
	s := start(t, &fakeLogic{opened: o.opened}, func(cfg *comet.Config) {
		listening(cfg)
		cfg.CallTimeout = time.Minute
	})
	older := s.dialTCP()
	older.send(2, protocol.OpAuth, 1, `{"token":"ann","key":"k","rooms":["x"]}`)
	eventually(t, "the client is in the room", func() bool { return s.members() == "map[x:1]" })
	newer := s.dialTCP()
	newer.send(2, protocol.OpAuth, 1, `{"token":"ann","key":"k"}`)
	if p := newer.receive(); p.Op != protocol.OpAuthReply {
		t.Fatalf("got op %d %s", p.Op, p.Body)
	}
	older.closedWith(protocol.CloseReplacedByKey)
	close(free)
	eventually(t, "the older session is gone", func() bool { return s.members() == "map[]" })
	newer.send(2, protocol.OpHeartbeat, 2, "")
	newer.expect(protocol.OpHeartbeatReply, 0, "")
}

// TestJoinBeforeTheStartIsKnown checks that a room whose partition takes records is joined although another partition
// takes none, and the start is not known for that reason. Its opening is for every room of its partition. Nothing is
// kept of a room that could not be opened.
func TestJoinBeforeTheStartIsKnown(t *testing.T) {
	var down atomic.Bool
	down.Store(true)
	o := &openings{hold: func(_ context.Context, room string) error {
		if down.Load() && (room == "" || room == "hangs") {
			return envelope.ErrUnavailable
		}
		return nil
	}}
	s := start(t, &fakeLogic{opened: o.opened}, func(c *comet.Config) { c.CallTimeout = 100 * time.Millisecond })
	c := s.client("ann")
	c.join("x")
	c.expect(protocol.OpJoinRoomReply, 0, "x")
	o.mu.Lock()
	if i := slices.IndexFunc(o.all, func(r *envelope.RoomOpened) bool { return r.Room == "x" }); i < 0 || !o.all[i].Every {
		t.Errorf("openings %v", o.all)
	}
	o.mu.Unlock()
	c.join("hangs")
	c.closedWith(protocol.CloseOverload)
	if n := s.metric("imgo_comet_denied_rooms"); n != 0 {
		t.Errorf("%v rooms are denied, want none", n)
	}
	down.Store(false)
	c = s.client("bob")
	c.join("hangs")
	c.expect(protocol.OpJoinRoomReply, 0, "hangs")
}
