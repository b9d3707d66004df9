package soak

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// startLimit bounds a start, and stopLimit an orderly stop. The server's own
// shutdown.timeout is 15 s.
const (
	startLimit = 30 * time.Second
	stopLimit  = 20 * time.Second
)

// Build builds the server into dir and returns the path of the program. race adds the
// race detector.
func Build(ctx context.Context, dir string, race bool) (string, error) {
	binary := filepath.Join(dir, "imgo")
	args := []string{"build", "-o", binary}
	if race {
		args = append(args, "-race")
	}
	if out, err := exec.CommandContext(ctx, "go", append(args, "imgo")...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the server: %w\n%s", err, out)
	}
	return binary, nil
}

// server is a sequence of imgo processes on one data folder and at fixed addresses.
// Only one goroutine may use start, kill, stop and exited. The other methods are safe
// for concurrent use.
type server struct {
	binary, dir   string
	goroutines    bool   // one goroutine for each connection instead of epoll
	tcp, ws, http string // host:port

	cmd    *exec.Cmd
	ended  chan struct{} // closed when the process has ended
	log    *os.File
	client *http.Client
	// run is the number of the current process. A device records it while it is online.
	run atomic.Int64
}

func newServer(ctx context.Context, cfg Config, rng *rand.Rand) (*server, error) {
	ports, err := freePorts(ctx, rng, 3)
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(cfg.Dir, "server.log"))
	if err != nil {
		return nil, fmt.Errorf("make the server's log: %w", err)
	}
	return &server{
		binary: cfg.Binary, dir: cfg.Dir, goroutines: cfg.Goroutines, tcp: ports[0], ws: ports[1], http: ports[2], log: log,
		client: &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}},
	}, nil
}

// freePorts finds ports below the system's range for outgoing connections, so that
// they stay free while the server is down. A port inside that range would be unsafe.
// The system could assign it to a client that connects to the same port. The client
// would then connect to itself and block the server's port.
func freePorts(ctx context.Context, rng *rand.Rand, n int) ([]string, error) {
	var ports []string
	for range 1000 {
		address := fmt.Sprintf("127.0.0.1:%d", 10_000+rng.IntN(20_000))
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err != nil {
			continue
		}
		_ = l.Close()
		if ports = append(ports, address); len(ports) == n {
			return ports, nil
		}
	}
	return nil, errors.New("no free ports between 10000 and 30000")
}

// start starts a process and does not wait until it is ready.
func (s *server) start() error {
	s.cmd = exec.Command(s.binary, //nolint:noctx // only the end of Run kills it, not the end of a context
		"--data-dir", filepath.Join(s.dir, "data"), "--node-id", "soak",
		"--tcp", s.tcp, "--ws", s.ws, "--http", s.http, "--log-format", "json",
		// No limit may drop a message, because it would then count as lost.
		"--kept-mailbox-length", "1000000",
		// With a low limit, a slow client falls behind sooner.
		"--limits-pending-bytes", "64KiB",
		fmt.Sprintf("--comet-epoll=%t", !s.goroutines),
		// Every second process runs without io_uring.
		fmt.Sprintf("--comet-io-uring=%t", s.run.Load()%2 == 0))
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "IMGO_") {
			s.cmd.Env = append(s.cmd.Env, v)
		}
	}
	s.run.Add(1)
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		return fmt.Errorf("start the server: %w", err)
	}
	ended, cmd := make(chan struct{}), s.cmd
	s.ended = ended
	go func() {
		defer close(ended)
		_ = cmd.Wait() // cmd.ProcessState then has the exit status
	}()
	return nil
}

// wait waits until the server is ready.
func (s *server) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("the server was not ready within %s", startLimit))
	defer cancel()
	for {
		if s.ready(ctx) {
			return nil
		}
		select {
		case <-s.ended:
			return fmt.Errorf("the server ended by itself: %s", s.cmd.ProcessState)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (s *server) ready(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.http+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode == http.StatusOK
}

// endedError reports that the server had already ended before it was killed.
type endedError struct{ state *os.ProcessState }

func (e *endedError) Error() string { return "the server had ended by itself: " + e.state.String() }

// kill kills the server with SIGKILL. It returns an *endedError if the server had
// already ended.
func (s *server) kill() error {
	if s.cmd == nil {
		return nil
	}
	select {
	case <-s.ended:
		state := s.cmd.ProcessState
		s.cmd = nil
		return &endedError{state}
	default:
	}
	err := s.cmd.Process.Kill()
	<-s.ended
	state := s.cmd.ProcessState
	s.cmd = nil
	if err != nil {
		return fmt.Errorf("kill the server: %w (%s)", err, state)
	}
	return nil
}

// term sends SIGTERM to the server and does not wait.
func (s *server) term() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("send SIGTERM: %w", err)
	}
	return nil
}

// stop ends the server with SIGTERM. It returns an error if the end is not orderly or
// takes too long.
func (s *server) stop() error {
	if err := s.term(); err != nil {
		return err
	}
	select {
	case <-s.ended:
		state := s.cmd.ProcessState
		s.cmd = nil
		if !state.Success() {
			return fmt.Errorf("the server ended with %s after SIGTERM", state)
		}
		return nil
	case <-time.After(stopLimit):
		return errors.Join(fmt.Errorf("the server did not end within %s of SIGTERM", stopLimit), s.kill())
	}
}

// close kills the server if it still runs, and releases its resources.
func (s *server) close() {
	_ = s.kill()
	s.client.CloseIdleConnections()
	_ = s.log.Close()
}

// complaints returns the lines of the server's log that a kill does not explain.
func (s *server) complaints() []string {
	data, err := os.ReadFile(s.log.Name())
	if err != nil {
		return []string{err.Error()}
	}
	var found []string
	for line := range bytes.Lines(data) {
		for _, bad := range []string{"panic", "fatal error", "DATA RACE", `"level":"error"`, `"level":"fatal"`} {
			if bytes.Contains(line, []byte(bad)) {
				found = append(found, strings.TrimSpace(string(line)))
				break
			}
		}
	}
	return found
}
