package config_test

import (
	"strings"
	"testing"

	"imgo/config"
)

// TestDemo checks that a demo has a key of its own at each start, and an API that other machines reach.
func TestDemo(t *testing.T) {
	demo := func(more ...string) config.Config {
		return load(t, config.Sources{Environ: append(more, "IMGO_DEMO=1")})
	}
	a, b := demo(), demo("IMGO_HTTP=127.0.0.1:1234")
	if a.HTTP.Listen != ":7172" || a.Comet.TCP != ":8080" || a.Comet.WS != ":8090" || a.Auth.Mode != "token" {
		t.Errorf("a demo listens at %s, %s, %s with %s", a.HTTP.Listen, a.Comet.TCP, a.Comet.WS, a.Auth.Mode)
	}
	if b.HTTP.Listen != "127.0.0.1:1234" {
		t.Errorf("the address that was set became %s", b.HTTP.Listen)
	}
	if len(a.HTTP.Keys) != 1 || a.HTTP.Keys[0].Key != a.DemoKey() || len(a.DemoKey()) < 26 || a.DemoKey() == b.DemoKey() {
		t.Errorf("two demos have the keys %q and %q", a.DemoKey(), b.DemoKey())
	}
	if got := strings.Join(a.Warnings(), "\n"); !strings.Contains(got, "demo: ") || strings.Contains(got, "may do everything") ||
		strings.Contains(got, a.DemoKey()) || strings.Contains(string(a.Show()), a.DemoKey()) {
		t.Errorf("warnings %q, shown:\n%s", got, a.Show())
	}
	if none := load(t, config.Sources{Environ: []string{"IMGO_DEMO=false"}}); none.DemoKey() != "" || none.HTTP.Listen != "127.0.0.1:7172" {
		t.Errorf("without a demo there is the key %q, at %s", none.DemoKey(), none.HTTP.Listen)
	}
}

func TestContradictionsOfADemo(t *testing.T) {
	for setting, want := range map[string]string{
		"IMGO_HTTP_API_KEYS=a:0123456789abcdef": "http.api_keys has keys already",
		"IMGO_AUTH_MODE=none":                   "auth.mode is none",
		"IMGO_AUTH_MODE=webhook":                "auth.mode is webhook",
		"IMGO_CLUSTER_JOIN=10.0.0.1":            "cluster.join names other nodes",
	} {
		_, err := config.Load(config.Sources{Environ: []string{"IMGO_DEMO=1", setting}})
		wantProblem(t, err, "demo", want, "leave one of the two out", "IMGO_DEMO")
	}
	// The file's key contradicts, too.
	_, err := config.Load(config.Sources{File: writeFile(t, "demo = true\n"+tableOfKeys)})
	wantProblem(t, err, "demo", "http.api_keys has keys already")
}
