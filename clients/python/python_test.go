// Package python_test runs the tools and the tests of the client for Python, so that the Go test run covers them.
package python_test

import (
	"bytes"
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"imgo/roles"
	"imgo/roles/logic/httpapi"
	"imgo/test/harness"
	"imgo/transport/transporttest"
)

const (
	// limit bounds each tool. The first run installs the packages.
	limit = 10 * time.Minute
	// key is the API key of the server.
	key = "the-key-of-the-python-tests"
	// minimum is the oldest Python 3 that the client supports.
	minimum = 10
)

var oldest = flag.Bool("oldest", false, "take the oldest Python of this machine in place of the newest")

// interpreter is a Python of this machine.
type interpreter struct {
	path  string
	minor int // of 3.minor
}

// chosen returns the Python of the tests: of those here that the client supports, the newest, or the oldest with -oldest.
// Without any it skips the test. With CI=true it fails.
func chosen(t *testing.T) interpreter {
	t.Helper()
	names := []string{"python3"}
	for minor := minimum; minor < minimum+10; minor++ {
		names = append(names, "python3."+strconv.Itoa(minor))
	}
	if home, err := os.UserHomeDir(); err == nil {
		found, _ := filepath.Glob(filepath.Join(home, ".pyenv/versions/3.*/bin/python3")) // the pattern is good
		names = append(names, found...)
	}
	var all []interpreter
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		out, err := exec.CommandContext(t.Context(), path, "-c", "import ensurepip, ssl, sys, venv; print(sys.version_info[1])").Output()
		if err != nil {
			continue // a shim of a version that is not active, or a Python without venv
		}
		if minor, err := strconv.Atoi(strings.TrimSpace(string(out))); err == nil && minor >= minimum {
			all = append(all, interpreter{path, minor})
		}
	}
	if len(all) == 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("the Python client's tests need Python 3.10 or newer with venv: scripts/setup installs it")
		}
		t.Skip("the Python client's tests need Python 3.10 or newer with venv")
	}
	byAge := func(a, b interpreter) int { return a.minor - b.minor }
	if *oldest {
		return slices.MinFunc(all, byAge)
	}
	return slices.MaxFunc(all, byAge)
}

// tools returns the folder of the tools for an interpreter.
func (i interpreter) tools(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(run(t, "../..", nil, "scripts/python", "clients/python/requirements.txt", i.path))
}

// run runs a program in dir and returns its standard output. The test ends if the program fails.
func run(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out, all bytes.Buffer
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &out, &all
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out.String(), all.String())
	}
	return out.String()
}

func TestTools(t *testing.T) {
	bin := chosen(t).tools(t)
	for _, args := range [][]string{
		{"ruff", "check", "--no-cache", "--config", "pyproject.toml", ".", "../../examples/python"},
		{"ruff", "format", "--check", "--no-cache", "--config", "pyproject.toml", ".", "../../examples/python"},
		{"mypy", "--cache-dir", t.TempDir()},
	} {
		run(t, ".", nil, filepath.Join(bin, args[0]), args[1:]...)
	}
}

// TestPytest runs the library's own tests, in part with real servers: one without TLS, and one with it.
func TestPytest(t *testing.T) {
	python := chosen(t)
	t.Logf("Python 3.%d", python.minor)
	bin := python.tools(t)
	cert, certKey := transporttest.WriteCert(t, t.TempDir(), "python")
	plain, secure := server(t, "", ""), server(t, cert, certKey)
	env := []string{
		"IMGO_TEST_TCP=" + plain.ClientAddr("tcp").String(), "IMGO_TEST_WS=ws://" + plain.ClientAddr("ws").String(),
		"IMGO_TEST_TLS=tls://" + secure.ClientAddr("tcp").String(), "IMGO_TEST_WSS=wss://" + secure.ClientAddr("ws").String(),
		"IMGO_TEST_API=" + plain.Base, "IMGO_TEST_SECURE_API=" + secure.Base, "IMGO_TEST_KEY=" + key,
		"IMGO_TEST_CA=" + cert, "PYTHONDONTWRITEBYTECODE=1",
	}
	run(t, ".", env, filepath.Join(bin, "pytest"), "-p", "no:cacheprovider")
}

// server starts a node with an API key. Clients need TLS if there is a certificate.
func server(t *testing.T, cert, certKey string) *harness.Node {
	t.Helper()
	cfg := harness.Settings(t)
	cfg.Auth.Mode = "token"
	cfg.HTTP.Keys = []httpapi.Key{{Name: "test", Key: key}}
	cfg.Comet.TLSCert, cfg.Comet.TLSKey = cert, certKey
	return harness.Start(t, cfg, roles.RunOptions{}, nil)
}
