package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	imgoprocess "imgo/internal/process"
	"imgo/internal/race"
	"imgo/internal/wait/waittest"
)

// binary is the imgo executable. It is built once for all tests.
var binary struct {
	once sync.Once
	dir  string
	path string
	err  error
}

// imgoBinary builds the executable if necessary and returns its path.
func imgoBinary(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds the executable; not with -short")
	}
	binary.once.Do(func() {
		if binary.dir, binary.err = os.MkdirTemp("", "imgo-e2e-"); binary.err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		binary.path, binary.err = imgoprocess.Build(ctx, binary.dir, race.Enabled)
	})
	if binary.err != nil {
		t.Fatal(binary.err)
	}
	return binary.path
}

// process is a running imgo executable.
type process struct {
	t       *testing.T
	cmd     *exec.Cmd
	out     waittest.Log // standard output
	log     waittest.Log // standard error
	done    chan struct{}
	err     error // valid after done is closed
	node    *node // the node behind it, set by ready
	tcp, ws string
}

// environment returns the environment of the test process without IMGO_ variables, and then more.
func environment(more ...string) []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "IMGO_") {
			env = append(env, v)
		}
	}
	return append(env, more...)
}

// run starts the executable in a folder. If it still runs at the end of the test, it is killed.
func run(t *testing.T, dir string, env []string, args ...string) *process {
	t.Helper()
	return launch(t, dir, env, imgoBinary(t), args...)
}

func launch(t *testing.T, dir string, env []string, name string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.cmd.Dir, p.cmd.Env = dir, environment(env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.log
	p.cmd.WaitDelay = waitLimit
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		if p.node != nil {
			p.node.http.CloseIdleConnections()
		}
		if t.Failed() {
			t.Logf("%s %s\n%s%s", filepath.Base(name), strings.Join(args, " "), &p.out, &p.log)
		}
	})
	return p
}

// freePorts returns the flags of a server on free ports, and then more.
func freePorts(more ...string) []string {
	return append([]string{"--tcp", "127.0.0.1:0", "--ws", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-format", "json"}, more...)
}

// serve starts a server in a folder and waits until it is ready.
func serve(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	p := run(t, dir, nil, args...)
	p.ready()
	return p
}

// ready waits until the server is ready, and reads its addresses from the log.
func (p *process) ready() {
	p.t.Helper()
	var line struct{ Message, HTTP, TCP, WS string }
	eventually(p.t, "the server is ready", func() bool {
		select {
		case <-p.done:
			p.t.Fatalf("the server ended: %v\n%s", p.err, &p.log)
		default:
		}
		for text := range strings.Lines(p.log.String()) {
			if json.Unmarshal([]byte(text), &line) == nil && strings.HasSuffix(line.Message, "is ready") {
				return true
			}
		}
		return false
	})
	p.tcp, p.ws = line.TCP, line.WS
	p.node = &node{base: "http://" + line.HTTP, http: &http.Client{Transport: &http.Transport{}}}
}

// exit waits for the process and returns its exit code.
func (p *process) exit() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(waitLimit):
		p.t.Fatalf("%s does not end", p.cmd)
	}
	var exit *exec.ExitError
	switch {
	case p.err == nil:
		return 0
	case errors.As(p.err, &exit):
		return exit.ExitCode()
	}
	p.t.Fatal(p.err)
	return -1
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// stop stops the server by SIGTERM and checks its exit code.
func (p *process) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		p.t.Fatalf("the server ended with exit code %d:\n%s", code, &p.log)
	}
}

// imgo runs one command, which must succeed, and returns its standard output.
func imgo(t *testing.T, env []string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, imgoBinary(t), args...)
	cmd.Env = environment(env...)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("imgo %s: %v\n%s%s", strings.Join(args, " "), err, out.String(), stderr.String())
	}
	return out.String()
}
