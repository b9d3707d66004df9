package config

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"imgo/commands/suggest"
)

// Sources is where settings come from; what comes later here weighs less:
// flags > environment > file > defaults.
type Sources struct {
	// Flags are the texts that the command line gave for a key ("comet.tcp"),
	// in order.
	Flags map[string][]string
	// Environ is the environment as os.Environ gives it; only IMGO_… counts.
	// A variable that is set and empty counts as not set.
	Environ []string
	// File is the settings file; empty: none.
	File string
}

// Load puts the settings together, completes and validates them. Its error is
// a *ConfigError that names every problem, where it came from and the mend.
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
	if err := found.err(); err != nil {
		return Config{}, err
	}
	cfg.warnings = unknownVariables(env)
	cfg.complete()
	if err := cfg.Validate(); err != nil {
		return Config{}, err
	}
	return cfg, nil
}

// apply gives one key the value from one place.
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

// environment picks imgo's variables that have a value.
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

// ConfigEnv names the settings file, where --config does not.
const ConfigEnv = EnvPrefix + "CONFIG"

// unknownVariables warns of variables that look like a slip in a key's name.
// It is a warning only: Kubernetes sets IMGO_PORT and the like by itself where
// a service is called imgo.
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
		// Kubernetes' variables repeat the service's name and would be taken
		// for slips of keys that begin alike.
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

// complete fills in what follows from other settings or from the machine.
func (cfg *Config) complete() {
	if cfg.NodeID == "" {
		cfg.NodeID = HostNodeID()
	}
	for i, role := range cfg.Roles {
		cfg.Roles[i] = strings.ToLower(strings.TrimSpace(role))
	}
	for _, address := range []*string{&cfg.Comet.TCP, &cfg.Comet.WS} {
		if *address == addressOff {
			*address = ""
		}
	}
}

// addressOff closes a listener; in Config it is then the empty string.
const addressOff = "off"

// HostNodeID makes a node's name of the host's: its first label, as far as it
// fits nodeIDPattern. It stays the same over restarts.
func HostNodeID() string {
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	host, _, _ = strings.Cut(host, ".")
	id := strings.Map(func(r rune) rune {
		if nodeIDRune(r) {
			return r
		}
		return '-'
	}, host)
	if len(id) > MaxNodeID {
		id = id[:MaxNodeID]
	}
	if id == "" {
		return "imgo"
	}
	return id
}

// MaxNodeID bounds a node's name: it is part of every session's name.
const MaxNodeID = 64

func nodeIDRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r)
}

// checkReadable says why a file cannot be read, or nil.
func checkReadable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", path, reason(err))
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return fmt.Errorf("cannot read %s: %w", path, reason(err))
	case info.IsDir():
		return errors.New("cannot read " + path + ": it is a folder")
	}
	return nil
}
