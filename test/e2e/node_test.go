package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"imgo/config"
	"imgo/internal/wait/waittest"
	"imgo/roles"
	"imgo/test/harness"
)

// waitLimit bounds every wait.
const waitLimit = waittest.Limit

var eventually = waittest.Eventually

// node is a whole node in this process, or a process with the HTTP side of one.
type node struct {
	*harness.Node
	cfg  config.Config
	base string // of its HTTP side, "http://127.0.0.1:1234"
	http *http.Client
	log  *waittest.Log
}

// settings returns the settings of a test node.
func settings(t *testing.T) config.Config {
	cfg := harness.Settings(t)
	cfg.Comet.Epoll = !*goroutines
	return cfg
}

// start starts a node. change may be nil.
func start(t *testing.T, change func(*config.Config)) *node {
	t.Helper()
	cfg := settings(t)
	if change != nil {
		change(&cfg)
	}
	return startWith(t, cfg, roles.RunOptions{})
}

func startWith(t *testing.T, cfg config.Config, opts roles.RunOptions) *node {
	t.Helper()
	return wrap(harness.Start(t, cfg, opts, nil))
}

func wrap(n *harness.Node) *node {
	return &node{Node: n, cfg: n.Config, base: n.Base, http: n.HTTP, log: n.Log}
}

// stop stops the node once and returns the error of Run.
func (n *node) stop() error { return n.Stop() }

// restart stops the node and starts another one with the same folder and ports.
func (n *node) restart(t *testing.T) *node {
	t.Helper()
	cfg := n.SameAddresses()
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	return startWith(t, cfg, roles.RunOptions{})
}

// answer is an HTTP response.
type answer struct {
	status int
	header http.Header
	body   string
}

// call makes one HTTP call. Each header has the form "Name: value".
func (n *node) call(t testing.TB, method, path, body string, header ...string) answer {
	t.Helper()
	a, err := n.try(method, path, strings.NewReader(body), header...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

// try is like call, but returns its error, so that any goroutine may call it.
func (n *node) try(method, path string, body io.Reader, header ...string) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*waitLimit)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, n.base+path, body)
	if err != nil {
		return answer{}, err
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	response, err := n.http.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, string(text)}, err
}

// want checks the status and that the body contains every part.
func (a answer) want(t testing.TB, status int, parts ...string) {
	t.Helper()
	if a.status != status {
		t.Fatalf("answered %d %.500s, want %d", a.status, a.body, status)
	}
	for _, part := range parts {
		if !strings.Contains(a.body, part) {
			t.Fatalf("answered %.500s, want %q in it", a.body, part)
		}
	}
}

// is checks the status and the whole body.
func (a answer) is(t testing.TB, status int, body string) {
	t.Helper()
	if a.status != status || strings.TrimSuffix(a.body, "\n") != body {
		t.Fatalf("answered %d %.500s, want %d %s", a.status, a.body, status, body)
	}
}

// decode decodes the JSON of the response.
func (a answer) decode(t testing.TB, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), into); err != nil {
		t.Fatalf("answer %.500s: %v", a.body, err)
	}
}

// push pushes a kept message to a user and returns its id.
func (n *node) push(t testing.TB, user, body string) uint64 {
	t.Helper()
	id, err := n.tryPush(user, body)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// tryPush is like push, but returns its error, so that any goroutine may call it.
func (n *node) tryPush(user, body string) (uint64, error) {
	request, err := json.Marshal(map[string]any{"user": user, "body_text": body})
	if err != nil {
		return 0, err
	}
	a, err := n.try("POST", "/v1/push", bytes.NewReader(request))
	if err != nil {
		return 0, err
	}
	var accepted struct{ ID string }
	if a.status != 202 || json.Unmarshal([]byte(a.body), &accepted) != nil {
		return 0, fmt.Errorf("the push was answered %d %.500s", a.status, a.body)
	}
	return strconv.ParseUint(accepted.ID, 10, 64)
}

// state is the response of GET /v1/users/{user}.
type state struct {
	Online   bool
	Pending  int
	Sessions []struct{ Name, Key, Device, Generation, Transport string }
	Devices  []struct {
		Device  string
		Pending int
	}
}

func (n *node) user(t testing.TB, user string) (s state) {
	t.Helper()
	a := n.call(t, "GET", "/v1/users/"+user, "")
	a.want(t, 200)
	a.decode(t, &s)
	return s
}

// snapshot is the text of /metrics at one time.
type snapshot string

func (n *node) metrics(t testing.TB) snapshot {
	t.Helper()
	a := n.call(t, "GET", "/metrics", "")
	a.want(t, 200)
	return snapshot(a.body)
}

// sum returns the sum of the series with this name and with all of the labels (`name="value"`).
func (s snapshot) sum(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	sum := 0.0
series:
	for line := range strings.Lines(string(s)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		for _, label := range labels {
			if !strings.Contains(rest, label) {
				continue series
			}
		}
		fields := strings.Fields(rest)
		value, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			t.Fatalf("/metrics has the line %q", line)
		}
		sum += value
	}
	return sum
}

// metric returns the present sum of a metric.
func (n *node) metric(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	return n.metrics(t).sum(t, name, labels...)
}

// counter identifies a counter in /metrics.
type counter struct {
	name   string
	labels []string
}

func (c counter) String() string { return c.name + "{" + strings.Join(c.labels, ",") + "}" }

// grows reads the counters. It returns a function that checks that each of them has grown by
// exactly one since.
func (n *node) grows(t *testing.T, counters ...counter) func() {
	t.Helper()
	before := n.metrics(t)
	return func() {
		t.Helper()
		var now snapshot
		eventually(t, fmt.Sprint(counters, " have moved"), func() bool {
			now = n.metrics(t)
			for _, c := range counters {
				if now.sum(t, c.name, c.labels...) <= before.sum(t, c.name, c.labels...) {
					return false
				}
			}
			return true
		})
		for _, c := range counters {
			if was, is := before.sum(t, c.name, c.labels...), now.sum(t, c.name, c.labels...); is != was+1 {
				t.Errorf("%s went from %v to %v", c, was, is)
			}
		}
	}
}

// badPacket and closed return comet's counters of client errors.
func badPacket(kind string) counter {
	return counter{"imgo_comet_bad_packets_total", []string{fmt.Sprintf("kind=%q", kind)}}
}

func closed(code int) counter {
	return counter{"imgo_comet_closed_total", []string{fmt.Sprintf(`code="%d"`, code)}}
}

func refused(reason string) counter {
	return counter{"imgo_comet_refused_total", []string{fmt.Sprintf("reason=%q", reason)}}
}

// apiProblem returns the API's counter of caller errors.
func apiProblem(code, field string) counter {
	return counter{"imgo_logic_http_problems_total", []string{fmt.Sprintf("code=%q", code), fmt.Sprintf("field=%q", field)}}
}

func decodeJSON(text string, into any) error { return json.Unmarshal([]byte(text), into) }
