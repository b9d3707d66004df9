//go:build linux

package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// startTimeout bounds a start of imgo.
	startTimeout = 30 * time.Second
	// scrapeTimeout bounds a question to imgo's admin side.
	scrapeTimeout = 20 * time.Second
)

// server is a running imgo.
type server struct {
	cmd    *exec.Cmd
	dir    string // working directory; the data is in imgo-data below it
	tcp    string
	ws     string
	http   string
	log    bytes.Buffer // what it printed; to be read after exited
	exited chan struct{}
}

// freePorts finds n ports of an address of loopback that nobody uses. Until they
// are used somebody else might take them, on 127.0.0.1 any outgoing connection
// too: then the start fails and says so.
func freePorts(host string, n int) ([]string, error) {
	var all []string
	for range n {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0")) //nolint:noctx // binding loopback does not wait
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		// Closed at the end, so that no port is found twice.
		defer l.Close()
		all = append(all, l.Addr().String())
	}
	return all, nil
}

// serverOptions are what a scenario sets beside the defaults.
type serverOptions struct {
	env []string // IMGO_SECTION_KEY=value
	// host is where it listens, an address of loopback; empty: 127.0.0.1.
	host string
	// ports are three of host that were found free already; nil: none were.
	ports []string
}

// exec starts imgo in an empty directory and does not wait for it.
func (b *bench) exec(o serverOptions) (*server, error) {
	dir, err := os.MkdirTemp(b.tmp, "server-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for imgo: %w", err)
	}
	if o.host == "" {
		o.host = "127.0.0.1"
	}
	ports := o.ports
	if ports == nil {
		if ports, err = freePorts(o.host, 3); err != nil {
			return nil, err
		}
	}
	s := &server{dir: dir, tcp: ports[0], ws: ports[1], http: ports[2], exited: make(chan struct{})}
	// Settings of whoever runs the bench must not reach what it measures.
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "IMGO_") {
			env = append(env, v)
		}
	}
	s.cmd = exec.Command(b.imgo, "serve", "--tcp", s.tcp, "--ws", s.ws, "--http", s.http, //nolint:noctx // it is ended by stop
		"--auth-mode", "none", "--log-level", "warn")
	s.cmd.Dir, s.cmd.Env = dir, append(env, o.env...)
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", b.imgo, err)
	}
	go func() {
		_ = s.cmd.Wait() // its ProcessState says how it ended
		close(s.exited)
	}()
	return s, nil
}

// serve starts imgo and waits until it is ready.
func (b *bench) serve(ctx context.Context, o serverOptions) (*server, error) {
	s, err := b.exec(o)
	if err != nil {
		return nil, err
	}
	if err := s.ready(ctx); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// ready waits until imgo says that it is.
func (s *server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		_, err := s.get(ctx, "/readyz")
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until imgo is ready: %w", err)
		case <-s.exited:
			return errors.New("imgo ended as it started")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// stop ends imgo and removes its data. It is killed: its data is of no use to
// anybody, and to see ten thousand clients off takes longer than to measure
// them. One that has ended by itself is an error.
func (s *server) stop() error {
	var err error
	select {
	case <-s.exited:
		err = fmt.Errorf("imgo ended by itself (%s)\n%s", s.cmd.ProcessState, s.log.String())
	default:
		_ = s.cmd.Process.Kill() // an error means that it has just ended
		<-s.exited
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

func (s *server) pid() int { return s.cmd.Process.Pid }

// get asks imgo's admin side.
func (s *server) get(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.http+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", path, err)
	}
	req.Close = true // an idle connection would be one more to count
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %.200s", resp.Status, data)
	}
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", path, err)
	}
	return data, nil
}

// metrics are the values of the metrics, by name and labels as written.
func (s *server) metrics(ctx context.Context) (map[string]float64, error) {
	data, err := s.get(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	all := make(map[string]float64)
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		if v, err := strconv.ParseFloat(line[at+1:], 64); err == nil {
			all[line[:at]] = v
		}
	}
	return all, nil
}

// collect has imgo collect its garbage.
func (s *server) collect(ctx context.Context) error {
	_, err := s.get(ctx, "/debug/pprof/heap?gc=1")
	return err
}

// profileCPU profiles imgo for about d, and writes the profile into dir. The caller
// must call wait, which returns when the profile is written. Without a dir it does
// nothing, and so do the other profiles.
func (s *server) profileCPU(ctx context.Context, dir, name string, d time.Duration) (wait func() error) {
	if dir == "" {
		return func() error { return nil }
	}
	done := make(chan error, 1)
	go func() {
		done <- s.saveProfile(ctx, fmt.Sprintf("/debug/pprof/profile?seconds=%d", max(1, int(d.Seconds()))),
			filepath.Join(dir, name+".cpu.pprof"))
	}()
	return func() error { return <-done }
}

// profileHeap writes profiles of the heap and of the goroutines.
func (s *server) profileHeap(ctx context.Context, dir, name string) error {
	if dir == "" {
		return nil
	}
	return errors.Join(
		s.saveProfile(ctx, "/debug/pprof/heap?gc=1", filepath.Join(dir, name+".heap.pprof")),
		s.saveProfile(ctx, "/debug/pprof/goroutine?debug=1", filepath.Join(dir, name+".goroutines.txt")),
	)
}

// profileAllocs writes a profile of all allocations since imgo was started.
func (s *server) profileAllocs(ctx context.Context, dir, name string) error {
	if dir == "" {
		return nil
	}
	return s.saveProfile(ctx, "/debug/pprof/allocs", filepath.Join(dir, name+".allocs.pprof"))
}

func (s *server) saveProfile(ctx context.Context, path, file string) error {
	data, err := s.get(ctx, path)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		return fmt.Errorf("write a profile: %w", err)
	}
	return nil
}
