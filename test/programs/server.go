package programs

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"imgo/internal/process"
	"imgo/internal/race"
	"imgo/internal/wait/waittest"
	"imgo/test/harness"
)

var built struct {
	once      sync.Once
	dir, path string
	err       error
}

// Server is a real imgo, which keeps its addresses and data when it is killed and started again.
type Server struct {
	HTTP, TCP, WS string // host:port

	t       testing.TB
	process *process.Process
}

// Binary returns the path of the program imgo, which is built once.
func Binary(t testing.TB) string {
	t.Helper()
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
	return built.path
}

// StartServer starts imgo with an empty data folder. It ends with the test. flags are more flags.
func StartServer(t testing.TB, flags ...string) *Server {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and starts the server; not with -short")
	}
	binary, dir := Binary(t), t.TempDir()
	s := &Server{HTTP: waittest.FreeAddress(t), TCP: waittest.FreeAddress(t), WS: waittest.FreeAddress(t), t: t}
	args := []string{"--tcp", s.TCP, "--ws", s.WS, "--http", s.HTTP, "--data-dir", filepath.Join(dir, "data"), "--log-format", "json"}
	s.process = &process.Process{Binary: binary, Name: "imgo", HTTP: s.HTTP, Log: filepath.Join(dir, "log"), Args: append(args, flags...)}
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
	if err := s.process.StartReady(s.t.Context()); err != nil {
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
	return strings.NewReplacer("127.0.0.1:7172", s.HTTP, "127.0.0.1:8080", s.TCP, "127.0.0.1:8090", s.WS).Replace(text)
}

// URL returns the address of the API.
func (s *Server) URL() string { return "http://" + s.HTTP }

// WebSocket returns the address for WebSocket clients.
func (s *Server) WebSocket() string { return "ws://" + s.WS }

// Binary returns the path of the program imgo.
func (s *Server) Binary() string { return s.process.Binary }

// Pending returns how many messages wait for a user. It is -1 if the server does not say.
func (s *Server) Pending(user string) int {
	var answer struct{ Pending int }
	if _, err := harness.Call(http.MethodGet, s.URL()+"/v1/users/"+user, "", &answer); err != nil {
		return -1
	}
	return answer.Pending
}

// WaitForUser waits until the server says something of a user, such as "online":true.
func (s *Server) WaitForUser(user, what string) {
	s.t.Helper()
	waittest.Eventually(s.t, user+" has "+what, func() bool {
		var answer json.RawMessage
		_, err := harness.Call(http.MethodGet, s.URL()+"/v1/users/"+user, "", &answer)
		return err == nil && strings.Contains(string(answer), what)
	})
}

// CleanUp removes the program that Binary has built. A TestMain calls it at the end.
func CleanUp() {
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
}
