//go:build linux

package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"imgo/bench/limit"
	"imgo/bench/load"
)

// Kinds of child processes. A child reads one JSON object a line from standard input
// and answers each with one on standard output. It ends when its input ends.
const (
	childHold   = "hold"   // holds client connections
	childWriter = "writer" // the limit of a broadcast: plain writes
	childHTTP   = "http"   // the limit of a push: a bare net/http server
	childHook   = "hook"   // receives the events of a hook
	childDoor   = "door"   // the limit of a connect, and of a replay: accept, read, write
)

// stopTimeout bounds the time from the end of a child's input to its exit. After that,
// the child is killed.
const stopTimeout = 10 * time.Second

// runChild is the main function of a child process.
func runChild(kind string, in io.Reader, out io.Writer) error {
	var err error
	switch dec, enc := json.NewDecoder(in), json.NewEncoder(out); kind {
	case childHold:
		err = load.Hold(dec, enc)
	case childWriter:
		err = limit.Writer(dec, enc)
	case childHTTP:
		err = limit.HTTP(dec, enc)
	case childDoor:
		err = limit.Door(dec, enc)
	case childHook:
		err = load.Receive(dec, enc)
	default:
		return usageError{fmt.Errorf("there is no child %q", kind)}
	}
	if errors.Is(err, io.EOF) {
		return nil // the parent has closed the input
	}
	return err
}

// child is the parent's side of a running child process. It is not safe for concurrent
// use.
type child struct {
	kind string
	cmd  *exec.Cmd
	in   io.WriteCloser
	enc  *json.Encoder
	dec  *json.Decoder
}

// spawn starts a child process.
func (b *bench) spawn(kind string) (*child, error) {
	c := &child{kind: kind, cmd: exec.Command(b.self, "bench", "child", kind)} //nolint:noctx // it ends with its standard input
	c.cmd.Stderr = os.Stderr
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start bench child %s: %w", kind, err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start bench child %s: %w", kind, err)
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start bench child %s: %w", kind, err)
	}
	c.enc, c.dec = json.NewEncoder(c.in), json.NewDecoder(out)
	return c, nil
}

// ask sends a request and reads the answer. It kills the child if the answer takes
// longer than timeout.
func (c *child) ask(timeout time.Duration, request, reply any) error {
	if err := c.send(request); err != nil {
		return err
	}
	return c.answer(timeout, reply)
}

func (c *child) send(request any) error {
	if err := c.enc.Encode(request); err != nil {
		return fmt.Errorf("tell bench child %s: %w", c.kind, err)
	}
	return nil
}

func (c *child) answer(timeout time.Duration, reply any) error {
	late := time.AfterFunc(timeout, func() { _ = c.cmd.Process.Kill() })
	err := c.dec.Decode(reply)
	switch {
	case err == nil:
		late.Stop()
		return nil
	case !late.Stop():
		return fmt.Errorf("bench child %s did not answer within %s", c.kind, timeout)
	}
	return fmt.Errorf("bench child %s: %w", c.kind, err)
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// stop ends the child and waits for its exit.
func (c *child) stop() error {
	_ = c.in.Close() // an error means that it has already ended; Wait reports how
	kill := time.AfterFunc(stopTimeout, func() { _ = c.cmd.Process.Kill() })
	defer kill.Stop()
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("bench child %s: %w", c.kind, err)
	}
	return nil
}
