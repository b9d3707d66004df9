package logic_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/protobuf/proto"

	"imgo/envelope"
	"imgo/roles/logic"
	"imgo/roles/logic/auth"
)

func connectRequest(token string) *envelope.ConnectRequest {
	return &envelope.ConnectRequest{
		Session: &envelope.SessionInfo{Address: &envelope.Address{Comet: "c1", Session: 0x2a}}, Token: token,
	}
}

func noAuth(c *logic.Config, _ *world) { c.Auth.Mode = auth.ModeNone }

func TestConnect(t *testing.T) {
	w := newWorld(t)
	made, err := w.NewToken(t.Context(), logic.TokenRequest{User: "ann", TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	owner := w.owner("ann")
	owner.attach = func(_ context.Context, r *envelope.AttachRequest) (*envelope.AttachReply, error) {
		return &envelope.AttachReply{
			Backlog: &envelope.Backlog{Messages: []*envelope.Kept{{Id: 9, Body: []byte("old")}}, UpTo: 12},
			Pending: 4, Floor: 11,
			Kicks: []*envelope.Kick{{To: []*envelope.Address{{Comet: "c9", Session: 1}}, Code: 3003, Reason: "too many"}},
		}, nil
	}
	req := connectRequest(made.Token)
	info := req.Session
	info.Device, info.Platform, info.Remote, info.Generation, info.Transport = "phone", "ios", "192.0.2.1:5", "v2", "tcp"
	info.SinceMs, info.Accepts, info.Rooms = w.clock.Now().UnixMilli(), []int32{1000}, []string{"r1"}
	reply, err := w.Connect(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if reply.User != "ann" || reply.ExpiresMs != made.ExpiresMS || reply.Device != "phone" ||
		reply.Partition != uint32(envelope.Partition("ann", 8)) || reply.Floor != 11 || reply.Pending != 4 {
		t.Errorf("reply %v", reply)
	}
	s := owner.attached[0].Session
	if s.User != "ann" || s.Device != "phone" || s.Key != "" || s.Address.Session != 0x2a || s.Remote != "192.0.2.1:5" ||
		s.Generation != "v2" || s.Transport != "tcp" || s.Platform != "ios" || s.SinceMs != w.clock.Now().UnixMilli() ||
		len(s.Accepts) != 1 || len(s.Rooms) != 1 {
		t.Errorf("attached %v", s)
	}
	if b := reply.GetBacklog(); b.GetUpTo() != 12 || len(b.GetMessages()) != 1 || string(b.Messages[0].Body) != "old" {
		t.Errorf("the reply's backlog is %v", b)
	}
	var kicks, others int
	for _, e := range w.envelopes() {
		if e.Kick != nil && e.Kick.Code == 3003 && e.Kick.To[0].Comet == "c9" {
			kicks++
			continue
		}
		others++
	}
	if kicks != 1 || others != 0 {
		t.Errorf("%d kicks, %d other envelopes", kicks, others)
	}
}

// Connect passes on every field of a session, whatever is added to it, and changes nothing in the request: the caller gives
// it to another logic if this one fails.
func TestConnectLeavesTheRequestAsItWas(t *testing.T) {
	w := newWorld(t, func(c *logic.Config, _ *world) { c.Rooms = []logic.RoomRule{{Pattern: "team", Join: logic.JoinToken}} })
	made, err := w.NewToken(t.Context(), logic.TokenRequest{User: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	attach := w.owner("ann").attach
	w.owner("ann").attach = func(context.Context, *envelope.AttachRequest) (*envelope.AttachReply, error) {
		return nil, envelope.ErrForbidden // any error for which the owner is not asked again
	}
	r := connectRequest(made.Token)
	r.Session = &envelope.SessionInfo{
		Address: r.Session.Address, User: "nobody", Device: "phone", Key: "k", Platform: "ios", Remote: "192.0.2.1:5", Generation: "v2",
		Transport: "tcp", SinceMs: 1, Accepts: []int32{1000}, Rooms: []string{"lobby", "team"}, Incarnation: 2, GlobalKey: true, RoomsAt: 3,
		Arrival: 4,
	}
	for i := range r.Session.ProtoReflect().Descriptor().Fields().Len() {
		if f := r.Session.ProtoReflect().Descriptor().Fields().Get(i); !r.Session.ProtoReflect().Has(f) {
			t.Errorf("this test has no value for the field %s", f.Name())
		}
	}
	before := proto.CloneOf(r)
	if _, err := w.Connect(t.Context(), r); !errors.Is(err, envelope.ErrForbidden) {
		t.Fatal(err)
	}
	w.owner("ann").attach = attach
	reply, err := w.Connect(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(reply.Joined) != "[lobby]" || len(reply.Refused) != 1 {
		t.Errorf("after another try: joined %v, refused %v", reply.Joined, reply.Refused)
	}
	if !proto.Equal(r, before) {
		t.Errorf("the request became\n%v\nand was\n%v", r, before)
	}
	want := proto.CloneOf(before.Session)
	want.User, want.Rooms, want.GlobalKey = "ann", []string{"lobby"}, false // the token does not name the key
	attached := w.owner("ann").attached
	if got := attached[len(attached)-1].Session; !proto.Equal(got, want) {
		t.Errorf("attached\n%v\nwant\n%v", got, want)
	}
}

// The first backlog is in the answer, and nothing of it goes through the log.
func TestConnectAnswersTheFirstBacklog(t *testing.T) {
	w := newWorld(t, noAuth)
	for _, backlog := range []*envelope.Backlog{
		{UpTo: 12}, {UpTo: 12, More: true}, {UpTo: 12, Messages: []*envelope.Kept{{Id: 9}}},
	} {
		w.owner("ann").attach = func(context.Context, *envelope.AttachRequest) (*envelope.AttachReply, error) {
			return &envelope.AttachReply{Backlog: backlog}, nil
		}
		reply, err := w.Connect(t.Context(), connectRequest("ann"))
		if err != nil {
			t.Fatal(err)
		}
		if reply.GetBacklog() != backlog {
			t.Errorf("backlog %v: the reply has %v", backlog, reply.GetBacklog())
		}
		if e := w.envelopes(); len(e) != 0 {
			t.Errorf("backlog %v: envelopes %v", backlog, e)
		}
	}
}

func TestConnectSucceedsWithoutItsKicks(t *testing.T) {
	w := newWorld(t, noAuth)
	w.owner("ann").attach = func(context.Context, *envelope.AttachRequest) (*envelope.AttachReply, error) {
		return &envelope.AttachReply{Kicks: []*envelope.Kick{{To: []*envelope.Address{{Comet: "c9", Session: 1}}}}}, nil
	}
	w.live.fail = func(bool) error { return errors.New("broken") }
	if _, err := w.Connect(t.Context(), connectRequest("ann")); err != nil {
		t.Errorf("the owner has registered the session: %v", err)
	}
}

func TestConnectWithoutAuth(t *testing.T) {
	w := newWorld(t, noAuth)
	for _, test := range []struct{ token, mid, user string }{
		{"ann", "", "ann"}, {"ann", "7", "7"}, {"", "-1", "0~000000000000002a"}, {"", "0", "0~000000000000002a"},
		{"", "", ""}, {"a\x00b", "", ""}, {strings.Repeat("x", 129), "", ""},
	} {
		req := connectRequest(test.token)
		req.Mid, req.Session.Key = test.mid, "my key"
		reply, err := w.Connect(t.Context(), req)
		if test.user == "" {
			if !errors.Is(err, envelope.ErrUnauthorized) {
				t.Errorf("%+v: %v", test, err)
			}
			continue
		}
		if err != nil || reply.User != test.user || req.Session.Key != "my key" || reply.ExpiresMs != 0 {
			t.Errorf("%+v: %v, %v", test, reply, err)
		}
	}
}

// TestConnectAgainWithoutKey checks that a session whose client chose no key gets none, the second time
// that its connect is tried either.
func TestConnectAgainWithoutKey(t *testing.T) {
	w := newWorld(t, noAuth)
	req := connectRequest("ann")
	for range 2 {
		if _, err := w.Connect(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range w.owner("ann").attached {
		if r.Session.Key != "" || r.Session.GlobalKey {
			t.Errorf("attached %v", r.Session)
		}
	}
}

func TestConnectIgnoresMidWithAuth(t *testing.T) {
	w := newWorld(t)
	req := connectRequest("")
	req.Mid = "7"
	if _, err := w.Connect(t.Context(), req); !errors.Is(err, envelope.ErrUnauthorized) {
		t.Errorf("got %v", err)
	}
}

func TestConnectOpaqueTokens(t *testing.T) {
	w := newWorld(t)
	if _, err := w.NewToken(t.Context(), logic.TokenRequest{User: "ann", TTL: time.Minute, Token: "mine"}); err != nil {
		t.Fatal(err)
	}
	try := func(token string, want error) {
		t.Helper()
		_, err := w.Connect(t.Context(), connectRequest(token))
		if !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
		if err != nil && token != "" && strings.Contains(err.Error(), token) {
			t.Errorf("the error has the token in it: %v", err)
		}
	}
	try("mine", nil)
	try("yours-is-unknown", envelope.ErrUnauthorized)
	before := w.tokens.lookups
	try(strings.Repeat("x", 100<<10), envelope.ErrUnauthorized)
	if w.tokens.lookups != before {
		t.Error("a token of 100 KB was looked up")
	}
	w.clock.Add(time.Minute)
	try("mine", envelope.ErrExpired)
	for _, err := range []error{envelope.ErrExpired, envelope.ErrRevoked} {
		w.tokens.lookupErr = fmt.Errorf("token store: %w", err)
		try("mine", err)
	}
	w.tokens.lookupErr = errors.New("broken disk")
	if _, err := w.Connect(t.Context(), connectRequest("mine")); errors.Is(err, envelope.ErrUnauthorized) || err == nil {
		t.Errorf("a broken store says the token is bad: %v", err)
	}
}

func TestConnectWithJWT(t *testing.T) {
	w := newWorld(t, func(c *logic.Config, _ *world) { c.Auth.Secret, c.Auth.DeviceClaim = secret, "dev" })
	sign := func(key string) string {
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "ann", "dev": "phone",
			"exp": w.clock.Now().Add(time.Hour).Unix()}).SignedString([]byte(key))
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	if _, err := w.Connect(t.Context(), connectRequest(sign("another key, 32 bytes and longer"))); !errors.Is(err, envelope.ErrUnauthorized) {
		t.Errorf("signed with another key: %v", err)
	}
	if n := len(w.routers.routers[0].attached) + len(w.routers.routers[1].attached); n != 0 {
		t.Errorf("%d sessions were attached", n)
	}
	req := connectRequest(sign(secret))
	for _, device := range []string{"phone", ""} {
		req.Session.Device = device
		if reply, err := w.Connect(t.Context(), req); err != nil || reply.Device != "phone" {
			t.Errorf("device %q: %v, %v", device, reply, err)
		}
	}
	req.Session.Device = "laptop"
	if _, err := w.Connect(t.Context(), req); !errors.Is(err, envelope.ErrUnauthorized) {
		t.Errorf("another device: %v", err)
	}
	if _, err := w.NewToken(t.Context(), logic.TokenRequest{User: "bob", Token: "eyJ.x.y"}); field(err) != "token" {
		t.Errorf("an opaque token that looks like a JWT: %v", err)
	}
}

func TestConnectRefusesBadFields(t *testing.T) {
	w := newWorld(t, noAuth)
	bad := strings.Repeat("x", 129)
	for want, change := range map[string]func(*envelope.ConnectRequest){
		"session":  func(r *envelope.ConnectRequest) { r.Session.Address.Session = 0 },
		"device":   func(r *envelope.ConnectRequest) { r.Session.Device = bad },
		"key":      func(r *envelope.ConnectRequest) { r.Session.Key = "\x01" },
		"platform": func(r *envelope.ConnectRequest) { r.Session.Platform = bad },
		"rooms[1]": func(r *envelope.ConnectRequest) { r.Session.Rooms = []string{"ok", ""} },
	} {
		req := connectRequest("ann")
		change(req)
		if _, err := w.Connect(t.Context(), req); field(err) != want || !errors.Is(err, envelope.ErrInvalid) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// When a token is revoked between its check and the registration of its session,
// the revocation finds no session to close.
func TestConnectChecksTheTokenAgainAfterAttach(t *testing.T) {
	w := newWorld(t)
	if _, err := w.NewToken(t.Context(), logic.TokenRequest{User: "ann", Token: "mine"}); err != nil {
		t.Fatal(err)
	}
	owner := w.owner("ann")
	owner.attach = func(ctx context.Context, r *envelope.AttachRequest) (*envelope.AttachReply, error) {
		if _, err := w.RevokeUser(ctx, "ann", true); err != nil {
			t.Error(err)
		}
		return &envelope.AttachReply{Kicks: []*envelope.Kick{{To: []*envelope.Address{{Comet: "c9", Session: 1}}}}}, nil
	}
	if _, err := w.Connect(t.Context(), connectRequest("mine")); !errors.Is(err, envelope.ErrUnauthorized) {
		t.Errorf("got %v", err)
	}
	if len(owner.detached) != 1 || owner.detached[0].Sessions[0].Session.Session != 0x2a {
		t.Errorf("detached %v", owner.detached)
	}
	if e := w.envelopes(); len(e) != 1 || e[0].Kick == nil {
		t.Errorf("envelopes %v: the replaced session has left the owner's table, so it must be kicked", e)
	}
}

func TestConnectReturnsTheOwnersRefusal(t *testing.T) {
	w := newWorld(t, noAuth)
	w.owner("ann").attach = func(context.Context, *envelope.AttachRequest) (*envelope.AttachReply, error) {
		return nil, envelope.Errorf(envelope.CodeTooMany, "user has 64 sessions")
	}
	if _, err := w.Connect(t.Context(), connectRequest("ann")); !errors.Is(err, envelope.ErrTooMany) {
		t.Errorf("got %v", err)
	}
}

func TestConnectWaitsForAnOwner(t *testing.T) {
	w := newWorld(t, noAuth)
	var tries atomic.Int32
	w.routers.owner = func(int32) (logic.Router, error) {
		if tries.Add(1) < 3 {
			return nil, envelope.ErrUnavailable
		}
		return w.routers.routers[0], nil
	}
	if _, err := w.Connect(t.Context(), connectRequest("ann")); err != nil || tries.Load() != 3 {
		t.Errorf("%v after %d tries", err, tries.Load())
	}
}

func TestCatchUp(t *testing.T) {
	w := newWorld(t)
	w.owner("ann").catchUp = func(_ context.Context, r *envelope.CatchUpRequest) (*envelope.Backlog, error) {
		return &envelope.Backlog{After: r.After, UpTo: 90, More: true, Messages: []*envelope.Kept{{Id: 80}}}, nil
	}
	to := &envelope.Address{Comet: "c1", Session: 5}
	if err := w.CatchUp(t.Context(), &envelope.CatchUpRequest{To: to, User: "ann", After: 70}); err != nil {
		t.Fatal(err)
	}
	b := w.envelopes()[0].Backlog
	if b.To.Session != 5 || b.After != 70 || b.UpTo != 90 || !b.More || len(b.Messages) != 1 {
		t.Errorf("backlog %v", b)
	}
	if err := w.CatchUp(t.Context(), &envelope.CatchUpRequest{User: "ann"}); !errors.Is(err, envelope.ErrInvalid) {
		t.Errorf("without an address: %v", err)
	}
	w.live.fail = func(bool) error { return errors.New("broken") }
	if err := w.CatchUp(t.Context(), &envelope.CatchUpRequest{To: to, User: "ann"}); err == nil {
		t.Error("no error though nothing was published")
	}
}

// TestCatchUpTakesAnotherWayWhenRepeated: one job carries a partition of the live log, and it may be unable to call the
// comet. The answer to a repeated catch-up must not go by that job each time.
func TestCatchUpTakesAnotherWayWhenRepeated(t *testing.T) {
	w := newWorld(t)
	partitions := make(map[int32]bool)
	for range 20 {
		if err := w.CatchUp(t.Context(), &envelope.CatchUpRequest{To: &envelope.Address{Comet: "c1", Session: 5}, User: "ann"}); err != nil {
			t.Fatal(err)
		}
		w.clock.Add(2 * time.Second)
	}
	for _, e := range w.live.all() {
		partitions[e.Partition] = true
	}
	if len(partitions) < 2 {
		t.Errorf("all answers are in the partitions %v", partitions)
	}
}

func TestAckGroupsByPartition(t *testing.T) {
	w := newWorld(t)
	w.kept.fail = func(essential bool) error {
		if !essential {
			return envelope.ErrDiskFull // acks pass all the same
		}
		return nil
	}
	req := &envelope.AckRequest{Acks: []*envelope.Ack{{User: ""}, {User: "x"}}}
	for _, user := range users(100) {
		req.Acks = append(req.Acks, &envelope.Ack{User: user, Device: "d", Ids: []uint64{1, 2}}, &envelope.Ack{User: user, Ids: []uint64{9}})
	}
	if reply, err := w.Ack(t.Context(), req); err != nil || len(reply.Failed) > 0 {
		t.Fatal(reply, err)
	}
	entries := w.kept.all()
	if len(entries) != 8 {
		t.Errorf("%d records for 8 partitions", len(entries))
	}
	n := 0
	for i, rec := range w.records() {
		if len(rec.Id) != 12 || rec.TimeMs == 0 {
			t.Errorf("record %v", rec)
		}
		for _, a := range rec.Acks.Acks {
			n++
			if envelope.Partition(a.User, 8) != entries[i].Partition {
				t.Errorf("%s is in partition %d", a.User, entries[i].Partition)
			}
		}
	}
	if n != 200 {
		t.Errorf("%d acks", n)
	}
	w.kept.fail = func(bool) error { return errors.New("broken") }
	reply, err := w.Ack(t.Context(), req)
	if err != nil || reply.Partitions != 8 || !slices.Equal(reply.Failed, []int32{0, 1, 2, 3, 4, 5, 6, 7}) {
		t.Errorf("all partitions are broken: %v, %v", reply, err)
	}
	w.kept.fail = func(bool) error { return envelope.ErrTooLarge }
	if _, err := w.Ack(t.Context(), req); !errors.Is(err, envelope.ErrTooLarge) {
		t.Errorf("no repetition helps: %v", err)
	}
}

// A partition or an owner that hangs does not keep the call from the others. The reply names it before the caller's time is over.
func TestPartsThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		acks, detaches := &envelope.AckRequest{}, &envelope.DetachRequest{}
		for i, user := range users(100) {
			acks.Acks = append(acks.Acks, &envelope.Ack{User: user, Device: "d", Ids: []uint64{1}})
			detaches.Sessions = append(detaches.Sessions, &envelope.Detached{
				Session: &envelope.Address{Comet: "c1", Session: uint64(i) + 1}, User: user,
			})
		}
		w.kept.hangs = func(partition int32) bool { return partition == 3 }
		hung := w.owner("user-0")
		hung.detach = func(ctx context.Context, _ *envelope.DetachRequest) error {
			<-ctx.Done()
			return ctx.Err()
		}
		var owned []int32
		for p := range int32(8) {
			if r, _ := w.routers.Owner(p); r == hung {
				owned = append(owned, p)
			}
		}
		for _, limit := range []time.Duration{time.Second, time.Hour} {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			reply, err := w.Ack(ctx, acks)
			if err != nil || reply.Partitions != 8 || !slices.Equal(reply.Failed, []int32{3}) {
				t.Errorf("Ack: %v, %v", reply, err)
			}
			reply, err = w.Detach(ctx, detaches)
			if err != nil || reply.Partitions != 8 || !slices.Equal(reply.Failed, owned) {
				t.Errorf("Detach: %v, %v, want %v", reply, err, owned)
			}
			if ctx.Err() != nil {
				t.Error("the reply came too late")
			}
			cancel()
		}
		if n := len(w.kept.all()); n != 2*7 {
			t.Errorf("%d records, want one of each partition that does not hang", n)
		}
	})
}

func TestAckIsSplitIntoRecords(t *testing.T) {
	w := newWorld(t)
	ids := make([]uint64, 100_000)
	for i := range ids {
		ids[i] = envelope.ID(generation, int64(i))
	}
	if _, err := w.Ack(t.Context(), &envelope.AckRequest{Acks: []*envelope.Ack{{User: "ann", Ids: ids}}}); err != nil {
		t.Fatal(err)
	}
	n := 0
	for i, rec := range w.records() {
		if size := len(w.kept.all()[i].Value); size > 260<<10 {
			t.Errorf("a record of %d bytes", size)
		}
		for _, a := range rec.Acks.Acks {
			n += len(a.Ids)
		}
	}
	if n != len(ids) {
		t.Errorf("%d ids of %d", n, len(ids))
	}
}

func TestDetachGroupsByOwner(t *testing.T) {
	w := newWorld(t)
	req := &envelope.DetachRequest{}
	for i, user := range users(50) {
		req.Sessions = append(req.Sessions, &envelope.Detached{Session: &envelope.Address{Comet: "c1", Session: uint64(i) + 1}, User: user})
	}
	if reply, err := w.Detach(t.Context(), req); err != nil || len(reply.Failed) > 0 {
		t.Fatal(reply, err)
	}
	n := 0
	for _, r := range w.routers.routers {
		if len(r.detached) != 1 {
			t.Errorf("%d calls to one owner", len(r.detached))
		}
		for _, d := range r.detached[0].Sessions {
			n++
			if w.owner(d.User) != r {
				t.Errorf("%s was detached at another's owner", d.User)
			}
		}
	}
	if n != 50 {
		t.Errorf("%d detached", n)
	}
	// An owner that fails does not keep the call from the other.
	w.routers.routers[0].detach = func(context.Context, *envelope.DetachRequest) error { return errors.New("broken") }
	if reply, err := w.Detach(t.Context(), req); err != nil || len(reply.Failed) == 0 || len(w.routers.routers[1].detached) != 2 {
		t.Errorf("got %v, %v", reply, err)
	}
}

func TestAnnounce(t *testing.T) {
	w := newWorld(t)
	for i, r := range w.routers.routers {
		r.announce = func(_ context.Context, req *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
			req.Rooms["scribble"] = 1 // on a map of its own
			reply := &envelope.AnnounceReply{Epochs: make(map[uint32]uint64), Rooms: map[string]uint32{"r": uint32(5 + i)}}
			for p := range uint32(8) { // also of partitions that it does not own
				reply.Epochs[p] = uint64(100 + i)
			}
			return reply, nil
		}
	}
	req := &envelope.AnnounceRequest{
		Comet: "c1", Incarnation: 77, Number: 8, Rooms: map[string]uint32{"r": 2},
		Partitions: map[uint32]uint32{0: 4, 1: 5, 3: 6, 99: 1},
		Sessions:   []*envelope.SessionInfo{{User: "ann"}, {User: "bob"}, {User: "carl"}},
	}
	reply, err := w.Announce(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	sessions := 0
	for i, r := range w.routers.routers {
		got := r.announced[0]
		if got.Comet != "c1" || got.Incarnation != 77 || got.Number != 8 || got.Rooms["r"] != 2 {
			t.Errorf("announced %v", got)
		}
		for p := range got.Partitions {
			if int(p)%2 != i {
				t.Errorf("router %d was told of partition %d", i, p)
			}
		}
		for _, s := range got.Sessions {
			sessions++
			if w.owner(s.User) != r {
				t.Errorf("%s was announced to another's owner", s.User)
			}
		}
	}
	if sessions != 3 || len(req.Rooms) != 1 {
		t.Errorf("%d sessions announced, rooms %v", sessions, req.Rooms)
	}
	for p := range uint32(8) {
		if reply.Epochs[p] != uint64(100+p%2) {
			t.Errorf("epoch of partition %d is %d", p, reply.Epochs[p])
		}
	}
	if reply.Rooms["r"] != 6 {
		t.Errorf("rooms %v", reply.Rooms)
	}

	// A router that fails is missing in the answer. If all fail, it is an error.
	failing := func(context.Context, *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
		return nil, envelope.ErrUnavailable
	}
	alive := &envelope.AnnounceRequest{Comet: "c1", Incarnation: 77, Rooms: req.Rooms, Partitions: req.Partitions}
	w.routers.routers[0].announce = failing
	if reply, err = w.Announce(t.Context(), alive); err != nil || len(reply.Epochs) != 4 || reply.Epochs[1] != 101 {
		t.Errorf("%v, %v", reply, err)
	}
	// The comet learns by the missing epochs that some of its sessions are in no table.
	if reply, err = w.Announce(t.Context(), req); err != nil || len(reply.Epochs) != 4 || reply.Epochs[1] != 101 {
		t.Errorf("with sessions: %v, %v", reply, err)
	}
	w.routers.routers[1].announce = failing
	for _, r := range []*envelope.AnnounceRequest{alive, req} {
		if _, err = w.Announce(t.Context(), r); !errors.Is(err, envelope.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	}
}

// Sessions are announced to their owners alone. Another router would take a request
// without sessions for one with the comet's counts.
func TestAnnounceSessionsToOwnersOnly(t *testing.T) {
	w := newWorld(t)
	req := &envelope.AnnounceRequest{Comet: "c1", Partitions: map[uint32]uint32{0: 1, 1: 1}, Sessions: []*envelope.SessionInfo{{User: "ann"}}}
	if _, err := w.Announce(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	for _, r := range w.routers.routers {
		if want := w.owner("ann") == r; (len(r.announced) == 1) != want {
			t.Errorf("announced %d times, owner: %v", len(r.announced), want)
		}
	}
	w.routers.owner = func(int32) (logic.Router, error) { return nil, envelope.ErrUnavailable }
	if _, err := w.Announce(t.Context(), req); !errors.Is(err, envelope.ErrUnavailable) {
		t.Errorf("without an owner: %v", err)
	}
}

// Every router is told that the comet is alive, also one that owns none of its
// users.
func TestAnnounceReachesRoutersWithoutUsers(t *testing.T) {
	w := newWorld(t)
	if _, err := w.Announce(t.Context(), &envelope.AnnounceRequest{Comet: "c1", Incarnation: 1}); err != nil {
		t.Fatal(err)
	}
	for i, r := range w.routers.routers {
		if len(r.announced) != 1 {
			t.Errorf("router %d heard %d announcements", i, len(r.announced))
		}
	}
}
