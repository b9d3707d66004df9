package config

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"imgo/envelope"
	"imgo/internal/loopback"
	"imgo/internal/settings"
	"imgo/internal/weborigin"
	"imgo/protocol"
)

// Validate checks every value and the combinations of values. It returns a *ConfigError with all
// problems; each names the key, the source of the value and the remedy. Load calls it.
func (cfg *Config) Validate() error {
	v := validation{cfg: cfg}
	for _, key := range Keys() {
		v.bounds(&key)
	}
	v.node()
	comet := v.comet()
	http := v.http()
	v.auth(comet, http)
	cfg.RoomRules.Check(func(wrong, fix string) { v.refuse("rooms", wrong, fix) })
	cfg.Settings.Check(func(wrong, fix string) { v.refuse("hooks", wrong, fix) })
	cfg.Rules.Check(func(wrong, fix string) { v.refuse("upstream", wrong, fix) })
	cfg.CheckWebhook(&cfg.Auth.Config, v.refuse)
	v.bounded()
	v.cluster()
	v.demo()
	return v.found.err()
}

// validation collects the problems of cfg.
type validation struct {
	cfg       *Config
	found     problems
	listeners []listener // those that have a port of their own
}

// refuse records a problem of a key.
func (v *validation) refuse(key, text, fix string) {
	where := v.cfg.Origin(key)
	if where == "default" {
		where = ""
	}
	v.found.add(where, key, text, fix)
}

// number returns the value of a key, and its text in the file.
func (v *validation) number(name string) (value int64, text string) {
	keys := Keys()
	key := &keys[slices.IndexFunc(keys, func(k Key) bool { return k.Name == name })]
	is := key.value(v.cfg)
	return is.Int(), key.Format(is)
}

// bounds checks a value against the choices, the minimum and the maximum of its key.
func (v *validation) bounds(key *Key) {
	if key.isTables() {
		v.tableBounds(key)
		return
	}
	if wrong, fix := key.Check(key.value(v.cfg)); wrong != "" {
		v.refuse(key.Name, wrong, fix)
	}
}

// tableBounds checks the values in each table of a list of tables.
func (v *validation) tableBounds(key *Key) {
	list := key.value(v.cfg)
	for i := range list.Len() {
		for _, field := range settings.Fields(key.Type.Elem()) {
			if wrong, fix := field.Check(list.Index(i).FieldByIndex(field.Index)); wrong != "" {
				v.refuse(key.Name, fmt.Sprintf("table %d: %s %s", i+1, field.Name, wrong), fix)
			}
		}
	}
}

// node checks the keys at the top of the file.
func (v *validation) node() {
	cfg := v.cfg
	if len(cfg.Roles) == 0 {
		v.refuse("roles", "names no role", "write --roles=comet,logic, or leave it out")
	}
	for i, role := range cfg.Roles {
		switch {
		case !slices.Contains(AllRoles(), role):
			v.refuse("roles", fmt.Sprintf("has %q, which is no role", role), "choose from "+strings.Join(AllRoles(), ", "))
		case slices.Contains(cfg.Roles[:i], role):
			v.refuse("roles", fmt.Sprintf("names %s twice", role), "name it once")
		}
	}
	if id := cfg.NodeID; len(id) > MaxNodeID || strings.ContainsFunc(id, func(r rune) bool { return !nodeIDRune(r) }) {
		v.refuse("node_id", fmt.Sprintf("is %q", id), fmt.Sprintf("use 1 to %d of the letters a-z A-Z 0-9 . _ -", MaxNodeID))
	}
	if cfg.DataDir == "" {
		v.refuse("data_dir", "is empty", "name a folder, such as --data-dir ./imgo-data")
	}
}

// listener is a valid address of a listener.
type listener struct {
	key, flag string
	host      string
	port      int
	loopback  bool
	on        bool
}

// listenAddress checks that the address of a key is host:port.
func (v *validation) listenAddress(key, flag, address, example string) listener {
	l := listener{key: key, flag: flag}
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		v.refuse(key, fmt.Sprintf("is %q, which is no address", address),
			fmt.Sprintf("write host:port, such as %s (IPv6: [::1]:8080)", example))
		return l
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		v.refuse(key, fmt.Sprintf("has the port %q", portText), "a port is a number from 0 (any that is free) to 65535")
		return l
	}
	l.host, l.port, l.on = host, int(port), true
	l.loopback = loopback.Host(host)
	v.distinct(l)
	return l
}

// distinct refuses a listener on the port of another one.
func (v *validation) distinct(l listener) {
	if l.port == 0 {
		return
	}
	if ip, err := netip.ParseAddr(l.host); err == nil && ip.IsUnspecified() {
		l.host = ""
	}
	for _, other := range v.listeners {
		if other.port == l.port && (other.host == l.host || other.host == "" || l.host == "") {
			v.refuse(l.key, fmt.Sprintf("has the port %d, which %s has already", l.port, other.key), "give each its own port")
		}
	}
	v.listeners = append(v.listeners, l)
}

// certificate checks that a section names both certificate and key, and that they can be read.
func (v *validation) certificate(section, cert, key string) {
	switch {
	case cert != "" && key == "":
		v.refuse(section+".tls_cert", "is given without "+section+".tls_key", "give both")
	case cert == "" && key != "":
		v.refuse(section+".tls_key", "is given without "+section+".tls_cert", "give both")
	}
	v.readable(section+".tls_cert", cert)
	v.readable(section+".tls_key", key)
}

// readable checks that the file of a key can be read. An empty path is valid.
func (v *validation) readable(key, file string) {
	if file == "" {
		return
	}
	if _, err := os.ReadFile(file); err != nil {
		v.refuse(key, fmt.Sprintf("cannot read %s: %v", file, reason(err)), "")
	}
}

// minAPIKey is the smallest length of an API key in bytes. A shorter one could be guessed.
const minAPIKey = 16

// http checks the settings of the HTTP API.
func (v *validation) http() listener {
	h := &v.cfg.HTTP
	l := v.listenAddress("http.listen", "--http", h.Listen, "127.0.0.1:7172")
	if l.on && !l.loopback && len(h.Keys) == 0 {
		v.refuse("http.listen", fmt.Sprintf("is %s, beyond loopback, and there is no API key: anybody who can reach it could push", h.Listen),
			fmt.Sprintf("give a key (export IMGO_HTTP_API_KEYS=backend:$(openssl rand -hex 16) in the shell, or [[http.api_keys]] in the file), "+
				"or listen on 127.0.0.1:%d", l.port))
	}
	if h.Admin != "" {
		if admin := v.listenAddress("http.admin", "--http-admin", h.Admin, "127.0.0.1:7173"); admin.on && !admin.loopback {
			v.refuse("http.admin", fmt.Sprintf("is %s, beyond loopback, and its pages need no key", h.Admin),
				fmt.Sprintf("use 127.0.0.1:%d, or read profiles with an API key that has the scope admin", admin.port))
		}
	}
	v.certificate("http", h.TLSCert, h.TLSKey)
	for _, origin := range h.TrustedOrigins {
		if _, err := weborigin.Exact(origin); err != nil {
			v.refuse("http.trusted_origins", "has the "+err.Error(), "write scheme and host, such as https://console.example.com")
		}
	}
	names, keys := map[string]bool{}, map[string]bool{}
	for _, key := range h.Keys {
		// Errors are logged, so they must not contain the key itself.
		switch {
		case key.Name == "":
			v.refuse("http.api_keys", "has a key without a name", "name it after its caller: it is what logs and limits show")
		case strings.Contains(key.Name, "/") || envelope.CheckName("name", key.Name) != nil:
			v.refuse("http.api_keys", fmt.Sprintf("has the name %q", key.Name),
				fmt.Sprintf("use up to %d bytes without a slash or control characters", protocol.MaxNameBytes))
		case names[key.Name]:
			v.refuse("http.api_keys", fmt.Sprintf("has two keys named %q", key.Name), "give each its own name")
		}
		switch {
		case len(key.Key) < minAPIKey:
			v.refuse("http.api_keys", fmt.Sprintf("%q has a key of %d bytes", key.Name, len(key.Key)),
				fmt.Sprintf("use at least %d, such as the output of: openssl rand -hex 16", minAPIKey))
		case strings.ContainsFunc(key.Key, func(r rune) bool { return r <= ' ' || r > '~' }):
			v.refuse("http.api_keys", fmt.Sprintf("%q has a key with spaces or other letters than ASCII", key.Name),
				"use letters, digits and signs only")
		case keys[key.Key]:
			v.refuse("http.api_keys", fmt.Sprintf("%q has the same key as another", key.Name), "give each caller its own")
		}
		if !(key.Rate >= 0 && key.Rate <= math.MaxInt32) {
			v.refuse("http.api_keys", fmt.Sprintf("%q has the rate %v", key.Name, key.Rate), "it is requests a second; 0 is no limit")
		}
		key.Check(func(wrong, fix string) { v.refuse("http.api_keys", fmt.Sprintf("%q %s", key.Name, wrong), fix) })
		names[key.Name], keys[key.Key] = true, true
	}
	return l
}

// auth checks the settings of authentication.
func (v *validation) auth(comet []listener, http listener) {
	a := &v.cfg.Auth
	if a.BelievesClients() {
		v.open(append(slices.Clone(comet), http))
	}
	a.Check(func(key, wrong, fix string) { v.refuse("auth."+key, wrong, fix) })
	v.readable("auth.jwt_public_key", a.PublicKeyFile)
	v.readable("auth.jwks_file", a.JWKSFile)
}

// open refuses auth.mode none on an address that other machines can reach.
func (v *validation) open(listeners []listener) {
	var beyond, fix []string
	for _, l := range listeners {
		if l.on && !l.loopback {
			beyond = append(beyond, l.key)
			fix = append(fix, fmt.Sprintf("%s 127.0.0.1:%d", l.flag, l.port))
		}
	}
	if len(beyond) > 0 {
		v.refuse("auth.mode",
			fmt.Sprintf("is none, so anybody could be anybody, while %s can be reached from beyond this machine", strings.Join(beyond, " and ")),
			fmt.Sprintf("add %s, or use tokens (auth.mode = \"token\")", strings.Join(fix, " ")))
	}
}

// bounded checks settings that bound one another.
func (v *validation) bounded() {
	v.atMost("kept.ttl", "kept.max_ttl")
	v.atMost("kept.idempotency_ttl", "kept.retention")
	v.atLeast("kept.retention", "kept.max_ttl", "a message could outlive the log that it is rebuilt from")
	v.atLeast("limits.pending_bytes", "protocol.max_body", "one packet has no room")
	v.atLeast("http.body_limit", "protocol.max_body", "one message has no room")
	v.atLeast("live.max_bytes", "protocol.max_body", "one message has no room")
	v.atLeast("live.retention", "delivery.catch_up_timeout", "what a client catches up with could be gone")
	v.atLeast("delivery.watch_after", "delivery.ack_interval", "every message would look lost")
}

// atLeast refuses a number or duration that is less than another setting, which has the consequence why.
func (v *validation) atLeast(name, least, why string) {
	value, text := v.number(name)
	if other, bound := v.number(least); value < other {
		v.refuse(name, fmt.Sprintf("is %s, less than %s (%s): %s", text, least, bound, why), "raise it, or lower "+least)
	}
}

// atMost refuses a number or duration that is more than another setting.
func (v *validation) atMost(name, most string) {
	value, text := v.number(name)
	if other, bound := v.number(most); value > other {
		v.refuse(name, fmt.Sprintf("is %s, more than %s (%s)", text, most, bound), "lower it, or raise "+most)
	}
}
