// Package imgoclient is the Go client of imgo. It receives the messages of a user over TCP or
// WebSocket (protocol version 2), acknowledges handled messages, and reconnects after a lost
// connection.
//
//	client, err := imgoclient.New(imgoclient.Config{
//		Address:   "push.example.com:8080",
//		Token:     token,
//		Device:    "laptop",
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
//   - The same Client does not hand out a handled message again, even if the server
//     repeats it. The limit is Config.Remember.
//   - After a lost connection the client reconnects with exponential backoff and full jitter, unless
//     the server refused that.
//
// The client stores nothing on disk. A new process may receive messages again that the old process
// had handled but not yet acknowledged. The handler must tolerate this, for example with
// Message.ID.
package imgoclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
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

// Session describes a connection that the server has accepted.
type Session struct {
	// ID is the name of the session at the server.
	ID string
	// Heartbeat is the interval at which the client must send heartbeats.
	Heartbeat time.Duration
	// Pending is the number of kept messages that were waiting for the device.
	Pending int
	// ExpiresIn is how long the token was still good; 0: it does not end.
	ExpiresIn time.Duration
	// Rooms are the rooms that the backend has put the user into.
	Rooms []string
}

// RoomChange says that the server has put this session into a room, or has taken it out, or has not
// let it in when it connected.
type RoomChange struct {
	Room   string
	Joined bool
	// Code says why it was not let in ("forbidden", "too_many"); empty otherwise.
	Code string
	// Reason is for people.
	Reason string
}

// RefusedError is the server's answer to a call that it did not carry out. The connection goes on.
type RefusedError struct {
	// Code is "forbidden", "too_many", "unsupported", "unavailable" or another word of the protocol.
	Code   string
	Reason string
}

func (e *RefusedError) Error() string { return fmt.Sprintf("refused: %s (%s)", e.Reason, e.Code) }

// Config configures a Client. New copies it, so later changes have no effect.
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
	// token. It must honour its context and may be called from another goroutine than Run's.
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

	// OnMessage handles a message. It is required. If it returns an error, the message is not
	// acknowledged and comes again with the next session.
	OnMessage func(ctx context.Context, m Message) error
	// OnConnect is called after a connection was accepted, OnDisconnect after one ended or failed.
	// retryIn is the time until the next attempt. Either may be nil. Both run on the goroutine of
	// Run and delay it, including heartbeats and acknowledgements.
	OnConnect    func(Session)
	OnDisconnect func(err error, retryIn time.Duration)
	// OnRoom is called when the server has changed the rooms of the session, for example because the
	// backend has taken the user out of one. It may be nil. It runs on the goroutine that receives
	// and delays it.
	OnRoom func(RoomChange)
	// NoAck turns acknowledgements off, for clients that only look at the mailbox. The messages
	// come again with every session.
	NoAck bool

	// MinBackoff and MaxBackoff bound the time between attempts. The time is a random part of a
	// span that doubles from MinBackoff (500 ms) to MaxBackoff (30 s).
	MinBackoff, MaxBackoff time.Duration
	// ConnectTimeout bounds TokenSource and the dialing together, until the auth packet is sent.
	// Default: 10 s.
	ConnectTimeout time.Duration
	// AuthTimeout bounds the wait for the auth reply. Default: 40 s. Under load the server may
	// queue a connection for up to 30 s (limits.connect_wait). A client that gives up earlier loses
	// its place in the queue.
	AuthTimeout time.Duration
	// CallTimeout bounds a write, and the wait for a reply. Default: 10 s.
	CallTimeout time.Duration
	// AckDelay is the time for which acknowledgements are gathered into one packet. Default: 50 ms.
	AckDelay time.Duration
	// Queue is the number of messages that may wait for OnMessage. If it is full, the client stops
	// reading and the server keeps the rest. Default: 256.
	Queue int
	// Remember is the number of handled ids that are remembered to recognise duplicates. It should
	// be at least the server's bound on a mailbox. Default: 8192.
	Remember int
	// MaxBody is the largest accepted body, in bytes. Default: 4 MiB.
	MaxBody int
}

// codeUnavailable is the code of a refusal of a server that could not decide.
const codeUnavailable = "unavailable"

// Errors of Run and the other methods, besides *CloseError.
var (
	// ErrNotConnected means that there is no connection at the moment.
	ErrNotConnected = errors.New("not connected to the server")
	// ErrRunning means that Run was called while another Run of the client was active.
	ErrRunning = errors.New("the client runs already")
)

// CloseError is the reason that the server gave for the end of a connection. The client tries the
// Addresses in it by itself. If all of them fail, it uses Config.Address.
type CloseError = raw.CloseError

// Client keeps one connection of a user and replaces it when it is lost. Only one Run may be active
// at a time. All other methods are safe for concurrent use.
type Client struct {
	cfg         Config
	target      raw.Target
	discoverURL string // Config.Discover, with path and transport added
	inbox       *inbox

	mu      sync.Mutex
	running bool
	session *session            // nil without an accepted connection
	rooms   map[string]struct{} // the rooms that every connection joins
}

// New checks cfg, fills in the defaults and returns a Client. It does not connect yet.
func New(cfg Config) (*Client, error) {
	to, err := raw.ParseTarget(cfg.Address)
	if err != nil {
		return nil, err
	}
	switch {
	case cfg.OnMessage == nil:
		return nil, errors.New("OnMessage is missing: give the function that handles a message")
	case cfg.Token == "" && cfg.TokenSource == nil:
		return nil, errors.New("Token is missing: give a token, or a TokenSource")
	}
	for _, name := range []struct{ field, value string }{{"Device", cfg.Device}, {"Key", cfg.Key}, {"Platform", cfg.Platform}} {
		if name.value == "" {
			continue
		}
		if err := checkName(name.field, name.value); err != nil {
			return nil, err
		}
	}
	rooms := map[string]struct{}{}
	for _, room := range cfg.Rooms {
		if err := checkName("room", room); err != nil {
			return nil, err
		}
		rooms[room] = struct{}{}
	}
	discover := ""
	if cfg.Discover != "" {
		if discover, err = discoverURL(cfg.Discover, to); err != nil {
			return nil, err
		}
	}
	orDefault(&cfg.MinBackoff, 500*time.Millisecond)
	orDefault(&cfg.MaxBackoff, 30*time.Second)
	orDefault(&cfg.ConnectTimeout, 10*time.Second)
	orDefault(&cfg.AuthTimeout, 40*time.Second)
	orDefault(&cfg.CallTimeout, 10*time.Second)
	orDefault(&cfg.AckDelay, 50*time.Millisecond)
	orDefault(&cfg.Queue, 256)
	orDefault(&cfg.Remember, 8192)
	orDefault(&cfg.MaxBody, 4<<20)
	return &Client{cfg: cfg, target: to, discoverURL: discover, inbox: newInbox(cfg.Remember, cfg.NoAck), rooms: rooms}, nil
}

func orDefault[T int | time.Duration](value *T, def T) {
	if *value <= 0 {
		*value = def
	}
}

// stableAfter is the session length after which a loss starts from the shortest backoff again. It
// protects a server that accepts connections and closes them at once.
const stableAfter = 5 * time.Second

// Run keeps the client connected until ctx is done. It then waits until the current OnMessage call
// has returned and the acknowledgements are sent, and returns nil.
//
// Run returns a *CloseError if the server says that reconnecting is useless, for example because
// the user was kicked. After any other failure it calls OnDisconnect and reconnects.
func (c *Client) Run(ctx context.Context) error {
	c.mu.Lock()
	if c.running {
		c.mu.Unlock()
		return ErrRunning
	}
	c.running = true
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.running = false
		c.mu.Unlock()
	}()

	queue := newQueue(c)
	var working sync.WaitGroup
	working.Go(func() { queue.work(ctx) })
	// The deferred calls run in this order: first the queue is closed, because no session adds to
	// it any more. Then the worker handles the rest of the queue, and Run returns.
	defer working.Wait()
	defer close(queue.messages)

	attempt, renewed := 0, false
	route := &route{client: c}
	for {
		to := route.next(ctx)
		began := time.Now()
		accepted, err := c.connectOnce(ctx, to, queue)
		if ctx.Err() != nil {
			return nil
		}
		if accepted {
			renewed = false
			if time.Since(began) > stableAfter {
				attempt = 0
			}
		}
		var refused *CloseError
		retryIn := c.backoff(attempt)
		if errors.As(err, &refused) && !refused.Reconnect {
			// TokenSource may replace an expired token. If the server refuses the new token too,
			// the refusal is final.
			expired := refused.Code == raw.CloseTokenExpired && c.cfg.TokenSource != nil
			if !expired || renewed {
				return err
			}
			renewed = true
		}
		if route.ended(accepted, err) {
			retryIn = c.backoff(0) // try the next address of the round after the shortest backoff
		} else {
			attempt++
		}
		if c.cfg.OnDisconnect != nil {
			c.cfg.OnDisconnect(err, retryIn)
		}
		wait := time.NewTimer(retryIn)
		select {
		case <-ctx.Done():
			wait.Stop()
			return nil
		case <-wait.C:
		}
	}
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
// accepted the token.
func (c *Client) connectOnce(ctx context.Context, to raw.Target, queue *queue) (accepted bool, err error) {
	s, err := c.connect(ctx, to)
	if err != nil {
		return false, err
	}
	c.mu.Lock()
	c.session = s
	late := c.lateRoomsLocked(s.rooms)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.session = nil
		c.mu.Unlock()
	}()
	return true, s.serve(ctx, queue, late)
}

// lateRoomsLocked returns the room changes since the auth packet was written.
func (c *Client) lateRoomsLocked(sent map[string]struct{}) (changes []roomChange) {
	for room := range c.rooms {
		if _, ok := sent[room]; !ok {
			changes = append(changes, roomChange{room, true})
		}
	}
	for room := range sent {
		if _, ok := c.rooms[room]; !ok {
			changes = append(changes, roomChange{room, false})
		}
	}
	return changes
}

// Join makes the client a member of the room, now and after every reconnect. With a connection it
// waits for the reply of the server. Without one it returns at once and takes effect with the next
// connection. It returns a *RefusedError if the server does not let the client in; the client is then
// not a member, and does not ask again.
func (c *Client) Join(ctx context.Context, room string) error {
	return c.changeRoom(ctx, roomChange{room, true})
}

// Leave removes the client from a room of Join or Config.Rooms.
func (c *Client) Leave(ctx context.Context, room string) error {
	return c.changeRoom(ctx, roomChange{room, false})
}

func (c *Client) changeRoom(ctx context.Context, change roomChange) error {
	if err := checkName("room", change.room); err != nil {
		return err
	}
	c.mu.Lock()
	if change.join {
		c.rooms[change.room] = struct{}{}
	} else {
		delete(c.rooms, change.room)
	}
	s := c.session
	c.mu.Unlock()
	if s == nil {
		return nil
	}
	err := s.changeRoom(ctx, change)
	if refused := (*RefusedError)(nil); change.join && errors.As(err, &refused) {
		c.forgetRoom(change.room)
	}
	return err
}

// forgetRoom makes the next connection not ask for a room.
func (c *Client) forgetRoom(room string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.rooms, room)
}

// roomChanged takes note of what the server has done, and tells the application.
func (c *Client) roomChanged(change RoomChange) {
	// A server that could not decide may do so next time.
	if !change.Joined && change.Code != codeUnavailable {
		c.forgetRoom(change.Room)
	}
	if c.cfg.OnRoom != nil {
		c.cfg.OnRoom(change)
	}
}

// Send sends a message to the business system behind the server (op 4) and waits for the reply. It
// returns ErrNotConnected without a connection. Today's servers pass nothing on, and answer every
// message with a *RefusedError.
func (c *Client) Send(ctx context.Context, body []byte) error {
	c.mu.Lock()
	s := c.session
	c.mu.Unlock()
	if s == nil {
		return ErrNotConnected
	}
	return s.send(ctx, body)
}
