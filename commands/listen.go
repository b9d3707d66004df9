package commands

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/urfave/cli/v2"

	imgoclient "imgo/clients/go"
	"imgo/clients/go/pushapi"
	"imgo/clients/go/raw"
	"imgo/protocol"
)

const (
	// listenTTL is the lifetime of a token that listen makes for itself.
	listenTTL = 24 * time.Hour
	// renewBefore is the time before its end at which such a token is replaced.
	renewBefore = time.Minute
	// stopTimeout bounds the clean-up after listen was told to stop.
	stopTimeout = 2 * time.Second
)

func listenCommand(opts Options) *cli.Command {
	return &cli.Command{
		Name:  "listen",
		Usage: "connect as a user and print the messages that arrive",
		Description: "imgo listen --user 123                 (makes a token for itself)\n" +
			"imgo listen --token TOKEN --device phone\n" +
			"imgo listen --user 123 --room lobby --json\n" +
			"imgo listen --token TOKEN --connect wss://push.example.com/sub\n\n" +
			"Messages go to standard output, one on each line, and are acknowledged when they are\n" +
			"printed. Everything else goes to standard error. After a lost connection it connects\n" +
			"again. Ctrl-C ends it.",
		Flags: withAPI(
			&cli.StringFlag{Name: "user", Usage: "connect as this `user`; the command makes a token and revokes it at the end"},
			&cli.StringFlag{Name: "token", Usage: "connect with this `token`"},
			&cli.StringFlag{Name: "connect", Usage: "the address for clients: `host:port`, tls://host:port, ws://host:port/sub or wss://…",
				DefaultText: "the address that the API names, else the host of the API and the default port"},
			&cli.BoolFlag{Name: "ws", Usage: "use WebSocket; only without --connect", DisableDefaultText: true},
			&cli.StringFlag{Name: "device", Usage: "connect as this `device`; each device gets every kept message once"},
			&cli.StringSliceFlag{Name: "room", Usage: "join this `room`; may be given several times"},
			&cli.IntSliceFlag{Name: "op", Usage: "also accept this operation, a `number` of 1000 or above; may be given several times"},
			&cli.IntFlag{Name: "count", Usage: "end after this `number` of messages", DefaultText: "never"},
			&cli.BoolFlag{Name: "no-ack", Usage: "acknowledge nothing, so that the messages come again the next time", DisableDefaultText: true},
			&cli.BoolFlag{Name: "json", Usage: "print each message as a JSON object with id, op and body", DisableDefaultText: true},
		),
		Action: calls(func(c *cli.Context, a *api) error { return listen(c, a, opts.Screen) }),
	}
}

func listen(c *cli.Context, a *api, screen bool) error {
	user, text := c.String("user"), c.String("token")
	switch {
	case (user == "") == (text == ""):
		return usage(c, "as whom? Write --user 123 or --token TOKEN, and not both")
	case c.IsSet("count") && c.Int("count") < 1:
		return usage(c, "--count must be at least 1")
	case c.Bool("ws") && c.IsSet("connect"):
		return usage(c, "--ws is for where --connect is not given: write --connect ws://host:port/sub")
	}
	address, err := a.clientAddress(c)
	if err != nil {
		return err
	}
	// The listening ends when the context of the command does, or when --count messages have
	// arrived.
	ctx, cancel := context.WithCancel(c.Context)
	defer cancel()
	l := &listener{c: c, screen: screen, cancel: cancel, left: c.Int("count")}
	cfg := imgoclient.Config{
		Address: address, Token: text, Device: c.String("device"), Rooms: c.StringSlice("room"), Platform: "cli",
		NoAck: c.Bool("no-ack"), OnMessage: l.message,
		OnState: func(to imgoclient.StateChange) {
			switch to.State {
			case imgoclient.Live:
				l.note("connected to %s; %s waiting; Ctrl-C ends", address, count(to.Session.Pending, "message"))
			case imgoclient.Waiting:
				l.note("%v; trying again in %s", to.Err, to.RetryIn.Round(10*time.Millisecond))
			}
		},
	}
	for _, op := range c.IntSlice("op") {
		if op < 1000 || op > 1<<31-1 {
			return usage(c, "--op %d: the operations to accept are 1000 and above", op)
		}
		cfg.Accepts = append(cfg.Accepts, int32(op))
	}
	if user != "" {
		own := &ownToken{api: a, user: user}
		if _, err := own.current(ctx); err != nil {
			return err
		}
		defer own.revoke()
		cfg.TokenSource = own.current
	}
	client, err := imgoclient.New(cfg)
	if err != nil {
		return usage(c, "%s", err)
	}
	return l.outcome(client.Run(ctx))
}

// listener prints received messages. message must not be called concurrently.
type listener struct {
	c      *cli.Context
	screen bool // standard output is a terminal
	cancel context.CancelFunc
	left   int // remaining messages; 0 means no limit
	failed error
}

// note prints a note for a person to standard error.
func (l *listener) note(format string, args ...any) {
	fmt.Fprintf(l.c.App.ErrWriter, format+"\n", args...)
}

// message prints one message. A message that cannot be printed is not acknowledged.
func (l *listener) message(_ context.Context, m imgoclient.Message) error {
	if err := l.print(m); err != nil {
		l.failed = err
		l.cancel()
		return err
	}
	if l.left > 0 {
		if l.left--; l.left == 0 {
			l.cancel()
		}
	}
	return nil
}

func (l *listener) print(m imgoclient.Message) error {
	if !l.c.Bool("json") {
		if utf8.Valid(m.Body) {
			text := string(m.Body)
			if l.screen {
				text = visible(text)
			}
			return printLine(l.c, text)
		}
		return printLine(l.c, "base64:"+base64.StdEncoding.EncodeToString(m.Body))
	}
	shown := struct {
		ID   string `json:"id,omitempty"`
		Op   int32  `json:"op"`
		Body any    `json:"body"`
	}{Op: m.Op}
	if m.Kept() {
		shown.ID = strconv.FormatUint(m.ID, 10)
	}
	// As in JSON frames: JSON is unchanged, other text is a string, and other bytes are base64.
	switch {
	case !utf8.Valid(m.Body): // json.Valid does not look at the bytes of strings
		shown.Body = map[string][]byte{"base64": m.Body}
	case json.Valid(m.Body):
		shown.Body = json.RawMessage(m.Body)
	default:
		shown.Body = string(m.Body)
	}
	line, err := json.Marshal(shown)
	if err != nil {
		return fmt.Errorf("write the message as JSON: %w", err)
	}
	return printLine(l.c, string(line))
}

// visible writes control characters as escapes, except for tabs and line breaks. The text of a message
// must not move the cursor of a terminal or change its title.
func visible(text string) string {
	var b strings.Builder
	for _, r := range text {
		if isHidden(r) {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func isHidden(r rune) bool { return unicode.IsControl(r) && r != '\t' && r != '\n' }

// outcome turns the result of Run into the result of the command.
func (l *listener) outcome(err error) error {
	var closed *raw.CloseError
	switch {
	case l.failed != nil:
		return l.failed
	case !errors.As(err, &closed):
		return err
	}
	switch protocol.CloseCode(closed.Code) {
	case protocol.CloseAuthFailed, protocol.CloseTokenExpired, protocol.CloseTokenRevoked:
		return fmt.Errorf("%w; make a new token with: imgo token new --user USER", err)
	}
	return err
}

// ownToken is a token that listen makes for itself. It is safe for concurrent use.
type ownToken struct {
	api  *api
	user string

	mu   sync.Mutex
	made pushapi.Token
}

// current returns the token, or a new one if it expires soon.
func (o *ownToken) current(ctx context.Context) (string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.made.Token != "" && time.Now().Add(renewBefore).Before(time.UnixMilli(o.made.ExpiresMS)) {
		return o.made.Token, nil
	}
	made, _, err := o.api.newToken(ctx, tokenRequest{User: o.user, TTL: listenTTL.String()})
	if err != nil {
		return "", err
	}
	o.made = made
	return made.Token, nil
}

// revoke revokes the token. Errors are ignored, because the token expires anyway.
func (o *ownToken) revoke() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	_, _, _ = o.api.revoke(ctx, o.made.Token, "", false)
}

// clientAddress returns the address to connect to: that of --connect, else one from the nodes in
// the API, else the default port on the host of the server.
func (a *api) clientAddress(c *cli.Context) (string, error) {
	if c.IsSet("connect") {
		return c.String("connect"), nil
	}
	network := "tcp"
	if c.Bool("ws") {
		network = "ws"
	}
	ctx, cancel := context.WithTimeout(c.Context, 5*time.Second)
	defer cancel()
	var answer nodeList
	_, err := a.get(ctx, "/v1/nodes", &answer)
	if err == nil {
		for _, n := range answer.Nodes {
			if address := n.ClientAddress(network, a.host()); address != "" {
				at, err := raw.ParseTarget(address)
				if err != nil {
					return "", fmt.Errorf("node %s: %w", n.Name, err)
				}
				return at.String(), nil
			}
		}
		return "", fmt.Errorf("no node of %s says where %s clients connect: name it with --connect", a.server, network)
	}
	if c.IsSet("user") {
		return "", err // a token could not be made either
	}
	// With --token, the API may be out of reach from here. Use the default port.
	address := net.JoinHostPort(a.host(), "8080")
	if network == "ws" {
		address = "ws://" + net.JoinHostPort(a.host(), "8090") + "/sub"
	}
	fmt.Fprintf(c.App.ErrWriter, "%v; connecting to %s (another one: --connect)\n", err, address)
	return address, nil
}
