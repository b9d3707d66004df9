package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	imgoclient "imgo/clients/go"
)

// options are the options of the command new (clients/conformance/README.md).
type options struct {
	Address            string   `json:"address"`
	Discover           string   `json:"discover"`
	Token              string   `json:"token"`
	TokenSource        bool     `json:"token_source"`
	Device             string   `json:"device"`
	Platform           string   `json:"platform"`
	Rooms              []string `json:"rooms"`
	Accepts            []int32  `json:"accepts"`
	Store              string   `json:"store"`
	Outbox             string   `json:"outbox"`
	CA                 string   `json:"ca"`
	MinBackoffMS       int      `json:"min_backoff_ms"`
	MaxBackoffMS       int      `json:"max_backoff_ms"`
	StableAfterMS      int      `json:"stable_after_ms"`
	ConnectTimeoutMS   int      `json:"connect_timeout_ms"`
	AuthTimeoutMS      int      `json:"auth_timeout_ms"`
	RequestTimeoutMS   int      `json:"request_timeout_ms"`
	HeartbeatTimeoutMS int      `json:"heartbeat_timeout_ms"`
	CloseTimeoutMS     int      `json:"close_timeout_ms"`
	AckDelayMS         int      `json:"ack_delay_ms"`
	Queue              int      `json:"queue"`
	Remember           int      `json:"remember"`
	MaxBody            int      `json:"max_body"`
}

func milliseconds(n int) time.Duration { return time.Duration(n) * time.Millisecond }

// driver runs one named client.
type driver struct {
	output *output
	name   string

	client *imgoclient.Client // only the goroutine of drive uses it

	mu             sync.Mutex
	cancel         context.CancelFunc // ends Run; nil if it does not run
	ended          chan struct{}      // closed when Run has ended
	live           bool
	connects       []int              // tags of connect that wait for a live session
	tokens         []chan tokenAnswer // calls of the token source, oldest first
	held           bool               // messages wait for a release
	releases       int                // messages that may go on although held
	released       chan struct{}      // closed at a change of held or releases
	failures       int                // handlers that are to fail
	storeFailures  int                // calls of the store's Add that are to fail
	outboxFailures int                // calls of the outbox that are to fail
}

type tokenAnswer struct {
	token string
	err   error
}

func invalid(text string) error { return &imgoclient.Error{Code: imgoclient.CodeInvalid, Text: text} }

func (d *driver) run(c command) error {
	if d.client == nil && c.Do != "new" && c.Do != "threads" {
		return invalid(c.Do + " comes before new")
	}
	client := d.client
	switch c.Do {
	case "new":
		return d.make(c)
	case "connect":
		d.connect(c.Tag)
	case "close":
		d.close(c.Tag)
	case "token":
		return d.answerToken(c)
	case "join":
		go func() { d.finish(c.Tag, nil, client.Join(context.Background(), c.Room)) }()
	case "leave":
		go func() { d.finish(c.Tag, nil, client.Leave(context.Background(), c.Room)) }()
	case "send":
		go func() {
			body, err := client.Send(context.Background(), c.Op, c.Body)
			d.finish(c.Tag, event{"body": append([]byte{}, body...)}, err)
		}()
	case "publish":
		// Publish runs here, so the numbers follow the order of the commands.
		number, err := client.Publish(context.Background(), c.Op, c.Body)
		d.finish(c.Tag, event{"number": number}, err)
	case "read":
		ids := make([]uint64, len(c.IDs))
		for i, id := range c.IDs {
			ids[i] = uint64(id)
		}
		go func() { d.finish(c.Tag, nil, client.Read(context.Background(), ids, uint64(c.UpTo))) }()
	case "hold", "release", "fail", "fail_store", "fail_outbox":
		d.steer(c)
		d.done(c.Tag, nil)
	case "threads":
		d.done(c.Tag, event{"count": threads()})
	default:
		return invalid(fmt.Sprintf("there is no command %q", c.Do))
	}
	return nil
}

// make makes the client.
func (d *driver) make(c command) error {
	d.mu.Lock()
	runs := d.cancel != nil
	d.mu.Unlock()
	if runs {
		return invalid("close the client before a new one takes its name")
	}
	var o options
	reader := json.NewDecoder(bytes.NewReader(c.Options))
	reader.DisallowUnknownFields()
	if err := reader.Decode(&o); err != nil {
		return invalid("read the options: " + err.Error())
	}
	cfg := imgoclient.Config{
		Address: o.Address, Discover: o.Discover, Token: o.Token, Device: o.Device, Platform: o.Platform,
		Rooms: o.Rooms, Accepts: o.Accepts,
		MinBackoff: milliseconds(o.MinBackoffMS), MaxBackoff: milliseconds(o.MaxBackoffMS), StableAfter: milliseconds(o.StableAfterMS),
		ConnectTimeout: milliseconds(o.ConnectTimeoutMS), AuthTimeout: milliseconds(o.AuthTimeoutMS),
		RequestTimeout: milliseconds(o.RequestTimeoutMS), HeartbeatTimeout: milliseconds(o.HeartbeatTimeoutMS),
		CloseTimeout: milliseconds(o.CloseTimeoutMS), AckDelay: milliseconds(o.AckDelayMS),
		Queue: o.Queue, Remember: o.Remember, MaxBody: o.MaxBody,
		OnMessage: d.message, OnState: d.state, OnRoom: d.room, OnPublished: d.published, OnDismiss: d.dismiss,
		OnError: d.error,
		Log:     func(level slog.Level, line string) { d.output.log.Log(context.Background(), level, line) },
	}
	if o.TokenSource {
		cfg.TokenSource = d.token
	}
	if o.Store != "" {
		cfg.Store = &store{imgoclient.NewFileStore(o.Store, o.Remember), d}
	}
	if o.Outbox != "" {
		cfg.Outbox = &outbox{imgoclient.NewFileOutbox(o.Outbox), d}
	}
	if o.CA != "" {
		pem, err := os.ReadFile(o.CA)
		if err != nil {
			return invalid("read ca: " + err.Error())
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return invalid("ca has no certificate: " + o.CA)
		}
		cfg.TLS = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	client, err := imgoclient.New(cfg)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.client, d.held, d.releases, d.released = client, false, 0, make(chan struct{})
	d.failures, d.storeFailures, d.outboxFailures = 0, 0, 0
	d.done(c.Tag, nil)
	return nil
}

// connect starts the client, or makes it try at once. The command is done with the next live session.
func (d *driver) connect(tag int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.live {
		d.done(tag, nil)
		return
	}
	d.connects = append(d.connects, tag)
	if d.cancel != nil {
		d.client.Connect()
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	d.cancel, d.ended = cancel, ended
	go func() {
		err := d.client.Run(ctx)
		cancel()
		d.mu.Lock()
		defer d.mu.Unlock()
		if err == nil {
			err = &imgoclient.Error{Code: imgoclient.CodeClosed, Text: "the client was closed"}
		}
		for _, tag := range d.connects {
			d.failed(tag, err)
		}
		d.connects, d.live, d.cancel = nil, false, nil
		close(ended)
	}()
}

func (d *driver) close(tag int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cancel == nil {
		d.done(tag, nil)
		return
	}
	d.cancel()
	ended := d.ended
	go func() {
		<-ended
		d.done(tag, nil)
	}()
}

// token is the client's token source. It asks for a token and waits for the answer.
func (d *driver) token(ctx context.Context) (string, error) {
	answer := make(chan tokenAnswer, 1)
	d.mu.Lock()
	d.tokens = append(d.tokens, answer)
	d.mu.Unlock()
	d.emit(event{"event": "token_wanted"})
	select {
	case a := <-answer:
		return a.token, a.err
	case <-ctx.Done():
		d.mu.Lock()
		defer d.mu.Unlock()
		d.tokens = slices.DeleteFunc(d.tokens, func(waiting chan tokenAnswer) bool { return waiting == answer })
		return "", ctx.Err()
	}
}

func (d *driver) answerToken(c command) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.tokens) == 0 {
		return invalid("no token is wanted")
	}
	a := tokenAnswer{token: c.Token}
	if c.Error != "" {
		a.err = errors.New(c.Error)
	}
	d.tokens[0] <- a
	d.tokens = d.tokens[1:]
	d.done(c.Tag, nil)
	return nil
}

// steer changes what the message handler, the store and the outbox do.
func (d *driver) steer(c command) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case c.Do == "hold":
		d.held, d.releases = true, 0
	case c.Do == "fail":
		d.failures += max(c.Count, 1)
	case c.Do == "fail_store":
		d.storeFailures += max(c.Count, 1)
	case c.Do == "fail_outbox":
		d.outboxFailures += max(c.Count, 1)
	case c.Count > 0:
		d.releases += c.Count
	default:
		d.held, d.releases = false, 0
	}
	close(d.released)
	d.released = make(chan struct{})
}

// fails returns an error if a call is to fail. left is how many are to fail yet.
func (d *driver) fails(left *int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if *left == 0 {
		return nil
	}
	*left--
	return errors.New("the driver was told that the call fails")
}

// message is the client's message handler.
func (d *driver) message(ctx context.Context, m imgoclient.Message) error {
	id := strconv.FormatUint(m.ID, 10)
	d.emit(event{"event": "message", "id": id, "op": m.Op, "kept": m.Kept(), "body": append([]byte{}, m.Body...)})
	d.mu.Lock()
	for d.held && d.releases == 0 {
		released := d.released
		d.mu.Unlock()
		select {
		case <-released:
		case <-ctx.Done():
			return ctx.Err()
		}
		d.mu.Lock()
	}
	if d.held {
		d.releases--
	}
	d.mu.Unlock()
	if err := d.fails(&d.failures); err != nil {
		return err
	}
	d.emit(event{"event": "handled", "id": id})
	return nil
}

func (d *driver) state(to imgoclient.StateChange) {
	e := event{"event": "state", "state": to.State}
	switch to.State {
	case imgoclient.Live:
		e["session"], e["user"], e["pending"] = to.Session.ID, to.Session.User, to.Session.Pending
		e["heartbeat_ms"], e["rooms"] = to.Session.Heartbeat.Milliseconds(), append([]string{}, to.Session.Rooms...)
	case imgoclient.Waiting:
		e["retry_in_ms"], e["code"], e["reason"] = to.RetryIn.Milliseconds(), to.CloseCode, to.Reason
	case imgoclient.Closed:
		e["code"], e["reason"], e["failed"] = to.CloseCode, to.Reason, to.Failed
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.live = to.State == imgoclient.Live // before the event: a command may follow it at once
	d.emit(e)
	if d.live {
		for _, tag := range d.connects {
			d.done(tag, nil)
		}
		d.connects = nil
	}
}

func (d *driver) room(change imgoclient.RoomChange) {
	d.emit(event{"event": "room", "room": change.Room, "joined": change.Joined, "code": change.Code, "reason": change.Reason})
}

func (d *driver) error(err *imgoclient.Error) {
	d.emit(event{"event": "error", "code": err.Code, "message": err.Error()})
}

// store is a store in a file that fails when the driver was told so.
type store struct {
	*imgoclient.FileStore
	driver *driver
}

func (s *store) Add(ctx context.Context, ids []uint64) error {
	if err := s.driver.fails(&s.driver.storeFailures); err != nil {
		return err
	}
	return s.FileStore.Add(ctx, ids)
}

// threads counts the goroutines of all clients and of the packages that a client uses.
func threads() int {
	client := reflect.TypeFor[imgoclient.Config]().PkgPath()
	of := []string{client + ".", client + "/raw.", "coder/websocket.", "net/http."}
	buf := make([]byte, 4<<20)
	n := 0
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		for _, name := range of {
			if strings.Contains(stack, name) {
				n++
				break
			}
		}
	}
	return n
}
