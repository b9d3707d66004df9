package config_test

import (
	"strings"
	"testing"
	"time"

	"imgo/config"
)

const hookTable = `
[[hooks]]
name = "orders"
url = "https://backend.example.com/imgo"
secrets = ["whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="]
`

func TestHooks(t *testing.T) {
	cfg := load(t, config.Sources{File: writeFile(t, hookTable+`types = ["message.*"]`+"\n")})
	if len(cfg.Hooks) != 1 {
		t.Fatalf("read %+v", cfg.Hooks)
	}
	h := cfg.Hooks[0]
	if h.Name != "orders" || h.Timeout != 10*time.Second || h.Batch != 1 || h.RetryFor != 24*time.Hour || len(h.Types) != 1 {
		t.Errorf("read %+v", h)
	}
	if shown := string(cfg.Show()); strings.Contains(shown, "MDEyMzQ1") || !strings.Contains(shown, "backend.example.com") {
		t.Errorf("shown: %s", shown)
	}
}

func TestHooksOfTheEnvironment(t *testing.T) {
	cfg := load(t, config.Sources{Environ: []string{
		"IMGO_HOOKS=orders:whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=:https://backend.example.com/imgo",
	}})
	if h := cfg.Hooks[0]; h.Name != "orders" || h.URL != "https://backend.example.com/imgo" || h.Timeout != 10*time.Second || h.Batch != 1 {
		t.Errorf("read %+v", h)
	}
}

func TestHooksRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		old, new string
		want     []string
	}{
		"no name":        {`name = "orders"`, "", []string{"hooks", "table 1", "name", "a-z"}},
		"name of a path": {`"orders"`, `"a/b"`, []string{"hooks", "table 1", `"a/b"`}},
		"same name":      {hookTable, hookTable + hookTable, []string{"hooks", "table 2", `"orders"`, "of its own"}},
		"no address":     {"https://backend.example.com/imgo", "backend", []string{"hooks", "url is no web address", "https://"}},
		"not https":      {"https://", "http://", []string{"hooks", "not https"}},
		"no secret":      {`["whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="]`, "[]", []string{"hooks", "no secrets", "openssl"}},
		"short secret":   {"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", "MDEy", []string{"hooks", "a secret has 3 bytes", "openssl"}},
		"unknown type":   {"secrets", "types = [\"message.lost\"]\nsecrets", []string{"hooks", "message.lost", "message.delivered"}},
		"no time":        {"secrets", "timeout = \"0s\"\nsecrets", []string{"hooks", "timeout", "100ms"}},
		"misspelt":       {"secrets", "secret", []string{`"hooks.secrets"`}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := config.Load(config.Sources{File: writeFile(t, strings.Replace(hookTable, tt.old, tt.new, 1))})
			wantProblem(t, err, tt.want...)
			if strings.Contains(err.Error(), "MDEyMzQ1") {
				t.Errorf("the error shows the secret: %v", err)
			}
		})
	}
}
