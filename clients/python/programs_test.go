package python_test

import (
	"errors"
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
	"time"

	"imgo/bench/process"
	"imgo/internal/race"
	"imgo/internal/wait/waittest"
	"imgo/test/harness"
)

// maxLines is the most that a reader of an example should have to read.
const maxLines = 60

// wheel is what clients/python/pack writes.
const wheel = "imgo_client-0.1.0-py3-none-any.whl"

// built is the server that the tests of this package share.
var built struct {
	once      sync.Once
	dir, path string
	err       error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// imgo is a real server, which keeps its addresses and data when it is killed and started again.
type imgo struct {
	t         testing.TB
	http, tcp string // host:port
	process   *process.Process
}

// startImgo starts a server with an empty data folder. It ends with the test.
func startImgo(t *testing.T) *imgo {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and starts the server; not with -short")
	}
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "imgo-built-"); built.err == nil {
			built.path, built.err = process.Build(t.Context(), built.dir, race.Enabled)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	dir := t.TempDir()
	s := &imgo{t: t, http: free(t), tcp: free(t)}
	s.process = &process.Process{
		Binary: built.path, Name: "imgo", HTTP: s.http, Log: filepath.Join(dir, "log"), Args: []string{
			"--tcp", s.tcp, "--ws", "127.0.0.1:0", "--http", s.http, "--data-dir", filepath.Join(dir, "data"), "--log-format", "json",
		},
	}
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

func (s *imgo) start() {
	s.t.Helper()
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	if err := s.process.Ready(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// kill ends the server by SIGKILL.
func (s *imgo) kill() {
	s.t.Helper()
	if err := s.process.Kill(); err != nil {
		s.t.Fatal(err)
	}
}

// real replaces the default addresses in a text by those of this server.
func (s *imgo) real(text string) string {
	return strings.NewReplacer("127.0.0.1:7172", s.http, "127.0.0.1:8080", s.tcp).Replace(text)
}

// pending returns how many messages wait for a user.
func (s *imgo) pending(user string) int {
	var answer struct{ Pending int }
	if _, err := harness.Call(http.MethodGet, "http://"+s.http+"/v1/users/"+user, "", &answer); err != nil {
		return -1
	}
	return answer.Pending
}

// free returns an address of this machine that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// program is a running Python program.
type program struct {
	out, err waittest.Log
	in       io.WriteCloser

	t    testing.TB
	cmd  *exec.Cmd
	done chan struct{}
	end  error // valid after done is closed
}

// startProgram starts a Python program in a folder with a venv. It is killed at the end of the test.
func startProgram(t *testing.T, dir string, env []string, args ...string) *program {
	t.Helper()
	p := &program{t: t, cmd: exec.Command(filepath.Join(dir, "venv/bin/python"), args...), done: make(chan struct{})} //nolint:noctx // kill
	p.cmd.Dir, p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = dir, append(os.Environ(), env...), &p.out, &p.err
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.end = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("python %s\n%s%s", strings.Join(args, " "), &p.out, &p.err)
		}
	})
	return p
}

// kill ends the program by SIGKILL.
func (p *program) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// interrupt ends the program as Ctrl-C does.
func (p *program) interrupt() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatal(err)
	}
	p.wait()
}

// wait waits until the program has ended, and expects exit code 0.
func (p *program) wait() {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(waittest.Limit):
		p.t.Fatalf("the program did not end\n%s%s", &p.out, &p.err)
	}
	if p.end != nil {
		p.t.Fatalf("the program ended with %v\n%s%s", p.end, &p.out, &p.err)
	}
}

// project makes a folder outside of the repository that has the programs, and a venv with the packed client alone.
// It checks the types of the programs.
func project(t *testing.T, python interpreter, programs map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	run(t, ".", []string{"PYTHON=" + python.path}, "./pack", dir)
	run(t, dir, nil, python.path, "-m", "venv", "venv")
	run(t, dir, nil, "venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", wheel)
	args := []string{"--strict", "--cache-dir", filepath.Join(dir, "mypy"), "--python-executable", filepath.Join(dir, "venv/bin/python")}
	for name, text := range programs {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, name)
	}
	run(t, dir, nil, filepath.Join(python.tools(t), "mypy"), args...)
	return dir
}

// TestPack checks what is in the packed files, and that packing again gives the same bytes.
func TestPack(t *testing.T) {
	all := interpreters(t)
	python := all[len(all)-1]
	first, second := t.TempDir(), t.TempDir()
	for _, dir := range []string{first, second} {
		run(t, ".", []string{"PYTHON=" + python.path}, "./pack", dir)
	}
	for _, name := range []string{wheel, "imgo_client-0.1.0.tar.gz"} {
		a, err := os.ReadFile(filepath.Join(first, name))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(second, name)); err != nil || !slices.Equal(a, b) {
			t.Errorf("%s is another one when it is packed again: %v", name, err)
		}
	}
	listed := run(t, first, nil, python.path, "-m", "zipfile", "-l", wheel)
	for _, name := range []string{"imgo_client/__init__.py", "imgo_client/py.typed", "licenses/LICENSE"} {
		if !strings.Contains(listed, name) {
			t.Errorf("the wheel has no %s:\n%s", name, listed)
		}
	}
	if strings.Contains(listed, "test") || strings.Contains(listed, "driver") {
		t.Errorf("the wheel has more than the client:\n%s", listed)
	}
	ours, err := os.ReadFile("LICENSE")
	if err != nil {
		t.Fatal(err)
	}
	if root, err := os.ReadFile("../../LICENSE"); err != nil || !slices.Equal(ours, root) {
		t.Errorf("clients/python/LICENSE is not the licence of the repository: %v", err)
	}
}

// quickStart returns the commands and the programs of the quick start.
func quickStart(t *testing.T) (commands []string, programs map[string]string) {
	t.Helper()
	page, err := os.ReadFile("../../docs/tutorial/python.md")
	if err != nil {
		t.Fatal(err)
	}
	shell := regexp.MustCompile("(?s)```sh\n(.*?)```").FindSubmatch(page)
	if shell == nil {
		t.Fatal("the quick start has no commands")
	}
	programs = map[string]string{}
	for _, m := range regexp.MustCompile("(?s)`([a-z]+\\.py)`[^\n]*:\n\n```python\n(.*?)```").FindAllSubmatch(page, -1) {
		programs[string(m[1])] = string(m[2])
	}
	commands = strings.Split(strings.TrimSpace(string(shell[1])), "\n")
	want := []string{"python3 -m venv venv", "venv/bin/pip install " + wheel, "venv/bin/python listen.py"}
	if !slices.Equal(commands, want) || len(programs) != 2 {
		t.Fatalf("the quick start has the commands %q and %d programs; this test does %q", commands, len(programs), want)
	}
	return commands, programs
}

// TestQuickStart does what the quick start says, with the packed client only. Kept messages arrive in order and once,
// through kills of the server and of the program.
func TestQuickStart(t *testing.T) {
	for _, python := range interpreters(t) {
		t.Run(fmt.Sprintf("3.%d", python.minor), func(t *testing.T) {
			_, programs := quickStart(t)
			server := startImgo(t)
			for name, text := range programs {
				programs[name] = server.real(text)
			}
			receive(t, server, project(t, python, programs))
		})
	}
}

// receive plays the story of the quick start.
func receive(t *testing.T, server *imgo, dir string) {
	t.Helper()
	listen := func() *program { return startProgram(t, dir, nil, "listen.py") }
	push := func(texts ...string) {
		t.Helper()
		said := run(t, dir, nil, "venv/bin/python", append([]string{"push.py"}, texts...)...)
		if strings.Count(said, "is kept; ana has") != len(texts) {
			t.Fatalf("push.py said:\n%s", said)
		}
	}
	acknowledged := func() {
		t.Helper()
		waittest.Eventually(t, "everything is acknowledged", func() bool { return server.pending("ana") == 0 })
	}

	first := listen()
	first.err.WaitFor(t, "live")
	push("first")
	first.out.WaitFor(t, "first\n")
	first.interrupt()
	acknowledged()

	push("one", "two", "three")
	server.kill()
	second := listen() // before the server is back
	second.err.WaitFor(t, "waiting")
	server.start()
	second.out.WaitFor(t, "three\n")
	acknowledged()
	second.kill()

	third := listen()
	third.err.WaitFor(t, "live")
	server.kill()
	third.err.WaitFor(t, "waiting")
	server.start()
	push("last")
	third.out.WaitFor(t, "last\n")
	third.interrupt()
	if got, want := second.out.String()+third.out.String(), "one\ntwo\nthree\nlast\n"; got != want {
		t.Errorf("the messages are\n%swant\n%s", got, want)
	}
	acknowledged()
}

// examples returns the programs of examples/python.
func examples(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../../examples/python/*.py")
	if err != nil || len(files) < 2 {
		t.Fatalf("there are %d examples: %v", len(files), err)
	}
	programs := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if lines := strings.Count(string(text), "\n"); lines > maxLines {
			t.Errorf("%s has %d lines; an example has at most %d", file, lines, maxLines)
		}
		programs[filepath.Base(file)] = string(text)
	}
	return programs
}

// TestExamples has two users talk to each other. One of them is away for a while.
func TestExamples(t *testing.T) {
	all := interpreters(t)
	programs, server := examples(t), startImgo(t)
	for name, text := range programs {
		programs[name] = server.real(text)
	}
	dir := project(t, all[len(all)-1], programs)
	backend := startProgram(t, dir, []string{"PORT=0"}, "backend.py")
	backend.out.WaitFor(t, "the backend is at http://127.0.0.1:")
	backend.out.WaitFor(t, "\n")
	env := []string{"BACKEND=" + regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(backend.out.String())}
	say := func(p *program, line string) {
		t.Helper()
		if _, err := fmt.Fprintln(p.in, line); err != nil {
			t.Fatal(err)
		}
	}

	ana := startProgram(t, dir, env, "terminal.py", "ana")
	ana.out.WaitFor(t, "live as ana, 0 messages waited")
	say(ana, "hello")
	ana.out.WaitFor(t, `write "user: text"`)
	say(ana, "ben: one")
	say(ana, "ben: two")
	say(ana, "ana: to myself")
	ana.out.WaitFor(t, "> to myself")
	waittest.Eventually(t, "both messages wait for ben", func() bool { return server.pending("ben") == 2 })

	ben := startProgram(t, dir, env, "terminal.py", "ben")
	ben.out.WaitFor(t, "> two")
	server.kill()
	ben.out.WaitFor(t, "offline: ")
	server.start()
	waittest.Eventually(t, "ben is live again", func() bool { return ben.out.Count("live as ben") == 2 })
	waittest.Eventually(t, "ana is live again", func() bool { return ana.out.Count("live as ana") == 2 })
	say(ana, "ben: three")
	ben.out.WaitFor(t, "> three")
	if err := ana.in.Close(); err != nil { // the end of the input ends the client in order
		t.Fatal(err)
	}
	ana.wait()
	ben.interrupt()
	backend.interrupt()
	for _, line := range []string{"> one\n", "> two\n", "> three\n"} {
		if n := ben.out.Count(line); n != 1 {
			t.Errorf("%q came %d times", line, n)
		}
	}
}
