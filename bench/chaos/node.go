//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// startLimit bounds a start, including the rebuild from the log. stopLimit bounds an
	// orderly stop; shutdown.timeout is 15 s.
	startLimit = 2 * time.Minute
	stopLimit  = 25 * time.Second
	// The ports of a node. Each node has its own address.
	httpPort, tcpPort, wsPort, gossipPort, rpcPort = "7172", "8080", "8090", "7946", "7170"
)

// node is a sequence of imgo processes with the same address and data folder. It is
// not safe for concurrent use.
type node struct {
	name, role, ip string
	dir            string
	args           []string
	binary         string

	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended
}

func (n *node) http() string { return net.JoinHostPort(n.ip, httpPort) }
func (n *node) data() string { return filepath.Join(n.dir, n.name) }

// start starts a process and does not wait until it is ready.
func (n *node) start() error {
	log, err := os.OpenFile(filepath.Join(n.dir, n.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open the log of %s: %w", n.name, err)
	}
	defer log.Close()                         // the process has its own descriptor
	n.cmd = exec.Command(n.binary, n.args...) //nolint:noctx // stop or kill ends the process
	n.cmd.Stdout, n.cmd.Stderr = log, log
	// A process group of its own keeps Ctrl-C of the terminal away, because nodes stop one
	// after the other.
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "IMGO_") {
			n.cmd.Env = append(n.cmd.Env, v)
		}
	}
	if err := n.cmd.Start(); err != nil {
		n.cmd = nil
		return fmt.Errorf("start %s: %w", n.name, err)
	}
	ended, cmd := make(chan struct{}), n.cmd
	n.ended = ended
	go func() {
		defer close(ended)
		_ = cmd.Wait() // cmd.ProcessState then has the exit status
	}()
	return nil
}

// running reports whether the process runs.
func (n *node) running() bool {
	if n.cmd == nil {
		return false
	}
	select {
	case <-n.ended:
		return false
	default:
		return true
	}
}

var statusClient = &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// ready waits until the node reports that it is ready.
func (n *node) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.http()+"/readyz", nil)
		if err != nil {
			return err
		}
		if resp, err := statusClient.Do(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			// On SIGQUIT, Go logs all goroutines and ends. The log then shows where the node
			// hangs.
			_ = n.signal(syscall.SIGQUIT)
			return fmt.Errorf("%s was not ready within %s: its log is %s", n.name, startLimit, filepath.Join(n.dir, n.name+".log"))
		case <-n.ended:
			return fmt.Errorf("%s ended: %s; its log is %s", n.name, n.cmd.ProcessState, filepath.Join(n.dir, n.name+".log"))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// signal sends s to the process.
func (n *node) signal(s syscall.Signal) error {
	if !n.running() {
		return fmt.Errorf("%s does not run", n.name)
	}
	if err := n.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("send %s to %s: %w", s, n.name, err)
	}
	return nil
}

// kill kills the process and waits for its end.
func (n *node) kill() error {
	if !n.running() {
		return nil
	}
	if err := n.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-n.ended
	return nil
}

// stop stops the process in an orderly way.
func (n *node) stop() error {
	if !n.running() {
		return nil
	}
	if err := n.signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-n.ended:
	case <-time.After(stopLimit):
		return errors.Join(fmt.Errorf("%s did not end within %s of SIGTERM", n.name, stopLimit), n.kill())
	}
	if !n.cmd.ProcessState.Success() {
		return fmt.Errorf("%s ended with %s: its log is %s", n.name, n.cmd.ProcessState, filepath.Join(n.dir, n.name+".log"))
	}
	return nil
}

// wipe deletes the data folder of the node.
func (n *node) wipe() error {
	if n.running() {
		return fmt.Errorf("%s runs", n.name)
	}
	if err := os.RemoveAll(n.data()); err != nil {
		return fmt.Errorf("remove the disk of %s: %w", n.name, err)
	}
	return nil
}

// cpu returns the CPU time that the process has used, or 0 if it does not run.
func (n *node) cpu() time.Duration {
	if !n.running() {
		return 0
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	// The process name in parentheses may contain spaces, so fields count from the closing
	// parenthesis.
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	var user, system int64
	_, _ = fmt.Sscan(fields[11], &user)
	_, _ = fmt.Sscan(fields[12], &system)
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}
