package router_test

import (
	"strings"
	"testing"

	"imgo/roles/router"
)

func TestUnknownPoliciesAreRefused(t *testing.T) {
	for name, change := range map[string]func(*router.Config){
		"sessions_policy": func(cfg *router.Config) { cfg.SessionsPolicy = "close_all" },
		"mailbox_policy":  func(cfg *router.Config) { cfg.MailboxPolicy = "drop_all" },
		"devices_policy":  func(cfg *router.Config) { cfg.DevicesPolicy = "" },
	} {
		cfg := router.DefaultConfig()
		change(&cfg)
		if _, err := router.New(cfg, router.Deps{}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
