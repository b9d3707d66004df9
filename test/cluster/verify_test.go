package cluster_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"imgo/commands"
	"imgo/config"
)

// command runs a command of imgo against some of the cluster's logics, and returns what it prints.
func (w *world) command(ctx context.Context, logics []*node, args ...string) (string, error) {
	var servers []string
	for _, n := range logics {
		servers = append(servers, n.Base)
	}
	var out bytes.Buffer
	args = append(append([]string{"imgo"}, args...), "--server", strings.Join(servers, ","))
	err := commands.Run(ctx, commands.Options{Stdin: strings.NewReader(""), Stdout: &out, Stderr: io.Discard}, args)
	return out.String(), err
}

// clockSkew returns imgo_cluster_clock_skew_seconds of a node, by which the alert ImgoClocksDiffer goes.
func (n *node) clockSkew(t *testing.T) float64 {
	t.Helper()
	resp, err := n.HTTP.Get(n.Base + "/metrics") //nolint:noctx // on loopback
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^imgo_cluster_clock_skew_seconds (\S+)$`).FindSubmatch(text)
	if resp.StatusCode != http.StatusOK || m == nil {
		return 0
	}
	skew, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return skew
}

// imgo verify finds nothing wrong in a cluster whose clocks are an hour apart, with short lives of messages, while a router and a
// logic stop and start. The alert's metric and imgo nodes show the clocks. The nodes run in this process: a Go program reads the
// kernel's clock without libc, so that faketime does not reach it.
func TestVerifyWithClocksAnHourApart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.change = func(cfg *config.Config) { cfg.Kept.DefaultTTL = time.Minute }
	w.ahead = map[string]time.Duration{
		"logic1": -time.Hour, "logic2": time.Hour, "router1": time.Hour, "router2": -time.Hour, "comet1": time.Hour, "job1": -time.Hour,
	}
	w.startAll()
	type result struct {
		report string
		err    error
	}
	done := make(chan result, 1)
	go func() {
		report, err := w.command(t.Context(), w.of(config.RoleLogic), "verify", "--users", "30", "--rate", "40",
			"--duration", "15s", "--settle", "90s",
			"--churn", "4", "--kinds", "tcp,ws,json,no-ack,sdk", "--rooms", "2", "--lazy", "0.3")
		done <- result{report, err}
	}()
	w.nodes["router1"].stop()
	w.start("router1", config.RoleRouter)
	r := <-done
	if r.err != nil || !regexp.MustCompile(`(?m)^pushes +[1-9]\d+ kept`).MatchString(r.report) {
		t.Errorf("imgo verify: %v\n%s", r.err, r.report)
	}
	for _, role := range []string{config.RoleLogic, config.RoleComet} {
		for _, n := range w.of(role) {
			eventually(t, n.name+" measures the clocks", func() bool { s := n.clockSkew(t); return s > 3500 && s < 7300 })
		}
	}
	shown, err := w.command(t.Context(), w.of(config.RoleLogic)[:1], "nodes") // whose own clock is an hour behind
	for name, ahead := range map[string]string{"comet1": `\+(2h0m|1h59m)`, "comet2": `\+(1h0m|59m)`, "router2": `[+-]`} {
		if err != nil || !regexp.MustCompile(`(?m)^`+name+` .*  `+ahead).MatchString(shown) {
			t.Errorf("imgo nodes: %v, %s is not ahead by %s\n%s", err, name, ahead, shown)
		}
	}
}
