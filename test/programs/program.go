// Package programs runs a real imgo and other programs beside it, for tests of documents, examples and packed client
// libraries. Everything that it starts ends with its test.
package programs

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"imgo/internal/wait/waittest"
)

// Limit bounds a step that installs or compiles.
const Limit = 5 * time.Minute

// Run runs a program in a folder to its end, and returns what it printed. env is added to the environment. The
// test fails if the program fails.
func Run(t testing.TB, dir string, env []string, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Program is a running program, whose output a test reads.
type Program struct {
	Out waittest.Log // standard output
	Err waittest.Log // standard error
	In  io.WriteCloser

	t    testing.TB
	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid after done is closed
}

// Start starts a program in a folder. env is added to the environment. The program is killed at the end of
// the test.
func Start(t testing.TB, dir string, env []string, name string, args ...string) *Program {
	t.Helper()
	p := &Program{t: t, cmd: exec.Command(name, args...), done: make(chan struct{})} //nolint:noctx // Kill ends it
	p.cmd.Dir, p.cmd.Env = dir, append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.Out, &p.Err
	p.cmd.WaitDelay = 10 * time.Second
	var err error
	if p.In, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	ownGroup(p.cmd) // it may start processes of its own
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("%s %s\n%s%s", name, strings.Join(args, " "), &p.Out, &p.Err)
		}
	})
	return p
}

// Kill kills the program and the processes that it has started.
func (p *Program) Kill() {
	if !p.Ended() {
		killGroup(p.cmd)
	}
	<-p.done
}

// Interrupt ends the program as Ctrl-C does, and expects exit code 0.
func (p *Program) Interrupt() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatal(err)
	}
	p.Wait()
}

// Stop ends the program and the processes that it has started as Ctrl-C does. The exit code does not matter.
func (p *Program) Stop() {
	p.t.Helper()
	interruptGroup(p.cmd)
	p.waitEnd()
}

func (p *Program) waitEnd() {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(waittest.Limit):
		p.t.Fatalf("the program did not end\n%s%s", &p.Out, &p.Err)
	}
}

// Wait waits until the program has ended, and expects exit code 0.
func (p *Program) Wait() {
	p.t.Helper()
	p.waitEnd()
	if p.err != nil {
		p.t.Fatalf("the program ended with %v\n%s%s", p.err, &p.Out, &p.Err)
	}
}

// WaitFor waits until a line of the standard output matches a regular expression, and returns the match with its groups.
func (p *Program) WaitFor(pattern string) (match []string) {
	p.t.Helper()
	line := regexp.MustCompile("(?m)" + pattern)
	waittest.Eventually(p.t, "the program prints "+pattern, func() bool {
		match = line.FindStringSubmatch(p.Out.String())
		if match == nil && p.Ended() {
			// It may have printed it at its end.
			if match = line.FindStringSubmatch(p.Out.String()); match == nil {
				p.t.Fatalf("the program ended without printing %s\n%s%s", pattern, &p.Out, &p.Err)
			}
		}
		return match != nil
	})
	return match
}

// Ended reports whether the program has ended.
func (p *Program) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}
