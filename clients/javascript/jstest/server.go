package jstest

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"imgo/bench/process"
	"imgo/internal/race"
)

var built struct {
	once      sync.Once
	dir, path string
	err       error
}

// Server is a real imgo, which keeps its addresses and data when it is killed and started again.
type Server struct {
	HTTP string // http://host:port
	WS   string // ws://host:port

	t       testing.TB
	process *process.Process
}

// StartServer starts imgo with an empty data folder. It ends with the test. flags are more flags.
func StartServer(t testing.TB, flags ...string) *Server {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and starts the server; not with -short")
	}
	built.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), Limit)
		defer cancel()
		if built.dir, built.err = os.MkdirTemp("", "imgo-built-"); built.err == nil {
			built.path, built.err = process.Build(ctx, built.dir, race.Enabled)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	dir := t.TempDir()
	http, ws := free(t), free(t)
	args := []string{"--tcp", "127.0.0.1:0", "--ws", ws, "--http", http, "--data-dir", filepath.Join(dir, "data"), "--log-format", "json"}
	s := &Server{HTTP: "http://" + http, WS: "ws://" + ws, t: t, process: &process.Process{
		Binary: built.path, Name: "imgo", HTTP: http, Log: filepath.Join(dir, "log"), Args: append(args, flags...),
	}}
	s.Start()
	t.Cleanup(func() {
		if err := s.process.Kill(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the log of imgo:\n%s", s.process.Tail(4000))
		}
	})
	return s
}

// Start starts a killed server, and waits until it is ready.
func (s *Server) Start() {
	s.t.Helper()
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	if err := s.process.Ready(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// Kill kills the server (SIGKILL).
func (s *Server) Kill() {
	s.t.Helper()
	if err := s.process.Kill(); err != nil {
		s.t.Fatal(err)
	}
}

// Real replaces the default addresses in a text by those of this server.
func (s *Server) Real(text string) string {
	return strings.NewReplacer("http://127.0.0.1:7172", s.HTTP, "ws://127.0.0.1:8090", s.WS).Replace(text)
}

// free returns an address of this machine that nobody listens on.
func free(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
