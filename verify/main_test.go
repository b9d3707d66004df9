package verify_test

import (
	"bytes"
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"imgo/config"
	"imgo/roles"
	"imgo/verify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a whole node in this process until the test ends, on free ports and with its own
// directory. Intervals that take seconds by default are shorter here.
func start(t *testing.T, seeded roles.Faults, change func(*config.Config)) *roles.Node {
	t.Helper()
	n, _ := startUntil(t, seeded, change)
	return n
}

// startUntil is like start, but the test may stop the node earlier.
func startUntil(t *testing.T, seeded roles.Faults, change func(*config.Config)) (n *roles.Node, stop func()) {
	t.Helper()
	cfg := config.Default()
	cfg.NodeID = "n1"
	cfg.DataDir = filepath.Join(t.TempDir(), "data")
	cfg.Comet.TCP, cfg.Comet.WS, cfg.HTTP.Listen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Delivery.WatchInterval, cfg.Delivery.WatchAfter = 50*time.Millisecond, 200*time.Millisecond
	cfg.Delivery.CatchUpTimeout, cfg.Delivery.AckInterval = 200*time.Millisecond, 5*time.Millisecond
	cfg.Shutdown.Timeout = testTimeout
	if change != nil {
		change(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	log := &logs{}
	var err error
	n, err = roles.New(t.Context(), cfg, roles.RunOptions{Stderr: log, Version: "test", Faults: seeded})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the node ended with: %v", err)
		}
		if t.Failed() {
			t.Logf("the node's log:\n%s", log)
		}
	})
	t.Cleanup(stop)
	return n, stop
}

// logs collects log lines. It is safe for concurrent use.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// testTimeout bounds every wait. It is far longer than any correct step takes.
const testTimeout = time.Minute

// shortRun returns the settings of a short run against a node. The run ends after an amount of
// work, not after a time, because a push may take seconds on a busy machine.
func shortRun(n *roles.Node) verify.Config {
	cfg := verify.DefaultConfig()
	cfg.API = []string{"http://" + n.HTTPAddr().String()}
	cfg.Users, cfg.Rate, cfg.Callers, cfg.Duration = 20, 200, 16, 0
	cfg.CallTimeout, cfg.ConnectTimeout, cfg.Settle, cfg.Linger = testTimeout, testTimeout, testTimeout, 300*time.Millisecond
	cfg.Churn, cfg.Away = 0, time.Second
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
	running.Go(func() { report, err = v.Run(ctx) })
	func() {
		defer running.Wait()
		defer cancel()
		eventually(t, "deliveries", func() bool { return v.Progress().Received > 50 })
		do(v)
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

// eventually polls cond until it holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(testTimeout); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", testTimeout, what)
		}
	}
}
