//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"imgo/internal/freeport"
	"imgo/internal/process"
)

// scrapeTimeout bounds one request to imgo's admin endpoints.
const scrapeTimeout = 20 * time.Second

// server is a running imgo.
type server struct {
	process.Process
	dir     string // of the data and the log
	tcp, ws string
	admin   string // profiles need no key there; older versions have them at HTTP
}

// serverOptions are the settings of a scenario that differ from the defaults.
type serverOptions struct {
	env []string // IMGO_SECTION_KEY=value
	// host is the loopback address on which imgo listens. The default is 127.0.0.1.
	host string
	// ports are three ports of host that are known to be free. If it is nil, exec looks
	// for free ports.
	ports []string
}

// exec starts imgo in an empty directory and does not wait until it is ready.
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
		if ports, err = freeport.Find(o.host, 3); err != nil {
			return nil, err
		}
	}
	admin, err := freeport.Find(o.host, 1)
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir, tcp: ports[0], ws: ports[1], admin: admin[0], Process: process.Process{
		Binary: b.imgo, Name: "imgo", HTTP: ports[2], Log: filepath.Join(dir, "log"),
		Env: append([]string{"IMGO_HTTP_ADMIN=" + admin[0]}, o.env...),
		Args: []string{"serve", "--tcp", ports[0], "--ws", ports[1], "--http", ports[2], "--data-dir", filepath.Join(dir, "imgo-data"),
			"--auth-mode", "none", "--log-level", "warn",
			"--protocol-heartbeat", "1m"}, // so that clients with TLS, which send none, stay for over two minutes
	}}
	return s, s.Start()
}

// serve starts imgo and waits until it is ready.
func (b *bench) serve(ctx context.Context, o serverOptions) (*server, error) {
	s, err := b.exec(o)
	if err != nil {
		return nil, err
	}
	if err := s.Ready(ctx); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// stop kills imgo and removes its data. Nobody needs the data, and an orderly end with
// ten thousand clients would take longer than the measurement. stop returns an error
// if imgo had already ended.
func (s *server) stop() error { return errors.Join(s.Kill(), os.RemoveAll(s.dir)) }

func (s *server) pid() int { return s.PID() }

// get requests a path from imgo's admin endpoints.
func (s *server) get(ctx context.Context, path string) ([]byte, error) {
	if strings.HasPrefix(path, "/debug/") {
		if data, err := call(ctx, http.MethodGet, "http://"+s.admin+path, ""); err == nil {
			return data, nil
		}
	}
	return call(ctx, http.MethodGet, "http://"+s.HTTP+path, "")
}

// post calls imgo's API.
func (s *server) post(ctx context.Context, path, body string) error {
	_, err := call(ctx, http.MethodPost, "http://"+s.HTTP+path, body)
	return err
}

// call makes a call on a connection of its own: a kept-alive one would add to the measured
// connections.
func call(ctx context.Context, method, address, body string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("call imgo: %w", err)
	}
	req.Close = true
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("call imgo: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= http.StatusMultipleChoices {
		err = fmt.Errorf("%s: %.200s", resp.Status, data)
	}
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", address, err)
	}
	return data, nil
}

// metrics returns the values of the metrics. The keys are name and labels as in the
// text format.
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

// collect makes imgo run a garbage collection.
func (s *server) collect(ctx context.Context) error {
	_, err := s.get(ctx, "/debug/pprof/heap?gc=1")
	return err
}

// profileCPU profiles imgo for about d and writes the profile into dir. The caller
// must call wait, which returns when the profile is written. With an empty dir this
// and the other profile methods do nothing.
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

// profileHeap writes a profile of the heap and one of the goroutines.
func (s *server) profileHeap(ctx context.Context, dir, name string) error {
	if dir == "" {
		return nil
	}
	return errors.Join(
		s.saveProfile(ctx, "/debug/pprof/heap?gc=1", filepath.Join(dir, name+".heap.pprof")),
		s.saveProfile(ctx, "/debug/pprof/goroutine?debug=1", filepath.Join(dir, name+".goroutines.txt")),
	)
}

// profileAllocs writes a profile of all allocations since the start of imgo.
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
