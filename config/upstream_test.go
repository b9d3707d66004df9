package config_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"imgo/config"
	"imgo/internal/upstream"
)

const upstreamTables = `
[[upstream]]
ops = ["4"]
to = "events"

[[upstream]]
ops = ["1000-1999", "2001"]
to = "call"
url = "https://backend.example.com/imgo?key=hidden"
secrets = ["whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="]
timeout = "5s"

[[upstream]]
ops = ["1500-3000"]
to = "drop"

[[upstream]]
ops = ["*"]
to = "events"
`

func TestUpstream(t *testing.T) {
	cfg := load(t, config.Sources{File: writeFile(t, upstreamTables)})
	if shown := string(cfg.Show()); strings.Contains(shown, "MDEyMzQ1") || !strings.Contains(shown, "backend.example.com") {
		t.Errorf("shown: %s", shown)
	}
	table := upstream.NewTable(cfg.Rules)
	for op, want := range map[int32]int{
		4: 0, 1000: 1, 1999: 1, 2000: -1, 2001: 1, 2002: -1, 3000: -1, 3001: 3, 1<<31 - 1: 3, // -1: dropped
		2: -1, 3: -1, 5: -1, 999: -1, 0: -1, -5: -1, // no messages
	} {
		i, rule := table.Find(op)
		if rule == nil && want >= 0 || rule != nil && (i != want || rule.To != cfg.Upstream[want].To) {
			t.Errorf("operation %d has rule %d %+v, want %d", op, i, rule, want)
		}
	}
	if r := cfg.Upstream[1]; r.Timeout != 5*time.Second || r.InFlight != 64 || len(r.Secrets) != 1 {
		t.Errorf("read %+v", r)
	}
	want := []string{
		"op 4: messages become events (upstream.message)",
		"op 1000-1999, 2001: messages are posted to https://backend.example.com/imgo?key=(secret)",
		"op 1500-3000: messages are dropped",
		"every op: messages become events (upstream.message)",
	}
	if lines := cfg.ExplainUpstream(); !slices.Equal(lines, want) {
		t.Errorf("explained as %q", lines)
	}
	none := load(t, config.Sources{})
	table = upstream.NewTable(none.Rules)
	if _, rule := table.Find(4); rule != nil || len(none.ExplainUpstream()) != 0 {
		t.Errorf("without rules a message has the rule %+v", rule)
	}
}

func TestUpstreamOfTheEnvironment(t *testing.T) {
	cfg := load(t, config.Sources{Environ: []string{
		"IMGO_UPSTREAM=4+1000-1999:events,2000:call:whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=:https://backend.example.com/imgo,*:drop",
	}})
	if len(cfg.Upstream) != 3 || !slices.Equal(cfg.Upstream[0].Ops, []string{"4", "1000-1999"}) || cfg.Upstream[0].To != upstream.ToEvents {
		t.Fatalf("read %+v", cfg.Upstream)
	}
	if r := cfg.Upstream[1]; r.URL != "https://backend.example.com/imgo" || r.Timeout != 3*time.Second || r.To != upstream.ToCall {
		t.Errorf("read %+v", r)
	}
	_, err := config.Load(config.Sources{Environ: []string{"IMGO_UPSTREAM=4:call:whsec_MDEyMzQ1"}})
	wantProblem(t, err, "IMGO_UPSTREAM", "ops:to")
	if strings.Contains(err.Error(), "MDEyMzQ1") {
		t.Errorf("the error shows the secret: %v", err)
	}
}

func TestUpstreamRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		old, new string
		want     []string
	}{
		"no ops":         {`ops = ["4"]`, "", []string{"upstream", "table 1", "no ops", `"*"`}},
		"no operation":   {`"4"`, `"push"`, []string{"upstream", "table 1", `"push" is neither`, `"1000-1999"`}},
		"own operation":  {`"4"`, `"5"`, []string{"upstream", "table 1", `"5" has operations that no message`}},
		"range over own": {`"4"`, `"4-1000"`, []string{"upstream", "table 1", `"4-1000" has operations`}},
		"range below":    {`"4"`, `"900-1000"`, []string{"upstream", "table 1", `"900-1000" has operations`}},
		"range reversed": {`"1000-1999"`, `"1999-1000"`, []string{"upstream", "table 2", "ends before it begins"}},
		"too large":      {`"4"`, `"99999999999"`, []string{"upstream", "table 1", "is neither"}},
		"negative":       {`"4"`, `"-4"`, []string{"upstream", "table 1", "is neither"}},
		"never counts":   {`"4"`, `"*"`, []string{"upstream", "table 2", `"1000-1999" never counts`, "fewer operations first"}},
		"no target":      {`to = "drop"`, "", []string{"upstream", "table 3", "to is", "events, call, drop"}},
		"unknown target": {`to = "drop"`, `to = "kafka"`, []string{"upstream", "table 3", `"kafka"`, "events, call, drop"}},
		"no address":     {`url = "https://backend.example.com/imgo?key=hidden"`, "", []string{"upstream", "table 2", "url is no web address"}},
		"not https":      {"https://", "http://", []string{"upstream", "table 2", "not https"}},
		"no secret": {
			`"whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="`, "", []string{"upstream", "table 2", "no secrets", "openssl"},
		},
		"short secret":     {"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", "MDEy", []string{"upstream", "a secret has 3 bytes", "openssl"}},
		"url without call": {`to = "call"`, `to = "events"`, []string{"upstream", "table 2", "calls nobody", `to = "call"`}},
		"timeout":          {`"5s"`, `"1m"`, []string{"upstream", "table 2", "timeout", "100ms to 8s"}},
		"in flight":        {`timeout = "5s"`, `max_in_flight = 0`, []string{"upstream", "table 2", "max_in_flight"}},
		"numbers":          {`ops = ["4"]`, `ops = [4]`, []string{"upstream", "ops", "a list of strings"}},
		"misspelt":         {`to = "drop"`, `too = "drop"`, []string{`"upstream.to"`}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := config.Load(config.Sources{File: writeFile(t, strings.Replace(upstreamTables, tt.old, tt.new, 1))})
			wantProblem(t, err, tt.want...)
			if strings.Contains(err.Error(), "MDEyMzQ1") {
				t.Errorf("the error shows the secret: %v", err)
			}
		})
	}
}

// A hook for events that no setting makes is remarked on.
func TestHookWithoutEvents(t *testing.T) {
	for _, c := range []struct {
		types   string
		setting string
		warns   bool
	}{
		{`"user.*"`, "", true}, {`"user.offline"`, "IMGO_PRESENCE_EVENTS=true", false},
		{`"upstream.message"`, "IMGO_UPSTREAM=4:drop", true}, {`"upstream.*"`, "IMGO_UPSTREAM=4:events", false},
		{`"message.*"`, "", false}, {"", "", false},
	} {
		file := filepath.Join(t.TempDir(), "imgo.toml")
		text := "[[hooks]]\nname = \"h\"\nurl = \"https://backend.example.com/imgo\"\n" +
			"secrets = [\"whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\"]\ntypes = [" + c.types + "]\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := load(t, config.Sources{File: file, Environ: []string{c.setting, "IMGO_ROOMS=*:any"}})
		warnings := cfg.Warnings()
		if warned := strings.Contains(strings.Join(warnings, "\n"), `hook "h" asks for`); warned != c.warns {
			t.Errorf("types %s, %q: warnings %q", c.types, c.setting, warnings)
		}
	}
}
