package config_test

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"

	"imgo/config"
	"imgo/roles/logic/httpapi"
)

const tableOfKeys = `
[[http.api_keys]]
name = "backend"
key = "0123456789abcdef"
rate = 5
scopes = ["push", "read"]
users = ["shop-*"]
rooms = ["shop/*"]

[[http.api_keys]]
name = "old"
key = "0123456789abcdeg"
`

func TestKeysOfFile(t *testing.T) {
	cfg := load(t, config.Sources{File: writeFile(t, tableOfKeys)})
	want := []httpapi.Key{
		{Name: "backend", Key: "0123456789abcdef", Rate: 5, Scopes: []string{"push", "read"}, Users: []string{"shop-*"},
			Rooms: []string{"shop/*"}},
		{Name: "old", Key: "0123456789abcdeg", Scopes: []string{}, Users: []string{}, Rooms: []string{}},
	}
	if diff := cmp.Diff(want, cfg.HTTP.Keys); diff != "" {
		t.Error(diff)
	}
	// What `config show` prints is read back as the same, but for the secret.
	shown := strings.Replace(string(cfg.Show()), config.Redacted, "0123456789abcdef", 1)
	again := load(t, config.Sources{File: writeFile(t, strings.Replace(shown, config.Redacted, "0123456789abcdeg", 1))})
	if diff := cmp.Diff(want, again.HTTP.Keys); diff != "" {
		t.Error(diff)
	}
}

func TestKeysOfEnvironment(t *testing.T) {
	cfg := load(t, config.Sources{Environ: []string{"IMGO_HTTP_API_KEYS=a:0123456789abcdef:0:push+read,b:0123456789abcdeg,0123456789abcdeh"}})
	want := []httpapi.Key{
		{Name: "a", Key: "0123456789abcdef", Scopes: []string{"push", "read"}},
		{Name: "b", Key: "0123456789abcdeg"}, {Name: "default", Key: "0123456789abcdeh"},
	}
	if diff := cmp.Diff(want, cfg.HTTP.Keys); diff != "" {
		t.Error(diff)
	}
}

func TestKeyWithoutScopesWarnsOnce(t *testing.T) {
	warnings := func(env string) []string {
		cfg := load(t, config.Sources{Environ: []string{env, "IMGO_ROOMS=*:any"}})
		return cfg.Warnings()
	}
	if got := warnings("IMGO_HTTP_API_KEYS=a:0123456789abcdef,b:0123456789abcdeg"); len(got) != 1 || !strings.Contains(got[0], `"a" and "b"`) {
		t.Errorf("warnings %q", got)
	}
	if got := warnings("IMGO_HTTP_API_KEYS=a:0123456789abcdef:0:push"); len(got) != 0 {
		t.Errorf("warnings %q", got)
	}
}

func TestBadTablesOfKeys(t *testing.T) {
	key := "[[http.api_keys]]\nname = \"a\"\nkey = \"0123456789abcdef\"\n"
	for name, tt := range map[string]struct {
		text string
		want []string
	}{
		"unknown scope":       {key + "scopes = [\"write\"]\n", []string{"http.api_keys", `"write"`, "push, read, users, tokens, rooms, admin"}},
		"scopes as a string":  {key + "scopes = \"push\"\n", []string{"http.api_keys", "table 1", `"scopes"`, "a list of strings"}},
		"misspelt":            {key + "scope = [\"push\"]\n", []string{`unknown key "http.api_keys.scope"`, `"http.api_keys.scopes"?`}},
		"patterns, no scopes": {key + "users = [\"a\"]\n", []string{"http.api_keys", "no scopes"}},
		"key is a number":     {"[[http.api_keys]]\nname = \"a\"\nkey = 123456\n", []string{"table 1", `"key"`, "a string in quotes"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := config.Load(config.Sources{File: writeFile(t, tt.text)})
			wantProblem(t, err, tt.want...)
			if strings.Contains(err.Error(), "0123456789abcdef") || strings.Contains(err.Error(), "123456") {
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}
}

// TestExampleTableCanBeUsed takes the comment signs from the example's table of a key.
func TestExampleTableCanBeUsed(t *testing.T) {
	before, table, ok := strings.Cut(string(config.Example()), "# [[http.api_keys]]")
	if !ok {
		t.Fatal("the example has no table of a key")
	}
	table, after, _ := strings.Cut(table, "\n\n")
	text := before + "[[http.api_keys]]" + strings.NewReplacer("\n# ", "\n", "\"…\"", "\"0123456789abcdef\"").Replace(table) + "\n\n" + after
	cfg := load(t, config.Sources{File: writeFile(t, text)})
	if len(cfg.HTTP.Keys) != 1 || len(cfg.HTTP.Keys[0].Users) != 1 || len(cfg.HTTP.Keys[0].Rooms) != 1 {
		t.Errorf("read %+v", cfg.HTTP.Keys)
	}
	// A table that is appended to the file works as well.
	cfg = load(t, config.Sources{File: writeFile(t, string(config.Example())+tableOfKeys)})
	if len(cfg.HTTP.Keys) != 2 {
		t.Errorf("read %+v", cfg.HTTP.Keys)
	}
}

func TestConfigCheckExplainsKeys(t *testing.T) {
	var out bytes.Buffer
	app := &cli.App{Writer: &out, ErrWriter: os.Stderr, Commands: []*cli.Command{config.NewFlags(nil).ConfigCommand()}}
	if err := app.Run([]string{"imgo", "config", "check", "--config", writeFile(t, tableOfKeys)}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`API key "backend" may push messages (push) and see users, rooms, nodes and events (read), but only of users shop-* and rooms shop/*`,
		`API key "old" may do everything, since it has no scopes`, "the settings are good",
	} {
		if !strings.Contains(out.String(), want+"\n") {
			t.Errorf("not said: %s\n%s", want, out.String())
		}
	}
}
