// Package process runs programs as processes of their own, for tests and tools that kill and suspend them: imgo, and
// the brokers of Kafka. It owns a process and its log file; it does not judge the output.
package process

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"imgo/internal/wait"
)

const (
	// startLimit bounds a start, including the rebuild from the log. stopLimit bounds an orderly stop;
	// the default of shutdown.timeout is 15 s.
	startLimit = 2 * time.Minute
	stopLimit  = 25 * time.Second
)

// Built is the environment variable with the folder in which scripts/test has built imgo for all
// packages: as plain/imgo, and with the race detector as race/imgo.
const Built = "TEST_BUILT_IMGO"

// Build builds imgo into dir and returns the path of the program. race adds the race detector. Build
// returns the program in the folder of the variable Built, if that is set.
func Build(ctx context.Context, dir string, race bool) (string, error) {
	if built := os.Getenv(Built); built != "" {
		return filepath.Join(built, map[bool]string{false: "plain", true: "race"}[race], "imgo"), nil
	}
	binary := filepath.Join(dir, "imgo")
	args := []string{"build", "-o", binary}
	if race {
		args = append(args, "-race")
	}
	module, err := exec.CommandContext(ctx, "go", "list", "-m").Output()
	if err != nil {
		return "", fmt.Errorf("find the module of imgo: %w", err)
	}
	args = append(args, strings.TrimSpace(string(module)))
	if out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build imgo: %w\n%s", err, out)
	}
	return binary, nil
}

// Process is a sequence of processes with the same addresses, data folder and log. At most one of
// them runs. A Process is not safe for concurrent use.
type Process struct {
	Binary string
	Name   string
	HTTP   string   // host:port of the HTTP side of imgo, for Ready
	Log    string   // path of the file to which all output is appended
	Args   []string // command-line arguments
	Env    []string // settings as IMGO_SECTION_KEY=value

	cmd   *exec.Cmd     // nil before the first start, and after Kill and Stop
	ended chan struct{} // closed when the process has ended
}

// Start starts a process and does not wait until it is ready. more are further arguments for this
// process. The environment of the tool does not change the settings.
func (p *Process) Start(more ...string) error {
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open the log of %s: %w", p.Name, err)
	}
	defer log.Close()                                                                   // the process has its own descriptor
	cmd := exec.Command(p.Binary, append(p.Args[:len(p.Args):len(p.Args)], more...)...) //nolint:noctx // Stop or Kill ends the process
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, attributes()
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "IMGO_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, p.Env...)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	ended := make(chan struct{})
	p.cmd, p.ended = cmd, ended
	go func() {
		defer close(ended)
		_ = cmd.Wait() // cmd.ProcessState then has the exit status
	}()
	return nil
}

// Running reports whether the process runs.
func (p *Process) Running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// PID returns the id of the process, or 0 if it does not run.
func (p *Process) PID() int {
	if !p.Running() {
		return 0
	}
	return p.cmd.Process.Pid
}

var statusClient = &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// StartReady starts imgo and waits until it is ready. more are as in Start.
func (p *Process) StartReady(ctx context.Context, more ...string) error {
	if err := p.Start(more...); err != nil {
		return err
	}
	return p.Ready(ctx)
}

// Ready waits until the process says that it is ready.
func (p *Process) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for !p.isReady(ctx) {
		if p.cmd == nil {
			return fmt.Errorf("%s was not started", p.Name)
		}
		if err := p.Ended(); err != nil {
			return err
		}
		if wait.Sleep(ctx, 10*time.Millisecond) != nil {
			// On SIGQUIT, Go logs all goroutines and ends. The log then shows where the process hangs.
			_ = p.Signal(syscall.SIGQUIT)
			return fmt.Errorf("%s was not ready within %s: its log is %s", p.Name, startLimit, p.Log)
		}
	}
	return nil
}

func (p *Process) isReady(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.HTTP+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := statusClient.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// EndedError reports that a process had ended by itself.
type EndedError struct {
	State *os.ProcessState
	text  string
}

func (e *EndedError) Error() string { return e.text }

// Tail returns the last bytes of the log, at most limit, or the reason why it cannot be read.
func (p *Process) Tail(limit int) string {
	data, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(data[max(0, len(data)-limit):]))
}

// Ended returns an *EndedError if the process ended by itself, else nil.
func (p *Process) Ended() error {
	if p.cmd == nil || p.Running() {
		return nil
	}
	text := fmt.Sprintf("%s ended by itself: %s; its log %s ends with\n%s", p.Name, p.cmd.ProcessState, p.Log, p.Tail(2000))
	return &EndedError{p.cmd.ProcessState, text}
}

// Signal sends a signal to the process.
func (p *Process) Signal(s syscall.Signal) error {
	if !p.Running() {
		return fmt.Errorf("send %s to %s: it does not run", s, p.Name)
	}
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("send %s to %s: %w", s, p.Name, err)
	}
	return nil
}

// Kill kills the process with SIGKILL and waits for its end. It does nothing if no process was started.
// It returns an *EndedError if the process had ended by itself.
func (p *Process) Kill() error {
	if p.cmd == nil {
		return nil
	}
	if err := p.Ended(); err != nil {
		p.cmd = nil
		return err
	}
	err := p.Signal(syscall.SIGKILL)
	<-p.ended
	p.cmd = nil
	return err
}

// Stop ends the process with SIGTERM. It returns an error if the end is not orderly or takes too long. It
// does nothing if no process was started.
func (p *Process) Stop() error {
	if p.cmd == nil {
		return nil
	}
	if err := p.Ended(); err != nil {
		p.cmd = nil
		return err
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if !p.AwaitEnd(stopLimit) {
		return errors.Join(fmt.Errorf("%s did not end within %s of SIGTERM", p.Name, stopLimit), p.Kill())
	}
	state := p.cmd.ProcessState
	p.cmd = nil
	if !state.Success() {
		return fmt.Errorf("%s ended with %s after SIGTERM: its log is %s", p.Name, state, p.Log)
	}
	return nil
}

// AwaitEnd waits for limit until a started process has ended. It reports whether it has.
func (p *Process) AwaitEnd(limit time.Duration) bool {
	select {
	case <-p.ended:
		return true
	case <-time.After(limit):
		return false
	}
}
