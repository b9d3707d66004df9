// Package driver runs the drivers of client libraries: programs that read commands from standard input and print
// events to standard output (clients/conformance/README.md). Each driver is a process with any number of clients.
package driver

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

const (
	// startTimeout bounds the time from the start of a driver to its first event.
	startTimeout = time.Minute
	// endTimeout bounds the time that a driver has for its end. Then it is killed.
	endTimeout = 20 * time.Second
	// maxLine bounds one event, in bytes.
	maxLine = 64 << 20
	// keptLog is the end of the driver's standard error that is kept for error texts, in bytes.
	keptLog = 8 << 10
)

// Command is how a driver is started.
type Command struct {
	Args []string
	Dir  string   // the working folder; empty means the caller's
	Env  []string // in addition to the caller's environment
}

// Process is a running driver. All methods are safe for concurrent use.
type Process struct {
	Ready Event // the first event

	cmd   *exec.Cmd
	log   tail
	ended chan struct{} // closed when the process has ended and all events were handled

	writing sync.Mutex
	in      io.WriteCloser

	mu        sync.Mutex
	listeners map[string]func(Event)
	err       error // the reason for the end; set before ended is closed
}

// Start starts a driver and waits for the event "ready". The end of ctx kills the driver.
func Start(ctx context.Context, c Command) (*Process, error) {
	//nolint:gosec // the caller names the program
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Dir, cmd.Env = c.Dir, append(os.Environ(), c.Env...)
	p := &Process{cmd: cmd, ended: make(chan struct{}), listeners: map[string]func(Event){}}
	cmd.Stderr = &p.log
	cmd.WaitDelay = endTimeout // a grandchild may hold the pipes
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start the driver: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the driver: %w", err), in.Close())
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the driver: %w", err)
	}
	p.in = in
	ready := make(chan Event, 1)
	go p.read(out, ready)
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	select {
	case p.Ready = <-ready:
		return p, nil
	case <-p.ended:
		return nil, fmt.Errorf("start the driver: %w", p.Err())
	case <-timeout.C:
		p.Kill()
		return nil, fmt.Errorf("start the driver: no event \"ready\" within %s: %s", startTimeout, p.log.String())
	}
}

// read handles the events of the driver until its end.
func (p *Process) read(out io.Reader, ready chan<- Event) {
	lines := bufio.NewScanner(out)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	var err error
	for first := true; err == nil && lines.Scan(); {
		var e Event
		if jsonErr := json.Unmarshal(lines.Bytes(), &e); jsonErr != nil {
			err = fmt.Errorf("the driver printed the line %.200q: %w", lines.Bytes(), jsonErr)
			break
		}
		if first {
			if e.Event != "ready" {
				err = fmt.Errorf("the first event is %q, want ready", e.Event)
			}
			first = false
			ready <- e
			continue
		}
		p.mu.Lock()
		listener := p.listeners[e.Client]
		p.mu.Unlock()
		if listener != nil {
			listener(e)
		}
	}
	if err == nil {
		err = lines.Err()
	}
	if err != nil {
		_ = p.cmd.Process.Kill()
	}
	waitErr := p.cmd.Wait()
	p.mu.Lock()
	if p.err = errors.Join(err, waitErr); p.err != nil {
		p.err = fmt.Errorf("the driver ended: %w: %s", p.err, p.log.String())
	}
	p.mu.Unlock()
	close(p.ended)
}

// Listen makes f handle the events of a client from now on. It runs on the goroutine that reads events, one at a
// time. f is nil to ignore them.
func (p *Process) Listen(client string, f func(Event)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f == nil {
		delete(p.listeners, client)
		return
	}
	p.listeners[client] = f
}

// Do writes a command.
func (p *Process) Do(command map[string]any) error {
	line, err := json.Marshal(command)
	if err != nil {
		return fmt.Errorf("write a command: %w", err)
	}
	p.writing.Lock()
	defer p.writing.Unlock()
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write the command %s: %w", line, err)
	}
	return nil
}

// Signal sends a signal to the driver.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Ended returns a channel that is closed when the driver has ended and all its events were handled.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Err returns why the driver ended. It is nil if it ended with exit code 0.
func (p *Process) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Log returns the end of what the driver wrote to standard error.
func (p *Process) Log() string { return p.log.String() }

// Kill ends the driver with SIGKILL and waits for its end.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it fails if the process has ended
	<-p.ended
}

// Stop closes the input of the driver and waits for its end. It returns an error if the exit code is not 0, or if
// the driver had to be killed.
func (p *Process) Stop() error {
	p.writing.Lock()
	_ = p.in.Close() // it fails if the process has ended
	p.writing.Unlock()
	timeout := time.NewTimer(endTimeout)
	defer timeout.Stop()
	select {
	case <-p.ended:
		return p.Err()
	case <-timeout.C:
		p.Kill()
		return fmt.Errorf("the driver did not end within %s of the end of its input: %s", endTimeout, p.log.String())
	}
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.text = append(t.text, b...); len(t.text) > 2*keptLog {
		t.text = append([]byte(nil), t.text[len(t.text)-keptLog:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}
