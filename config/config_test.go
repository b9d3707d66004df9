package config_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"imgo/config"
)

var update = flag.Bool("update", false, "rewrite config.example.toml")

const exampleFile = "../config.example.toml"

// plain ignores the sources of the values in a comparison.
var plain = cmpopts.IgnoreUnexported(config.Config{})

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "imgo.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, sources config.Sources) config.Config {
	t.Helper()
	cfg, err := config.Load(sources)
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	return cfg
}

func TestExampleIsTheDefaults(t *testing.T) {
	if *update {
		if err := os.WriteFile(exampleFile, config.Example(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(config.Example()), string(data)); diff != "" {
		t.Fatalf("config.example.toml is not what `imgo config init` prints (go test ./config -update): %s", diff)
	}
	want := load(t, config.Sources{})
	got := load(t, config.Sources{File: exampleFile})
	if diff := cmp.Diff(want, got, plain); diff != "" {
		t.Fatalf("the example changes a default: %s", diff)
	}
	for _, key := range config.Keys() {
		// A list of tables is shown as a comment.
		isTable := key.IsList() && key.Type.Elem().Kind() == reflect.Struct
		if !isTable && !strings.HasPrefix(got.Origin(key.Name), exampleFile+":") || isTable && !strings.Contains(string(data),
			"\n# [["+key.Name+"]]\n") {
			t.Errorf("the example does not set %s", key.Name)
		}
	}
}

func TestEveryKeyHasFlagVariableAndDoc(t *testing.T) {
	used := map[string]string{}
	for _, key := range config.Keys() {
		if len(key.Flags) == 0 || len(key.Envs) == 0 || key.Doc == "" {
			t.Errorf("%s has flags %v, variables %v, doc %q", key.Name, key.Flags, key.Envs, key.Doc)
		}
		for _, name := range append(slices.Clone(key.Flags), key.Envs...) {
			if other, ok := used[name]; ok {
				t.Errorf("%s is used by %s and %s", name, other, key.Name)
			}
			used[name] = key.Name
		}
		want := config.EnvPrefix + strings.ToUpper(strings.ReplaceAll(key.Name, ".", "_"))
		if key.Envs[0] != want {
			t.Errorf("%s has the variable %s, want %s", key.Name, key.Envs[0], want)
		}
	}
	for flag, key := range map[string]string{
		"roles": "roles", "data-dir": "data_dir", "node-id": "node_id", "tcp": "comet.tcp", "ws": "comet.ws",
		"http": "http.listen", "log-level": "logging.level", "log-format": "logging.format",
		"comet-tcp": "comet.tcp", "limits-sessions-per-user": "limits.sessions_per_user",
		"IMGO_HTTP": "http.listen", "IMGO_HTTP_LISTEN": "http.listen", "IMGO_DATA_DIR": "data_dir",
	} {
		if used[flag] != key {
			t.Errorf("%s is for %q, want %q", flag, used[flag], key)
		}
	}
}

// TestEveryKeyCanBeSet sets every key to a value that is not its default, first by variable and
// then by flag.
func TestEveryKeyCanBeSet(t *testing.T) {
	values := map[string]string{
		"roles": "job", "comet.tls_cert": "", "http.api_keys": "backend:0123456789abcdef:5",
		"hooks":     "orders:whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=:https://backend.example.com/imgo",
		"upstream":  "4+1000-1999:events",
		"auth.mode": "none", "cluster.join": "", "kafka.brokers": "",
	}
	before := load(t, config.Sources{})
	for _, key := range config.Keys() {
		value, special := values[key.Name]
		if !special {
			value = otherValue(t, &before, key)
		}
		if value == "" {
			continue
		}
		for _, sources := range []config.Sources{
			{Environ: []string{key.Envs[0] + "=" + value}},
			{Flags: map[string][]string{key.Name: {value}}},
		} {
			cfg, err := config.Load(sources)
			if err != nil && !strings.Contains(err.Error(), key.Name) {
				t.Errorf("%s = %s: %v", key.Name, value, err)
			}
			if err == nil && cfg.Origin(key.Name) == "default" {
				t.Errorf("%s = %s was not taken", key.Name, value)
			}
			if err == nil && cmp.Equal(before, cfg, plain) {
				t.Errorf("%s = %s changed nothing", key.Name, value)
			}
		}
	}
}

// otherValue returns a valid value of a key that is not its default.
func otherValue(t *testing.T, cfg *config.Config, key config.Key) string {
	t.Helper()
	show := string(cfg.Show())
	section, name, ok := strings.Cut(key.Name, ".")
	if ok {
		show = show[strings.Index(show, "\n["+section+"]"):]
	} else {
		name = key.Name
	}
	_, show, _ = strings.Cut(show, "\n"+name+" = ")
	shown, _, _ := strings.Cut(show, "\n")
	shown = strings.Trim(strings.Split(shown, "  #")[0], `"`)
	if len(key.Choices) > 0 {
		for _, choice := range key.Choices {
			if choice != shown {
				return choice
			}
		}
	}
	switch {
	case strings.HasPrefix(key.Unit, "address"):
		return "127.0.0.1:0"
	case key.Unit == "duration":
		return map[bool]string{true: "2s", false: "1500ms"}[shown != "2s" && shown != "1m"]
	case key.Unit == "size":
		return "96KiB"
	case shown == "true" || shown == "false":
		return map[string]string{"true": "false", "false": "true"}[shown]
	case shown != "" && shown[0] >= '0' && shown[0] <= '9':
		return "7"
	}
	return "other"
}

func TestPrecedence(t *testing.T) {
	file := writeFile(t, "[comet]\ntcp = \":1001\"\n[limits]\nrooms_per_session = 5\nsessions_per_user = 5\n[logging]\nlevel = \"debug\"\n")
	cfg := load(t, config.Sources{
		File:    file,
		Environ: []string{"IMGO_COMET_TCP=:1002", "IMGO_LIMITS_ROOMS_PER_SESSION=6", "IMGO_DATA_DIR=", "HOME=/x", "IMGO_WS=:1009"},
		Flags:   map[string][]string{"comet.tcp": {":1000", ":1003"}},
	})
	for _, check := range []struct {
		key       string
		got, want any
		origin    string
	}{
		{"comet.tcp", cfg.Comet.TCP, ":1003", "--tcp"},
		{"comet.ws", cfg.Comet.WS, ":1009", "IMGO_WS"},
		{"limits.rooms_per_session", cfg.Limits.RoomsPerSession, 6, "IMGO_LIMITS_ROOMS_PER_SESSION"},
		{"limits.sessions_per_user", cfg.Limits.SessionsPerUser, 5, file + ":5"},
		{"logging.level", cfg.Logging.Level, "debug", file + ":7"},
		{"data_dir", cfg.DataDir, "./imgo-data", "default"},
	} {
		if check.got != check.want {
			t.Errorf("%s is %v, want %v", check.key, check.got, check.want)
		}
		if origin := cfg.Origin(check.key); origin != check.origin {
			t.Errorf("%s comes from %s, want %s", check.key, origin, check.origin)
		}
	}
}

func TestDefaultsAreComplete(t *testing.T) {
	cfg := load(t, config.Sources{})
	if cfg.NodeID == "" {
		t.Error("no node id")
	}
	if again := load(t, config.Sources{}); again.NodeID != cfg.NodeID {
		t.Errorf("the node id changed from %s to %s", cfg.NodeID, again.NodeID)
	}
	if diff := cmp.Diff([]string{"router", "job"}, cfg.EmbeddedRoles()); diff != "" {
		t.Error(diff)
	}
	cfg = load(t, config.Sources{Flags: map[string][]string{"roles": {"Router, job"}}})
	if diff := cmp.Diff([]string{"comet", "logic"}, cfg.EmbeddedRoles()); diff != "" {
		t.Error(diff)
	}
	cfg = load(t, config.Sources{Flags: map[string][]string{"comet.tcp": {"off"}}})
	if cfg.Comet.TCP != "" {
		t.Errorf("comet.tcp off is %q", cfg.Comet.TCP)
	}
}

func TestFileIsStrict(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"unknown key": {"[limits]\n\nconections = 10\n",
			[]string{"imgo.toml:3:1:", `unknown key "limits.conections"`, `did you mean "limits.connections"?`, "     3 | conections = 10",
				"       | ^"}},
		"two unknown keys": {"colour = 1\n[comet]\ntcpp = \":1\"\n",
			[]string{"imgo.toml:1:1:", `"colour"`, "config init", "imgo.toml:3:1:", `"comet.tcp"?`}},
		"unknown table": {"[commet]\ntcp = \":1\"\n", []string{"imgo.toml:1:2:", `unknown key "commet"`, `"comet"?`}},
		"wrong type": {"[limits]\nconnections = \"many\"\n",
			[]string{"imgo.toml:2:15:", "limits.connections", "(string)", "a whole number"}},
		"bare duration":    {"[protocol]\nheartbeat = 60\n", []string{"imgo.toml:2:", "protocol.heartbeat", `"5s"`}},
		"bad duration":     {"[protocol]\nheartbeat = \"60\"\n", []string{"imgo.toml:2:13:", "protocol.heartbeat", `"5s"`}},
		"bad size":         {"[protocol]\nmax_body = \"64 kilos\"\n", []string{"imgo.toml:2:12:", "protocol.max_body", `"64KiB"`}},
		"section is value": {"limits = 3\n", []string{"imgo.toml:1:", "limits", "[limits]"}},
		"broken":           {"[limits\n", []string{"imgo.toml:1:", "[limits"}},
		"twice":            {"[comet]\ntcp = \":1\"\ntcp = \":2\"\n", []string{"imgo.toml:3:", "already defined"}},
		"api key's key": {"[[http.api_keys]]\nnam = \"x\"\n",
			[]string{"imgo.toml:2:1:", `unknown key "http.api_keys.nam"`, `"http.api_keys.name"?`}},
		"fraction": {"[limits]\nconnections = 1.5\n", []string{"imgo.toml:2:", "a whole number"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := config.Load(config.Sources{File: writeFile(t, test.text)})
			wantProblem(t, err, test.want...)
		})
	}
	t.Run("no file", func(t *testing.T) {
		_, err := config.Load(config.Sources{File: filepath.Join(t.TempDir(), "none.toml")})
		wantProblem(t, err, "none.toml", "no such file", "imgo config init")
	})
	t.Run("secrets are not in errors", func(t *testing.T) {
		for _, text := range []string{
			"[auth]\njwt_secret = [\"hush-hush\"]\n",
			"[[http.api_keys]]\nname = \"x\"\nkey = hush-hush\n",
			"http.api_keys = \"hush-hush\"\n",
		} {
			_, err := config.Load(config.Sources{File: writeFile(t, text)})
			wantProblem(t, err, "imgo.toml:")
			if strings.Contains(err.Error(), "hush-hush") {
				t.Errorf("the error shows the secret: %v", err)
			}
		}
	})
}

func wantProblem(t *testing.T, err error, parts ...string) {
	t.Helper()
	var refused *config.ConfigError
	if !errors.As(err, &refused) {
		t.Fatalf("got %v, want a ConfigError", err)
	}
	if refused.ExitCode() != 78 {
		t.Errorf("exit code %d, want 78", refused.ExitCode())
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not have %q:\n%v", part, err)
		}
	}
}

func TestShowRedacts(t *testing.T) {
	cfg := load(t, config.Sources{
		Environ: []string{"IMGO_HTTP_API_KEYS=backend:hush-hush-hush-hush,other:hush-hush-hush-husk:2.5",
			"IMGO_AUTH_JWT_SECRET=hush-hush-hush-hush-hush-hush-hush", "IMGO_AUTH_JWKS_URL=https://me:hush@idp.example/keys?token=hush"},
		Flags: map[string][]string{"comet.tcp": {"127.0.0.1:1"}},
	})
	show := string(cfg.Show())
	if strings.Contains(show, "hush") {
		t.Errorf("a secret is shown:\n%s", show)
	}
	for _, want := range []string{
		`api_keys = [{ name = "backend", key = "(secret)", rate = 0 }, { name = "other", key = "(secret)", rate = 2.5 }]  # IMGO_HTTP_API_KEYS`,
		`jwt_secret = "(secret)"  # IMGO_AUTH_JWT_SECRET`,
		`jwks_url = "https://(secret)@idp.example/keys?token=(secret)"  # IMGO_AUTH_JWKS_URL`,
		`tcp = "127.0.0.1:1"  # --tcp`,
		`retention = "192h"` + "\n",
	} {
		if !strings.Contains(show, want) {
			t.Errorf("not shown: %s\n%s", want, show)
		}
	}
	// The output of Show is a valid settings file.
	defaults := load(t, config.Sources{})
	if _, err := config.Load(config.Sources{File: writeFile(t, string(defaults.Show()))}); err != nil {
		t.Error(err)
	}
}

func TestSlipsInVariablesAreWarnedOf(t *testing.T) {
	cfg := load(t, config.Sources{Environ: []string{
		"IMGO_COMET_TPC=:1", "IMGO_SERVICE_HOST=10.0.0.1", "IMGO_PORT_8080_TCP=tcp://10.0.0.1:8080", "IMGO_SERVER=x", "IMGO_CONFIG=",
		"IMGO_ROOMS=*:any",
	}})
	warnings := cfg.Warnings()
	if len(warnings) != 1 || !strings.Contains(warnings[0], "IMGO_COMET_TPC") || !strings.Contains(warnings[0], "IMGO_COMET_TCP") {
		t.Errorf("warnings: %q", warnings)
	}
}

// TestFormsOfValues reads a file with a byte order mark, a choice in capitals and a path with ~.
func TestFormsOfValues(t *testing.T) {
	t.Setenv("HOME", "/home/ann")
	file := writeFile(t, "\ufeffdata_dir = \"~/push\"\n[logging]\nformat = \"JSON\"\n")
	cfg, err := config.Load(config.Sources{File: file, Environ: []string{"IMGO_LOG_LEVEL=INFO"}})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.DataDir != "/home/ann/push" || cfg.Logging.Format != "json" || cfg.Logging.Level != "info" {
		t.Errorf("data_dir %q, format %q, level %q", cfg.DataDir, cfg.Logging.Format, cfg.Logging.Level)
	}
	_, err = config.Load(config.Sources{Flags: map[string][]string{"data_dir": {"~bob/push"}}})
	wantProblem(t, err, "data_dir", "~bob", "write the whole path")
}

// TestHomeInPaths checks that ~ is the home folder in every key that is a file or a folder, and in no other key.
func TestHomeInPaths(t *testing.T) {
	t.Setenv("HOME", "/home/ann")
	const text = "~/0123456789abcdef0123456789abcdef"
	cfg := load(t, config.Sources{Flags: map[string][]string{"cluster.secret": {text}, "auth.jwt_secret": {text}, "kafka.password": {text}}})
	for _, got := range []string{cfg.Cluster.Secret, cfg.Auth.Secret, cfg.Kafka.Password} {
		if got != text {
			t.Errorf("the secret %q became %q", text, got)
		}
	}
	var files []string
	for _, key := range config.Keys() {
		if strings.HasSuffix(key.Unit, "file") {
			files = append(files, key.Name)
		}
	}
	if len(files) < 10 {
		t.Fatalf("the keys that are files are %q", files)
	}
	for _, name := range files {
		cfg, err := config.Load(config.Sources{Flags: map[string][]string{name: {"~/its/file"}}})
		// A file that is in use has to be there.
		shown := fmt.Sprintf("%s\n%v", cfg.Show(), err)
		if strings.Contains(shown, "~") || err == nil && !strings.Contains(shown, "/home/ann/its/file") {
			t.Errorf("%s: ~ stays:\n%s", name, shown)
		}
		_, err = config.Load(config.Sources{Flags: map[string][]string{name: {"~bob/file"}}})
		wantProblem(t, err, name, "~bob", "write the whole path")
	}
}
