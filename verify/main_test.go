package verify_test

import (
	"bytes"
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"imgo/roles"
	"imgo/verify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a whole node in this process, on free ports and a folder of its
// own, until the test ends. What takes seconds by default takes less here.
func start(t *testing.T, seeded roles.Seeded, change func(*roles.Config)) *roles.Node {
	t.Helper()
	n, _ := startUntil(t, seeded, change)
	return n
}

// startUntil is start for a node that may be stopped before.
func startUntil(t *testing.T, seeded roles.Seeded, change func(*roles.Config)) (n *roles.Node, stop func()) {
	t.Helper()
	cfg := roles.Default()
	cfg.NodeID = "n1"
	cfg.DataDir = filepath.Join(t.TempDir(), "data")
	cfg.Comet.TCP, cfg.Comet.WS, cfg.HTTP.Listen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Delivery.WatchInterval.Duration, cfg.Delivery.WatchAfter.Duration = 50*time.Millisecond, 200*time.Millisecond
	cfg.Delivery.CatchUpTimeout.Duration, cfg.Delivery.AckInterval.Duration = 200*time.Millisecond, 5*time.Millisecond
	if change != nil {
		change(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	log := &logs{}
	var err error
	n, err = roles.New(t.Context(), cfg, roles.RunOptions{Stderr: log, Version: "test", Seeded: seeded})
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

// logs is a log. Safe for concurrent use.
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

// few are the settings of a short run against a node.
func few(n *roles.Node) verify.Config {
	cfg := verify.DefaultConfig()
	cfg.API = []string{"http://" + n.HTTPAddr().String()}
	cfg.Users, cfg.Rate, cfg.Duration = 20, 200, 1500*time.Millisecond
	cfg.Settle, cfg.Linger = 30*time.Second, 300*time.Millisecond
	cfg.Churn, cfg.Away = 0, 300*time.Millisecond
	return cfg
}

// run runs it.
func run(t *testing.T, cfg verify.Config) *verify.Report {
	t.Helper()
	v, err := verify.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	report, err := v.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", report)
	return report
}
