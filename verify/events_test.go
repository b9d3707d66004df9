package verify_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"imgo/config"
	"imgo/internal/settings"
	"imgo/internal/upstream"
	"imgo/internal/wait/waittest"
	"imgo/roles"
	"imgo/roles/job/hooks"
	"imgo/test/harness"
	"imgo/verify"
	"imgo/verify/history"
	"imgo/verify/outcome"
)

const hookSecret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="

// withHook returns settings of a run with events and a hook, and a change of the settings of its node.
func withHook(t *testing.T) (*verify.Events, func(*config.Config)) {
	t.Helper()
	e := verify.DefaultEvents()
	e.Hook, e.HookSecret = waittest.FreeAddress(t), hookSecret
	return e, func(cfg *config.Config) {
		cfg.Hooks = []hooks.Config{{
			Name: verify.HookName, URL: "http://" + e.Hook + "/", Secrets: []string{hookSecret}, Timeout: 500 * time.Millisecond,
			Batch: 5, RetryFor: time.Hour,
		}}
	}
}

// TestEvents judges the events of every kind of device and of push, with a receiver that fails calls, while the server
// starts again.
func TestEvents(t *testing.T) {
	t.Parallel()
	e, hook := withHook(t)
	n := start(t, roles.Faults{}, hook)
	cfg := everything(n)
	cfg.Events = e
	cfg.Rate, cfg.CallTimeout = 100, 10*time.Second
	report := during(t, cfg, func(v *verify.Verifier) {
		again := n.SameAddresses()
		if err := n.Stop(); err != nil {
			t.Fatal(err)
		}
		harness.Start(t, again, roles.RunOptions{}, nil)
		accepted := v.Progress().Accepted
		eventually(t, "many events", func() bool {
			p := v.Progress()
			return p.Accepted > accepted+200 && p.Events > 500
		})
	})
	if !report.OK {
		t.Error("the run is not OK")
	}
	wellUsed(t, report)
	c := report.Events
	if len(c.Streams) != 2 || c.Streams[0].Received < 500 || c.Streams[0].Repeated != 0 || c.Asked == 0 {
		t.Fatalf("the events are %+v", c)
	}
	if f, h := c.Streams[0], c.Streams[1]; f.Received != h.Received-h.Repeated {
		t.Errorf("%d events by GET /v1/events, %d by the hook", f.Received, h.Received-h.Repeated)
	}
	if h := c.Hook; h.Calls == 0 || h.Failed+h.Throttled+h.Slow+h.Mute+h.Away == 0 {
		t.Errorf("the receiver did not fail: %+v", h)
	}
}

// TestEventsJudgeCanFail falsifies the events of a correct server. The run must find each false record.
func TestEventsJudgeCanFail(t *testing.T) {
	t.Parallel()
	n := start(t, roles.Faults{}, nil)
	for falsify, kind := range map[verify.Falsify]history.Kind{
		verify.FalsifyEventLose: outcome.KindMissing, verify.FalsifyEventRepeat: outcome.KindTwice,
		verify.FalsifyEventSwap: outcome.KindOrder, verify.FalsifyEventInvent: outcome.KindInvented,
	} {
		t.Run(string(falsify), func(t *testing.T) {
			t.Parallel()
			cfg := shortRun(n)
			cfg.Falsify, cfg.Events = falsify, verify.DefaultEvents()
			if falsify == verify.FalsifyEventLose {
				cfg.ArrivalTimeout = 30 * time.Second // the run waits this long for the lost event, and for deadlines before
			}
			report := until(t, cfg, func(p verify.Progress) bool { return p.Accepted > 300 && p.Events > 300 })
			if report.OK || report.ProblemCount > 0 || report.Violations[kind] == 0 || len(report.Violations) != 1 {
				t.Errorf("violations %v, problems %v; want %q alone", report.Violations, report.Problems, kind)
			}
			if first := report.First; first == nil || first.User == "" || !strings.Contains(first.Detail, "/v1/events") {
				t.Errorf("the first violation lacks details: %+v", first)
			}
		})
	}
}

// TestNoHook runs against a server without the hook. The error says what to configure.
func TestNoHook(t *testing.T) {
	t.Parallel()
	e, _ := withHook(t)
	cfg := shortRun(start(t, roles.Faults{}, nil))
	cfg.Events = e
	v, err := verify.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.Run(t.Context())
	for _, part := range []string{"[[hooks]]", `name = "verify"`, `url = "http://` + e.Hook + `/"`, hookSecret} {
		if !strings.Contains(fmt.Sprint(err), part) {
			t.Errorf("the error does not have %q: %v", part, err)
		}
	}
}

// TestHookOfAnother runs against a server whose hook posts somewhere else. The run must report that.
func TestHookOfAnother(t *testing.T) {
	t.Parallel()
	e, hook := withHook(t)
	cfg := shortRun(start(t, roles.Faults{}, func(cfg *config.Config) {
		hook(cfg)
		cfg.Hooks[0].URL = "http://127.0.0.1:1/"
	}))
	cfg.Events, cfg.ArrivalTimeout = e, 30*time.Second
	report := until(t, cfg, func(p verify.Progress) bool { return p.Events > 100 })
	if report.OK || report.Violations[outcome.KindMissing] == 0 ||
		!strings.Contains(fmt.Sprint(report.Problems), "its url must lead to "+e.Hook) {
		t.Errorf("violations %v, problems %v", report.Violations, report.Problems)
	}
}

// TestUpstream judges the messages for the backend, while devices come and go and the server starts again.
func TestUpstream(t *testing.T) {
	t.Parallel()
	for _, told := range []bool{true, false} {
		t.Run(fmt.Sprintf("told=%t", told), func(t *testing.T) {
			t.Parallel()
			e, hook := withHook(t)
			n := start(t, roles.Faults{}, func(cfg *config.Config) {
				hook(cfg)
				if told {
					cfg.Upstream = []upstream.Rule{settings.Default[upstream.Rule]()}
					cfg.Upstream[0].Ops, cfg.Upstream[0].To = []string{"4"}, upstream.ToEvents
				}
			})
			e.Upstream = true
			cfg := everything(n)
			cfg.Events, cfg.Rate, cfg.CallTimeout = e, 50, 10*time.Second
			if !told {
				cfg.ArrivalTimeout = 20 * time.Second // for deadlines
			}
			report := during(t, cfg, func(v *verify.Verifier) {
				again := n.SameAddresses()
				if err := n.Stop(); err != nil {
					t.Fatal(err)
				}
				harness.Start(t, again, roles.RunOptions{}, nil)
				accepted := v.Progress().Accepted
				eventually(t, "more pushes", func() bool { return v.Progress().Accepted > accepted+100 })
			})
			if report.OK != told || (report.ProblemCount > 0) == told {
				t.Errorf("OK %t, problems %v", report.OK, report.Problems)
			}
		})
	}
}

// TestPresence judges who is told to be online, while devices come and go and the server starts again.
func TestPresence(t *testing.T) {
	t.Parallel()
	for _, told := range []bool{true, false} {
		t.Run(fmt.Sprintf("told=%t", told), func(t *testing.T) {
			t.Parallel()
			e, hook := withHook(t)
			n := start(t, roles.Faults{}, func(cfg *config.Config) {
				hook(cfg)
				cfg.Presence.Events, cfg.Presence.Grace = told, 200*time.Millisecond
			})
			e.Presence = true
			cfg := everything(n)
			cfg.Events, cfg.Rate, cfg.CallTimeout = e, 50, 10*time.Second
			report := during(t, cfg, func(v *verify.Verifier) {
				again := n.SameAddresses()
				if err := n.Stop(); err != nil {
					t.Fatal(err)
				}
				harness.Start(t, again, roles.RunOptions{}, nil)
				accepted := v.Progress().Accepted
				eventually(t, "more pushes", func() bool { return v.Progress().Accepted > accepted+100 })
			})
			if report.OK != told || (report.Violations[outcome.KindPresence] > 0) == told {
				t.Errorf("OK %t, violations %v", report.OK, report.Violations)
			}
		})
	}
}
