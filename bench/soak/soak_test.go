package soak

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"imgo/clients/conformance/driver"
	"imgo/test/programs"
	"imgo/verify"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		programs.CleanUp()
		os.Exit(code)
	}))
}

// number returns the value of an environment variable, or the default. SOAK_SEED=7
// repeats the random choices of a run that reported seed 7.
func number(t *testing.T, name string, def uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return def
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// full reports whether the environment asks for the complete run, as `make soak` does.
func full() bool { return os.Getenv("SOAK") != "" }

// prepare builds the server and sets the folder of the run.
func prepare(t *testing.T, cfg Config) Config {
	t.Helper()
	cfg.Binary, cfg.Dir = programs.Binary(t), t.TempDir()
	if dir := os.Getenv("SOAK_DIR"); dir != "" { // the folder is kept, for the search for a cause
		var err error
		if cfg.Dir, err = os.MkdirTemp(dir, "soak"); err != nil {
			t.Fatal(err)
		}
		t.Logf("data and log are in %s", cfg.Dir)
	}
	cfg.Verify.Seed = number(t, "SOAK_SEED", 1+rand.Uint64N(1_000_000))
	cfg.Verify.Progress = func(p verify.Progress) { t.Log(p) }
	return cfg
}

// TestSoak kills the server again and again under load. No accepted message may be
// lost, repeated or out of order. SOAK=1 (`make soak`) selects the complete run, and
// SOAK_KILLS sets the number of kills. The test runs once with epoll and once with a
// goroutine for each connection.
func TestSoak(t *testing.T) {
	if !full() {
		t.Parallel()
	}
	for name, goroutines := range map[string]bool{"epoll": false, "goroutines": true} {
		t.Run(name, func(t *testing.T) {
			cfg := Full()
			if !full() {
				t.Parallel()
				cfg = Short()
			}
			cfg.Goroutines = goroutines
			check(t, prepare(t, cfg))
		})
	}
}

// TestDrivers kills the server ten times while the devices are client libraries of every language, 20 of each. To each
// of them every message comes once and in order.
func TestDrivers(t *testing.T) {
	if !full() {
		t.Parallel()
	}
	const of = 20
	cfg := Short()
	v := &cfg.Verify
	for _, l := range driver.Languages() {
		if err := l.Missing(); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Log(err)
			continue
		}
		command, err := l.Build(t.Context(), "../../clients", t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		v.Drivers = append(v.Drivers, command)
	}
	v.Kinds = []verify.DeviceKind{verify.DeviceDriver}
	v.Devices, v.Users = 2, len(v.Drivers)*of/2
	v.Slow, v.Lazy, v.Rate = 0, 0, 200 // a driver handles and acknowledges by itself
	cfg.Kills, cfg.Terms, cfg.Limit = 10, 1, 3*time.Minute
	check(t, prepare(t, cfg))
}

// check makes a run and expects that it is complete and finds nothing.
func check(t *testing.T, cfg Config) {
	t.Helper()
	if kills := number(t, "SOAK_KILLS", 0); kills > 0 {
		cfg.Limit = cfg.Limit * time.Duration(max(int(kills), cfg.Kills)) / time.Duration(cfg.Kills)
		cfg.Terms = cfg.Terms * int(kills) / cfg.Kills
		cfg.Kills = int(kills)
	}
	report, err := Run(t.Context(), cfg)
	t.Logf("\n%s", report)
	if err != nil {
		t.Fatalf("seed %d: %v", cfg.Verify.Seed, err)
	}
	if report.Verify.Pushes.Accepted == 0 || report.Verify.Deliveries.Received == 0 {
		t.Error("nothing was pushed")
	}
	if report.Kills != cfg.Kills || report.Terms != cfg.Terms {
		t.Errorf("%d kills and %d restarts, want %d and %d", report.Kills, report.Terms, cfg.Kills, cfg.Terms)
	}
}
