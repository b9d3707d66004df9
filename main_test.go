package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgo/commands"
	"imgo/config"
	"imgo/roles"
	"imgo/verify"
)

// imgo runs one command line and returns its standard output.
func imgo(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	var out, stderr bytes.Buffer
	err = run(t.Context(), append([]string{"imgo"}, args...), strings.NewReader(""), &out, &stderr)
	if stderr.Len() > 0 {
		t.Logf("stderr: %s", stderr.String())
	}
	return out.String(), err
}

func TestConfigInit(t *testing.T) {
	out, err := imgo(t, "config", "init")
	if err != nil || out != string(config.Example()) {
		t.Errorf("config init printed %d bytes, %v", len(out), err)
	}
	file := filepath.Join(t.TempDir(), "imgo.toml")
	if out, err = imgo(t, "config", "init", file); err != nil || !strings.Contains(out, "imgo --config "+file) {
		t.Errorf("config init FILE: %q, %v", out, err)
	}
	if data, err := os.ReadFile(file); err != nil || !bytes.Equal(data, config.Example()) {
		t.Errorf("the file has %d bytes, %v", len(data), err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file, which will have secrets, is %v, %v", info.Mode(), err)
	}
	if _, err = imgo(t, "config", "init", file); commands.ExitCode(err) != 1 || !strings.Contains(err.Error(), "--force") {
		t.Errorf("a second config init: %v", err)
	}
	if _, err = imgo(t, "config", "init", "--force", file); err != nil {
		t.Errorf("with --force: %v", err)
	}
	if out, err = imgo(t, "config", "check", "--config", file); err != nil || !strings.Contains(out, "good") {
		t.Errorf("config check: %q, %v", out, err)
	}
}

// TestConfigSources reads settings from flags before and after the command, from variables and from
// the file.
func TestConfigSources(t *testing.T) {
	file := filepath.Join(t.TempDir(), "imgo.toml")
	if err := os.WriteFile(file, []byte("data_dir = \"from-file\"\n[comet]\ntcp = \":1\"\nws = \":2\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("IMGO_CONFIG", file)
	t.Setenv("IMGO_TCP", ":3")
	t.Setenv("IMGO_COMET_WS", ":4")
	t.Setenv("IMGO_AUTH_JWT_SECRET", "hush-hush-hush-hush-hush-hush-hush")
	out, err := imgo(t, "--comet-ws", ":5", "config", "show", "--log-level=debug", "--comet-tcp-tls=false", "--auth-close-expired")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`data_dir = "from-file"  # ` + file + ":1\n", `tcp = ":3"  # IMGO_TCP`, `ws = ":5"  # --ws`,
		`level = "debug"  # --log-level`, "tcp_tls = false  # --comet-tcp-tls", "close_expired = true  #", "ws_tls = true\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("config show does not have %q", want)
		}
	}
	if strings.Contains(out, "hush") {
		t.Error("config show shows a secret")
	}
	if t.Failed() {
		t.Log(out)
	}
}

func TestWrongSettingsAndUsage(t *testing.T) {
	file := filepath.Join(t.TempDir(), "imgo.toml")
	if err := os.WriteFile(file, []byte("[comet]\ntpc = \":1\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--http", "0.0.0.0:7172"}, "API key"},
		{[]string{"serve", "--auth-mode", "none"}, "--tcp 127.0.0.1:8080 --ws 127.0.0.1:8090"},
		{[]string{"--config", file}, file + ":2:1: unknown key \"comet.tpc\"; did you mean \"comet.tcp\"?"},
		{[]string{"config", "check", "--config", file}, "2 | tpc = \":1\""},
		{[]string{"config", "check", "--kept-ttl", "soon"}, `--kept-ttl: "soon" is not a duration`},
		{[]string{"--limits-conections", "3"}, "did you mean --limits-connections?"},
		{[]string{"config", "chek"}, "did you mean imgo config check?"},
		{[]string{"psh"}, "did you mean imgo push?"},
		{[]string{"config", "check", file}, `unexpected argument "` + file + `"; name the file with --config ` + file},
		{[]string{"config", "show", file}, `unexpected argument "` + file + `"; name the file with --config ` + file},
		{[]string{"serve", file}, `unexpected argument "` + file + `"; name the file with --config ` + file},
		{[]string{"config", "init", "a", "b"}, "unexpected argument \"b\"; name one file at most"},
	} {
		_, err := imgo(t, test.args...)
		code := commands.ExitConfig
		if strings.Contains(test.want, "unexpected argument") ||
			strings.Contains(test.want, "did you mean") && !strings.Contains(test.want, "unknown key") {
			code = commands.ExitUsage
		}
		if commands.ExitCode(err) != code || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: exit code %d, %v, want %d and %q", test.args, commands.ExitCode(err), err, code, test.want)
		}
	}
}

func TestHelp(t *testing.T) {
	short, err := imgo(t, "--help")
	if err != nil {
		t.Fatal(err)
	}
	for _, flag := range []string{"--roles", "--config", "--data-dir", "--node-id", "--tcp", "--ws", "--http", "--log-level", "--log-format"} {
		if !strings.Contains(short, flag+" ") {
			t.Errorf("imgo --help does not show %s", flag)
		}
	}
	if strings.Contains(short, "--kept-ttl") {
		t.Error("imgo --help shows everything")
	}
	full, err := imgo(t, "serve", "--help")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range config.Keys() {
		if !strings.Contains(full, "--"+key.Flags[0]+" ") || !strings.Contains(full, "$"+key.Envs[0]) {
			t.Errorf("imgo serve --help does not show --%s and %s", key.Flags[0], key.Envs[0])
		}
	}
}

// TestProgram checks that the banner's examples name the program as a shell finds it.
func TestProgram(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	here, empty := t.TempDir(), t.TempDir()
	if err := os.Symlink(self, filepath.Join(here, "imgo")); err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "imgo"), []byte("#!/bin/sh\n"), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	for path, want := range map[string]string{here: "imgo", empty: "./imgo", other: "./imgo"} {
		t.Setenv("PATH", path)
		if got := program("./imgo"); got != want {
			t.Errorf("with PATH=%s the program is %q, want %q", path, got, want)
		}
	}
}

// TestServesUntilTheContextEnds runs the whole server for a short time.
func TestServesUntilTheContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	result := make(chan error, 1)
	var out, stderr bytes.Buffer
	go func() {
		result <- run(ctx, []string{
			"imgo", "--data-dir", filepath.Join(t.TempDir(), "data"), "--tcp", "127.0.0.1:0", "--ws", "127.0.0.1:0", "--http", "127.0.0.1:0",
		}, strings.NewReader(""), &out, &stderr)
	}()
	cancel()
	if err := <-result; err != nil {
		t.Errorf("run: %v\n%s", err, stderr.String())
	}
}

// TestVerify runs imgo verify against the server, with output for an operator and with JSON output
// for a program.
func TestVerify(t *testing.T) {
	cfg := config.Default()
	cfg.DataDir = filepath.Join(t.TempDir(), "data")
	cfg.Comet.TCP, cfg.Comet.WS, cfg.HTTP.Listen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	node, err := roles.New(t.Context(), cfg, roles.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- node.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	args := []string{"verify", "--server", node.HTTPAddr().String(), "--users", "5", "--duration", "300ms", "--settle", "20s"}
	out, err := imgo(t, args...)
	if commands.ExitCode(err) != commands.ExitDone || !strings.Contains(out, "\nOK ") {
		t.Errorf("exit code %d, %v:\n%s", commands.ExitCode(err), err, out)
	}
	// With a bound of one nanosecond every message is late, and imgo verify must report it.
	for _, form := range []string{"--json=false", "--json"} {
		out, err = imgo(t, append(args, "--late", "1ns", "--late-fails", form)...)
		if commands.ExitCode(err) != commands.ExitFailed || !strings.Contains(err.Error(), "violations") {
			t.Errorf("%s: exit code %d, %v", form, commands.ExitCode(err), err)
		}
		if form != "--json" && (!strings.Contains(out, "VIOLATION    late: ") || !strings.Contains(out, "first        late: push ")) {
			t.Errorf("the report is\n%s", out)
		}
	}
	var report verify.Report
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	if report.OK || report.Users != 5 || report.Violations["late"] != report.Deliveries.Late || report.First == nil ||
		report.First.Accepted == nil ||
		report.Deliveries.P50 <= 0 || report.Deliveries.P50 > report.Deliveries.P99 || report.Deliveries.P99 > report.Deliveries.Max {
		t.Errorf("the report is %s", out)
	}
}
