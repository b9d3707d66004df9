// Package config owns the settings of a node: their names, defaults and bounds,
// the strict load from file, environment and flags, and the check that a
// combination of them is acceptable.
//
// It guarantees that a role gets only settings that were validated. Every
// setting has one name everywhere: `comet.tcp` in the file is IMGO_COMET_TCP in
// the environment and --comet-tcp on the command line. All three are derived
// from one field below.
//
// It decides nothing at run time. Only main, roles and tests import it.
package config

import (
	"maps"
	"slices"
	"time"

	"imgo/internal/settings"
)

// The roles, in the order in which they are shown.
const (
	RoleComet  = "comet"
	RoleLogic  = "logic"
	RoleRouter = "router"
	RoleJob    = "job"
)

// AllRoles lists every role in the order in which they are shown.
func AllRoles() []string { return []string{RoleComet, RoleLogic, RoleRouter, RoleJob} }

// Config is every setting of a node. The tags are the one table that the file,
// the flags, the environment, the help and config.example.toml are made of:
//
//	toml     the key's name, in its section
//	flag     a short flag beside the derived --section-key (and its IMGO_ twin)
//	common   "true": shown by `imgo --help`, not only by `imgo serve --help`
//	unit     what a bare value means or what a value looks like
//	choices  the only values allowed, comma-separated
//	secret   "true": never shown by `imgo config show`
//	min,max  the bounds of a number or duration
//	doc      one or two sentences; a line break starts a new comment line
//
// A Config is plain data: it is not changed once Load has returned it.
type Config struct {
	Roles   []string `toml:"roles" default:"comet,logic" common:"true" unit:"any of comet, logic, router, job" doc:"What this process runs. Without cluster.join, a role that is missing here is run in this\nprocess too, and a log line says so."`
	NodeID  string   `toml:"node_id" common:"true" unit:"1 to 64 of a-z A-Z 0-9 . _ -" doc:"The node's name: in logs, metrics and session names. Empty: the host's name."`
	DataDir string   `toml:"data_dir" default:"./imgo-data" common:"true" unit:"folder" doc:"Where kept messages, mailboxes and tokens live. Made when missing; one process at a time."`

	Logging  Logging  `toml:"logging" doc:"What imgo writes to standard error."`
	Comet    Comet    `toml:"comet" doc:"Where clients connect."`
	Protocol Protocol `toml:"protocol" doc:"The client protocol's bounds."`
	Limits   Limits   `toml:"limits" doc:"What clients may use up. 0 is no limit unless said otherwise."`
	HTTP     HTTP     `toml:"http" doc:"The push API, the demo page, health and metrics."`
	Auth     Auth     `toml:"auth" doc:"Who a client is."`
	Kept     Kept     `toml:"kept" doc:"Messages that wait until they are acknowledged."`
	Live     Live     `toml:"live" doc:"Messages that are not kept: in memory only."`
	Disk     Disk     `toml:"disk" doc:"The data folder's disk."`
	Delivery Delivery `toml:"delivery" doc:"How messages find their way. The defaults suit nearly everyone."`
	Shutdown Shutdown `toml:"shutdown" doc:"What happens on SIGTERM or Ctrl-C."`
	Cluster  Cluster  `toml:"cluster" doc:"Other nodes: who they are and how they are called. All of it is unused until join names one."`
	Kafka    Kafka    `toml:"kafka" doc:"The log of a cluster."`

	origins  map[string]string
	warnings []string
}

// Logging says what is logged and how.
type Logging struct {
	Level  string `toml:"level" default:"info" flag:"log-level" common:"true" choices:"debug,info,warn,error" doc:"The least that is logged."`
	Format string `toml:"format" default:"auto" flag:"log-format" common:"true" choices:"auto,console,json" doc:"auto is console on a terminal and json elsewhere."`
}

// Comet is where clients connect.
type Comet struct {
	TCP       string   `toml:"tcp" default:":8080" flag:"tcp" common:"true" unit:"address, or off" doc:"Where TCP clients connect."`
	WS        string   `toml:"ws" default:":8090" flag:"ws" common:"true" unit:"address, or off" doc:"Where WebSocket clients connect, path /sub."`
	TLSCert   string   `toml:"tls_cert" unit:"PEM file" doc:"The certificate (chain) for clients; re-read when it changes. Empty: no TLS."`
	TLSKey    string   `toml:"tls_key" unit:"PEM file" doc:"The certificate's private key."`
	TCPTLS    bool     `toml:"tcp_tls" default:"true" doc:"Whether the TCP port uses the certificate, where one is given."`
	WSTLS     bool     `toml:"ws_tls" default:"true" doc:"Whether the WebSocket port uses the certificate, where one is given."`
	WSOrigins []string `toml:"ws_origins" unit:"host patterns such as \"example.com\", \"*.example.com\"" doc:"The web pages that may open a WebSocket. Empty: any. Clients that are no browser send no origin and pass."`
	Epoll     bool     `toml:"epoll" default:"true" doc:"Whether epoll waits for clients, on Linux and without TLS. Otherwise each connection has a\ngoroutine and buffers of its own, some 9 KB more: as it always is with TLS and elsewhere."`
	IOUring   bool     `toml:"io_uring" default:"true" doc:"Whether what many clients get is sent to 64 of them in one system call, by io_uring, where epoll waits\nfor them and the kernel allows it (Linux; containers often forbid it). Otherwise each is a call of its own, which\ncosts half as much again."`

	FlushInterval time.Duration `toml:"flush_interval" unit:"duration" min:"0s" max:"10s" doc:"The flush window: how long a message may be held back so that what comes for a session meanwhile\ngoes with it, in one write. It saves most of the cost of frequent messages. 0: nothing is held back."`
}

// Protocol bounds what clients may send and for how long they may be silent.
type Protocol struct {
	MaxBody          int           `toml:"max_body" default:"64KiB" unit:"size" min:"1KiB" max:"1MiB" doc:"The largest body of a packet, either way."`
	HandshakeTimeout time.Duration `toml:"handshake_timeout" default:"5s" unit:"duration" min:"100ms" max:"5m" doc:"A connection that has not authenticated by then is closed."`
	Heartbeat        time.Duration `toml:"heartbeat" default:"1m" unit:"duration" min:"1s" max:"1h" doc:"How often version-2 clients are told to give a sign of life; closed after 2.5 of them without one."`
	HeartbeatV1      time.Duration `toml:"heartbeat_v1" default:"8m" unit:"duration" min:"1s" max:"24h" doc:"A version-1 client (imgo 2016, goim) is closed after this long without a packet. They beat every 30 s to 4 min."`
}

// Limits bounds what clients may use up.
type Limits struct {
	Connections           int           `toml:"connections" default:"250000" unit:"connections" min:"0" doc:"Connections to this node; more are refused (3005)."`
	ConnectionsPerAddress int           `toml:"connections_per_address" default:"20000" unit:"connections" min:"0" doc:"Connections from one source address (IPv6: one /64). Lower it where clients connect directly;\nraise it behind a proxy, which is one address."`
	ConnectRate           float64       `toml:"connect_rate" default:"5000" unit:"connections a second" min:"0" doc:"How fast new clients are let in. One too many waits its turn."`
	ConnectBurst          int           `toml:"connect_burst" default:"10000" unit:"connections" min:"1" doc:"How far connect_rate may be exceeded for a moment."`
	ConnectWait           time.Duration `toml:"connect_wait" default:"30s" unit:"duration" min:"1s" max:"10m" doc:"How long a client that authenticates may wait for its turn: for connect_rate, and while\nlogic or a router is slow or away. Then it is sent away (3005)."`
	SessionsPerUser       int           `toml:"sessions_per_user" default:"64" unit:"sessions" min:"0" doc:"Sessions that a user may have at the same time."`
	SessionsPolicy        string        `toml:"sessions_policy" default:"close_oldest" choices:"refuse,close_oldest" doc:"What happens to one session too many: refuse turns the new one away (3504), close_oldest\ncloses the oldest (3003)."`
	RoomsPerSession       int           `toml:"rooms_per_session" default:"32" unit:"rooms" min:"1" max:"10000" doc:"Rooms that a session may be in at the same time."`
	UpstreamRate          float64       `toml:"upstream_rate" default:"500" unit:"packets a second" min:"0" doc:"Packets that a session may send. One that sends more is read from no faster."`
	UpstreamBurst         int           `toml:"upstream_burst" default:"1000" unit:"packets" min:"1" doc:"How far upstream_rate may be exceeded for a moment."`
	PendingBytes          int           `toml:"pending_bytes" default:"256KiB" unit:"size" min:"4KiB" max:"1GiB" doc:"What may wait in memory for a slow client. Above it, kept messages wait in the mailbox\nand others are dropped and counted."`
	SendBuffer            int           `toml:"send_buffer" default:"128KiB" unit:"size" min:"4KiB" max:"16MiB" doc:"What the kernel may hold in its own memory of what a client has not yet taken, beside pending_bytes\n(it doubles that for what it needs itself, and goes no further than net.core.wmem_max)."`
	SlowTimeout           time.Duration `toml:"slow_timeout" default:"20s" unit:"duration" min:"1s" max:"1h" doc:"A client that takes nothing for this long is closed (3002)."`
}

// HTTP is the API and admin side.
type HTTP struct {
	Listen    string   `toml:"listen" default:"127.0.0.1:7172" flag:"http" common:"true" unit:"address" doc:"Where the API listens. Beyond loopback (127.0.0.1, ::1) only with an API key."`
	TLSCert   string   `toml:"tls_cert" unit:"PEM file" doc:"The certificate (chain) of the API; re-read when it changes. Empty: no TLS."`
	TLSKey    string   `toml:"tls_key" unit:"PEM file" doc:"The certificate's private key."`
	BodyLimit int      `toml:"body_limit" default:"16MiB" unit:"size" min:"4KiB" max:"1GiB" doc:"The largest request body."`
	MaxUsers  int      `toml:"max_users" default:"100000" unit:"users" min:"1" max:"1000000" doc:"The most users that one push may name."`
	Origins   []string `toml:"trusted_origins" unit:"origins such as \"https://console.example.com\"" doc:"Web pages that may call an API without keys, beside its own page. With keys, the key decides."`
	APIKeys   []APIKey `toml:"api_keys" secret:"true" unit:"name:key or name:key:rate, comma-separated, as a flag or in the environment" doc:"Who may call the API; none: everyone who can reach it. rate is requests a second, 0: no limit."`
}

// APIKey is one caller of the HTTP API.
type APIKey struct {
	Name string  `toml:"name"`
	Key  string  `toml:"key"`
	Rate float64 `toml:"rate"`
}

// Auth says how a client's token becomes a user.
type Auth struct {
	Mode         string        `toml:"mode" default:"token" choices:"token,none" doc:"token: opaque tokens of this server, and JWTs once one of the keys below is given.\nnone: the token, or goim's mid, is believed to be the user id. For development: refused\nunless every address is loopback."`
	JWTSecret    string        `toml:"jwt_secret" secret:"true" unit:"at least 32 bytes" doc:"The shared secret of HS256 JWTs."`
	JWTPublicKey string        `toml:"jwt_public_key" unit:"PEM file" doc:"The public key of RS256, ES256 or EdDSA JWTs."`
	JWKSFile     string        `toml:"jwks_file" unit:"JSON file" doc:"A JWKS; re-read when it changes."`
	JWKSURL      string        `toml:"jwks_url" unit:"https:// address" doc:"A JWKS that an identity provider serves."`
	Issuer       string        `toml:"issuer" doc:"The iss that a JWT must have. Empty: any."`
	Audience     []string      `toml:"audience" doc:"The aud of which a JWT must have one. Empty: any."`
	UserClaim    string        `toml:"user_claim" default:"sub" doc:"The claim of a JWT that is the user id."`
	DeviceClaim  string        `toml:"device_claim" doc:"The claim of a JWT that binds it to a device. Empty: none."`
	Leeway       time.Duration `toml:"leeway" default:"10s" unit:"duration" min:"0s" max:"5m" doc:"How far the clocks of a JWT's issuer and of imgo may differ."`
	CloseExpired bool          `toml:"close_expired" doc:"Whether a session is closed when the token that opened it expires (3502).\nOtherwise a token is looked at only when a client connects."`
}

// Kept is the kept topic and the mailboxes.
type Kept struct {
	Partitions     int           `toml:"partitions" default:"8" unit:"partitions" min:"1" max:"1024" doc:"Parts of the log of kept messages. For the first start alone: later it cannot be changed in one process, and in a cluster only by imgo partitions grow."`
	Retention      time.Duration `toml:"retention" default:"192h" unit:"duration" min:"1m" doc:"How long the log is held: at least max_ttl, so that a lost mailbox can be rebuilt from it."`
	TTL            time.Duration `toml:"ttl" default:"168h" unit:"duration" min:"1s" doc:"How long a kept message waits when its push does not say."`
	MaxTTL         time.Duration `toml:"max_ttl" default:"168h" unit:"duration" min:"1s" doc:"The longest ttl that a push may ask for."`
	MailboxLength  int           `toml:"mailbox_length" default:"1000" unit:"messages" min:"1" max:"1000000" doc:"Messages that may wait for one user; the oldest is dropped, counted and reported."`
	Cache          int           `toml:"cache" default:"32MiB" unit:"size" min:"0" max:"64GiB" doc:"Messages that wait and are on the disk may be held in memory too, up to this many bytes, for the\nclients that come back soon; those of the users served longest ago make room. 0: none."`
	DeviceExpiry   time.Duration `toml:"device_expiry" default:"720h" unit:"duration" min:"1m" doc:"A device not seen for this long is forgotten, and messages no longer wait for it."`
	IdempotencyTTL time.Duration `toml:"idempotency_ttl" default:"24h" unit:"duration" min:"1m" doc:"How long a push's Idempotency-Key is remembered; at most retention."`
}

// Live is the live topic.
type Live struct {
	Partitions int           `toml:"partitions" default:"4" unit:"partitions" min:"1" max:"1024" doc:"Parts of the log of messages that are not kept."`
	MaxBytes   int           `toml:"max_bytes" default:"32MiB" unit:"size" min:"1MiB" max:"64GiB" doc:"What each part may hold in memory; the oldest goes first."`
	Retention  time.Duration `toml:"retention" default:"2m" unit:"duration" min:"1s" max:"24h" doc:"How long each part holds what it has."`
}

// Disk guards the data folder's disk.
type Disk struct {
	Reserve int `toml:"reserve" default:"256MiB" unit:"size" doc:"With less free than this, pushes are refused (disk_full) while deliveries, acks and\nconnections go on; recovery needs no restart."`
}

// Delivery is how messages find their way.
type Delivery struct {
	CatchUpTimeout   time.Duration `toml:"catch_up_timeout" default:"2s" unit:"duration" min:"100ms" max:"5m" doc:"When a session that is behind asks again for what it missed."`
	CatchUpMessages  int           `toml:"catch_up_messages" default:"1000" unit:"messages" min:"1" max:"10000" doc:"The most messages in one answer to it."`
	CatchUpBytes     int           `toml:"catch_up_bytes" default:"128KiB" unit:"size" min:"4KiB" max:"64MiB" doc:"The most bytes in one answer to it (one message always fits)."`
	WatchInterval    time.Duration `toml:"watch_interval" default:"1s" unit:"duration" min:"50ms" max:"1m" doc:"How often the owner of a mailbox looks for sessions that missed something."`
	WatchAfter       time.Duration `toml:"watch_after" default:"3s" unit:"duration" min:"50ms" max:"10m" doc:"How long a message may be unacknowledged before the owner says so to the session's comet."`
	AckInterval      time.Duration `toml:"ack_interval" default:"50ms" unit:"duration" min:"1ms" max:"10s" doc:"How long acknowledgements are gathered before they are logged."`
	AnnounceInterval time.Duration `toml:"announce_interval" default:"1s" unit:"duration" min:"100ms" max:"2s" doc:"How often comet says that it lives. A comet that has been silent for 6 s is taken for dead."`
}

// Shutdown is the way down.
type Shutdown struct {
	Timeout   time.Duration `toml:"timeout" default:"15s" unit:"duration" min:"1s" max:"1h" doc:"All of it must be done by then; what is left is cut off."`
	DrainRate int           `toml:"drain_rate" default:"2000" unit:"connections a second" min:"1" doc:"How fast clients are sent away (3001), so that they do not all come back at once."`
}

// Default is the configuration of `imgo` without file, environment or flags:
// what config.example.toml shows.
func Default() Config { return settings.Default[Config]() }

// HasRole says whether the settings name the role.
func (cfg *Config) HasRole(role string) bool { return slices.Contains(cfg.Roles, role) }

// EmbeddedRoles are the roles that the settings do not name and that run in
// this process all the same, since no other node can supply them.
func (cfg *Config) EmbeddedRoles() []string {
	if cfg.Clustered() {
		return nil
	}
	return slices.DeleteFunc(AllRoles(), cfg.HasRole)
}

// Origin says where the value of a key ("comet.tcp") came from: "default",
// "file:line" of a file, an environment variable or a flag.
func (cfg *Config) Origin(key string) string {
	if origin, ok := cfg.origins[key]; ok {
		return origin
	}
	return "default"
}

// Warnings are remarks about the settings that do not stop a start, for the
// caller to log.
func (cfg *Config) Warnings() []string { return slices.Clone(cfg.warnings) }

// setOrigin notes where a key's value came from.
func (cfg *Config) setOrigin(key, origin string) {
	cfg.origins = maps.Clone(cfg.origins)
	if cfg.origins == nil {
		cfg.origins = map[string]string{}
	}
	cfg.origins[key] = origin
}
