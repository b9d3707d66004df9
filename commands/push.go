package commands

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/urfave/cli/v2"

	"imgo/clients/go/pushapi"
)

// maxInput bounds a message or a list of users from a file or from standard input, in bytes. It is
// larger than the request limit of any server.
const maxInput = 64 << 20

// pushRequest is the body of POST /v1/push. Unlike that of a pushapi.Push, its message may be empty.
type pushRequest struct {
	pushapi.Push
	BodyText   *string `json:"body_text,omitempty"`
	BodyBase64 *string `json:"body_base64,omitempty"`
}

// pushAnswer is the answer of POST /v1/push. For one user it has the fields of Result, for several it
// has Results.
type pushAnswer struct {
	pushapi.Result
	Results []pushapi.Result `json:"results"`
}

// losses returns a line for each user for whom the push is refused, or cost waiting messages, with the reason.
func (a *pushAnswer) losses() (lines []string) {
	for _, result := range append(a.Results, a.Result) {
		switch {
		case result.Refused != "":
			lines = append(lines, fmt.Sprintf("refused for user %s (%s)", result.User, result.Refused))
		case result.Dropped > 0:
			lines = append(lines, fmt.Sprintf("user %s lost %s, dropped to make room (kept.mailbox_length)",
				result.User, count(result.Dropped, "waiting message")))
		}
	}
	return lines
}

// refusal returns an error if the push is refused for some of the users.
func (a *pushAnswer) refusal() error {
	refused := 0
	for _, result := range a.Results {
		if result.Refused != "" {
			refused++
		}
	}
	if refused == 0 {
		return nil
	}
	return fmt.Errorf("the push was refused for %d of %s", refused, count(len(a.Results), "user"))
}

func pushCommand() *cli.Command {
	return &cli.Command{
		Name:      "push",
		Usage:     "push a message to users, a room or everyone",
		ArgsUsage: "MESSAGE | --file FILE | --stdin",
		Description: "imgo push --user 123 '{\"test\":1}'\n" +
			"imgo push --users 1,2,3 --ttl 1h hello\n" +
			"imgo push --users-file users.txt --file message.json\n" +
			"imgo push --room lobby hello\n" +
			"imgo push --all --not-kept 'maintenance at noon'\n" +
			"tail -f events.log | imgo push --user 123 --stdin\n\n" +
			"A push to users is kept. It waits until every device has acknowledged it, or until its\n" +
			"ttl is over. A push with --not-kept, and a push to a room, a session or everyone,\n" +
			"reaches only clients that are connected now. Clients get exactly these bytes.\n\n" +
			"The server may refuse a push for the users whose mailboxes are full, and accept it for the\n" +
			"others. Each of these users is named then, and the exit code is 1. So is each user who loses\n" +
			"waiting messages to make room. With --stdin the lines behind a refused one are not pushed.",
		Flags: withAPI(
			&cli.StringSliceFlag{Name: "user", Usage: "push to this `user`; may be given several times"},
			&cli.StringSliceFlag{Name: "users", Usage: "push to these users: `a,b,c`"},
			&cli.StringFlag{Name: "users-file", Usage: "push to the users in this `file`, one on each line"},
			&cli.StringFlag{Name: "room", Usage: "push to the members of this `room`"},
			&cli.BoolFlag{Name: "all", Usage: "push to every connected client", DisableDefaultText: true},
			&cli.StringSliceFlag{Name: "key", Usage: "push to the session of this `key`; may be given several times"},
			&cli.StringFlag{Name: "file", Usage: "read the message from this `file`"},
			&cli.BoolFlag{Name: "stdin", Usage: "read messages from standard input, one on each line; empty lines are skipped",
				DisableDefaultText: true},
			&cli.BoolFlag{Name: "not-kept", Usage: "do not keep the message; only clients that are connected now get it", DisableDefaultText: true},
			&cli.GenericFlag{Name: "ttl", Value: new(duration), Usage: "how long a kept message waits, a `duration` such as 1h",
				DefaultText: "the server's kept.ttl"},
			&cli.IntFlag{Name: "op", Usage: "the message's operation, a `number`: 5, or 1000 and above", Value: 5},
			&cli.StringFlag{Name: "idempotency-key",
				Usage: "a second push with the same `key` has no effect, within the server's kept.idempotency_ttl (24 h); " +
					"with --stdin the number of the line is added"},
			jsonFlag(),
		),
		Action: calls(push),
	}
}

func push(c *cli.Context, a *api) error {
	c.App.Reader = interruptible{c.Context, c.App.Reader}
	request, err := pushTarget(c)
	if err != nil {
		return err
	}
	switch sources := trues(c.Args().Present(), c.IsSet("file"), c.Bool("stdin")); {
	case sources == 0:
		return usage(c, "what is the message? Write it behind the flags, or give --file or --stdin")
	case sources > 1:
		return usage(c, "one of MESSAGE, --file and --stdin, not several")
	case c.Args().Len() > 1:
		return usage(c, "the message is in %d pieces: put it in quotes, like '{\"test\":1}'", c.Args().Len())
	}
	if err := pushOptions(c, request); err != nil {
		return err
	}
	p := pusher{c: c, api: a, request: *request, key: c.String("idempotency-key")}
	switch {
	case c.Bool("stdin"):
		return p.lines(c.Context, c.App.Reader)
	case c.IsSet("file"):
		message, err := readFile(c.String("file"), c.App.Reader)
		if err != nil {
			return err
		}
		return p.one(c.Context, message)
	case c.Args().First() == "":
		return usage(c, "the message is empty, perhaps because a variable of the shell is")
	}
	return p.one(c.Context, []byte(c.Args().First()))
}

// pushTarget reads the flags that say to whom the push goes.
func pushTarget(c *cli.Context) (*pushRequest, error) {
	users := c.StringSlice("user")
	users = append(users, split(c.StringSlice("users"))...)
	if file := c.String("users-file"); file != "" {
		data, err := readFile(file, c.App.Reader)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(data)) {
			if line = strings.TrimSpace(line); line != "" {
				users = append(users, line)
			}
		}
		if len(users) == 0 {
			return nil, usage(c, "%s names no user", file)
		}
	}
	request := &pushRequest{Push: pushapi.Push{Keys: c.StringSlice("key"), Room: c.String("room"), All: c.Bool("all")}}
	if len(users) == 1 {
		request.User = users[0]
	} else {
		request.Users = users
	}
	switch kinds := trues(len(users) > 0, len(request.Keys) > 0, c.IsSet("room"), request.All); {
	case kinds == 0:
		return nil, usage(c, "to whom? Write --user 123, --users a,b, --room lobby or --all")
	case kinds > 1:
		return nil, usage(c, "a push goes to users, to a room, to sessions or to everyone, not to several of them")
	}
	return request, nil
}

// trues returns how many of the values are true.
func trues(values ...bool) (n int) {
	for _, is := range values {
		if is {
			n++
		}
	}
	return n
}

// pushOptions reads the other flags of a push into request.
func pushOptions(c *cli.Context, request *pushRequest) error {
	toUsers := request.User != "" || len(request.Users) > 0
	kept := toUsers && !c.Bool("not-kept")
	request.Kept = &kept
	if op := c.Int("op"); c.IsSet("op") {
		if op != 5 && (op < 1000 || op > math.MaxInt32) {
			return usage(c, "--op %d is the protocol's own: use 5, or 1000 and above", op)
		}
		request.Op = int32(op)
	}
	if !c.IsSet("ttl") {
		return nil
	}
	switch ttl := durationFlag(c, "ttl"); {
	case !kept:
		return usage(c, "--ttl is for messages that are kept, and this one is not")
	case ttl <= 0:
		return usage(c, "--ttl must be more than 0")
	default:
		request.TTL = ttl.String()
	}
	return nil
}

// readFile reads a file, or standard input if the name is "-".
func readFile(name string, stdin io.Reader) ([]byte, error) {
	from := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("read the file: %w", err)
		}
		defer f.Close()
		from = f
	}
	data, err := io.ReadAll(io.LimitReader(from, maxInput+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the file: %w", err)
	case len(data) > maxInput:
		return nil, fmt.Errorf("%s is larger than %d MiB", name, maxInput>>20)
	}
	return data, nil
}

// interruptible reads from a reader until ctx is done. A read that blocks at that moment goes on until the process ends.
type interruptible struct {
	ctx  context.Context
	from io.Reader
}

// errInterrupted is the error of a command whose context is done.
var errInterrupted = errors.New("interrupted")

// Read returns errInterrupted if ctx is done.
func (r interruptible) Read(p []byte) (int, error) {
	type result struct {
		n   int
		err error
	}
	// p is the caller's again after the return, so that the goroutine needs a buffer of its own.
	buffer, read := make([]byte, len(p)), make(chan result, 1)
	go func() {
		n, err := r.from.Read(buffer)
		read <- result{n, err}
	}()
	select {
	case got := <-read:
		return copy(p, buffer[:got.n]), got.err
	case <-r.ctx.Done():
		return 0, errInterrupted
	}
}

// pusher pushes messages with the same target and options.
type pusher struct {
	c       *cli.Context
	api     *api
	request pushRequest
	key     string
}

// push pushes one message.
func (p *pusher) push(ctx context.Context, message []byte, key string) (*pushAnswer, []byte, error) {
	request := p.request
	if utf8.Valid(message) {
		text := string(message)
		request.BodyText = &text
	} else {
		text := base64.StdEncoding.EncodeToString(message)
		request.BodyBase64 = &text
	}
	request.IdempotencyKey = key
	answer := &pushAnswer{}
	raw, err := p.api.post(ctx, "/v1/push", request, answer)
	if err != nil {
		return nil, nil, fmt.Errorf("push: %w", err)
	}
	return answer, raw, nil
}

// one pushes a single message and prints the result.
func (p *pusher) one(ctx context.Context, message []byte) error {
	answer, raw, err := p.push(ctx, message, p.key)
	if err != nil {
		return err
	}
	text := strings.Join(append([]string{p.describe(answer)}, answer.losses()...), "\n")
	return cmp.Or(printAnswer(p.c, raw, text), answer.refusal())
}

// lines pushes each line of r in order, as soon as it is read. It stops at the first failure, so
// that later lines cannot overtake the failed one.
func (p *pusher) lines(ctx context.Context, r io.Reader) error {
	began, accepted, number := time.Now(), 0, 1
	failed := func(err error) error {
		return fmt.Errorf("line %d: %w; %s accepted before it", number, err, count(accepted, "message"))
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxInput)
	for ; lines.Scan(); number++ {
		if ctx.Err() != nil {
			return failed(errInterrupted)
		}
		line := bytes.TrimRight(lines.Bytes(), "\r")
		if len(line) == 0 {
			continue
		}
		key := p.key
		if key != "" {
			key = fmt.Sprintf("%s-%d", key, number)
		}
		answer, raw, err := p.push(ctx, line, key)
		if err != nil {
			return failed(err)
		}
		if p.c.Bool("json") {
			if err := printLine(p.c, string(raw)); err != nil {
				return err
			}
		} else {
			for _, loss := range answer.losses() {
				fmt.Fprintf(p.c.App.ErrWriter, "line %d: %s\n", number, loss)
			}
		}
		if err := answer.refusal(); err != nil {
			return failed(err)
		}
		accepted++
	}
	switch err := lines.Err(); {
	case errors.Is(err, errInterrupted):
		return failed(err)
	case errors.Is(err, bufio.ErrTooLong):
		return failed(fmt.Errorf("it is longer than %d MiB", maxInput>>20))
	case err != nil:
		return failed(fmt.Errorf("read standard input: %w", err))
	}
	summary := fmt.Sprintf("%s accepted in %s", count(accepted, "message"), time.Since(began).Round(time.Millisecond))
	if p.c.Bool("json") {
		fmt.Fprintln(p.c.App.ErrWriter, summary)
		return nil
	}
	return printLine(p.c, summary)
}

// describe returns a text for a person about the result of a push.
func (p *pusher) describe(answer *pushAnswer) string {
	kept := *p.request.Kept
	switch {
	case len(answer.Results) > 0:
		users, online, duplicates := 0, 0, 0
		for _, result := range answer.Results {
			if result.Refused != "" {
				continue
			}
			users++
			if result.Sessions > 0 {
				online++
			}
			if result.Duplicate {
				duplicates++
			}
		}
		text := fmt.Sprintf("to %s: %d connected with %s", count(users, "user"), online, count(answer.Sessions, "session"))
		if kept {
			text = "kept " + text + "; the others get it when they connect"
		}
		if duplicates > 0 {
			text += fmt.Sprintf("; %s had it already (same idempotency key)", count(duplicates, "user"))
		}
		return text
	case p.request.User != "" && answer.Duplicate:
		return fmt.Sprintf("nothing done: user %s had it already (same idempotency key), as message %d", p.request.User, answer.ID)
	case p.request.User != "" && kept && answer.Sessions == 0:
		return fmt.Sprintf("message %d is kept: user %s is not connected and gets it when they are", answer.ID, p.request.User)
	case p.request.User != "" && kept:
		return fmt.Sprintf("message %d is on its way to %s of user %s", answer.ID, count(answer.Sessions, "session"), p.request.User)
	case answer.Duplicate:
		return "nothing done: it was pushed already (same idempotency key)"
	case p.request.Room != "":
		// There is no count, because only the comets know the members of a room.
		return "on its way to whoever is in room " + p.request.Room
	case p.request.All:
		return "on its way to everyone who is connected"
	case answer.Sessions == 0:
		return "nobody is there: the message reached no session"
	}
	return "on its way to " + count(answer.Sessions, "session")
}
