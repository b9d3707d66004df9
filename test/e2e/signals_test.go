package e2e_test

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSignalsDrain ends servers by each signal. The exit code must be 0, and the log must say that
// the server stopped in order. Several SIGHUPs, as a terminal that closes sends them, are one.
func TestSignalsDrain(t *testing.T) {
	for name, signals := range map[string][]syscall.Signal{
		"SIGTERM": {syscall.SIGTERM},
		"SIGINT":  {syscall.SIGINT},
		"SIGHUP":  {syscall.SIGHUP, syscall.SIGHUP, syscall.SIGHUP},
	} {
		t.Run(name, func(t *testing.T) {
			p := serve(t, t.TempDir(), freePorts()...)
			for _, s := range signals {
				_ = p.cmd.Process.Signal(s) // after the first one it may have ended
			}
			if code := p.exit(); code != 0 || !strings.Contains(p.log.String(), `"message":"stopped"`) {
				t.Errorf("exit code %d, log:\n%s", code, &p.log)
			}
		})
	}
}

// TestLogReaderEnds closes the pipe that a server logs to. The server must go on, and drain when
// it is told to: the next lines are lost, and nothing else.
func TestLogReaderEnds(t *testing.T) {
	cmd := exec.Command(imgoBinary(t), freePorts("--log-level", "debug")...)
	cmd.Dir, cmd.Env = t.TempDir(), environment()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = write, write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = write.Close()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	for lines := bufio.NewScanner(read); lines.Scan(); {
		if strings.Contains(lines.Text(), "is ready") {
			break
		}
	}
	if err := read.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("the server ended with %v", err)
		}
	case <-time.After(waitLimit):
		t.Error("the server does not end")
	}
}
