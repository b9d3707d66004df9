package roles

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"imgo/cluster/members"
	"imgo/cluster/rpc"
	"imgo/config"
	"imgo/envelope"
	"imgo/internal/wait"
)

// partsLogic is a logic that answers calls of several partitions.
type partsLogic struct {
	rpc.Logic
	ack   func(ctx context.Context) (*envelope.PartsReply, error)
	calls int
}

func (l *partsLogic) Ack(ctx context.Context, _ *envelope.AckRequest) (*envelope.PartsReply, error) {
	l.calls++
	return l.ack(ctx)
}

func (l *partsLogic) Detach(ctx context.Context, _ *envelope.DetachRequest) (*envelope.PartsReply, error) {
	l.calls++
	return l.ack(ctx)
}

// TestPartsOfAnotherLogic checks that a call that fails for all its partitions goes to another logic, and that the caller is
// told of the partitions if no logic can do better.
func TestPartsOfAnotherLogic(t *testing.T) {
	users := []string{"ann", "bob", "eve"}
	var all []int32
	for _, user := range users {
		all = append(all, envelope.Partition(user, 64))
	}
	type answer = func(context.Context) (*envelope.PartsReply, error)
	failing := func(partitions ...int32) answer {
		return func(context.Context) (*envelope.PartsReply, error) {
			return &envelope.PartsReply{Failed: partitions, Partitions: 64}, nil
		}
	}
	hanging := func(ctx context.Context) (*envelope.PartsReply, error) { // as logic does while its log does not answer
		by, _ := ctx.Deadline()
		_ = wait.Sleep(ctx, time.Until(by)*3/4)
		return &envelope.PartsReply{Failed: all, Partitions: 64}, nil
	}
	away := func(context.Context) (*envelope.PartsReply, error) { return nil, envelope.ErrUnavailable }
	refuses := func(context.Context) (*envelope.PartsReply, error) { return nil, envelope.ErrTooLarge }
	for _, test := range []struct {
		name   string
		logics []answer // in the order in which they are asked
		calls  []int
		failed []int32
		err    error
	}{
		{"one of them is cut off", []answer{failing(all...), failing()}, []int{1, 1}, nil, nil},
		{"one hangs", []answer{hanging, failing(all[0])}, []int{1, 1}, all[:1], nil},
		{"some partitions fail", []answer{failing(all[1:]...), failing()}, []int{1, 0}, all[1:], nil},
		{"all fail", []answer{failing(all...), failing(all...)}, []int{1, 1}, all, nil},
		{"all hang", []answer{hanging, hanging, hanging}, []int{1, 1, 1}, all, nil},
		{"the other is away", []answer{failing(all...), away}, []int{1, 1}, all, nil},
		{"the other refuses", []answer{failing(all...), refuses}, []int{1, 1}, nil, envelope.ErrTooLarge},
	} {
		synctest.Test(t, func(t *testing.T) {
			logics := make([]*partsLogic, len(test.logics))
			state := &clusterState{}
			for i, ack := range test.logics {
				logics[i] = &partsLogic{ack: ack}
				state.logics = append(state.logics, logics[i])
			}
			acks, ended := &envelope.AckRequest{}, &envelope.DetachRequest{}
			for _, user := range users {
				acks.Acks = append(acks.Acks, &envelope.Ack{User: user, Ids: []uint64{1}})
				ended.Sessions = append(ended.Sessions, &envelope.Detached{User: user})
			}
			for _, call := range []func(context.Context, rpc.Logic) (*envelope.PartsReply, error){
				func(ctx context.Context, l rpc.Logic) (*envelope.PartsReply, error) { return l.Ack(ctx, acks) },
				func(ctx context.Context, l rpc.Logic) (*envelope.PartsReply, error) { return l.Detach(ctx, ended) },
			} {
				c := &cluster{}
				c.remote.Store(&remoteRoles{})
				c.remote.Load().state.Store(state)
				c.remote.Load().next.Store(uint64(len(logics)) - 1) // so that the first one is asked first
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				reply, err := call(ctx, rpc.AnyLogic(remoteLogics{c}.try))
				if !errors.Is(err, test.err) || !slices.Equal(reply.GetFailed(), test.failed) || ctx.Err() != nil {
					t.Errorf("%s: %v, %v, want %v, %v; the time is over: %v", test.name, reply, err, test.failed, test.err, ctx.Err())
				}
				cancel()
				for i, l := range logics {
					if l.calls != test.calls[i] {
						t.Errorf("%s: logic %d had %d calls, want %d", test.name, i, l.calls, test.calls[i])
					}
					l.calls = 0
				}
			}
		})
	}
}

// sessionLogic is a logic of which a test replaces some calls.
type sessionLogic struct {
	rpc.Logic
	catchUp  func(ctx context.Context, user string) error
	announce func() (*envelope.AnnounceReply, error)
	calls    int
}

func (l *sessionLogic) CatchUp(ctx context.Context, r *envelope.CatchUpRequest) error {
	l.calls++
	return l.catchUp(ctx, r.GetUser())
}

func (l *sessionLogic) Announce(context.Context, *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
	l.calls++
	return l.announce()
}

// withOwn returns how a comet calls its own process's logic and others.
func withOwn(own rpc.Logic, others ...rpc.Logic) rpc.Logic {
	c, remote := &cluster{}, &remoteRoles{logic: own}
	remote.state.Store(&clusterState{logics: others})
	c.remote.Store(remote)
	return rpc.AnyLogic(remoteLogics{c}.try)
}

// TestOwnLogicDoesNotReachAnOwner checks that a comet whose process has a logic that does not reach one router calls other
// logics, too, and none of them once its own has done well for a while.
func TestOwnLogicDoesNotReachAnOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		linked := false
		own := &sessionLogic{catchUp: func(ctx context.Context, user string) error {
			if user == "near" || linked {
				return nil
			}
			<-ctx.Done() // logic asks the owner again and again
			return envelope.ErrUnavailable
		}}
		other := &sessionLogic{catchUp: func(context.Context, string) error { return nil }}
		comet := withOwn(own, other)
		catchUp := func(user string) error {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			return comet.CatchUp(ctx, &envelope.CatchUpRequest{User: user})
		}
		for range 100 {
			if err := catchUp("near"); err != nil || other.calls > 0 {
				t.Fatalf("%v; the other logic was called %d times without a reason", err, other.calls)
			}
		}
		if err := catchUp("far"); !errors.Is(err, envelope.ErrUnavailable) {
			t.Fatalf("the call that finds out: %v", err)
		}
		for i := range 100 {
			for _, user := range []string{"far", "near"} {
				if err := catchUp(user); err != nil {
					t.Fatalf("call %d for %s: %v", i, user, err)
				}
			}
			time.Sleep(time.Second)
		}
		linked = true
		time.Sleep(doubtFor)
		other.calls = 0
		for range 100 {
			if err := catchUp("far"); err != nil || other.calls > 0 {
				t.Fatalf("%v; the other logic was called %d times though the link is back", err, other.calls)
			}
		}
		if comet = withOwn(own); catchUp("far") != nil {
			t.Error("a logic without others is not called")
		}
	})
}

// TestFailureOfAllLogics checks that the logic of a comet's process stays the only one that is called, after a call that no
// other could make either.
func TestFailureOfAllLogics(t *testing.T) {
	unavailable := func(_ context.Context, user string) error {
		if user == "near" {
			return nil
		}
		return envelope.ErrUnavailable
	}
	missing := func() (*envelope.AnnounceReply, error) { return &envelope.AnnounceReply{Partitions: 1}, nil }
	own, other := &sessionLogic{catchUp: unavailable, announce: missing}, &sessionLogic{catchUp: unavailable, announce: missing}
	comet := withOwn(own, other)
	if err := comet.CatchUp(t.Context(), &envelope.CatchUpRequest{User: "far"}); !errors.Is(err, envelope.ErrUnavailable) {
		t.Errorf("catch-up: %v", err)
	}
	if _, err := comet.Announce(t.Context(), &envelope.AnnounceRequest{Partitions: map[uint32]uint32{0: 1}}); err != nil {
		t.Errorf("announce: %v", err)
	}
	if own.calls != 2 || other.calls != 2 {
		t.Errorf("%d calls of the own logic and %d of the other, want 2 and 2", own.calls, other.calls)
	}
	for range 10 {
		if err := comet.CatchUp(t.Context(), &envelope.CatchUpRequest{User: "near"}); err != nil || other.calls > 2 {
			t.Fatalf("%v; the other logic was called %d times without a reason", err, other.calls-2)
		}
	}
}

// TestTimeoutsOfAllLogics checks that the logic of a comet's process, which used up the time of a call, is the only one that
// is called again after the others have not answered in time either.
func TestTimeoutsOfAllLogics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := func(ctx context.Context, user string) error {
			if user == "near" {
				return nil
			}
			<-ctx.Done()
			return envelope.ErrUnavailable
		}
		own, other := &sessionLogic{catchUp: hangs}, &sessionLogic{catchUp: hangs}
		comet := withOwn(own, other)
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			if err := comet.CatchUp(ctx, &envelope.CatchUpRequest{User: "far"}); !errors.Is(err, envelope.ErrUnavailable) {
				t.Error(err)
			}
			cancel()
		}
		other.calls = 0
		for range 10 {
			if err := comet.CatchUp(t.Context(), &envelope.CatchUpRequest{User: "near"}); err != nil || other.calls > 0 {
				t.Fatalf("%v; the other logic was called %d times without a reason", err, other.calls)
			}
		}
	})
}

// TestAnnounceToAllOwners checks that an announcement that did not reach the owners of all sessions goes to one more logic,
// and that the comet learns what both of them know.
func TestAnnounceToAllOwners(t *testing.T) {
	type epochs map[uint32]uint64
	for _, test := range []struct {
		name   string
		own    epochs
		others []epochs // nil: unavailable
		want   epochs
		calls  int // of the others
	}{
		{"its own reaches all", epochs{1: 5, 2: 6}, []epochs{{}}, epochs{1: 5, 2: 6}, 0},
		{"its own does not", epochs{1: 5}, []epochs{{1: 5, 2: 6}}, epochs{1: 5, 2: 6}, 1},
		{"each reaches one", epochs{1: 5}, []epochs{{2: 6}}, epochs{1: 5, 2: 6}, 1},
		{"an owner is away", epochs{1: 5}, []epochs{{1: 5}, {1: 5}}, epochs{1: 5}, 1},
		{"the other is away", epochs{1: 5}, []epochs{nil}, epochs{1: 5}, 1},
		{"one of the others is away", epochs{1: 5}, []epochs{nil, {2: 6}}, epochs{1: 5, 2: 6}, 2},
		{"no other", epochs{1: 5}, nil, epochs{1: 5}, 0},
	} {
		logic := func(e epochs) *sessionLogic {
			return &sessionLogic{announce: func() (*envelope.AnnounceReply, error) {
				if e == nil {
					return nil, envelope.ErrUnavailable
				}
				return &envelope.AnnounceReply{Epochs: e, Partitions: 8}, nil
			}}
		}
		var others []rpc.Logic
		for i := range test.others { // the second one is asked first
			others = append(others, logic(test.others[(i+len(test.others)-1)%len(test.others)]))
		}
		reply, err := withOwn(logic(test.own), others...).Announce(t.Context(), &envelope.AnnounceRequest{
			Comet: "c", Partitions: map[uint32]uint32{1: 3, 2: 4, 3: 0, 9: 1}, // no router has partition 9
		})
		calls := 0
		for _, l := range others {
			calls += l.(*sessionLogic).calls
		}
		if err != nil || !maps.Equal(epochs(reply.GetEpochs()), test.want) || calls != test.calls {
			t.Errorf("%s: %v, %v after %d calls of other logics, want %v after %d", test.name, reply.GetEpochs(), err, calls, test.want, test.calls)
		}
	}
}

// TestStaleLogics checks which logics comets call, while some cannot read the tokens topic: those that can if there are any,
// and that the logic of a comet's own process is no exception.
func TestStaleLogics(t *testing.T) {
	node := func(name string) members.Node {
		meta := &envelope.NodeMeta{Roles: []string{config.RoleRouter, config.RoleLogic, config.RoleComet}}
		name, state, _ := strings.Cut(name, " ")
		meta.StaleTokens, meta.Leaving = strings.Contains(state, "stale"), strings.Contains(state, "leaving")
		return members.Node{Name: name, Meta: meta}
	}
	for _, test := range []struct {
		nodes     []string
		available []string
		own       bool // the logic of node a serves the comet of node a
	}{
		{[]string{"a", "b"}, []string{"a", "b"}, true},
		{[]string{"a stale"}, []string{"a"}, true},
		{[]string{"a stale", "b"}, []string{"b"}, false},
		{[]string{"a", "b stale"}, []string{"a"}, true},
		{[]string{"a stale", "b stale"}, []string{"a", "b"}, true},
		{[]string{"a stale", "b leaving"}, []string{"a", "b"}, true},
		{[]string{"a leaving", "b"}, []string{"b"}, true},
		{[]string{"a leaving stale", "b"}, []string{"b"}, false},
	} {
		var nodes []members.Node
		for _, name := range test.nodes {
			nodes = append(nodes, node(name))
		}
		var names []string
		logics := available(nodes, config.RoleLogic)
		for _, n := range logics {
			names = append(names, n.Name)
		}
		if !slices.Equal(names, test.available) {
			t.Errorf("%v: the logics %v are available, want %v", test.nodes, names, test.available)
		}
		if routers := available(nodes, config.RoleRouter); len(routers) == 0 || slices.Contains(test.nodes, "a stale") && routers[0].Name != "a" {
			t.Errorf("%v: the routers %v are available; none needs the tokens topic", test.nodes, routers)
		}
		ok := func(context.Context) (*envelope.PartsReply, error) { return &envelope.PartsReply{}, nil }
		own, other := &partsLogic{ack: ok}, &partsLogic{ack: ok}
		c, remote := &cluster{}, &remoteRoles{logic: own}
		remote.state.Store(&clusterState{logics: []rpc.Logic{other}, logicReplaced: replaced("a", nodes, logics)})
		c.remote.Store(remote)
		if _, err := rpc.AnyLogic(remoteLogics{c}.try).Ack(t.Context(), &envelope.AckRequest{}); err != nil || (own.calls == 1) != test.own {
			t.Errorf("%v: own logic called: %t, want %t; %v", test.nodes, own.calls == 1, test.own, err)
		}
	}
}

func TestStarts(t *testing.T) {
	node := func(name, addr string, start int64) members.Node {
		return members.Node{Name: name, Meta: &envelope.NodeMeta{Rpc: addr, StartMs: start}}
	}
	got := starts([]members.Node{
		node("own", "1", 5), node("a", "2", 6), node("b", "3", 9), node("c", "3", 8),
	}, "own")
	if want := map[string]int64{"2": 6, "3": 9}; !maps.Equal(got, want) {
		t.Errorf("the starts are %v, want %v", got, want)
	}
}
