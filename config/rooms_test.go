package config_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgo/config"
	"imgo/roles/logic"
)

func TestRulesForRooms(t *testing.T) {
	want := []logic.RoomRule{{Pattern: "live://*", Join: logic.JoinAny}, {Pattern: "*", Join: logic.JoinToken}}
	file := "[[rooms]]\npattern = \"live://*\"\njoin = \"any\"\n\n[[rooms]]\npattern = \"*\"\njoin = \"token\"\n"
	for name, sources := range map[string]config.Sources{
		"file":        {File: writeFile(t, file)},
		"environment": {Environ: []string{"IMGO_ROOMS=live://*:any,*:token"}},
	} {
		cfg := load(t, sources)
		if diff := cmp.Diff(want, cfg.Rooms); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if got := cfg.Warnings(); len(got) != 0 {
			t.Errorf("%s: warnings %q", name, got)
		}
	}
}

func TestRoomsWithoutRulesAreWarnedOf(t *testing.T) {
	const open = "every authenticated client may join"
	for name, tt := range map[string]struct {
		environ []string
		want    bool
	}{
		"default":    {nil, true},
		"some rooms": {[]string{"IMGO_ROOMS=private/*:token"}, true},
		"all rooms":  {[]string{"IMGO_ROOMS=private/*:token,*:any"}, false},
		"no auth":    {[]string{"IMGO_AUTH_MODE=none", "IMGO_COMET_TCP=127.0.0.1:8080", "IMGO_COMET_WS=127.0.0.1:8090"}, false},
		"no logic at all": {[]string{
			"IMGO_ROLES=comet", "IMGO_CLUSTER_JOIN=127.0.0.1:7171", "IMGO_CLUSTER_SECRET=0123456789abcdef0123456789abcdef",
			"IMGO_KAFKA_BROKERS=127.0.0.1:9092",
		}, false},
	} {
		cfg, err := config.Load(config.Sources{Environ: tt.environ})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := strings.Contains(strings.Join(cfg.Warnings(), "\n"), open); got != tt.want {
			t.Errorf("%s: warnings %q", name, cfg.Warnings())
		}
	}
}

func TestBadRulesForRooms(t *testing.T) {
	for environ, want := range map[string][]string{
		"private/*":               {"rooms", "pattern:join"},
		"private/*:everybody":     {"rooms", "table 1", "any, token, backend"},
		":token":                  {"rooms", "table 1", "pattern"},
		"a:token,a:any":           {"rooms", "table 2", `"a"`, "never counts"},
		"*:any,private/*:backend": {"rooms", "table 2", "never counts", "first"},
	} {
		_, err := config.Load(config.Sources{Environ: []string{"IMGO_ROOMS=" + environ}})
		var bad *config.ConfigError
		if !errors.As(err, &bad) {
			t.Errorf("%s: %v", environ, err)
			continue
		}
		for _, part := range want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v lacks %q", environ, err, part)
			}
		}
	}
}
