package logic_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/roles/logic"
	"imgo/roles/logic/auth"
)

func TestNewRefusesBadSettings(t *testing.T) {
	w := newWorld(t)
	for want, change := range map[string]func(*logic.Config, *logic.Deps){
		"at least 32":            func(c *logic.Config, _ *logic.Deps) { c.Auth.Secret = "short" },
		"user_claim":             func(c *logic.Config, _ *logic.Deps) { c.Auth.Secret, c.Auth.UserClaim = secret, "" },
		"is not https":           func(c *logic.Config, _ *logic.Deps) { c.Auth.JWKSURL = "http://id.example.com/jwks" },
		"no such file":           func(c *logic.Config, _ *logic.Deps) { c.Auth.PublicKeyFile = "/nowhere/key.pem" },
		"Deps.Routers":           func(_ *logic.Config, d *logic.Deps) { d.Routers = nil },
		"Deps.Tokens":            func(_ *logic.Config, d *logic.Deps) { d.Tokens = nil },
		"routers have 9":         func(_ *logic.Config, d *logic.Deps) { d.Routers = &fakeRouters{partitions: 9} },
		"the live log has 0":     func(_ *logic.Config, d *logic.Deps) { d.Live = &fakeLog{} },
		"register logic's metri": func(_ *logic.Config, d *logic.Deps) { d.Metrics = takenRegistry(t) },
	} {
		cfg, deps := logic.DefaultConfig(), w.deps()
		change(&cfg, &deps)
		if _, err := logic.New(cfg, deps); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// takenRegistry returns a registry that has a metric of logic's already.
func takenRegistry(t *testing.T) prometheus.Registerer {
	reg := prometheus.NewRegistry()
	if err := reg.Register(prometheus.NewCounter(prometheus.CounterOpts{Name: "imgo_logic_kicks_total", Help: "another"})); err != nil {
		t.Fatal(err)
	}
	return reg
}

func TestRunDrains(t *testing.T) {
	w := newWorld(t)
	if err := w.Ready(); !errors.Is(err, envelope.ErrNotReady) {
		t.Errorf("ready before Run: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- w.Run(ctx) }()
	eventually(t, "ready", func() bool { return w.Ready() == nil })
	if err := w.Run(t.Context()); err == nil {
		t.Error("ran twice")
	}

	entered, leave := make(chan struct{}), make(chan struct{})
	w.owner("ann").user = func(context.Context, *envelope.UserRequest) (*envelope.UserReply, error) {
		close(entered)
		<-leave
		return &envelope.UserReply{}, nil
	}
	asked := make(chan error, 1)
	go func() {
		_, err := w.User(context.WithoutCancel(ctx), "ann")
		asked <- err
	}()
	<-entered
	cancel()
	eventually(t, "stopping", func() bool { return w.Ready() != nil })
	if _, err := w.Push(t.Context(), &logic.PushCommand{Op: 5, All: true}); !errors.Is(err, envelope.ErrUnavailable) {
		t.Errorf("new work while stopping: %v", err)
	}
	select {
	case <-ran:
		t.Error("Run did not wait for what was under way")
	default:
	}
	close(leave)
	if err := <-asked; err != nil {
		t.Errorf("what was under way ended with %v", err)
	}
	if err := <-ran; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestReadyNeedsOwners(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- w.Run(ctx) }()
	defer func() { cancel(); <-ran }()
	eventually(t, "ready", func() bool { return w.Ready() == nil })
	w.routers.owner = func(p int32) (logic.Router, error) {
		if p == 5 {
			return nil, envelope.ErrUnavailable
		}
		return w.routers.routers[0], nil
	}
	if err := w.Ready(); err == nil || !strings.Contains(err.Error(), "partition 5") {
		t.Errorf("got %v", err)
	}
}

// A call ends by itself even if no router answers and the caller does not cancel.
func TestCallsHaveADeadline(t *testing.T) {
	w := newWorld(t, func(c *logic.Config, _ *world) { c.CallTimeout = 30 * time.Millisecond })
	w.owner("ann").user = func(ctx context.Context, _ *envelope.UserRequest) (*envelope.UserReply, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if _, err := w.User(context.Background(), "ann"); !errors.Is(err, envelope.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

// What happens to a user again and again is one event with a count, so that it does not drive out the others.
func TestNoticesOfOneUserAreOne(t *testing.T) {
	w := newWorld(t)
	w.Report("other", "bob", 0, "")
	for i := range 1500 {
		w.Report("mailbox_dropped", "ann", 2, fmt.Sprint("detail ", i))
	}
	w.Report("mailbox_dropped", "bob", 1, "")
	all := w.Notices(0, 0)
	if len(all) != 3 || all[0].Kind != "other" || all[1].User != "ann" || all[1].Count != 3000 || all[1].Detail != "detail 1499" ||
		all[2].User != "bob" || all[2].Count != 1 || all[2].Seq != all[0].Seq+1501 {
		t.Fatalf("events %+v", all)
	}
	w.Report("mailbox_dropped", "ann", 1, "")
	if got := w.Notices(all[2].Seq, 0); len(got) != 1 || got[0].Count != 3001 {
		t.Errorf("a caller that asks for later ones gets %+v", got)
	}
	w.clock.Add(2 * time.Hour)
	w.Report("mailbox_dropped", "ann", 1, "")
	if got := w.Notices(0, 0); len(got) != 4 || got[3].Count != 1 {
		t.Errorf("hours later: %+v", got)
	}
}

func TestNotices(t *testing.T) {
	w := newWorld(t)
	for range 1500 {
		w.Report("mailbox_dropped", "ann", 0, strings.Repeat("d", 1000))
	}
	all := w.Notices(0, 0)
	if len(all) != 1000 || len(all[0].Detail) > 512 || all[0].User != "ann" || all[0].TimeMS == 0 {
		t.Fatalf("%d events, first %+v", len(all), all[0])
	}
	for i := range all[1:] {
		if all[i+1].Seq != all[i].Seq+1 {
			t.Fatalf("events %d and %d", all[i].Seq, all[i+1].Seq)
		}
	}
	if got := w.Notices(all[500].Seq, 3); len(got) != 3 || got[0].Seq != all[501].Seq {
		t.Errorf("after: %+v", got)
	}
	last := all[999].Seq
	if got := w.Notices(last, 10); got == nil || len(got) != 0 {
		t.Errorf("after the last: %+v", got)
	}
	// The numbers of a logic that starts later are larger.
	w.clock.Add(time.Hour)
	next, err := logic.New(logic.DefaultConfig(), w.deps())
	if err != nil {
		t.Fatal(err)
	}
	next.Report("other", "", 0, "")
	if got := next.Notices(last, 10); len(got) != 1 {
		t.Errorf("after a restart: %+v", got)
	}
}

func TestMetrics(t *testing.T) {
	w := newWorld(t)
	reg := prometheus.NewRegistry()
	deps := w.deps()
	deps.Metrics, deps.Log = reg, zerolog.Nop()
	cfg := logic.DefaultConfig()
	cfg.Auth.Mode = auth.ModeNone
	l, err := logic.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Push(t.Context(), &logic.PushCommand{Op: 5, Users: []string{"ann"}, Kept: true}); err != nil {
		t.Fatal(err)
	}
	_, _ = l.Push(t.Context(), &logic.PushCommand{Op: 4, Users: []string{"ann"}}) // to be counted as invalid
	_, _ = l.Push(t.Context(), &logic.PushCommand{Op: 5, Keys: []string{}})       // likewise
	_, _ = l.Connect(t.Context(), connectRequest(""))                             // unauthorized
	_, _ = l.Connect(t.Context(), connectRequest("ann"))                          // accepted
	_, _ = l.Ack(t.Context(), &envelope.AckRequest{Acks: []*envelope.Ack{{User: "ann", Ids: []uint64{1, 2}}}})
	l.Report("mailbox_dropped", "ann", 1, "")
	for what, want := range map[string]float64{
		"imgo_logic_acks_total accepted":             2,
		"imgo_logic_connects_total accepted":         1,
		"imgo_logic_connects_total unauthorized":     1,
		"imgo_logic_notices_total mailbox_dropped":   1,
		"imgo_logic_pushes_total kept accepted":      1,
		"imgo_logic_pushes_total none invalid":       1,
		"imgo_logic_pushes_total users invalid":      1,
		"imgo_logic_push_seconds true":               1,
		"imgo_logic_auth_seconds":                    2,
		"imgo_logic_catch_ups_total unauthorized":    0,
		"imgo_logic_unlooked_users_total":            0,
		"imgo_logic_key_reloads_total changed":       0,
		"imgo_logic_pushes_total users unauthorized": 0,
	} {
		if got := gather(t, reg)[what]; got != want {
			t.Errorf("%s is %v, want %v", what, got, want)
		}
	}
}

// gather returns every counter, and every histogram's count, by name and labels.
func gather(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			// Labels come in the order of their names: kind, outcome.
			for _, label := range m.GetLabel() {
				name += " " + label.GetValue()
			}
			all[name] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return all
}
