package python_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"imgo/internal/wait/waittest"
	"imgo/test/hooktest"
	"imgo/test/programs"
)

// maxLines is the most that a reader of an example should have to read.
const maxLines = 60

// wheel is what clients/python/pack writes.
const wheel = "imgo_client-0.1.0-py3-none-any.whl"

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "imgo-python-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	shared.dir = dir
	code := m.Run()
	programs.CleanUp()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// shared is what the tests make once in dir: the packed client, and a venv with it.
var shared struct {
	dir             string
	packing, making sync.Once
}

// pack packs the client into a folder.
func pack(t *testing.T, dir string) {
	t.Helper()
	run(t, ".", []string{"PYTHON=" + chosen(t).path}, "./pack", dir)
}

// packed returns the folder of the shared packed client.
func packed(t *testing.T) string {
	t.Helper()
	shared.packing.Do(func() { pack(t, shared.dir) })
	return shared.dir
}

// venv returns the path of the shared venv with the packed client alone.
func venv(t *testing.T) string {
	t.Helper()
	dir := packed(t)
	shared.making.Do(func() {
		run(t, dir, nil, chosen(t).path, "-m", "venv", "venv")
		run(t, dir, nil, "venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", wheel)
	})
	return filepath.Join(dir, "venv")
}

// startProgram starts a Python program in a folder with a venv. It is killed at the end of the test.
func startProgram(t *testing.T, dir string, env []string, args ...string) *programs.Program {
	t.Helper()
	return programs.Start(t, dir, env, filepath.Join(dir, "venv/bin/python"), args...)
}

// project makes a folder outside of the repository that has the programs and the shared venv. It checks the types of the
// programs.
func project(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Symlink(venv(t), filepath.Join(dir, "venv")); err != nil {
		t.Fatal(err)
	}
	args := []string{"--strict", "--cache-dir", filepath.Join(shared.dir, "mypy"), "--python-executable", "venv/bin/python"}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, name)
	}
	run(t, dir, nil, filepath.Join(chosen(t).tools(t), "mypy"), args...)
	return dir
}

// TestPack checks what is in the packed files, and that packing again gives the same bytes.
func TestPack(t *testing.T) {
	first, second := packed(t), t.TempDir()
	pack(t, second)
	for _, name := range []string{wheel, "imgo_client-0.1.0.tar.gz"} {
		a, err := os.ReadFile(filepath.Join(first, name))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(second, name)); err != nil || !slices.Equal(a, b) {
			t.Errorf("%s is another one when it is packed again: %v", name, err)
		}
	}
	listed := run(t, first, nil, chosen(t).path, "-m", "zipfile", "-l", wheel)
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
func quickStart(t *testing.T) (commands []string, files map[string]string) {
	t.Helper()
	page, err := os.ReadFile("../../docs/tutorial/python.md")
	if err != nil {
		t.Fatal(err)
	}
	shell := regexp.MustCompile("(?s)```sh\n(.*?)```").FindSubmatch(page)
	if shell == nil {
		t.Fatal("the quick start has no commands")
	}
	files = map[string]string{}
	for _, m := range regexp.MustCompile("(?s)`([a-z]+\\.py)`[^\n]*:\n\n```python\n(.*?)```").FindAllSubmatch(page, -1) {
		files[string(m[1])] = string(m[2])
	}
	commands = strings.Split(strings.TrimSpace(string(shell[1])), "\n")
	want := []string{"python3 -m venv venv", "venv/bin/pip install " + wheel, "venv/bin/python listen.py"}
	if !slices.Equal(commands, want) || len(files) != 2 {
		t.Fatalf("the quick start has the commands %q and %d programs; this test does %q", commands, len(files), want)
	}
	return commands, files
}

// TestQuickStart does what the quick start says, with the packed client only. Kept messages arrive in order and once,
// through kills of the server and of the program.
func TestQuickStart(t *testing.T) {
	_, files := quickStart(t)
	server := programs.StartServer(t)
	for name, text := range files {
		files[name] = server.Real(text)
	}
	receive(t, server, project(t, files))
}

// receive plays the story of the quick start.
func receive(t *testing.T, server *programs.Server, dir string) {
	t.Helper()
	listen := func() *programs.Program { return startProgram(t, dir, nil, "listen.py") }
	push := func(texts ...string) {
		t.Helper()
		said := run(t, dir, nil, "venv/bin/python", append([]string{"push.py"}, texts...)...)
		if strings.Count(said, "is kept; ana has") != len(texts) {
			t.Fatalf("push.py said:\n%s", said)
		}
	}
	acknowledged := func() {
		t.Helper()
		waittest.Eventually(t, "everything is acknowledged", func() bool { return server.Pending("ana") == 0 })
	}

	first := listen()
	first.Err.WaitFor(t, "live")
	push("first")
	first.Out.WaitFor(t, "first\n")
	acknowledged() // a handler that Ctrl-C ends leaves its message in the mailbox
	first.Interrupt()

	push("one", "two", "three")
	server.Kill()
	second := listen() // before the server is back
	second.Err.WaitFor(t, "waiting")
	server.Start()
	second.Out.WaitFor(t, "three\n")
	acknowledged()
	second.Kill()

	third := listen()
	third.Err.WaitFor(t, "live")
	server.Kill()
	third.Err.WaitFor(t, "waiting")
	server.Start()
	push("last")
	third.Out.WaitFor(t, "last\n")
	acknowledged()
	third.Interrupt()
	if got, want := second.Out.String()+third.Out.String(), "one\ntwo\nthree\nlast\n"; got != want {
		t.Errorf("the messages are\n%swant\n%s", got, want)
	}
}

// examples returns the programs of examples/python.
func examples(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("../../examples/python/*.py")
	if err != nil || len(paths) < 2 {
		t.Fatalf("there are %d examples: %v", len(paths), err)
	}
	files := map[string]string{}
	for _, file := range paths {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if lines := strings.Count(string(text), "\n"); lines > maxLines {
			t.Errorf("%s has %d lines; an example has at most %d", file, lines, maxLines)
		}
		files[filepath.Base(file)] = string(text)
	}
	return files
}

// TestExamples has two users talk to each other. One of them is away for a while.
func TestExamples(t *testing.T) {
	files, server := examples(t), programs.StartServer(t)
	for name, text := range files {
		files[name] = server.Real(text)
	}
	dir := project(t, files)
	t.Run("receiver", func(t *testing.T) { receiveEvents(t, dir) })
	backend := startProgram(t, dir, []string{"PORT=0"}, "backend.py")
	backend.Out.WaitFor(t, "the backend is at http://127.0.0.1:")
	backend.Out.WaitFor(t, "\n")
	env := []string{"BACKEND=" + regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(backend.Out.String())}
	say := func(p *programs.Program, line string) {
		t.Helper()
		if _, err := fmt.Fprintln(p.In, line); err != nil {
			t.Fatal(err)
		}
	}

	ana := startProgram(t, dir, env, "terminal.py", "ana")
	ana.Out.WaitFor(t, "live as ana, 0 messages waited")
	say(ana, "hello")
	ana.Out.WaitFor(t, `write "user: text"`)
	say(ana, "ben: one")
	say(ana, "ben: two")
	say(ana, "ana: to myself")
	ana.Out.WaitFor(t, "> to myself")
	waittest.Eventually(t, "both messages wait for ben", func() bool { return server.Pending("ben") == 2 })

	ben := startProgram(t, dir, env, "terminal.py", "ben")
	ben.Out.WaitFor(t, "> two")
	server.Kill()
	ben.Out.WaitFor(t, "offline: ")
	server.Start()
	waittest.Eventually(t, "ben is live again", func() bool { return ben.Out.Count("live as ben") == 2 })
	waittest.Eventually(t, "ana is live again", func() bool { return ana.Out.Count("live as ana") == 2 })
	say(ana, "ben: three")
	ben.Out.WaitFor(t, "> three")
	if err := ana.In.Close(); err != nil { // the end of the input ends the client in order
		t.Fatal(err)
	}
	ana.Wait()
	ben.Interrupt()
	backend.Interrupt()
	for _, line := range []string{"> one\n", "> two\n", "> three\n"} {
		if n := ben.Out.Count(line); n != 1 {
			t.Errorf("%q came %d times", line, n)
		}
	}
}

// receiveEvents runs the receiver of a hook.
func receiveEvents(t *testing.T, dir string) {
	hooktest.Short(t, "../../examples/python/receiver.py")
	p := startProgram(t, dir, []string{"PORT=0", hooktest.Env}, "receiver.py")
	url := p.WaitFor(`http://\S+/events$`)[0]
	server := programs.StartServer(t, "--config", hooktest.Settings(t, url))
	hooktest.Check(t, server.URL(), server.TCP, url, p.Out.String)
}
