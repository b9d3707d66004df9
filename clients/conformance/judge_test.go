package conformance

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imgo/clients/conformance/driver"
	"imgo/transport"
)

// fault makes a library look as if it were broken.
type fault struct {
	scenario string // the one that must fail
	// options changes the options of each client.
	options func(o options)
	// event falsifies an event.
	event func(e driver.Event) []driver.Event
	// packet falsifies a packet of the client.
	packet func(p transport.Packet) []transport.Packet
	// unheard is a command that the driver does not get.
	unheard string
}

// faults returns all faults by their names.
func faults() map[string]fault {
	set := func(option string, value any) func(options) { return func(o options) { o[option] = value } }
	without := func(option string) func(options) { return func(o options) { delete(o, option) } }
	all := map[string]fault{
		"acknowledges early":       {scenario: "acknowledged_when_handled", unheard: "hold"},
		"acknowledges failures":    {scenario: "failing_handler", unheard: "fail"},
		"forgets ids":              {scenario: "duplicate_across_sessions", options: set("remember", 1)},
		"has no store":             {scenario: "restart_with_store", options: without("store")},
		"saves late":               {scenario: "killed_at_ack", options: without("store")},
		"reads without end":        {scenario: "slow_handler", options: set("queue", 1_000_000)},
		"does not notice silence":  {scenario: "silent_peer", options: set("heartbeat_timeout_ms", 3_600_000)},
		"takes any size":           {scenario: "oversize", options: set("max_body", 10_000_000)},
		"waits too long":           {scenario: "backoff", options: set("max_backoff_ms", 10*maxSpan)},
		"has no jitter":            {scenario: "backoff", event: falsify(func(e *driver.Event) { e.RetryInMS = min(e.RetryInMS, minSpan) })},
		"does not wait longer":     {scenario: "backoff_goes_on", options: set("max_backoff_ms", minSpan)},
		"does not wait for auth":   {scenario: "slow_auth_reply", options: set("auth_timeout_ms", 300)},
		"has no rooms":             {scenario: "rooms_while_away", options: without("rooms")},
		"gives a message twice":    {scenario: "one_at_a_time_in_order", event: repeat(150)},
		"loses a message":          {scenario: "backlog_of_1_MB", event: lose("message", 500)},
		"rounds ids":               {scenario: "ids_of_64_bits", event: falsify(func(e *driver.Event) { e.ID = uint64(float32(e.ID)) })},
		"hides errors":             {scenario: "garbage", event: lose("error", 0)},
		"hides the end":            {scenario: "final_kicked", event: lose("state", 0)},
		"has another word":         {scenario: "send_refused", event: falsify(func(e *driver.Event) { e.ServerCode = "" })},
		"leaks threads":            {scenario: "no_leak", event: leak()},
		"does not wait at the end": {scenario: "close_acknowledges", options: set("close_timeout_ms", 1)},
	}
	maps.Copy(all, publishFaults())
	return all
}

// falsify changes each event.
func falsify(change func(e *driver.Event)) func(driver.Event) []driver.Event {
	return func(e driver.Event) []driver.Event {
		change(&e)
		return []driver.Event{e}
	}
}

// repeat doubles a message.
func repeat(id uint64) func(driver.Event) []driver.Event {
	return func(e driver.Event) []driver.Event {
		if e.Event == "message" && e.ID == id {
			return []driver.Event{e, e}
		}
		return []driver.Event{e}
	}
}

// lose leaves out the events of a kind with an id.
func lose(kind string, id uint64) func(driver.Event) []driver.Event {
	return func(e driver.Event) []driver.Event {
		if e.Event == kind && e.ID == id {
			return nil
		}
		return []driver.Event{e}
	}
}

// leak makes each count of threads higher than the one before.
func leak() func(driver.Event) []driver.Event {
	counts := 0
	return falsify(func(e *driver.Event) {
		if e.Event == "done" {
			counts += 10
			e.Result.Count += counts
		}
	})
}

// TestJudge proves that the scenarios find faults: it plays some of them with the Go library, which it makes look
// broken, and wants each to fail.
func TestJudge(t *testing.T) {
	if *faultFlag != "" {
		t.Skip("this process is one of those that the test starts")
	}
	for _, l := range chosenLanguages(t) {
		if l.Name != "go" {
			continue
		}
		program := prepare(t, l).Args[0]
		for name, f := range faults() {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				judge(t, program, name, f)
			})
		}
	}
}

// judge plays a scenario with a fault in a process of its own.
func judge(t *testing.T, program, name string, f fault) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	play := func() (string, error) {
		//nolint:gosec // the program is this test
		cmd := exec.CommandContext(ctx, os.Args[0], "-language", "go", "-program", program, "-fault", name, "-limit", "8s",
			"-test.run", "^TestConformance$/^go$/^scenarios$/^"+f.scenario+"$", "-test.v")
		cmd.Dir = filepath.Dir(program)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := play()
	if want := fmt.Sprintf("--- FAIL: TestConformance/go/scenarios/%s/", f.scenario); err == nil || !strings.Contains(out, want) {
		t.Errorf("the scenario %s does not find the fault: %v\n%s", f.scenario, err, out)
	}
}
