// Package imgoclient is the Go client of imgo. It receives the messages of a user over TCP or
// WebSocket (protocol version 2), acknowledges handled messages, and reconnects after a lost
// connection.
//
//	client, err := imgoclient.New(imgoclient.Config{
//		Address: "push.example.com:8080",
//		Token:   token,
//		Device:  "laptop",
//		OnMessage: func(ctx context.Context, m imgoclient.Message) error {
//			return handle(m.Body)
//		},
//	})
//	…
//	err = client.Run(ctx)
//
// The package gives these guarantees.
//
//   - OnMessage is called for one message at a time, in the order of arrival.
//   - A kept message is acknowledged only after OnMessage returned nil for it.
//   - OnMessage does not get a message again that it has handled, also after a reconnect. With
//     Config.Store this holds across restarts too. The limit is Config.Remember.
//   - A message of Publish reaches the backend once, also after a reconnect. With Config.Outbox this holds
//     across restarts too.
//   - A client whose queue is full stops reading. The server keeps the rest.
//   - After a lost connection the client reconnects with exponential backoff and full jitter, unless
//     the server refused that.
//   - Queue, ids, acknowledgements, outbox, open calls and the size of a packet have bounds, and each wait has a
//     time limit. When Run has returned, no goroutine or socket of the client is left, except a handler
//     or a callback that did not return within Config.CloseTimeout.
//
// Two clients of one process share nothing. Backends push with package pushapi. Package raw is for tools
// that test a server.
package imgoclient

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"imgo/clients/go/raw"
)

// Message is a message that was pushed to the user.
type Message struct {
	// ID is unique among the kept messages of the user and grows. It is 0 if the message is not
	// kept.
	ID uint64
	// Op is 5, or the operation (1000 and above) that the push named.
	Op int32
	// Body is the pushed body, byte for byte. The receiver may change it.
	Body []byte
}

// Kept reports whether the message stays in the mailbox until it is acknowledged.
func (m Message) Kept() bool { return m.ID != 0 }

// Config configures a Client. Address, OnMessage, and Token or TokenSource are required. New copies it, so
// later changes have no effect. 0 means the default of a time or a number.
type Config struct {
	// Address is host:port (TCP) or has a scheme: tcp://, tls:// (TLS over TCP), ws:// or wss://.
	// The default path of a WebSocket is /sub.
	Address string
	// Discover is the address of the HTTP API, such as "https://push.example.com:7172". It may have
	// a path and a query, such as "…/v1/nodes/best?zone=eu". Before every attempt the client asks
	// it for the best nodes and tries those first. The client uses Address after them, or if the
	// API does not answer. If Discover is empty, the client uses only Address.
	Discover string
	// Token identifies the user. If TokenSource is set, the client calls it before every connection
	// instead, and before the token of the connection ends: the connection then goes on with the new
	// token. It must return when its context ends, and may be called from another goroutine than Run's.
	Token       string
	TokenSource func(ctx context.Context) (string, error)
	// Device names this device within the user. Each device receives and acknowledges kept messages
	// independently of the user's other devices. Empty means the default device of the user.
	Device string
	// Key names the session. The server closes an older session with the same key.
	Key string
	// Platform is free text that the admin API of the server shows with the session.
	Platform string
	// Rooms are the rooms that every connection joins. See also Client.Join.
	Rooms []string
	// Accepts lists the operations of 1000 and above that the client wants to receive.
	Accepts []int32
	// TLS is for tls:// and wss:// addresses. Nil means the root certificates of the system.
	TLS *tls.Config
	// Store remembers the ids of handled messages across restarts. Nil means that a new process may get
	// messages again that the old one has handled but not acknowledged. See NewFileStore.
	Store Store
	// Outbox keeps the messages of Publish until they have arrived, together with their numbers. Nil means
	// that they are kept in memory, and are lost with the Client. See NewFileOutbox.
	Outbox Outbox

	// OnMessage handles a message. If it returns an error, the message is not acknowledged and comes again
	// with the next session. Its context ends when Run waits no longer for it.
	OnMessage func(ctx context.Context, m Message) error
	// OnState, OnRoom, OnPublished, OnDismiss and OnError are called for events, one at a time and in order.
	// They may be nil. They must not wait for the end of Run. A slow callback delays the client only if 256 events wait.
	//
	// OnState is called for each change of state, and for Live before the first message of the session is
	// handled. OnRoom is called when the server has changed the rooms of the session, for example because
	// the backend has taken the user out of one. OnPublished is called for each message of Publish when it
	// has left the outbox. OnDismiss is called when the user has read messages elsewhere. OnError is called for
	// errors that no call returns, with the codes token, handler, protocol and storage.
	OnState     func(StateChange)
	OnRoom      func(RoomChange)
	OnPublished func(Published)
	OnDismiss   func(Dismiss)
	OnError     func(*Error)
	// Log gets lines for people, of the levels debug, info and warn. It may be nil, and must be safe for
	// concurrent use.
	Log func(level slog.Level, line string)
	// NoAck turns acknowledgements off, for clients that only look at the mailbox. The messages
	// come again with every session, and Store gets none.
	NoAck bool

	// MinBackoff and MaxBackoff bound the time between attempts. The time is a random part of a
	// span that doubles from MinBackoff (500 ms) to MaxBackoff (30 s).
	MinBackoff, MaxBackoff time.Duration
	// StableAfter is the length of a session that makes the span begin anew. Default: 10 s.
	StableAfter time.Duration
	// ConnectTimeout bounds TokenSource, the discovery and the dialing together. Default: 10 s.
	ConnectTimeout time.Duration
	// AuthTimeout bounds the wait for the auth reply. Default: 40 s. Under load the server may
	// queue a connection for up to 30 s (limits.connect_wait). A client that gives up earlier loses
	// its place in the queue.
	AuthTimeout time.Duration
	// RequestTimeout bounds the wait for a reply, and a call of Store and of Outbox. A connection that takes less than
	// 16 KiB in this time is lost, so a large body may take longer. Default: 10 s.
	RequestTimeout time.Duration
	// HeartbeatTimeout is the silence after a heartbeat that ends the connection. Default: 10 s.
	HeartbeatTimeout time.Duration
	// CloseTimeout bounds how long the end of Run waits for OnMessage, and then for the callbacks of
	// events. Default: 10 s.
	CloseTimeout time.Duration
	// AckDelay is the time for which acknowledgements are gathered into one packet. Default: 50 ms.
	AckDelay time.Duration
	// Queue is the number of messages that may wait for OnMessage. If it is full, the client stops
	// reading and the server keeps the rest. Default: 256.
	Queue int
	// Remember is the number of handled ids that are remembered to recognise duplicates. It should
	// be at least the server's bound on a mailbox. Default: 8192.
	Remember int
	// MaxBody is the largest accepted body, in bytes. A larger one ends the connection, and cannot be
	// published. Default: 4 MiB.
	MaxBody int
}

const (
	defaultRemember = 8192
	// redirectSpan is the span of the wait before the first address that a stopping server names.
	redirectSpan = 500 * time.Millisecond
	// codeUnavailable is the server's word for a refusal because it could not decide.
	codeUnavailable = "unavailable"
)

// Client keeps one connection of a user and replaces it when it is lost. Only one Run may be active
// at a time. All other methods are safe for concurrent use.
type Client struct {
	cfg         Config
	target      raw.Target
	discoverURL string // Config.Discover, with path and transport added
	inbox       *inbox
	outbox      *outbox
	handling    chan struct{} // held while OnMessage runs
	wake        chan struct{} // ends the wait between two attempts
	changing    chan struct{} // holds a token from a change of rooms until its packet is written
	loaded      bool          // the ids of the store are in inbox; only Run uses it

	mu      sync.Mutex
	running bool
	state   State
	session *session            // nil without a live connection
	rooms   map[string]struct{} // the rooms that every connection joins
}

// New checks cfg, fills in the defaults and returns a Client. It does not connect yet. The code of an error
// is CodeInvalid.
func New(cfg Config) (*Client, error) {
	to, err := raw.ParseTarget(cfg.Address)
	if err != nil {
		return nil, &Error{Code: CodeInvalid, Text: "Address", Err: err}
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	rooms := map[string]struct{}{}
	for _, room := range cfg.Rooms {
		rooms[room] = struct{}{}
	}
	discover := ""
	if cfg.Discover != "" {
		if discover, err = discoverURL(cfg.Discover, to); err != nil {
			return nil, err
		}
	}
	return &Client{
		cfg: cfg, target: to, discoverURL: discover, inbox: newInbox(cfg.Remember, cfg.NoAck),
		outbox: newOutbox(cfg.Outbox), rooms: rooms,
		handling: make(chan struct{}, 1), wake: make(chan struct{}, 1), changing: make(chan struct{}, 1), state: Idle,
	}, nil
}

// check checks everything but the addresses, and fills in the defaults.
func (cfg *Config) check() error {
	switch {
	case cfg.OnMessage == nil:
		return invalid("OnMessage is missing: give the function that handles a message")
	case cfg.Token == "" && cfg.TokenSource == nil:
		return invalid("Token is missing: give a token, or a TokenSource")
	}
	for _, name := range []struct{ field, value string }{{"Device", cfg.Device}, {"Key", cfg.Key}, {"Platform", cfg.Platform}} {
		if name.value == "" {
			continue
		}
		if err := checkName(name.field, name.value); err != nil {
			return err
		}
	}
	for i, room := range cfg.Rooms {
		if err := checkName(fmt.Sprintf("Rooms[%d]", i), room); err != nil {
			return err
		}
	}
	for i, op := range cfg.Accepts {
		if op < raw.FirstAcceptedOp {
			return invalid("Accepts[%d] is %d: the operations to accept are %d and above", i, op, raw.FirstAcceptedOp)
		}
	}
	for _, o := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{
		{"MinBackoff", &cfg.MinBackoff, 500 * time.Millisecond},
		{"MaxBackoff", &cfg.MaxBackoff, max(30*time.Second, cfg.MinBackoff)},
		{"StableAfter", &cfg.StableAfter, 10 * time.Second},
		{"ConnectTimeout", &cfg.ConnectTimeout, 10 * time.Second},
		{"AuthTimeout", &cfg.AuthTimeout, 40 * time.Second},
		{"RequestTimeout", &cfg.RequestTimeout, 10 * time.Second},
		{"HeartbeatTimeout", &cfg.HeartbeatTimeout, 10 * time.Second},
		{"CloseTimeout", &cfg.CloseTimeout, 10 * time.Second},
		{"AckDelay", &cfg.AckDelay, 50 * time.Millisecond},
	} {
		if err := orDefault(o.name, o.value, o.def); err != nil {
			return err
		}
	}
	if cfg.MinBackoff > cfg.MaxBackoff {
		return invalid("MinBackoff is %s, longer than MaxBackoff, which is %s", cfg.MinBackoff, cfg.MaxBackoff)
	}
	for _, o := range []struct {
		name  string
		value *int
		def   int
	}{{"Queue", &cfg.Queue, 256}, {"Remember", &cfg.Remember, defaultRemember}, {"MaxBody", &cfg.MaxBody, 4 << 20}} {
		if err := orDefault(o.name, o.value, o.def); err != nil {
			return err
		}
	}
	return nil
}

func orDefault[T int | time.Duration](name string, value *T, def T) error {
	switch {
	case *value < 0:
		return invalid("%s is %v: it must not be negative; 0 means %v", name, *value, def)
	case *value == 0:
		*value = def
	}
	return nil
}

// State returns what the client does at the moment.
func (c *Client) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// Connect makes a client that waits between two attempts try at once. In other states it does nothing.
func (c *Client) Connect() { signal(c.wake) }

// Run connects and keeps the client connected until ctx is done. That closes the client gracefully: Run calls
// no further handler, waits for the running one, sends the last acknowledgements, and returns nil.
//
// Run returns an error that is ErrRefused if the server says that reconnecting is useless, for example because
// the user was kicked. Run may be called again after it has returned.
func (c *Client) Run(ctx context.Context) error {
	c.mu.Lock()
	if c.running {
		c.mu.Unlock()
		return invalid("run: the client runs already; call Run once at a time")
	}
	c.running = true
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.running = false
		c.mu.Unlock()
	}()

	c.forgetOutbox(ctx)
	r := newRun(ctx, c)
	beginEnd := func() { r.events.beginEnd(c.cfg.CloseTimeout) }
	defer context.AfterFunc(ctx, beginEnd)()
	err := r.loop(ctx)
	beginEnd()
	if err != nil {
		c.change(r.events, StateChange{State: Closed, Err: err, Failed: true}, nil)
	}
	r.finish()
	r.queue.empty()
	if err == nil {
		c.change(r.events, StateChange{State: Closed}, nil)
	}
	r.events.end(c.cfg.CloseTimeout)
	if err != nil {
		return err
	}
	return nil
}

// run is what one Run has beside its sessions.
type run struct {
	client *Client
	events *events
	queue  *queue
	route  *route

	gathering  sync.WaitGroup
	stopGather context.CancelFunc
	once       sync.Once

	attempt    int  // the number of attempts since the last stable session
	renewed    bool // the token was replaced because it had ended, and no session was accepted since
	redirected bool // a server named others, and no session was stable since
}

func newRun(ctx context.Context, c *Client) *run {
	e := newEvents()
	r := &run{client: c, events: e, queue: newQueue(ctx, c, e), route: &route{client: c}}
	ctx, r.stopGather = context.WithCancel(context.WithoutCancel(ctx))
	r.gathering.Go(func() { c.gather(ctx, e) })
	return r
}

// finish waits for the running handler, and saves the ids of the handled messages. It does so once.
func (r *run) finish() {
	r.once.Do(func() {
		if err := r.queue.wait(r.client.cfg.CloseTimeout); err != nil {
			r.client.log(slog.LevelWarn, "close: %v", err)
		}
		r.stopGather()
		r.gathering.Wait()
		if err := r.client.save(context.Background()); err != nil {
			r.client.report(r.events, err)
		}
	})
}

// loop connects again and again. It returns nil at the end of ctx, and an error if the client was refused.
func (r *run) loop(ctx context.Context) error {
	c := r.client
	for {
		c.change(r.events, StateChange{State: Connecting}, nil)
		accepted, lived, err := r.connectOnce(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err.Code == CodeToken || err.Code == CodeStorage || err.Code == CodeProtocol {
			c.report(r.events, err)
		}
		if accepted {
			r.renewed = false
		}
		if lived >= c.cfg.StableAfter {
			r.attempt, r.redirected = 0, false
		}
		if err.Code == CodeRefused {
			// TokenSource may replace an expired token. If the server refuses the new token too,
			// the refusal is final.
			if err.CloseCode != raw.CloseTokenExpired || c.cfg.TokenSource == nil || r.renewed {
				return err
			}
			r.renewed = true
		}
		retryIn := r.retryIn(accepted, err)
		select {
		case <-c.wake: // from an earlier state
		default:
		}
		c.change(r.events, StateChange{State: Waiting, RetryIn: retryIn, Err: err}, nil)
		if !sleep(ctx, retryIn, c.wake) {
			return nil
		}
	}
}

// retryIn returns the time before the next attempt.
func (r *run) retryIn(accepted bool, err error) time.Duration {
	more, others := r.route.ended(accepted, err)
	switch {
	case more:
		return r.client.backoff(0) // try the next address of the round after the shortest backoff
	case others && !r.redirected:
		r.redirected = true
		return rand.N(redirectSpan)
	}
	// Servers that name one another must not send clients in circles. So the backoff grows here too.
	r.attempt++
	return r.client.backoff(r.attempt - 1)
}

// backoff returns the time before the next attempt: a random part of a doubling span ("full
// jitter"). After a server failure the reconnects of its clients thus spread over the whole span.
func (c *Client) backoff(attempt int) time.Duration {
	span := c.cfg.MinBackoff
	for range attempt {
		if span *= 2; span >= c.cfg.MaxBackoff || span <= 0 {
			span = c.cfg.MaxBackoff
			break
		}
	}
	return rand.N(span) + 1
}

// connectOnce makes one connection and serves it to its end. accepted reports whether the server
// accepted the token, and lived says for how long. The error is nil only at the end of ctx.
func (r *run) connectOnce(ctx context.Context) (accepted bool, lived time.Duration, failed *Error) {
	c := r.client
	if err := c.load(ctx); err != nil {
		return false, 0, err
	}
	if err := c.loadOutbox(ctx); err != nil {
		return false, 0, err
	}
	s, err := r.connect(ctx)
	if err != nil {
		return false, 0, err
	}
	began := time.Now()
	defer func() {
		c.mu.Lock()
		c.session = nil
		c.mu.Unlock()
	}()
	failed = s.serve(ctx)
	return true, time.Since(began), failed
}

// lateRoomsLocked returns the room changes since the auth packet was written.
func (c *Client) lateRoomsLocked(sent map[string]struct{}) (changes []raw.Packet) {
	for room := range c.rooms {
		if _, ok := sent[room]; !ok {
			changes = append(changes, raw.Packet{Op: raw.OpJoinRoom, Body: []byte(room)})
		}
	}
	for room := range sent {
		if _, ok := c.rooms[room]; !ok {
			changes = append(changes, raw.Packet{Op: raw.OpLeaveRoom, Body: []byte(room)})
		}
	}
	return changes
}
