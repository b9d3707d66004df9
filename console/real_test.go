package console_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"imgo/bench/process"
	"imgo/internal/race"
)

// TestBrowserRealServer goes through the page of the real binary, which has a mailbox, a log and a
// disk.
func TestBrowserRealServer(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts the server; not with -short")
	}
	chromium(t) // skips the test before the long build
	base := startServer(t)
	walkthrough(t, phone, base, "real")
	importElsewhere(t, base)
}

// startServer builds imgo and starts it with an empty data folder on free ports. It returns the
// address of the page. The server ends with the test.
func startServer(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	binary, err := process.Build(ctx, dir, race.Enabled)
	if err != nil {
		t.Fatal(err)
	}

	const free = "127.0.0.1:0"
	cmd := exec.Command(binary, "--tcp", free, "--ws", free, "--http", free,
		"--data-dir", filepath.Join(dir, "data"), "--log-format", "json", "--log-level", "info")
	cmd.Dir = dir
	logs, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatalf("start the server: %v", err)
	}

	// The log names the address. After that it is kept only to explain a failure.
	address := make(chan string, 1)
	var said strings.Builder
	var wg sync.WaitGroup
	wg.Go(func() {
		lines := bufio.NewScanner(logs)
		for lines.Scan() {
			said.WriteString(lines.Text() + "\n")
			var line struct{ Message, HTTP string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.HTTP != "" && strings.HasSuffix(line.Message, "is ready") {
				select {
				case address <- line.HTTP:
				default:
				}
			}
		}
		_, _ = io.Copy(io.Discard, logs) // a line that is too long for the scanner must not block the server
	})
	ended := make(chan error, 1)
	wg.Go(func() {
		ended <- cmd.Wait()
		_ = w.Close()
	})
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
		wg.Wait()
		kill.Stop()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with: %v", err)
		}
		if t.Failed() {
			t.Logf("the server's log:\n%s", said.String())
		}
	})
	select {
	case a := <-address:
		return "http://" + a
	case err := <-ended:
		ended <- nil
		t.Fatalf("the server ended before it was ready: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("the server's log does not say that it is ready")
	}
	return ""
}
