// Package imgoclient is the Go client of imgo: it receives a user's messages
// over TCP or WebSocket (protocol version 2), acknowledges what was handled,
// and stays connected.
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
// It guarantees that OnMessage is called for one message at a time, in the
// order of arrival; that a kept message is acknowledged only after OnMessage
// has returned without an error; that a message whose handling succeeded is
// not handed out again by the same Client, however often the server sends it;
// and that a lost connection is made again with exponential backoff and full
// jitter, unless the server said that this would be no use.
//
// It keeps nothing on disk: a new process may be given again what the one
// before had handled and not yet acknowledged. Handling must bear that, for
// instance by Message.ID.
package imgoclient

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"imgo/clients/go/raw"
	"imgo/envelope"
	"imgo/protocol"
)

// Message is one message that was pushed to the user.
type Message struct {
	// ID is unique and growing for the user's kept messages; 0: not kept.
	ID uint64
	// Op is 5, or the operation (1000 and above) that the push named.
	Op int32
	// Body is what was pushed, byte for byte. It is the receiver's own.
	Body []byte
}

// Kept says whether the message waits in the mailbox until acknowledged.
func (m Message) Kept() bool { return m.ID != 0 }

// Session is what the server says of a connection that it has accepted.
type Session struct {
	// ID is the session's name at the server.
	ID string
	// Heartbeat is how often the server wants a sign of life.
	Heartbeat time.Duration
	// Pending counts the kept messages that waited for the device.
	Pending int
}

// Config says where to connect and as whom. It is not changed and not read
// again after New.
type Config struct {
	// Address is host:port (TCP), or has a scheme: tcp://, tls:// (TLS on TCP),
	// ws:// or wss:// (path /sub where it has none).
	Address string
	// Discover is where the server's API is ("https://push.example.com:7172",
	// or with path and query: "…/v1/nodes/best?zone=eu"): it is asked before
	// every attempt which nodes are best, and those are tried first. Where it
	// does not answer, and after them, Address counts. Empty: only Address.
	Discover string
	// Token says who the user is. TokenSource, where given, is asked instead
	// before every connection; it must honour its context.
	Token       string
	TokenSource func(ctx context.Context) (string, error)
	// Device has its own cursor in the mailbox: it gets what the user's other
	// devices have read already. Empty: the user's default cursor.
	Device string
	// Key names the session; the server replaces an older one of the same key.
	Key string
	// Platform is shown beside the session by the server's admin calls.
	Platform string
	// Rooms are joined with every connection; see also Client.Join.
	Rooms []string
	// Accepts are the operations of 1000 and above to receive.
	Accepts []int32
	// TLS is for tls:// and wss://; nil: the system's roots.
	TLS *tls.Config

	// OnMessage handles a message. Its error means "not handled": the message
	// is not acknowledged and comes again with the next session. Required.
	OnMessage func(ctx context.Context, m Message) error
	// OnConnect and OnDisconnect tell of the connection's fate; either may be
	// nil. retryIn is when the next attempt begins. They are called by Run's
	// goroutine, which they hold up, heartbeats and acknowledgements included.
	OnConnect    func(Session)
	OnDisconnect func(err error, retryIn time.Duration)
	// NoAck leaves everything unacknowledged: for looking only. The messages
	// come again with every session.
	NoAck bool

	// MinBackoff and MaxBackoff bound the wait between attempts: a random part
	// of a span that doubles from the one to the other. 500 ms and 30 s.
	MinBackoff, MaxBackoff time.Duration
	// ConnectTimeout bounds token and dial together, up to where the auth packet
	// is sent. 10 s.
	ConnectTimeout time.Duration
	// AuthTimeout bounds the wait for the answer to the auth packet. 40 s: where
	// many connect at once the server has them wait for their turn, for up to 30 s
	// (limits.connect_wait), and who gives up before begins at the end again.
	AuthTimeout time.Duration
	// CallTimeout bounds a write, and the wait for an answer. 10 s.
	CallTimeout time.Duration
	// AckDelay is how long acknowledgements are gathered. 50 ms.
	AckDelay time.Duration
	// Queue is how many messages may wait for OnMessage; when it is full the
	// client stops reading, and the server keeps the rest. 256.
	Queue int
	// Remember is how many handled ids are remembered, to know a message that
	// comes twice. 8192; it should not be less than the mailbox's length.
	Remember int
	// MaxBody is the largest body in bytes that is accepted. 4 MiB.
	MaxBody int
}

// What Run and the other methods return, beside *CloseError.
var (
	// ErrNotConnected: there is no connection at the moment.
	ErrNotConnected = errors.New("not connected to the server")
	// ErrRunning: Run was called on a client that runs already.
	ErrRunning = errors.New("the client runs already")
)

// CloseError is the server's reason for the end of a connection. The client goes to
// the Addresses in it by itself, and to Config.Address when all of them fail.
type CloseError = raw.CloseError

// Client is one user's connection, made again whenever it is lost. Run is for
// one goroutine; everything else may be called from anywhere at any time.
type Client struct {
	cfg         Config
	target      raw.Target
	discoverURL string // Config.Discover, complete
	inbox       *inbox

	mu      sync.Mutex
	running bool
	session *session            // nil while there is no accepted connection
	rooms   map[string]struct{} // what every connection joins
}

// New checks cfg and fills in its defaults. It connects nowhere yet.
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
		if err := envelope.CheckName(name.field, name.value); err != nil {
			return nil, err
		}
	}
	rooms := map[string]struct{}{}
	for _, room := range cfg.Rooms {
		if err := envelope.CheckName("room", room); err != nil {
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

// stableAfter is how long a session must have lasted for the next loss to
// start from the shortest backoff again: a server that accepts and closes at
// once is not hammered.
const stableAfter = 5 * time.Second

// Run connects and stays connected until ctx is done, which is no error: it
// returns nil once the message under way is handled and the acknowledgements
// are sent. A *CloseError is the server's word that coming back is of no use
// (the token is not accepted, the user was kicked …). Every other trouble is
// told to OnDisconnect and mended by connecting again.
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
	// In this order: no session puts anything any more, so the queue can be
	// closed; what it holds is handled; then Run returns.
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
			// A token that has expired can be replaced by one that has not;
			// if a fresh one is refused too, that is final.
			expired := refused.Code == int(protocol.CloseTokenExpired) && c.cfg.TokenSource != nil
			if !expired || renewed {
				return err
			}
			renewed = true
		}
		if route.ended(accepted, err) {
			retryIn = c.backoff(0) // another address is not to be waited for
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

// backoff is how long to wait before the attempt: a random part of a span
// that doubles ("full jitter"), so that the clients of a server that went
// away come back spread over the whole span instead of together.
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

// connectOnce makes one connection and serves it to its end. accepted says
// whether the server had accepted the token.
func (c *Client) connectOnce(ctx context.Context, to raw.Target, queue *queue) (accepted bool, err error) {
	s, err := c.connect(ctx, to)
	if err != nil {
		return false, err
	}
	c.mu.Lock()
	c.session = s
	late := c.lateRooms(s.rooms)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.session = nil
		c.mu.Unlock()
	}()
	return true, s.serve(ctx, queue, late)
}

// lateRooms are the changes since the auth packet named its rooms.
func (c *Client) lateRooms(sent map[string]struct{}) (changes []roomChange) {
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

// Join makes the client a member of the room, now and after every reconnect.
// Without a connection it takes effect with the next one; with one it waits
// for the server's answer. A server that allows no more rooms closes the
// connection, and Run returns its *CloseError.
func (c *Client) Join(ctx context.Context, room string) error {
	return c.changeRoom(ctx, roomChange{room, true})
}

// Leave undoes Join, or a room of Config.Rooms.
func (c *Client) Leave(ctx context.Context, room string) error {
	return c.changeRoom(ctx, roomChange{room, false})
}

func (c *Client) changeRoom(ctx context.Context, change roomChange) error {
	if err := envelope.CheckName("room", change.room); err != nil {
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
	return s.changeRoom(ctx, change)
}

// Send sends a message upstream, to the business system (op 4). It returns
// once the bytes are on their way; ErrNotConnected without a connection.
func (c *Client) Send(ctx context.Context, body []byte) error {
	c.mu.Lock()
	s := c.session
	c.mu.Unlock()
	if s == nil {
		return ErrNotConnected
	}
	return s.send(ctx, body)
}
