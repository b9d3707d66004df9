package config_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"

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
		"private/*:everybody":     {"rooms", "table 1", "any, token, backend, webhook"},
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

const askRules = `
[[rooms]]
pattern = "private/*"
join = "webhook"

[[rooms]]
pattern = "staff"
join = "backend"

[[rooms]]
pattern = "team-*"
join = "token"

[[rooms]]
pattern = "*"
join = "any"
`

const askSecret = `webhook_secrets = ["whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="]` + "\n"

func TestConfigCheckExplainsRooms(t *testing.T) {
	text := "[auth]\nrooms_webhook_url = \"https://backend.example/rooms\"\n" + askSecret + askRules
	var out bytes.Buffer
	app := &cli.App{Writer: &out, ErrWriter: os.Stderr, Commands: []*cli.Command{config.NewFlags(nil).ConfigCommand()}}
	if err := app.Run([]string{"imgo", "config", "check", "--config", writeFile(t, text)}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`rooms "private/*": https://backend.example/rooms decides about each client`, `rooms "staff": only the API puts users in`,
		`rooms "team-*": a client may join whose token lists the room`, `rooms "*": every authenticated client may join`,
	} {
		if !strings.Contains(out.String(), want+"\n") {
			t.Errorf("not said: %s\n%s", want, out.String())
		}
	}
}

func TestBadWebhooksForRooms(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"no address": {askRules, "auth.rooms_webhook_url is empty"},
		"no secret":  {"[auth]\nrooms_webhook_url = \"https://backend.example\"\n" + askRules, "auth.webhook_secrets is empty"},
		"no rule":    {"[auth]\nrooms_webhook_url = \"https://backend.example\"\n" + askSecret, "no rule of [[rooms]]"},
		"plain HTTP": {"[auth]\nrooms_webhook_url = \"http://backend.example\"\n" + askSecret + askRules, "use https://"},
		"longer than a call": {"[auth]\nwebhook_timeout = \"6s\"\nrooms_webhook_url = \"https://backend.example\"\n" + askSecret + askRules,
			"auth.webhook_timeout"},
	} {
		_, err := config.Load(config.Sources{File: writeFile(t, tt.text)})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v lacks %q", name, err, tt.want)
		}
	}
	text := "[comet]\ntcp = \"127.0.0.1:8080\"\nws = \"off\"\n[auth]\nmode = \"none\"\nrooms_webhook_url = \"https://backend.example\"\n" +
		askSecret + askRules
	cfg := load(t, config.Sources{File: writeFile(t, text)})
	if got := strings.Join(cfg.Warnings(), "\n"); !strings.Contains(got, "whoever the clients say they are") {
		t.Errorf("a backend that is asked about users whom nobody has proved: warnings %q", got)
	}
}
