package config

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"imgo/commands/suggest"
	"imgo/internal/events"
	"imgo/internal/upstream"
)

// Sources are the places that settings come from. Flags win over the environment, the environment
// over the file, and the file over the defaults.
type Sources struct {
	// Flags are the values that the command line gave for each key ("comet.tcp"), in order.
	Flags map[string][]string
	// Environ is the environment in the form of os.Environ. Only variables that begin with IMGO_
	// count. A variable with an empty value counts as not set.
	Environ []string
	// File is the path of the settings file. If it is empty, no file is read.
	File string
}

// Load merges the settings from all sources, completes them and validates them. It returns a
// *ConfigError that names every problem, the source of the value and the remedy.
func Load(sources Sources) (Config, error) {
	cfg := Default()
	if sources.File != "" {
		if err := cfg.readFile(sources.File); err != nil {
			return Config{}, err
		}
	}
	var found problems
	env := environment(sources.Environ)
	for _, key := range Keys() {
		for _, name := range key.Envs {
			if value, ok := env[name]; ok {
				cfg.apply(&key, name, []string{value}, &found)
				break
			}
		}
		if texts := sources.Flags[key.Name]; len(texts) > 0 {
			cfg.apply(&key, "--"+key.Flags[0], texts, &found)
		}
	}
	cfg.normalize(&found)
	if err := found.err(); err != nil {
		return Config{}, err
	}
	cfg.warnings = unknownVariables(env)
	cfg.complete()
	if err := cfg.Validate(); err != nil {
		return Config{}, err
	}
	cfg.warnings = slices.Concat(cfg.warnings, cfg.demoWarnings(), cfg.accessWarnings(), cfg.roomWarnings(), cfg.hookWarnings())
	return cfg, nil
}

// normalize gives values the form that the program uses: a choice in its own letters (INFO is
// info), and a path without ~, which only a shell replaces.
func (cfg *Config) normalize(found *problems) {
	for _, key := range Keys() {
		v := key.value(cfg)
		if v.Kind() != reflect.String {
			continue
		}
		text := v.String()
		if i := slices.IndexFunc(key.Choices, func(choice string) bool { return strings.EqualFold(choice, text) }); i >= 0 {
			v.SetString(key.Choices[i])
		}
		name, rest, _ := strings.Cut(text, "/")
		if !key.IsPath() || !strings.HasPrefix(name, "~") {
			continue
		}
		home, err := os.UserHomeDir()
		if name != "~" || err != nil {
			found.add(cfg.Origin(key.Name), key.Name, fmt.Sprintf("is %q, and it is not known which folder %s is", text, name),
				"write the whole path")
			continue
		}
		v.SetString(filepath.Join(home, rest))
	}
}

// roomWarnings returns a remark if any client may join rooms that no rule names.
func (cfg *Config) roomWarnings() []string {
	if !cfg.Runs(RoleLogic) {
		return nil
	}
	if cfg.Auth.BelievesClients() && cfg.Asks() {
		return []string{`rooms: auth.mode is none, so the users that auth.rooms_webhook_url is asked about are whoever the clients say they are`}
	}
	if cfg.Auth.BelievesClients() || !cfg.RoomRules.Open() {
		return nil
	}
	return []string{`rooms: every authenticated client may join every room that no rule of [[rooms]] names: ` +
		`end the rules with pattern = "*", and join = "token" to close them or join = "any" to leave it so`}
}

// hookWarnings returns remarks about hooks that ask for events that no setting makes.
func (cfg *Config) hookWarnings() (list []string) {
	made := func(t events.Type) bool {
		switch t {
		case events.Online, events.Offline:
			return cfg.Presence.Events
		case events.Upstream:
			return slices.ContainsFunc(cfg.Upstream, func(r upstream.Rule) bool { return r.To == upstream.ToEvents })
		}
		return true
	}
	for _, hook := range cfg.Hooks {
		for _, pattern := range hook.Types {
			comes := func(t events.Type) bool { return events.Matches([]string{pattern}, t) && made(t) }
			if !slices.ContainsFunc(events.Types(), comes) {
				list = append(list, fmt.Sprintf("hooks: hook %q asks for %s, and there are no such events: "+
					`user.* needs presence.events = true, and upstream.* a rule of [[upstream]] with to = "events"`, hook.Name, pattern))
			}
		}
	}
	return list
}

// accessWarnings returns remarks about API keys that may do more than their callers need.
func (cfg *Config) accessWarnings() []string {
	var names []string
	for _, key := range cfg.HTTP.Keys {
		if len(key.Scopes) == 0 {
			names = append(names, strconv.Quote(key.Name))
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("http.api_keys: %s may do everything, also make tokens for any user: give each key the scopes that it needs, "+
		`such as scopes = ["push"]`, strings.Join(names, " and "))}
}

// apply sets one key to the value from one source.
func (cfg *Config) apply(key *Key, where string, texts []string, found *problems) {
	if err := key.Set(key.value(cfg), texts); err != nil {
		text := err.Error()
		if !key.Secret {
			text = fmt.Sprintf("%q %s", texts[len(texts)-1], text)
		}
		found.add(where, "", text, "")
		return
	}
	cfg.setOrigin(key.Name, where)
}

// environment returns imgo's variables that have a value.
func environment(environ []string) map[string]string {
	env := map[string]string{}
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, EnvPrefix) && value != "" {
			env[name] = value
		}
	}
	return env
}

// ConfigEnv is the variable that names the settings file when --config is not given.
const ConfigEnv = EnvPrefix + "CONFIG"

// unknownVariables returns a warning for each variable that looks like a misspelt name of a key. It
// is no error, because Kubernetes sets IMGO_PORT and similar variables itself if a service is
// called imgo.
func unknownVariables(env map[string]string) []string {
	known := []string{ConfigEnv, EnvPrefix + "SERVER", EnvPrefix + "API_KEY"}
	for _, key := range Keys() {
		known = append(known, key.Envs...)
	}
	var warnings []string
	for name := range env {
		if slices.Contains(known, name) {
			continue
		}
		// Kubernetes puts the name of the service into its own variables. Some of them resemble the
		// names of keys.
		if strings.Contains(name, "_SERVICE_") || strings.Contains(name, "_PORT") {
			continue
		}
		if meant := suggest.Closest(name, known); meant != "" {
			warnings = append(warnings, fmt.Sprintf("the environment variable %s is not read by imgo: did you mean %s?", name, meant))
		}
	}
	slices.Sort(warnings)
	return warnings
}

// complete fills in the values that follow from other settings or from the machine.
func (cfg *Config) complete() {
	if cfg.NodeID == "" {
		cfg.NodeID = HostNodeID()
	}
	for i, role := range cfg.Roles {
		cfg.Roles[i] = strings.ToLower(strings.TrimSpace(role))
	}
	off := []*string{&cfg.HTTP.Admin}
	for _, l := range cfg.listeners() {
		off = append(off, l.address)
	}
	for _, address := range off {
		if *address == addressOff {
			*address = ""
		}
	}
	cfg.completeDemo()
}

// addressOff is the value in the settings that turns a listener off. Config holds the empty string
// instead.
const addressOff = "off"

// HostNodeID returns a node name made of the first label of the host name. Characters that a node
// name may not have become "-". The result is the same after a restart.
func HostNodeID() string {
	host, _ := os.Hostname() // it is empty if it is not known
	host, _, _ = strings.Cut(host, ".")
	id := strings.Map(func(r rune) rune {
		if nodeIDRune(r) {
			return r
		}
		return '-'
	}, host)
	return cmp.Or(id[:min(len(id), MaxNodeID)], "imgo")
}

// MaxNodeID is the largest length of a node name in bytes. The node name is part of every session
// name.
const MaxNodeID = 64

func nodeIDRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r)
}
