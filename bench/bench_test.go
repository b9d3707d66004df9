//go:build linux

package bench_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"imgo/bench"
	"imgo/cluster/bus/kafkatest"
	"imgo/internal/process"
)

// app returns the part of the imgo command that is tested.
func app(stdout, stderr io.Writer) *cli.App {
	return &cli.App{
		Name: "imgo", Commands: []*cli.Command{bench.Command()}, Writer: stdout, ErrWriter: stderr,
		ExitErrHandler: func(*cli.Context, error) {},
	}
}

// TestMain lets the test binary also run as the bench's child processes.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "bench" && os.Args[2] == "child" {
		if err := app(os.Stdout, os.Stderr).Run(os.Args); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func build(t *testing.T) string {
	t.Helper()
	// The measured imgo has no race detector: with it, the test takes ten times the CPU time. Package soak
	// and test/e2e look for races in processes under load.
	imgo, err := process.Build(t.Context(), t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	return imgo
}

// report is the part of the JSON report that the tests read.
type report struct {
	Figures []struct {
		Scenario, Name string
		Median         float64
		Runs           []float64
	}
	Targets []struct {
		Target string
		Runs   int
	}
	Notes []string
}

// TestSmoke runs every scenario on a small scale against a real imgo.
func TestSmoke(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts imgo")
	}
	imgo := build(t)
	dir, out := t.TempDir(), t.TempDir()
	var stdout, stderr bytes.Buffer
	err := app(&stdout, &stderr).RunContext(t.Context(), []string{
		"imgo", "bench", "--imgo", imgo, "--runs", "1", "--duration", "200ms", "--conns", "60", "--users", "40", "--callers", "4", "--rate", "50",
		"--replayed", "50", "--stalled", "20", "--stall", "500ms", "--scenarios", strings.Join(allScenarios, ","),
		"--dir", dir, "--out", out, "--json", filepath.Join(out, "r.json"),
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	data, err := os.ReadFile(filepath.Join(out, "r.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range r.Figures {
		got[f.Scenario+"/"+f.Name] = f.Median
	}
	for _, note := range r.Notes {
		t.Log(note)
	}
	wanted := []string{
		"start/the first push is delivered", "latency/kept, push to receipt, p99", "latency/not kept, push to receipt, p50",
		"latency/one write and fdatasync of 256 bytes, p50", "latency/bare HTTP server, push to answer, p50",
		"throughput/not kept, accepted", "throughput/kept, accepted", "throughput/bare HTTP server, accepted",
		"idle-tcp/server CPU a connect, with auth", "idle-ws/connected a second, with auth", "idle-tls/connected a second, with auth",
		"idle-wss/connected a second, with auth", "broadcast-tcp/deliveries", "broadcast-ws/deliveries", "broadcast-tls/deliveries",
		"broadcast-no-uring/server CPU a delivery",
		"broadcast-wss/deliveries", "broadcast-tcp/plain write(2), CPU a delivery", "broadcast-tcp/GC pause, p99.9", "broadcast-tcp/a bare Go " +
			"process, GC pause, p99.9", "broadcast-tcp/GC pause with GOMAXPROCS=1, p99.9",
		"max/deliveries without a loss", "max/two raw writer threads, deliveries", "sizes/the dearest over the cheapest", "sizes/the dearest " +
			"over the cheapest, each over its limit",
		"idle-tcp/accept, read and write alone, CPU a connect", "idle-ws/accept, read and write alone, CPU a connect",
		"replay/accept, read and write the same alone, auth to the last message, p50", "sizes/plain write(2), the dearest over the cheapest",
		"max/messages a read of the clients", "room/push to receipt, p50", "replay/auth to the last message, p50", "replay/server CPU a replay",
		"storm/tcp, all are in after", "storm/ws, to be let in, p99", "stalled/p99 of reading clients, with stalled over without",
		"window/server CPU a message", "max-window/deliveries without a loss",
	}
	for _, want := range wanted {
		if got[want] <= 0 {
			t.Errorf("%s was not measured: %g", want, got[want])
		}
	}
	for _, tt := range r.Targets {
		if tt.Runs == 0 {
			t.Errorf("target %s was not measured", tt.Target)
		}
	}
	if len(r.Targets) < 15 {
		t.Errorf("%d targets were judged", len(r.Targets))
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%d things are left in the temporary directory, %v", len(left), err)
	}
	files, err := filepath.Glob(filepath.Join(out, "*-*"))
	if err != nil {
		t.Fatal(err)
	}
	var suffixes []string
	for _, name := range files {
		suffixes = append(suffixes, filepath.Ext(name))
		if filepath.Ext(name) == ".svg" {
			wellFormed(t, name)
		}
	}
	for _, want := range []string{".txt", ".json", ".svg"} {
		if !slices.Contains(suffixes, want) {
			t.Errorf("no %s among %v", want, files)
		}
	}
	for _, want := range []string{"\nbroadcast-ws\n", "\nTargets\n", "reached?"} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("the table has no %q:\n%s", want, stdout.String())
		}
	}
}

// TestScaleSmoke runs the scale scenario with a small cluster on a fake Kafka.
func TestScaleSmoke(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts imgo")
	}
	kafka, err := kafkatest.Start(kafkatest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer kafka.Close()
	dir := t.TempDir()
	var stdout, stderr bytes.Buffer
	err = app(&stdout, &stderr).RunContext(t.Context(), []string{
		"imgo", "bench", "--imgo", build(t), "--runs", "1", "--duration", "100ms", "--scenarios", "scale", "--kafka", kafka.Brokers()[0],
		"--comets", "2", "--per-comet", "30", "--dir", dir, "--json", "-",
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	var r report
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	measured := map[string]bool{}
	for _, f := range r.Figures {
		measured[f.Name] = f.Median > 0
	}
	for _, want := range []string{
		"2 comets, 60 connections, CPU of all nodes, a delivery", "1 comets, 30 connections, one broadcast reaches everyone, p50",
		"all come back: everyone is in after",
	} {
		if !measured[want] {
			t.Errorf("%q was not measured: %v", want, measured)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%d things are left in the temporary directory, %v", len(left), err)
	}
}

var allScenarios = []string{
	"idle-tcp", "idle-ws", "broadcast-tcp", "broadcast-ws", "broadcast-no-uring", "window", "max", "max-window", "sizes", "room", "latency",
	"throughput", "events", "replay", "storm", "start", "stalled", "idle-tls", "idle-wss", "broadcast-tls", "broadcast-wss",
}

// TestHelpNamesAll checks that TestSmoke runs every scenario that the help lists.
func TestHelpNamesAll(t *testing.T) {
	var stdout bytes.Buffer
	if err := app(&stdout, io.Discard).Run([]string{"imgo", "bench", "--help"}); err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(stdout.String(), "Scenarios:\n")
	list, _, _ = strings.Cut(list, "\n\n")
	var named []string
	for line := range strings.Lines(list) {
		if f := strings.Fields(line); len(f) > 1 {
			named = append(named, f[0])
		}
	}
	for _, name := range named {
		if !slices.Contains(allScenarios, name) && name != "scale" {
			t.Errorf("the smoke test does not run %s", name)
		}
	}
	if len(named) < len(allScenarios) {
		t.Errorf("the help names %v", named)
	}
}

func wellFormed(t *testing.T, name string) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for d := xml.NewDecoder(f); ; {
		if _, err := d.Token(); err == io.EOF {
			return
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
	}
}

func TestOptionsRefused(t *testing.T) {
	for _, args := range [][]string{{"--runs", "0"}, {"--scenarios", "nothing"}, {"--duration", "1ms"}, {"more"}, {"child", "nothing"},
		{"--comets", "201"}, {"--imgo", "/no/such", "--scenarios", "room"}} {
		err := app(io.Discard, io.Discard).Run(append([]string{"imgo", "bench"}, args...))
		var coded interface{ ExitCode() int }
		if err == nil || args[0] != "--imgo" && (!errors.As(err, &coded) || coded.ExitCode() != 64) {
			t.Errorf("%q: %v", args, err)
		}
	}
}
