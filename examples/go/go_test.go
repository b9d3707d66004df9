// Package go_test runs the examples and the quick start for Go beside a real imgo. The quick start uses the packed
// client, in a project outside of this repository.
package go_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"imgo/bench/process"
	"imgo/internal/race"
	"imgo/internal/wait/waittest"
	"imgo/test/hooktest"
)

// maxLines is the most that a reader of an example should have to read.
const maxLines = 60

var built struct {
	once      sync.Once
	dir, path string
	err       error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// server is a real imgo, which keeps its addresses and data when it is killed and started again.
type server struct {
	t         *testing.T
	http, tcp string // host:port
	process   *process.Process
}

// startServer starts imgo with an empty data folder. It ends with the test. flags are more flags.
func startServer(t *testing.T, flags ...string) *server {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "imgo-built-"); built.err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), 2*waittest.Limit)
			defer cancel()
			built.path, built.err = process.Build(ctx, built.dir, race.Enabled)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	dir := t.TempDir()
	s := &server{t: t, http: free(t), tcp: free(t)}
	s.process = &process.Process{Binary: built.path, Name: "imgo", HTTP: s.http, Log: filepath.Join(dir, "log"), Args: append([]string{
		"--tcp", s.tcp, "--ws", "127.0.0.1:0", "--http", s.http, "--data-dir", filepath.Join(dir, "data"), "--log-format", "json"}, flags...)}
	s.start()
	t.Cleanup(func() {
		if err := s.process.Kill(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the log of imgo:\n%s", s.process.Tail(4000))
		}
	})
	return s
}

func (s *server) start() {
	s.t.Helper()
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	if err := s.process.Ready(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// kill kills the server (SIGKILL).
func (s *server) kill() {
	s.t.Helper()
	if err := s.process.Kill(); err != nil {
		s.t.Fatal(err)
	}
}

// real replaces the addresses of the documents by those of this test.
func (s *server) real(text, backend string) string {
	return strings.NewReplacer("127.0.0.1:7172", s.http, "127.0.0.1:8080", s.tcp,
		"127.0.0.1:3000", backend, "127.0.0.1:3001", backend).Replace(text)
}

// untilUser waits until the server says something of a user.
func (s *server) untilUser(user, what string) {
	s.t.Helper()
	waittest.Eventually(s.t, user+" has "+what, func() bool {
		response, err := http.Get("http://" + s.http + "/v1/users/" + user)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		return err == nil && strings.Contains(string(text), what)
	})
}

// free returns an address of this machine that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// program is a running program. Its standard output and standard error go to out.
type program struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *waittest.Log
	err chan error
}

func start(t *testing.T, dir, name string, args ...string) *program {
	t.Helper()
	p := &program{t: t, cmd: exec.CommandContext(t.Context(), name, args...), out: &waittest.Log{}, err: make(chan error, 1)}
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, p.out, p.out
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.err <- p.cmd.Wait() }()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s printed:\n%s", filepath.Base(name), p.out)
		}
	})
	return p
}

func (p *program) waitFor(text string) {
	p.t.Helper()
	waittest.Eventually(p.t, fmt.Sprintf("%s prints %q", filepath.Base(p.cmd.Path), text), func() bool { return p.out.Count(text) > 0 })
}

// interrupt ends the program as Ctrl-C does.
func (p *program) interrupt() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		p.t.Fatal(err)
	}
	p.wait()
}

func (p *program) wait() {
	p.t.Helper()
	if err := <-p.err; err != nil {
		p.t.Errorf("%s ended with: %v", filepath.Base(p.cmd.Path), err)
	}
}

// run runs a command to its end and returns what it prints.
func run(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// block matches a code block of a document: its language and its text.
var block = regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```$")

// blocks returns the code blocks of a language.
func blocks(text, language string) (found []string) {
	for _, m := range block.FindAllStringSubmatch(text, -1) {
		if m[1] == language {
			found = append(found, m[2])
		}
	}
	return found
}

// TestQuickStart follows docs/tutorial/go.md in an empty folder, with the packed client and without a network. The program gets three
// messages that were pushed while it was away, in order and once, through two kills of the server.
func TestQuickStart(t *testing.T) {
	s := startServer(t)
	dist := t.TempDir()
	run(t, ".", nil, "../../clients/go/pack", dist)
	page := s.real(read(t, "../../docs/tutorial/go.md"), "")
	programs, commands := blocks(page, "go"), blocks(page, "sh")
	if len(programs) != 2 || len(commands) != 1 {
		t.Fatalf("the page has %d programs and %d blocks of commands", len(programs), len(commands))
	}
	dir := filepath.Join(t.TempDir(), "hello")
	write(t, filepath.Join(dir, "main.go"), programs[0])
	write(t, filepath.Join(dir, "push", "main.go"), programs[1])
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(commands[0], "/path/to/dist", dist)), "\n")
	if len(lines) != 5 || lines[4] != "./bin/hello" {
		t.Fatalf("the commands are %q", lines)
	}
	// A fresh machine has no modules.
	run(t, dir, []string{"GOMODCACHE=" + filepath.Join(t.TempDir(), "modules"), "GOFLAGS=-modcacherw"},
		"sh", "-e", "-c", strings.ReplaceAll(strings.Join(lines[:4], "\n"), "-mod=mod", `"-mod=mod -modcacherw"`))

	hello, push := filepath.Join(dir, "bin", "hello"), filepath.Join(dir, "bin", "push")
	p := start(t, dir, hello)
	p.waitFor("live")
	run(t, dir, nil, push, "zero")
	p.waitFor(`{"text":"zero"}`)
	p.interrupt()

	s.untilUser("ana", `"online":false`)
	if out := run(t, dir, nil, push, "one", "two", "three"); strings.Count(out, "is kept; ana has 0 sessions") != 3 {
		t.Errorf("push printed %s", out)
	}
	s.kill()
	s.start()
	p = start(t, dir, hello)
	p.waitFor(`{"text":"three"}`)
	s.kill()
	p.waitFor("waiting")
	s.start()
	waittest.Eventually(t, "it is live again", func() bool { return p.out.Count("live") == 2 })
	run(t, dir, nil, push, "four")
	p.waitFor(`{"text":"four"}`)
	p.interrupt()
	p2 := start(t, dir, hello)
	p2.waitFor("live")
	run(t, dir, nil, push, "five")
	p2.waitFor(`{"text":"five"}`)
	p2.interrupt()

	var got []string
	for line := range strings.Lines(p.out.String() + p2.out.String()) {
		if strings.HasPrefix(line, "{") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	want := []string{`{"text":"one"}`, `{"text":"two"}`, `{"text":"three"}`, `{"text":"four"}`, `{"text":"five"}`}
	if !slices.Equal(got, want) {
		t.Errorf("it received %q, want %q", got, want)
	}
}

// build builds the examples for the addresses of this test.
func build(t *testing.T, s *server, backend string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	files, err := filepath.Glob("*/main.go")
	if err != nil || len(files) != 3 {
		t.Fatalf("the examples are %q, %v", files, err)
	}
	overlay := []string{}
	for _, file := range files {
		text := read(t, file)
		if lines := strings.Count(text, "\n"); lines > maxLines {
			t.Errorf("%s has %d lines; an example has at most %d", file, lines, maxLines)
		}
		path, err := filepath.Abs(file)
		if err != nil {
			t.Fatal(err)
		}
		changed := filepath.Join(dir, strings.ReplaceAll(file, "/", "-"))
		write(t, changed, s.real(text, backend))
		overlay = append(overlay, fmt.Sprintf("%q:%q", path, changed))
	}
	write(t, filepath.Join(dir, "overlay.json"), `{"Replace":{`+strings.Join(overlay, ",")+`}}`)
	run(t, ".", nil, "go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", dir+"/", "./backend", "./receiver", "./terminal")
	return dir
}

// TestExamples has two users of the terminal talk to each other, beside the backend. One of them is away for a while, and
// the server is killed.
func TestExamples(t *testing.T) {
	s := startServer(t)
	address := free(t)
	dir := build(t, s, address)
	start(t, dir, filepath.Join(dir, "backend")).waitFor("the backend is at http://" + address)
	say := func(p *program, line string) {
		t.Helper()
		if _, err := fmt.Fprintln(p.in, line); err != nil {
			t.Fatal(err)
		}
	}
	ana := start(t, dir, filepath.Join(dir, "terminal"), "ana")
	ana.waitFor("live ana")
	say(ana, "ben: one")
	say(ana, "ben: two")
	say(ana, "ana: to myself")
	ana.waitFor(`> {"text":"to myself"}`)
	s.untilUser("ben", `"pending":2`)
	ben := start(t, dir, filepath.Join(dir, "terminal"), "ben")
	ben.waitFor(`> {"text":"two"}`)
	s.kill()
	ben.waitFor("waiting")
	say(ana, "ben: lost")
	ana.waitFor("not sent: ")
	s.start()
	waittest.Eventually(t, "ben is live again", func() bool { return ben.out.Count("live ben") == 2 })
	say(ana, "ben: three")
	ben.waitFor(`> {"text":"three"}`)
	ben.interrupt()
	if err := ana.in.Close(); err != nil { // Ctrl-D
		t.Fatal(err)
	}
	ana.wait()
	if got := ben.out.Count("> "); got != 3 {
		t.Errorf("ben got %d messages, want 3", got)
	}
}

// TestReceiver runs the receiver of a hook.
func TestReceiver(t *testing.T) {
	hooktest.Short(t, "receiver/main.go")
	address := free(t)
	url := "http://" + address + "/events"
	s := startServer(t, "--config", hooktest.Settings(t, url))
	dir := build(t, s, address)
	t.Setenv("HOOK_SECRET", hooktest.Secret)
	receiver := start(t, dir, filepath.Join(dir, "receiver"))
	hooktest.Check(t, "http://"+s.http, s.tcp, url, receiver.out.String)
}
