// Package harness starts whole nodes in the process of a test. Each node ends with its test. The package starts
// no cluster.
package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"imgo/config"
	"imgo/internal/wait/waittest"
	"imgo/roles"
)

// Settings returns the settings of a node for a test: free ports, a folder of its own and auth.mode none.
func Settings(t testing.TB) config.Config {
	cfg := config.Default()
	cfg.NodeID = "n1"
	cfg.DataDir = filepath.Join(t.TempDir(), "data")
	cfg.Comet.TCP, cfg.Comet.WS, cfg.HTTP.Listen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Auth.Mode = "none"
	cfg.Shutdown.Timeout = waittest.Limit
	return cfg
}

// Node is a whole node. It ends when its test ends.
type Node struct {
	*roles.Node
	Config config.Config
	Log    *waittest.Log
	Base   string       // address of its HTTP side, such as "http://127.0.0.1:1234"
	HTTP   *http.Client // for Base

	t      testing.TB
	cancel context.CancelFunc
	crash  atomic.Bool
	done   chan struct{} // closed when Run has returned
	err    error         // result of Run, once done is closed
}

// Start starts a node and waits until it is ready. client is for its HTTP side; nil means plain HTTP.
func Start(t testing.TB, cfg config.Config, opts roles.RunOptions, client *http.Client) *Node {
	t.Helper()
	n := Begin(t, cfg, opts, client)
	n.WaitReady()
	return n
}

// Begin starts a node and does not wait until it is ready. If it does not end in good order, the test
// fails.
func Begin(t testing.TB, cfg config.Config, opts roles.RunOptions, client *http.Client) *Node {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	if client == nil {
		client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	}
	n := &Node{Config: cfg, Log: &waittest.Log{}, HTTP: client, t: t, done: make(chan struct{})}
	opts.Stderr, opts.Version, opts.Faults.Crash = n.Log, "test", n.crash.Load
	var err error
	if n.Node, err = roles.New(t.Context(), cfg, opts); err != nil {
		t.Fatalf("start %s: %v\n%s", cfg.NodeID, err, n.Log)
	}
	n.Base = "http://" + n.HTTPAddr().String()
	if cfg.HTTP.TLSCert != "" {
		n.Base = "https://" + n.HTTPAddr().String()
	}
	var ctx context.Context
	ctx, n.cancel = context.WithCancel(context.Background())
	go func() {
		defer close(n.done)
		n.err = n.Run(ctx)
	}()
	t.Cleanup(func() {
		if err := n.Stop(); err != nil {
			t.Errorf("%s ended with: %v", cfg.NodeID, err)
		}
		if t.Failed() {
			t.Logf("the log of %s:\n%s", cfg.NodeID, n.Log)
		}
	})
	return n
}

// WaitReady waits until the node is ready.
func (n *Node) WaitReady() {
	n.t.Helper()
	waittest.Eventually(n.t, n.Config.NodeID+" is ready", func() bool {
		select {
		case <-n.done:
			n.t.Fatalf("%s ended with: %v\n%s", n.Config.NodeID, n.err, n.Log)
		default:
		}
		response, err := n.HTTP.Get(n.Base + "/readyz") //nolint:noctx // the wait is bounded
		if err != nil {
			return false
		}
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

// Stop stops the node in good order, if it still runs, and returns the error of Run.
func (n *Node) Stop() error {
	n.HTTP.CloseIdleConnections()
	n.cancel()
	<-n.done
	return n.err
}

// Crash ends the node. To other nodes and to clients it looks like a crash.
func (n *Node) Crash() {
	n.crash.Store(true)
	n.cancel()
	<-n.done
	n.err = nil
}

// SameAddresses returns the settings for another start of the node at the same addresses.
func (n *Node) SameAddresses() config.Config {
	cfg := n.Config
	cfg.Comet.TCP, cfg.Comet.WS, cfg.HTTP.Listen = n.ClientAddr("tcp").String(), n.ClientAddr("ws").String(), n.HTTPAddr().String()
	return cfg
}

// caller is for calls to any node. It keeps no connections, because nodes come and go.
var caller = &http.Client{Timeout: waittest.Limit, Transport: &http.Transport{DisableKeepAlives: true}}

// Call makes an HTTP call and decodes the JSON of an answer below 300 into out, unless that is nil. Each
// header has the form "Name: value". The error has the answer if its status is 300 or more. Any goroutine
// may use Call.
func Call(method, url, body string, out any, header ...string) (status int, err error) {
	request, err := http.NewRequest(method, url, strings.NewReader(body)) //nolint:noctx // the client has a timeout
	if err != nil {
		return 0, err
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		request.Header.Set(name, value)
	}
	response, err := caller.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
	case response.StatusCode >= 300:
		err = fmt.Errorf("%s %s: %s: %s", method, url, response.Status, answer)
	case out != nil:
		err = json.Unmarshal(answer, out)
	}
	return response.StatusCode, err
}
