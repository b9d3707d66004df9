// Package go_test runs the examples and the quick start for Go beside a real imgo. The quick start uses the packed
// client, in a project outside of this repository.
package go_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"imgo/internal/wait/waittest"
	"imgo/test/hooktest"
	"imgo/test/programs"
)

// maxLines is the most that a reader of an example should have to read.
const maxLines = 60

func TestMain(m *testing.M) {
	code := m.Run()
	programs.CleanUp()
	os.Exit(code)
}

// realAddresses replaces the addresses of the documents by those of this test.
func realAddresses(s *programs.Server, text, backend string) string {
	return strings.NewReplacer("127.0.0.1:3000", backend, "127.0.0.1:3001", backend).Replace(s.Real(text))
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
	s := programs.StartServer(t)
	dist := t.TempDir()
	programs.Run(t, ".", nil, "../../clients/go/pack", dist)
	page := s.Real(read(t, "../../docs/tutorial/go.md"))
	sources, commands := blocks(page, "go"), blocks(page, "sh")
	if len(sources) != 2 || len(commands) != 1 {
		t.Fatalf("the page has %d programs and %d blocks of commands", len(sources), len(commands))
	}
	dir := filepath.Join(t.TempDir(), "hello")
	write(t, filepath.Join(dir, "main.go"), sources[0])
	write(t, filepath.Join(dir, "push", "main.go"), sources[1])
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(commands[0], "/path/to/dist", dist)), "\n")
	if len(lines) != 5 || lines[4] != "./bin/hello" {
		t.Fatalf("the commands are %q", lines)
	}
	// A fresh machine has no modules.
	programs.Run(t, dir, []string{"GOMODCACHE=" + filepath.Join(t.TempDir(), "modules"), "GOFLAGS=-modcacherw"},
		"sh", "-e", "-c", strings.ReplaceAll(strings.Join(lines[:4], "\n"), "-mod=mod", `"-mod=mod -modcacherw"`))

	hello, push := filepath.Join(dir, "bin", "hello"), filepath.Join(dir, "bin", "push")
	p := programs.Start(t, dir, nil, hello)
	p.Err.WaitFor(t, "live")
	programs.Run(t, dir, nil, push, "zero")
	p.Out.WaitFor(t, `{"text":"zero"}`)
	p.Interrupt()

	s.WaitForUser("ana", `"online":false`)
	if out := programs.Run(t, dir, nil, push, "one", "two", "three"); strings.Count(out, "is kept; ana has 0 sessions") != 3 {
		t.Errorf("push printed %s", out)
	}
	s.Kill()
	s.Start()
	p = programs.Start(t, dir, nil, hello)
	p.Out.WaitFor(t, `{"text":"three"}`)
	s.Kill()
	p.Err.WaitFor(t, "waiting")
	s.Start()
	waittest.Eventually(t, "it is live again", func() bool { return p.Err.Count("live") == 2 })
	programs.Run(t, dir, nil, push, "four")
	p.Out.WaitFor(t, `{"text":"four"}`)
	p.Interrupt()
	p2 := programs.Start(t, dir, nil, hello)
	p2.Err.WaitFor(t, "live")
	programs.Run(t, dir, nil, push, "five")
	p2.Out.WaitFor(t, `{"text":"five"}`)
	p2.Interrupt()

	var got []string
	for line := range strings.Lines(p.Out.String() + p2.Out.String()) {
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
func build(t *testing.T, s *programs.Server, backend string) (dir string) {
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
		write(t, changed, realAddresses(s, text, backend))
		overlay = append(overlay, fmt.Sprintf("%q:%q", path, changed))
	}
	replaced := filepath.Join(dir, "overlay.json")
	write(t, replaced, `{"Replace":{`+strings.Join(overlay, ",")+`}}`)
	programs.Run(t, ".", nil, "go", "build", "-overlay", replaced, "-o", dir+"/", "./backend", "./receiver", "./terminal")
	return dir
}

// TestExamples has two users of the terminal talk to each other, beside the backend. One of them is away for a while, and
// the server is killed.
func TestExamples(t *testing.T) {
	s := programs.StartServer(t)
	address := waittest.FreeAddress(t)
	dir := build(t, s, address)
	programs.Start(t, dir, nil, filepath.Join(dir, "backend")).Err.WaitFor(t, "the backend is at http://"+address)
	say := func(p *programs.Program, line string) {
		t.Helper()
		if _, err := fmt.Fprintln(p.In, line); err != nil {
			t.Fatal(err)
		}
	}
	ana := programs.Start(t, dir, nil, filepath.Join(dir, "terminal"), "ana")
	ana.Err.WaitFor(t, "live ana")
	say(ana, "ben: one")
	say(ana, "ben: two")
	say(ana, "ana: to myself")
	ana.Err.WaitFor(t, `> {"text":"to myself"}`)
	s.WaitForUser("ben", `"pending":2`)
	ben := programs.Start(t, dir, nil, filepath.Join(dir, "terminal"), "ben")
	ben.Err.WaitFor(t, `> {"text":"two"}`)
	s.Kill()
	ben.Err.WaitFor(t, "waiting")
	say(ana, "ben: lost")
	ana.Err.WaitFor(t, "not sent: ")
	s.Start()
	waittest.Eventually(t, "ben is live again", func() bool { return ben.Err.Count("live ben") == 2 })
	say(ana, "ben: three")
	ben.Err.WaitFor(t, `> {"text":"three"}`)
	ben.Interrupt()
	if err := ana.In.Close(); err != nil { // Ctrl-D
		t.Fatal(err)
	}
	ana.Wait()
	if got := ben.Err.Count("> "); got != 3 {
		t.Errorf("ben got %d messages, want 3", got)
	}
}

// TestReceiver runs the receiver of a hook.
func TestReceiver(t *testing.T) {
	hooktest.Short(t, "receiver/main.go")
	address := waittest.FreeAddress(t)
	url := "http://" + address + "/events"
	s := programs.StartServer(t, "--config", hooktest.Settings(t, url))
	dir := build(t, s, address)
	t.Setenv("HOOK_SECRET", hooktest.Secret)
	receiver := programs.Start(t, dir, nil, filepath.Join(dir, "receiver"))
	hooktest.Check(t, s.URL(), s.TCP, url, receiver.Err.String)
}
