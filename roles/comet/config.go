package comet

import (
	"errors"
	"fmt"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/transport"
)

// Config is what a Comet is told. Start from DefaultConfig. A zero duration,
// size or count takes its default; a limit for which zero means "off" says so.
type Config struct {
	// Name is this comet's node name: how logic, router and job address it.
	// It is required and must pass envelope.CheckName.
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

	// HandshakeTimeout bounds accept (after the upgrade on WebSocket) to a
	// complete auth packet. Default 5 s.
	HandshakeTimeout time.Duration
	// Heartbeat is what version-2 clients are told in the auth reply; one that
	// gave no sign of life for 2.5 of them is closed. Default 60 s.
	Heartbeat time.Duration
	// HeartbeatV1 is how long a version-1 client may send no packet.
	// Default 8 min.
	HeartbeatV1 time.Duration
	// MaxBody bounds the body of a client's packet, in bytes. Default 64 KiB.
	MaxBody int

	// PendingBytes bounds what waits to be written to one session, in bytes of
	// encoded frames. Over it a kept message waits in the mailbox (the session
	// is behind) and any other is dropped and counted. A single frame that is
	// larger goes out when nothing else waits. Default 256 KiB.
	PendingBytes int
	// SendBuffer is the kernel's send buffer of a connection (SO_SNDBUF), in
	// bytes: without a bound Linux lets it grow to net.ipv4.tcp_wmem's third
	// figure, 4 MiB, for a client that does not read. Default 128 KiB, which has
	// room for a window of catching up.
	SendBuffer int
	// WriteTimeout is how long a client's socket may take nothing: comet
	// writes at most 16 KiB (or one frame) at a time, and a client that does
	// not take that within WriteTimeout is closed with 3002. Default 20 s.
	WriteTimeout time.Duration

	// FlushInterval is the flush window: how long a message may be held back so
	// that what comes for a session meanwhile goes with it, in one write. It
	// costs up to that much time and saves most of the cost of frequent
	// messages. 0, the default: nothing is held back.
	FlushInterval time.Duration

	// MaxRooms bounds the rooms of a session. Default 32.
	MaxRooms int
	// DeniedRooms bounds the rooms without a member here that job is told of,
	// so that their messages do not come here; past it all are forgotten.
	// Default 100,000.
	DeniedRooms int
	// MaxConnections bounds the connections of this comet, authenticated or
	// not. Default 250,000; negative: no bound.
	MaxConnections int
	// MaxConnsPerIP bounds the connections of one source address (a /64 for
	// IPv6). The default 20,000 keeps one address from taking all of a comet
	// and lets a carrier's or a company's NAT be; negative: no bound.
	MaxConnsPerIP int
	// ConnectRate is how many sessions a second are authenticated, with bursts
	// of ConnectBurst. One that is over waits its turn. Defaults 5,000 and
	// 10,000; negative: no bound.
	ConnectRate  float64
	ConnectBurst int
	// ConnectWait is how long a client with a complete auth packet may wait for
	// the connect rate and for logic; then it is closed with 3005 and comes back
	// later. Default 30 s.
	ConnectWait time.Duration
	// UpstreamRate is how many packets a second a session may send, with
	// bursts of UpstreamBurst. One that is over is not closed: comet reads
	// from it no faster than that, so that its own socket slows it down.
	// Defaults 500 and 1,000; negative: no bound.
	UpstreamRate  float64
	UpstreamBurst int

	// AckInterval is how long acknowledgements and ended sessions are gathered
	// into one call of logic. Default 50 ms.
	AckInterval time.Duration
	// AckBatch is how many ids (or sessions) one such call carries at most; as
	// many end the wait. Default 1,000.
	AckBatch int
	// AckQueue bounds the ids that wait while logic does not take them; the
	// oldest are dropped and counted: their messages come again at the
	// clients' next sessions. Default 200,000.
	AckQueue int

	// CatchUpTimeout is how long the answer to a catch-up may take before it
	// is asked again. Default 2 s.
	CatchUpTimeout time.Duration
	// CatchUpMessages and CatchUpBytes bound the window of one answer.
	// Defaults 1,000 and 128 KiB.
	CatchUpMessages int
	CatchUpBytes    int
	// CallTimeout bounds every call of logic. Default 5 s.
	CallTimeout time.Duration
	// AnnounceInterval is how often comet tells logic that it lives, its room
	// counts and its sessions a partition. Default 1 s.
	AnnounceInterval time.Duration

	// DrainRate is how many sessions a second are closed at shutdown, so that
	// not all of them come back at once; DrainTimeout bounds that, and closes
	// faster where the rate would take longer. What is still open CloseTimeout
	// after it is reset. Defaults 2,000 and 10 s.
	DrainRate    float64
	DrainTimeout time.Duration
	// CloseTimeout bounds a goodbye, at shutdown and at any other time: from
	// the decision to close a session to the end of its connection, whatever
	// the client does. Default 5 s.
	CloseTimeout time.Duration

	// CloseExpired closes a session when the token that opened it ends (3502).
	// Off by default: a token is looked at when a client connects.
	CloseExpired bool

	// Goroutines gives every connection a goroutine, also where epoll could wait
	// for it.
	Goroutines bool
	// SingleWrites sends each message to each client by itself, also where
	// io_uring could send to many at a time.
	SingleWrites bool

	// Without leaves rules of the delivery design out. It is for tests that
	// prove each rule needed and is never set from a configuration.
	Without Rules
}

// Rules is a set of rules of the delivery design (docs/ARCHITECTURE.md) that
// a test wants left out.
type Rules uint8

// The rules that a comet keeps.
const (
	// NoPrev: prev > last does not put a session behind.
	NoPrev Rules = 1 << iota
	// NoDuplicate: an id that was written before is written again.
	NoDuplicate
	// NoAskAgain: a catch-up whose answer was lost is not asked again.
	NoAskAgain
	// NoAnnounce: sessions are not announced to a new owner.
	NoAnnounce
	// NoBehindFirst: a new session starts live.
	NoBehindFirst
	// NoSeen: a session is live at the first answer that has no more.
	NoSeen
)

func (r Rules) has(rule Rules) bool { return r&rule != 0 }

// DefaultConfig is a Config with every default filled in, no name and no
// listener.
func DefaultConfig() Config {
	return Config{
		HandshakeTimeout: 5 * time.Second,
		Heartbeat:        60 * time.Second,
		HeartbeatV1:      8 * time.Minute,
		MaxBody:          protocol.DefaultMaxBody,
		PendingBytes:     256 << 10,
		SendBuffer:       128 << 10,
		WriteTimeout:     20 * time.Second,
		MaxRooms:         32,
		DeniedRooms:      100_000,
		MaxConnections:   250_000,
		MaxConnsPerIP:    20_000,
		ConnectRate:      5_000,
		ConnectBurst:     10_000,
		ConnectWait:      30 * time.Second,
		UpstreamRate:     500,
		UpstreamBurst:    1_000,
		AckInterval:      50 * time.Millisecond,
		AckBatch:         1_000,
		AckQueue:         200_000,
		CatchUpTimeout:   2 * time.Second,
		CatchUpMessages:  1_000,
		CatchUpBytes:     128 << 10,
		CallTimeout:      5 * time.Second,
		AnnounceInterval: time.Second,
		DrainRate:        2_000,
		DrainTimeout:     10 * time.Second,
		CloseTimeout:     5 * time.Second,
	}
}

// fill puts the default where cfg has a zero.
func (cfg *Config) fill() {
	d := DefaultConfig()
	orDefault(&cfg.HandshakeTimeout, d.HandshakeTimeout)
	orDefault(&cfg.Heartbeat, d.Heartbeat)
	orDefault(&cfg.HeartbeatV1, d.HeartbeatV1)
	orDefault(&cfg.MaxBody, d.MaxBody)
	orDefault(&cfg.PendingBytes, d.PendingBytes)
	orDefault(&cfg.SendBuffer, d.SendBuffer)
	orDefault(&cfg.WriteTimeout, d.WriteTimeout)
	orDefault(&cfg.MaxRooms, d.MaxRooms)
	orDefault(&cfg.DeniedRooms, d.DeniedRooms)
	orDefault(&cfg.MaxConnections, d.MaxConnections)
	orDefault(&cfg.MaxConnsPerIP, d.MaxConnsPerIP)
	orDefault(&cfg.ConnectRate, d.ConnectRate)
	orDefault(&cfg.ConnectBurst, max(1, int(2*cfg.ConnectRate)))
	orDefault(&cfg.ConnectWait, d.ConnectWait)
	orDefault(&cfg.UpstreamRate, d.UpstreamRate)
	orDefault(&cfg.UpstreamBurst, max(1, int(2*cfg.UpstreamRate)))
	orDefault(&cfg.AckInterval, d.AckInterval)
	orDefault(&cfg.AckBatch, d.AckBatch)
	orDefault(&cfg.AckQueue, d.AckQueue)
	orDefault(&cfg.CatchUpTimeout, d.CatchUpTimeout)
	orDefault(&cfg.CatchUpMessages, d.CatchUpMessages)
	orDefault(&cfg.CatchUpBytes, d.CatchUpBytes)
	orDefault(&cfg.CallTimeout, d.CallTimeout)
	orDefault(&cfg.AnnounceInterval, d.AnnounceInterval)
	orDefault(&cfg.DrainRate, d.DrainRate)
	orDefault(&cfg.DrainTimeout, d.DrainTimeout)
	orDefault(&cfg.CloseTimeout, d.CloseTimeout)
}

func orDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// check says what in cfg, once filled, cannot be.
func (cfg *Config) check() error {
	if err := envelope.CheckName("comet name", cfg.Name); err != nil {
		return err
	}
	var errs []error
	positive := func(field string, v float64) {
		if v <= 0 {
			errs = append(errs, fmt.Errorf("%s must be positive", field))
		}
	}
	positive("HandshakeTimeout", float64(cfg.HandshakeTimeout))
	positive("ConnectWait", float64(cfg.ConnectWait))
	positive("Heartbeat", float64(cfg.Heartbeat))
	positive("HeartbeatV1", float64(cfg.HeartbeatV1))
	positive("MaxBody", float64(cfg.MaxBody))
	positive("PendingBytes", float64(cfg.PendingBytes))
	positive("SendBuffer", float64(cfg.SendBuffer))
	positive("WriteTimeout", float64(cfg.WriteTimeout))
	if cfg.FlushInterval < 0 {
		errs = append(errs, errors.New("FlushInterval must not be negative"))
	}
	positive("MaxRooms", float64(cfg.MaxRooms))
	positive("DeniedRooms", float64(cfg.DeniedRooms))
	positive("AckInterval", float64(cfg.AckInterval))
	positive("AckBatch", float64(cfg.AckBatch))
	positive("AckQueue", float64(cfg.AckQueue))
	positive("CatchUpTimeout", float64(cfg.CatchUpTimeout))
	positive("CatchUpMessages", float64(cfg.CatchUpMessages))
	positive("CatchUpBytes", float64(cfg.CatchUpBytes))
	positive("CallTimeout", float64(cfg.CallTimeout))
	positive("AnnounceInterval", float64(cfg.AnnounceInterval))
	positive("DrainRate", cfg.DrainRate)
	positive("DrainTimeout", float64(cfg.DrainTimeout))
	positive("CloseTimeout", float64(cfg.CloseTimeout))
	return errors.Join(errs...)
}
