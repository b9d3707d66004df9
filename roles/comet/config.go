package comet

import (
	"time"

	"imgo/internal/settings"
	"imgo/internal/upstream"
	"imgo/transport"
)

// Config is what a Comet is told. Start from DefaultConfig. The embedded structs
// are a comet's settings, in the sections of the settings file. Of the limits, 0
// means no limit where the lower bound allows it.
type Config struct {
	// Name is this comet's node name: logic, router and job address it so. It is
	// required and must pass envelope.CheckName.
	Name string

	// Listen binds the listeners that clients connect to, one for each function.
	// Comet fills in its own part of their configuration. No function: clients
	// come through Serve alone.
	Listen []transport.ListenFunc

	// Others returns where clients of a transport may go instead, best first. The
	// scheme names the transport, as Traits.Scheme does. The version-2 clients of
	// a comet that stops are told the first five. Others must not block and must
	// be safe for concurrent use. Nil: no other comet is known.
	Others func(scheme string) []string

	Sockets
	Protocol
	Limits
	Delivery
	Shutdown
	Expiry

	// Handshake sends logic the whole auth body of each client, and the header of its
	// handshake.
	Handshake bool

	// Upstream says which messages of clients are carried to the backend.
	Upstream upstream.Rules
	// UpstreamBytes bounds the messages for the backend that wait, of all sessions.
	UpstreamBytes int `default:"67108864"`
	// DeniedRooms bounds the rooms without a member here that job is told of, so
	// that their messages do not come here. Past it all of them are forgotten.
	DeniedRooms int `default:"100000"`
	// AckBatch is how many ids (or sessions) one call of logic carries at most.
	// As many end the wait of AckInterval.
	AckBatch int `default:"1000"`
	// AckQueue bounds the ids that wait while logic does not take them. The
	// oldest of the users with the most are dropped and counted: their messages
	// come again at the clients' next sessions.
	AckQueue int `default:"200000"`
	// CallTimeout bounds every call of logic.
	CallTimeout time.Duration `default:"5s"`
	// DrainTimeout bounds the drain at shutdown: it closes sessions faster where
	// DrainRate would take longer.
	DrainTimeout time.Duration `default:"10s"`
	// CloseTimeout bounds the end of a session at any time: from the decision to
	// close it to the end of its connection, whatever the client does.
	CloseTimeout time.Duration `default:"5s"`

	// Faults leaves rules out, for tests.
	Faults Faults
}

// Sockets is how comet uses sockets: its part of section [comet].
type Sockets struct {
	Epoll   bool `toml:"epoll" default:"true" doc:"Whether epoll waits for clients, on Linux and without TLS. Otherwise, and always with TLS\nor elsewhere, each connection has a goroutine and buffers of its own: some 9 KB more, with TLS 20 to 30 KB."`
	IOUring bool `toml:"io_uring" default:"true" doc:"Whether what many clients get is sent to 64 of them in one system call, by io_uring, where epoll waits\nfor them and the kernel allows it (Linux; containers often forbid it). Otherwise each is a call of its own, and a broadcast\ncosts up to 40 % more CPU."`

	FlushInterval time.Duration `toml:"flush_interval" unit:"duration" min:"0s" max:"10s" doc:"The flush window: how long a message may be held back so that what comes for a session meanwhile\ngoes with it, in one write. It saves most of the cost of frequent messages. 0: nothing is held back."`
}

// Protocol bounds what clients may send, and for how long they may be silent.
type Protocol struct {
	MaxBody          int           `toml:"max_body" default:"64KiB" unit:"size" min:"1KiB" max:"1008KiB" doc:"The largest body of a packet, either way. A kept message must fit a record of 1MiB."`
	HandshakeTimeout time.Duration `toml:"handshake_timeout" default:"5s" unit:"duration" min:"100ms" max:"5m" doc:"A connection that has not authenticated by then is closed."`
	Heartbeat        time.Duration `toml:"heartbeat" default:"25s" unit:"duration" min:"1s" max:"1h" doc:"How often version-2 clients are told to give a sign of life; closed after 2.5 of them without one.\nProxies cut connections that are silent for 50 or 60 s."`
	HeartbeatV1      time.Duration `toml:"heartbeat_v1" default:"8m" unit:"duration" min:"1s" max:"24h" doc:"A version-1 client (imgo 2016, goim) is closed after this long without a packet. They beat every 30 s to 4 min."`
}

// Limits bounds what clients may use up: comet's part of section [limits].
//
// The default of 20,000 connections from one address keeps one address from taking all of
// a comet, and has room for the NAT of a carrier or a company. Without a bound on the
// send buffer Linux lets it grow to 4 MiB (the third figure of net.ipv4.tcp_wmem) for a
// client that does not read. The default has room for a backlog.
type Limits struct {
	Connections           int           `toml:"connections" default:"250000" unit:"connections" min:"0" doc:"Connections to this node; more are refused (3005)."`
	ConnectionsPerAddress int           `toml:"connections_per_address" default:"20000" unit:"connections" min:"0" doc:"Connections from one source address (IPv6: one /64). Lower it where clients connect directly;\nbehind a proxy that is not in comet.trusted_proxies all clients are one address."`
	ConnectRate           float64       `toml:"connect_rate" default:"5000" unit:"connections a second" min:"0" doc:"How fast new clients are let in. Clients over this rate wait for their turn."`
	ConnectBurst          int           `toml:"connect_burst" default:"10000" unit:"connections" min:"1" doc:"How far connect_rate may be exceeded for a moment."`
	ConnectWait           time.Duration `toml:"connect_wait" default:"30s" unit:"duration" min:"1s" max:"10m" doc:"How long a client that authenticates may wait for its turn: for connect_rate, and while\nlogic or a router is slow or away. Then it is sent away (3005)."`
	HandshakeBytes        int           `toml:"handshake_bytes" default:"64MiB" unit:"size" min:"1MiB" max:"1TiB" doc:"What incomplete requests and first packets of all clients that have not authenticated may take in memory.\nBeyond it those that hold most are sent away (3005)."`
	RoomsPerSession       int           `toml:"rooms_per_session" default:"32" unit:"rooms" min:"1" max:"10000" doc:"Rooms that a session may be in at the same time."`
	UpstreamRate          float64       `toml:"upstream_rate" default:"500" unit:"packets a second" min:"0" doc:"How many packets a second a session may send. Each control frame and each fragment counts as one packet. A packet\ncounts once more for each full 4 KiB of its body. A change of rooms, a new token and op 24 count as 10.\nThe server reads a faster session only at this rate."`
	UpstreamBurst         int           `toml:"upstream_burst" default:"1000" unit:"packets" min:"1" doc:"How far upstream_rate may be exceeded for a moment."`
	PendingBytes          int           `toml:"pending_bytes" default:"256KiB" unit:"size" min:"4KiB" max:"1GiB" doc:"What may wait in memory for a slow client. Above it, kept messages wait in the mailbox\nand others are dropped and counted."`
	SendBuffer            int           `toml:"send_buffer" default:"128KiB" unit:"size" min:"4KiB" max:"16MiB" doc:"What the kernel may hold in its own memory of what a client has not yet taken, beside pending_bytes\n(it doubles that for what it needs itself, and goes no further than net.core.wmem_max)."`
	SlowTimeout           time.Duration `toml:"slow_timeout" default:"20s" unit:"duration" min:"1s" max:"1h" doc:"A client that does not take one write (a frame, or up to 16 KiB of small frames) within this time is closed (3002)."`
}

// Delivery is how messages find their way: comet's part of section [delivery].
type Delivery struct {
	CatchUpTimeout   time.Duration `toml:"catch_up_timeout" default:"2s" unit:"duration" min:"100ms" max:"5m" doc:"When a session that is behind asks again for what it missed."`
	CatchUpMessages  int           `toml:"catch_up_messages" default:"1000" unit:"messages" min:"1" max:"10000" doc:"The most messages in the answer to one catch-up."`
	CatchUpBytes     int           `toml:"catch_up_bytes" default:"128KiB" unit:"size" min:"4KiB" max:"64MiB" doc:"The most bytes in the answer to one catch-up (one message always fits)."`
	AutoAck          string        `toml:"auto_ack" default:"packet" choices:"packet,tcp" doc:"When a kept message counts as delivered to a client that does not acknowledge. packet: when a packet\nof the client, such as a heartbeat, follows. tcp: when its TCP has the message. Then fewer messages come twice, but\nsome are lost where a proxy or load balancer ends the client's TCP connection."`
	AckInterval      time.Duration `toml:"ack_interval" default:"50ms" unit:"duration" min:"1ms" max:"10s" doc:"How long acknowledgements are gathered before they are logged."`
	AnnounceInterval time.Duration `toml:"announce_interval" default:"1s" unit:"duration" min:"100ms" max:"2s" doc:"How often comet says that it lives. A comet that misses three announcements is taken for dead."`
}

// Shutdown is how clients are sent away: comet's part of section [shutdown].
type Shutdown struct {
	DrainRate int `toml:"drain_rate" default:"2000" unit:"connections a second" min:"1" doc:"How fast clients are sent away (3001), so that they do not all come back at once."`
}

// Expiry is comet's part of section [auth].
type Expiry struct {
	CloseExpired bool `toml:"close_expired" doc:"Whether a session is closed when the token that opened it expires (3502).\nOtherwise a token is looked at only when a client connects."`
}

// DefaultConfig returns a Config with every default, no name and no listener.
func DefaultConfig() Config { return settings.Default[Config]() }
