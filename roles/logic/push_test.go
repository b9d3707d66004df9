package logic_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/roles/logic"
)

func TestPushRefusesBadInput(t *testing.T) {
	w := newWorld(t)
	long := strings.Repeat("x", 129)
	tests := []struct {
		name  string
		c     logic.PushCommand
		field string
		code  envelope.Code
	}{
		{"no target", logic.PushCommand{Op: 5}, "users", envelope.CodeInvalid},
		{"empty users", logic.PushCommand{Op: 5, Users: []string{}, Kept: true}, "users", envelope.CodeInvalid},
		{"empty keys", logic.PushCommand{Op: 5, Keys: []string{}}, "keys", envelope.CodeInvalid},
		{"two targets", logic.PushCommand{Op: 5, Users: []string{"a"}, Room: "r"}, "room", envelope.CodeInvalid},
		{"all targets", logic.PushCommand{Op: 5, Users: []string{"a"}, Keys: []string{"k"}, Room: "r", All: true}, "keys", envelope.CodeInvalid},
		{"empty user", logic.PushCommand{Op: 5, Users: []string{"a", "b", "c", ""}}, "users[3]", envelope.CodeInvalid},
		{"long user", logic.PushCommand{Op: 5, Users: []string{long}}, "users[0]", envelope.CodeInvalid},
		{"control character", logic.PushCommand{Op: 5, Users: []string{"a", "b\n"}}, "users[1]", envelope.CodeInvalid},
		{"not UTF-8", logic.PushCommand{Op: 5, Users: []string{"\xff"}}, "users[0]", envelope.CodeInvalid},
		{"too many users", logic.PushCommand{Op: 5, Users: make([]string, 100_001)}, "users", envelope.CodeInvalid},
		{"too many keys", logic.PushCommand{Op: 5, Keys: make([]string, 100_001)}, "keys", envelope.CodeInvalid},
		{"bad key", logic.PushCommand{Op: 5, Keys: []string{"k", long}}, "keys[1]", envelope.CodeInvalid},
		{"bad room", logic.PushCommand{Op: 5, Room: long}, "room", envelope.CodeInvalid},
		{"op 0", logic.PushCommand{Users: []string{"a"}}, "op", envelope.CodeInvalid},
		{"op of the protocol", logic.PushCommand{Op: 7, Users: []string{"a"}}, "op", envelope.CodeInvalid},
		{"op 999", logic.PushCommand{Op: 999, Users: []string{"a"}}, "op", envelope.CodeInvalid},
		{"negative op", logic.PushCommand{Op: -5, Users: []string{"a"}}, "op", envelope.CodeInvalid},
		{"large body", logic.PushCommand{Op: 5, Users: []string{"a"}, Body: make([]byte, 64<<10+1)}, "body", envelope.CodeTooLarge},
		{"kept room", logic.PushCommand{Op: 5, Room: "r", Kept: true}, "kept", envelope.CodeInvalid},
		{"kept keys", logic.PushCommand{Op: 5, Keys: []string{"k"}, Kept: true}, "kept", envelope.CodeInvalid},
		{"kept all", logic.PushCommand{Op: 5, All: true, Kept: true}, "kept", envelope.CodeInvalid},
		{"negative ttl", logic.PushCommand{Op: 5, Users: []string{"a"}, Kept: true, TTL: -1}, "ttl", envelope.CodeInvalid},
		{"long ttl", logic.PushCommand{Op: 5, Users: []string{"a"}, Kept: true, TTL: 7*24*time.Hour + 1}, "ttl", envelope.CodeInvalid},
		{"short ttl", logic.PushCommand{Op: 5, Users: []string{"a"}, Kept: true, TTL: time.Microsecond}, "ttl", envelope.CodeInvalid},
		{"ttl not kept", logic.PushCommand{Op: 5, Users: []string{"a"}, TTL: time.Hour}, "ttl", envelope.CodeInvalid},
		{"long idempotency key", logic.PushCommand{Op: 5, Users: []string{"a"}, IdempotencyKey: strings.Repeat("k", 513)},
			"idempotency_key", envelope.CodeInvalid},
		{"idempotency key not UTF-8", logic.PushCommand{Op: 5, Users: []string{"a"}, IdempotencyKey: "\xff"},
			"idempotency_key", envelope.CodeInvalid},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := w.Push(t.Context(), &test.c)
			if envelope.CodeOf(err) != test.code || field(err) != test.field {
				t.Errorf("got %v (field %q, code %s), want field %q, code %s", err, field(err), envelope.CodeOf(err), test.field, test.code)
			}
		})
	}
	if n := len(w.kept.all()) + len(w.live.all()); n != 0 {
		t.Errorf("refused pushes left %d records", n)
	}
	if n := len(w.routers.routers[0].asked()) + len(w.routers.routers[1].asked()); n != 0 {
		t.Errorf("refused pushes asked routers %d times", n)
	}
}

func TestPushAcceptsTheLimits(t *testing.T) {
	w := newWorld(t)
	for _, c := range []logic.PushCommand{
		{Op: 5, Users: []string{strings.Repeat("x", 128)}, Body: make([]byte, 64<<10), Kept: true, TTL: 7 * 24 * time.Hour},
		{Op: 1000, Users: []string{"üñí"}, Kept: true, IdempotencyKey: strings.Repeat("k", 512)},
		{Op: 2147483647, Room: "live://1"},
		{Op: 5, All: true}, // an empty body
	} {
		if _, err := w.Push(t.Context(), &c); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestKeptPushRecord(t *testing.T) {
	w := newWorld(t)
	w.connect("ann", "phone", "c1", 7)
	w.connect("ann", "laptop", "c2", 8)
	got := w.push(logic.PushCommand{Op: 1001, Users: []string{"ann"}, Body: []byte("hi"), Kept: true, TTL: time.Minute})
	entries := w.kept.all()
	if len(entries) != 1 || len(w.live.all()) != 0 {
		t.Fatalf("%d kept and %d live entries, want 1 and 0", len(entries), len(w.live.all()))
	}
	p := envelope.Partition("ann", 8)
	if entries[0].Partition != p {
		t.Errorf("partition %d, want %d", entries[0].Partition, p)
	}
	rec := w.records()[0]
	now := w.clock.Now().UnixMilli()
	if len(rec.Id) != 12 || rec.TimeMs != now || rec.Push.Op != 1001 || string(rec.Push.Body) != "hi" ||
		rec.Push.ExpiresMs != now+60_000 || !slices.Equal(rec.Push.Users, []string{"ann"}) {
		t.Errorf("record %v", rec)
	}
	want := logic.UserResult{User: "ann", ID: envelope.ID(generation, 0), Sessions: 2}
	if len(got.Users) != 1 || got.Users[0] != want || got.Sessions != 2 || got.Duplicate {
		t.Errorf("result %+v, want %+v", got, want)
	}
	w.push(logic.PushCommand{Users: []string{"ann"}, Kept: true})
	if got := w.records()[1].Push.ExpiresMs; got != now+7*24*3600*1000 {
		t.Errorf("expires %d by default", got-now)
	}
}

func users(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("user-%d", i)
	}
	return out
}

func TestKeptPushToManyGroups(t *testing.T) {
	w := newWorld(t)
	all := users(20_000)
	named := append(slices.Clone(all), all[:500]...) // some twice
	got := w.push(logic.PushCommand{Users: named, Kept: true, Body: []byte("to all of you")})
	if len(got.Users) != len(all) {
		t.Fatalf("%d results for %d users", len(got.Users), len(all))
	}
	if w.kept.calls != 1 {
		t.Errorf("%d appends, want one group", w.kept.calls)
	}
	ids := make(map[string]uint64)
	for i, e := range w.kept.all() {
		rec := w.records()[i]
		if len(rec.Push.Users) > 1000 || len(e.Value) > 256<<10 {
			t.Fatalf("a record of %d users and %d bytes", len(rec.Push.Users), len(e.Value))
		}
		for _, user := range rec.Push.Users {
			if envelope.Partition(user, 8) != e.Partition {
				t.Fatalf("%s is in partition %d", user, e.Partition)
			}
			if ids[user] != 0 {
				t.Fatalf("%s is in two records", user)
			}
			ids[user] = envelope.ID(generation, e.Offset)
		}
		if i > 30 {
			t.Fatalf("more than %d records for 8 partitions", i)
		}
	}
	for i, u := range got.Users {
		if u.User != all[i] || u.ID == 0 || u.ID != ids[u.User] {
			t.Fatalf("result %d is %+v, want %s with id %d", i, u, all[i], ids[all[i]])
		}
	}
	for _, r := range w.routers.routers {
		for _, req := range r.asked() {
			if len(req.Users) > 5000 {
				t.Errorf("a lookup of %d users", len(req.Users))
			}
			for _, user := range req.Users {
				if w.owner(user) != r {
					t.Fatalf("%s was looked up at another's owner", user)
				}
			}
		}
		if n := len(r.asked()); n > 4 {
			t.Errorf("%d lookups at one owner of about 10,000 users", n)
		}
	}
}

func TestKeptRecordsStayWithinTheirBytes(t *testing.T) {
	w := newWorld(t)
	long := make([]string, 8000)
	for i := range long {
		long[i] = fmt.Sprintf("%0128d", i)
	}
	w.push(logic.PushCommand{Users: long, Kept: true, Body: make([]byte, 64<<10), IdempotencyKey: strings.Repeat("k", 512)})
	for _, e := range w.kept.all() {
		if len(e.Value) > 256<<10 {
			t.Errorf("a record of %d bytes", len(e.Value))
		}
	}
}

func TestUsersPushIsAddressed(t *testing.T) {
	w := newWorld(t)
	w.connect("ann", "", "c1", 1)
	w.connect("ann", "", "c2", 2)
	w.connect("bob", "", "c1", 3)
	got := w.push(logic.PushCommand{Users: []string{"ann", "nobody", "bob", "ann"}, Body: []byte("now")})
	if got.Sessions != 3 || len(got.Users) != 3 || got.Users[1].Sessions != 0 || got.Users[0].Sessions != 2 || got.Users[0].ID != 0 {
		t.Errorf("result %+v", got)
	}
	if len(w.kept.all()) != 0 {
		t.Error("a push that is not kept is in the kept log")
	}
	seen := make(map[string]int)
	for i, env := range w.envelopes() {
		if env.TimeMs == 0 || string(env.Message.Body) != "now" || env.Message.Op != 5 {
			t.Errorf("envelope %v", env)
		}
		for _, a := range env.Message.To {
			seen[a.AsKey().Name()]++
			if p := w.live.all()[i].Partition; p != envelope.Partition(a.Comet, 4) {
				t.Errorf("partition %d for comet %s", p, a.Comet)
			}
		}
	}
	if len(seen) != 3 || seen["c1~0000000000000001"] != 1 || seen["c2~0000000000000002"] != 1 || seen["c1~0000000000000003"] != 1 {
		t.Errorf("addressed %v", seen)
	}
}

func TestUsersPushChunksAddresses(t *testing.T) {
	w := newWorld(t)
	for s := range uint64(2500) {
		w.connect("busy", "", "c1", s+1)
	}
	if got := w.push(logic.PushCommand{Users: []string{"busy"}}); got.Sessions != 2500 {
		t.Errorf("%d sessions", got.Sessions)
	}
	envs := w.envelopes()
	if len(envs) != 3 || len(envs[0].Message.To) != 1000 || len(envs[2].Message.To) != 500 {
		t.Errorf("%d envelopes", len(envs))
	}
}

func TestUsersPushToNoSession(t *testing.T) {
	w := newWorld(t)
	if got := w.push(logic.PushCommand{Users: []string{"nobody"}}); got.Sessions != 0 {
		t.Errorf("result %+v", got)
	}
	if n := len(w.live.all()) + len(w.kept.all()); n != 0 {
		t.Errorf("%d records", n)
	}
}

func TestKeysPushAsksAllRouters(t *testing.T) {
	w := newWorld(t)
	w.routers.routers[0].connect("ann", "", "c1", 1, "key-a")
	w.routers.routers[1].connect("bob", "", "c2", 2, "key-b")
	w.routers.routers[1].connect("bob", "", "c2", 3, "key-c")
	got := w.push(logic.PushCommand{Keys: []string{"key-a", "key-b", "key-b", "gone"}})
	if got.Sessions != 2 || len(got.Users) != 0 {
		t.Errorf("result %+v", got)
	}
	if n := len(w.envelopes()); n != 2 {
		t.Errorf("%d envelopes for 2 comets", n)
	}
	w.routers.routers[1].lookup = func(context.Context, *envelope.LookupRequest) (*envelope.LookupReply, error) {
		return nil, errors.New("broken")
	}
	if _, err := w.Push(t.Context(), &logic.PushCommand{Op: 5, Keys: []string{"key-a"}}); err == nil {
		t.Error("accepted though a router did not answer")
	}
	if n := len(w.envelopes()); n != 2 {
		t.Error("a refused push was published")
	}
}

func TestRoomAndAllPush(t *testing.T) {
	w := newWorld(t)
	w.push(logic.PushCommand{Room: "live://1", Body: []byte("r")})
	w.push(logic.PushCommand{All: true, Body: []byte("a"), Op: 1234})
	envs := w.envelopes()
	if len(envs) != 2 || envs[0].Message.Room != "live://1" || envs[0].Message.All || len(envs[0].Message.To) != 0 ||
		!envs[1].Message.All || envs[1].Message.Op != 1234 {
		t.Errorf("envelopes %v", envs)
	}
}

func TestPushFailures(t *testing.T) {
	broken := errors.New("broken disk")
	tests := []struct {
		name string
		c    logic.PushCommand
		kept error
		live error
		want error
	}{
		{"kept append", logic.PushCommand{Users: []string{"ann"}, Kept: true}, broken, nil, broken},
		{"kept disk full", logic.PushCommand{Users: []string{"ann"}, Kept: true}, envelope.ErrDiskFull, nil, envelope.ErrDiskFull},
		{"live append", logic.PushCommand{Users: []string{"ann"}}, nil, broken, broken},
		{"room append", logic.PushCommand{Room: "r"}, nil, broken, broken},
		{"claim append", logic.PushCommand{Room: "r", IdempotencyKey: "k"}, envelope.ErrDiskFull, nil, envelope.ErrDiskFull},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.connect("ann", "", "c1", 1)
			w.kept.fail = func(bool) error { return test.kept }
			w.live.fail = func(bool) error { return test.live }
			test.c.Op = 5
			result, err := w.Push(t.Context(), &test.c)
			if !errors.Is(err, test.want) || result != nil {
				t.Errorf("got %+v, %v, want %v", result, err, test.want)
			}
			if test.kept == envelope.ErrDiskFull && err != error(envelope.ErrDiskFull) {
				t.Errorf("a full disk became %v", err)
			}
		})
	}
}

func TestKeptPushNeedsNoOwner(t *testing.T) {
	w := newWorld(t, func(c *logic.Config, _ *world) { c.CallTimeout = 200 * time.Millisecond })
	w.connect("ann", "", "c1", 1)
	for _, r := range w.routers.routers {
		r.lookup = func(ctx context.Context, _ *envelope.LookupRequest) (*envelope.LookupReply, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
	}
	got := w.push(logic.PushCommand{Users: []string{"ann"}, Kept: true})
	if u := got.Users[0]; u.ID == 0 || !u.Unknown || u.Sessions != 0 {
		t.Errorf("result %+v", u)
	}
	// These pushes need the owners, so they are refused.
	for _, c := range []logic.PushCommand{
		{Op: 5, Users: []string{"ann"}, Kept: true, IdempotencyKey: "k"},
		{Op: 5, Users: []string{"ann"}},
	} {
		if _, err := w.Push(t.Context(), &c); !errors.Is(err, envelope.ErrUnavailable) {
			t.Errorf("%+v: %v, want unavailable", c, err)
		}
	}
	if len(w.records()) != 1 || len(w.envelopes()) != 0 {
		t.Error("a refused push left something in a log")
	}
}

func TestLookupFollowsAMovingOwner(t *testing.T) {
	w := newWorld(t)
	w.connect("ann", "", "c1", 1)
	owner := w.owner("ann")
	tries := 0
	owner.lookup = func(_ context.Context, r *envelope.LookupRequest) (*envelope.LookupReply, error) {
		if tries++; tries <= 3 {
			return nil, envelope.ErrNotReady
		}
		return owner.table(r), nil
	}
	if got := w.push(logic.PushCommand{Users: []string{"ann"}}); got.Sessions != 1 || tries != 4 {
		t.Errorf("result %+v after %d tries", got, tries)
	}
}

func TestLookupPartialFailure(t *testing.T) {
	w := newWorld(t)
	all := users(100)
	w.routers.routers[1].lookup = func(context.Context, *envelope.LookupRequest) (*envelope.LookupReply, error) {
		return nil, errors.New("broken")
	}
	// A push that is not kept is published for no user.
	if _, err := w.Push(t.Context(), &logic.PushCommand{Op: 5, Users: all}); err == nil {
		t.Error("accepted")
	}
	if len(w.envelopes()) != 0 {
		t.Error("published all the same")
	}
	// A kept push reaches every user, and the result names those that are unknown.
	got := w.push(logic.PushCommand{Users: all, Kept: true})
	for _, u := range got.Users {
		if u.ID == 0 || u.Unknown != (w.owner(u.User) == w.routers.routers[1]) {
			t.Fatalf("result %+v", u)
		}
	}
}

func TestPushWithoutRouters(t *testing.T) {
	w := newWorld(t)
	w.routers.routers = nil
	w.kept.applied = nil
	if got := w.push(logic.PushCommand{Users: []string{"ann"}, Kept: true}); !got.Users[0].Unknown {
		t.Errorf("result %+v", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	for _, c := range []logic.PushCommand{{Op: 5, Users: []string{"ann"}}, {Op: 5, Keys: []string{"k"}}} {
		if _, err := w.Push(ctx, &c); !errors.Is(err, envelope.ErrUnavailable) {
			t.Errorf("%+v: %v, want unavailable", c, err)
		}
	}
}

func TestPushWithCanceledContext(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Push(ctx, &logic.PushCommand{Op: 5, Users: []string{"ann"}, Kept: true}); err == nil {
		t.Error("accepted")
	}
}
