package verify_test

import (
	"context"
	"flag"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"imgo/config"
	"imgo/internal/wait/waittest"
	"imgo/roles"
	"imgo/test/harness"
	"imgo/verify"
)

func TestMain(m *testing.M) {
	// The tests wait more than they work, so more of them run at the same time than there are cores.
	_ = flag.Set("test.parallel", "6")
	goleak.VerifyTestMain(m)
}

// start runs a whole node in this process until the test ends. Intervals that take seconds by default
// are shorter here.
func start(t *testing.T, faults roles.Faults, change func(*config.Config)) *harness.Node {
	t.Helper()
	cfg := harness.Settings(t)
	cfg.Auth.Mode = config.Default().Auth.Mode
	cfg.Delivery.WatchInterval, cfg.Delivery.WatchAfter = 50*time.Millisecond, 200*time.Millisecond
	cfg.Delivery.CatchUpTimeout, cfg.Delivery.AckInterval = 200*time.Millisecond, 5*time.Millisecond
	if change != nil {
		change(&cfg)
	}
	return harness.Start(t, cfg, roles.RunOptions{Faults: faults}, nil)
}

// testTimeout bounds every wait. It is far longer than any correct step takes.
const testTimeout = time.Minute

var eventually = waittest.Eventually

// shortRun returns the settings of a short run against a node. The run ends after an amount of
// work, not after a time, because a push may take seconds on a busy machine.
func shortRun(n *harness.Node) verify.Config {
	cfg := verify.DefaultConfig()
	cfg.API = []string{n.Base}
	cfg.Users, cfg.Rate, cfg.Callers, cfg.Duration = 20, 200, 16, 0
	cfg.CallTimeout, cfg.ConnectTimeout, cfg.ArrivalTimeout, cfg.Linger = testTimeout, testTimeout, testTimeout, 300*time.Millisecond
	cfg.Churn, cfg.Away = 0, time.Second
	cfg.NotKept = 0.5 // each run has pushes of both kinds
	return cfg
}

// during runs a verifier, calls do while it pushes, and then ends the run.
func during(t *testing.T, cfg verify.Config, do func(v *verify.Verifier)) *verify.Report {
	t.Helper()
	v, err := verify.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var report *verify.Report
	var running sync.WaitGroup
	running.Go(func() {
		defer cancel() // a run that cannot start ends the wait for it
		report, err = v.Run(ctx)
	})
	func() {
		defer running.Wait()
		defer cancel()
		eventually(t, "deliveries", func() bool { return v.Progress().Received > 50 || ctx.Err() != nil })
		if ctx.Err() == nil {
			do(v)
		}
	}()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", report)
	return report
}

// until runs a verifier until enough returns true.
func until(t *testing.T, cfg verify.Config, enough func(verify.Progress) bool) *verify.Report {
	t.Helper()
	return during(t, cfg, func(v *verify.Verifier) {
		eventually(t, "enough has happened", func() bool { return enough(v.Progress()) })
	})
}

// pushed returns a condition for until: n accepted pushes.
func pushed(n int64) func(verify.Progress) bool {
	return func(p verify.Progress) bool { return p.Accepted >= n }
}
