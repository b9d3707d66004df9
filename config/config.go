// Package config owns the settings of a node: their names, defaults and bounds. It loads
// them strictly from file, environment and flags, and checks that a combination of them
// is acceptable.
//
// It guarantees that a role gets only settings that were validated. Every
// setting has one name everywhere: `comet.tcp` in the file is IMGO_COMET_TCP in
// the environment and --comet-tcp on the command line. All three are derived
// from one tagged field, here or in the Config of a role.
//
// It decides nothing at run time. Only main, roles and tests import it.
package config

import (
	"maps"
	"slices"
	"time"

	"imgo/internal/settings"
	"imgo/internal/upstream"
	"imgo/roles/comet"
	"imgo/roles/job/hooks"
	"imgo/roles/logic"
	"imgo/roles/logic/auth"
	"imgo/roles/logic/httpapi"
	"imgo/roles/router"
)

// The roles, in the order in which they are shown.
const (
	RoleComet  = "comet"
	RoleLogic  = "logic"
	RoleRouter = "router"
	RoleJob    = "job"
)

// AllRoles returns every role in the order in which they are shown.
func AllRoles() []string { return []string{RoleComet, RoleLogic, RoleRouter, RoleJob} }

// Config holds every setting of a node. The file, the flags, the environment, the help and
// config.example.toml are all generated from the tags of its fields, including the settings that a
// role owns. Package settings explains the tags.
//
// A Config is plain data. It does not change after Load has returned it.
type Config struct {
	Roles   []string `toml:"roles" default:"comet,logic" common:"true" unit:"any of comet, logic, router, job" doc:"What this process runs. Without cluster.join, a role that is missing here is run in this\nprocess too, and a log line says so."`
	NodeID  string   `toml:"node_id" common:"true" unit:"1 to 64 of a-z A-Z 0-9 . _ -" doc:"The node's name: in logs, metrics and session names. Empty: the host's name."`
	DataDir string   `toml:"data_dir" default:"./imgo-data" common:"true" unit:"folder" doc:"The folder of kept messages, mailboxes and tokens. It is made if it is missing. Only one process at a time can use it."`

	Demo bool `toml:"demo" doc:"Whether this process is for trying imgo out, such as in a container: it makes an API key, new at each start, prints it with\na command that pushes, and the API listens on all addresses unless http.listen says where. Clients need tokens."`

	logic.RoomRules
	hooks.Settings
	upstream.Rules

	Logging  Logging         `toml:"logging" doc:"What imgo writes to standard error."`
	Comet    Comet           `toml:"comet" doc:"Where clients connect."`
	Protocol comet.Protocol  `toml:"protocol" doc:"The client protocol's bounds."`
	Limits   Limits          `toml:"limits" doc:"Limits for clients. 0 means no limit, unless a setting says otherwise."`
	HTTP     HTTP            `toml:"http" doc:"The push API, the demo page, health and metrics."`
	Auth     Auth            `toml:"auth" doc:"How clients prove who their user is."`
	Kept     Kept            `toml:"kept" doc:"Messages that wait until they are acknowledged."`
	Events   Events          `toml:"events" doc:"What callers are told of what became of their messages."`
	Presence router.Presence `toml:"presence" doc:"Who is online."`
	Live     Live            `toml:"live" doc:"Messages that are not kept: in memory only."`
	Disk     Disk            `toml:"disk" doc:"The data folder's disk."`
	Delivery Delivery        `toml:"delivery" doc:"The timing of deliveries. The defaults suit nearly everyone."`
	Shutdown Shutdown        `toml:"shutdown" doc:"What happens on SIGTERM or Ctrl-C."`
	Cluster  Cluster         `toml:"cluster" doc:"How this node finds and calls other nodes. These settings have no effect while join is empty."`
	Kafka    Kafka           `toml:"kafka" doc:"The log of a cluster."`

	origins  map[string]string
	warnings []string
	demoKey  string // the key that the demo has made
}

// Logging sets what is logged and in which format.
type Logging struct {
	Level  string `toml:"level" default:"info" flag:"log-level" common:"true" choices:"debug,info,warn,error" doc:"The lowest level that is logged."`
	Format string `toml:"format" default:"auto" flag:"log-format" common:"true" choices:"auto,console,json" doc:"auto is console on a terminal and json elsewhere."`
}

// Limits bounds the resources that clients may use.
type Limits struct {
	comet.Limits
	router.SessionLimits
}

// HTTP sets up the HTTP API and the administration endpoints.
type HTTP struct {
	Listen  string `toml:"listen" default:"127.0.0.1:7172" flag:"http" common:"true" unit:"address" doc:"Where the API listens. An address other than loopback (127.0.0.1, ::1) needs an API key."`
	Admin   string `toml:"admin" unit:"loopback address such as 127.0.0.1:7173" doc:"Where profiles (/debug/pprof/), health and metrics need no key, for programs of this machine. Elsewhere\nprofiles need an API key with the scope admin. Empty: off."`
	TLSCert string `toml:"tls_cert" unit:"PEM file" doc:"The certificate (chain) of the API; re-read when it changes. Empty: no TLS."`
	TLSKey  string `toml:"tls_key" unit:"PEM file" doc:"The certificate's private key."`

	MaxConnections int `toml:"max_connections" default:"1000" unit:"connections" min:"10" max:"1000000" doc:"The most connections of this port. One more takes the place of the one that is idle for longest. If none\nis idle, it is closed."`

	httpapi.Config
}

// Auth sets how a token is turned into a user.
type Auth struct {
	auth.Config
	comet.Expiry
}

// Events sets up the events topic.
type Events struct {
	Retention time.Duration `toml:"retention" default:"72h" unit:"duration" min:"1m" doc:"How long events can be read. In a cluster the events topic of Kafka keeps them."`

	logic.Reports
}

// Kept sets up the kept topic and the mailboxes.
type Kept struct {
	Partitions int           `toml:"partitions" default:"8" unit:"partitions" min:"1" max:"1024" doc:"Parts of the log of kept messages. The setting counts at the first start only. Later, one process cannot change the number,\nand a cluster changes it by imgo partitions grow."`
	Retention  time.Duration `toml:"retention" default:"192h" unit:"duration" min:"1m" doc:"How long the log keeps its records. At least max_ttl, so that a lost mailbox can be rebuilt from the log."`

	logic.Lifetimes
	router.MailboxLimits
}

// Live sets up the live topic.
type Live struct {
	Partitions int           `toml:"partitions" default:"4" unit:"partitions" min:"1" max:"1024" doc:"Parts of the log of messages that are not kept."`
	MaxBytes   int           `toml:"max_bytes" default:"32MiB" unit:"size" min:"1MiB" max:"64GiB" doc:"The largest size of each part in memory. The oldest messages are dropped first."`
	Retention  time.Duration `toml:"retention" default:"2m" unit:"duration" min:"1s" max:"24h" doc:"How long each part holds a message."`
}

// Disk protects the disk of the data folder from running full.
type Disk struct {
	Reserve int `toml:"reserve" default:"256MiB" unit:"size" doc:"With less free than this, pushes are refused (disk_full) while deliveries, acks and\nconnections go on. With less than a quarter of it, or 32MiB, every write is refused, the\nnode is not ready and does not start. Recovery needs no restart."`
}

// Delivery sets the intervals of the delivery.
type Delivery struct {
	comet.Delivery
	router.WatchTimes
}

// Shutdown sets how the node stops.
type Shutdown struct {
	Timeout time.Duration `toml:"timeout" default:"15s" unit:"duration" min:"1s" max:"1h" doc:"The longest time that a stop may take. After that, the remaining connections and calls are cut off."`

	comet.Shutdown
}

// Default returns the configuration of `imgo` without file, environment or flags.
// config.example.toml shows the same values.
func Default() Config { return settings.Default[Config]() }

// HasRole reports whether the settings name the role.
func (cfg *Config) HasRole(role string) bool { return slices.Contains(cfg.Roles, role) }

// EmbeddedRoles returns the roles that the settings do not name and that run in this process
// anyway. A node without a cluster needs them, because no other node can run them.
func (cfg *Config) EmbeddedRoles() []string {
	if cfg.Clustered() {
		return nil
	}
	return slices.DeleteFunc(AllRoles(), cfg.HasRole)
}

// Origin returns the source of the value of a key ("comet.tcp"). The source is "default",
// "file:line", the name of an environment variable or a flag.
func (cfg *Config) Origin(key string) string {
	if origin, ok := cfg.origins[key]; ok {
		return origin
	}
	return "default"
}

// Warnings returns remarks about the settings that do not prevent a start. The caller logs them.
func (cfg *Config) Warnings() []string { return slices.Clone(cfg.warnings) }

// setOrigin records the source of a key's value.
func (cfg *Config) setOrigin(key, origin string) {
	cfg.origins = maps.Clone(cfg.origins)
	if cfg.origins == nil {
		cfg.origins = map[string]string{}
	}
	cfg.origins[key] = origin
}
