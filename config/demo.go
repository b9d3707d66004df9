package config

import (
	"crypto/rand"
	"strings"

	"imgo/roles/logic/httpapi"
)

// demoListen is where the API of a demo listens: on all addresses.
const demoListen = ":7172"

// DemoKey returns the API key that a demo has made, or "" if this is none.
func (cfg *Config) DemoKey() string { return cfg.demoKey }

// completeDemo makes the API key of a demo. It may do what a person who tries imgo out does, but not change the
// cluster or read profiles.
func (cfg *Config) completeDemo() {
	if !cfg.Demo || len(cfg.HTTP.Keys) > 0 {
		return
	}
	if cfg.Origin("http.listen") == "default" {
		cfg.HTTP.Listen = demoListen
	}
	cfg.demoKey = strings.ToLower(rand.Text())
	cfg.HTTP.Keys = []httpapi.Key{{Name: "demo", Key: cfg.demoKey, Scopes: []string{"push", "read", "users", "tokens", "rooms"}}}
}

// demo refuses what contradicts a demo.
func (v *validation) demo() {
	cfg := v.cfg
	if !cfg.Demo {
		return
	}
	if cfg.demoKey == "" {
		v.refuse("demo", "is on, which makes an API key, but http.api_keys has keys already", "leave one of the two out")
	}
	if !cfg.Auth.NeedsTokens() {
		v.refuse("demo", "is on, where clients need tokens, but auth.mode is "+cfg.Auth.Mode, "leave one of the two out")
	}
	if cfg.Clustered() {
		v.refuse("demo", "is on, which is for one process, but cluster.join names other nodes", "leave one of the two out")
	}
}

// demoWarnings returns a remark if this is a demo.
func (cfg *Config) demoWarnings() []string {
	if !cfg.Demo {
		return nil
	}
	return []string{"demo: this process is for trying imgo out: whoever reads its output has its API key. " +
		"In production leave demo out, and set http.api_keys"}
}
