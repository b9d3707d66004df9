package commands_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
	"go.uber.org/goleak"

	"imgo/commands"
	"imgo/internal/wait/waittest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// request is a request that the fake server received.
type request struct {
	Method, Path string
	Body         map[string]any
	Key          string // idempotency_key
	Auth         string
}

// server is a fake HTTP API. It answers by method and path, and records the requests.
type server struct {
	*httptest.Server
	answers  map[string]answer
	requests []request
}

type answer struct {
	status int
	body   string
}

func newServer(t *testing.T, answers map[string]answer) *server {
	t.Helper()
	s := &server{answers: answers}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked := request{Method: r.Method, Path: r.URL.RequestURI(), Auth: r.Header.Get("Authorization")}
		data, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if len(data) > 0 {
			if err := json.Unmarshal(data, &asked.Body); err != nil {
				t.Errorf("body %q: %v", data, err)
			}
			asked.Key, _ = asked.Body["idempotency_key"].(string)
		}
		s.requests = append(s.requests, asked)
		a, ok := s.answers[r.Method+" "+r.URL.RequestURI()]
		if !ok {
			a = answer{404, `{"error":{"code":"not_found","message":"nothing is at ` + r.URL.Path + `"}}`}
		}
		w.WriteHeader(a.status)
		if _, err := io.WriteString(w, a.body); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// result is the outcome of a command line.
type result struct {
	stdout, stderr string
	err            error
	code           int
	served         bool
}

// imgo runs a command line. If s is not nil, its address is set in IMGO_SERVER.
func imgo(t *testing.T, s *server, stdin string, args ...string) result {
	t.Helper()
	if s != nil {
		t.Setenv("IMGO_SERVER", s.URL)
	}
	var stdout, stderr bytes.Buffer
	r := result{}
	serve := func(*cli.Context) error { r.served = true; return nil }
	r.err = commands.Run(context.Background(), commands.Options{
		Stdin: strings.NewReader(stdin), Stdout: &stdout, Stderr: &stderr, Serve: serve,
		Flags:    []cli.Flag{&cli.StringFlag{Name: "tcp"}},
		AllFlags: []cli.Flag{&cli.StringFlag{Name: "tcp"}, &cli.StringFlag{Name: "ws"}},
	}, append([]string{"imgo"}, args...))
	r.stdout, r.stderr, r.code = stdout.String(), stderr.String(), commands.ExitCode(r.err)
	return r
}

func (r result) want(t *testing.T, code int, stdout string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d (%v), want %d", r.code, r.err, code)
	}
	if diff := cmp.Diff(stdout, r.stdout); diff != "" {
		t.Errorf("stdout (-want +got):\n%s", diff)
	}
}

func (r result) wantError(t *testing.T, code int, parts ...string) {
	t.Helper()
	if r.code != code || r.err == nil {
		t.Fatalf("exit code %d, error %v, want %d", r.code, r.err, code)
	}
	for _, part := range parts {
		if !strings.Contains(r.err.Error(), part) {
			t.Errorf("the error does not have %q: %v", part, r.err)
		}
	}
}

const pushPath = "POST /v1/push"

var oneSession = answer{202, `{"id":"281474976710657","user":"123","sessions":1,"duplicate":false}` + "\n"}

func TestPush(t *testing.T) {
	dir := t.TempDir()
	message, users := filepath.Join(dir, "message"), filepath.Join(dir, "users")
	for file, text := range map[string]string{message: "\xff\x00", users: "a\n\n b,c \n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		args   []string
		answer answer
		body   map[string]any
		stdout string
	}{
		"to one user": {
			[]string{"--user", "123", `{"test":1}`}, oneSession,
			map[string]any{"user": "123", "body_text": `{"test":1}`, "kept": true},
			"message 281474976710657 is on its way to 1 session of user 123\n",
		},
		"flags behind the message": {
			[]string{"hello", "--user", "123", "--ttl=90m"}, oneSession,
			map[string]any{"user": "123", "body_text": "hello", "kept": true, "ttl": "1h30m0s"},
			"message 281474976710657 is on its way to 1 session of user 123\n",
		},
		"a message like a flag, after --": {
			[]string{"--user", "123", "--", "--user"}, oneSession,
			map[string]any{"user": "123", "body_text": "--user", "kept": true},
			"message 281474976710657 is on its way to 1 session of user 123\n",
		},
		"the message help": {
			[]string{"--user", "123", "help"}, oneSession,
			map[string]any{"user": "123", "body_text": "help", "kept": true},
			"message 281474976710657 is on its way to 1 session of user 123\n",
		},
		"as JSON": {
			[]string{"--json", "--user", "123", "x"}, oneSession,
			map[string]any{"user": "123", "body_text": "x", "kept": true},
			oneSession.body,
		},
		"who is not there": {
			[]string{"--user", "123", "x"}, answer{202, `{"id":"9","user":"123","sessions":0,"duplicate":false}`},
			map[string]any{"user": "123", "body_text": "x", "kept": true},
			"message 9 is kept: user 123 is not connected and gets it when they are\n",
		},
		"not kept": {
			[]string{"--user", "123", "--not-kept", "--op", "1001", "x"}, answer{202, `{"id":"0","user":"123","sessions":0,"duplicate":false}`},
			map[string]any{"user": "123", "body_text": "x", "kept": false, "op": 1001.0},
			"nobody is there: the message reached no session\n",
		},
		"a duplicate": {
			[]string{"--user", "123", "x", "--idempotency-key", "k"}, answer{202, `{"id":"7","user":"123","sessions":1,"duplicate":true}`},
			map[string]any{"user": "123", "body_text": "x", "kept": true, "idempotency_key": "k"},
			"nothing done: user 123 had it already (same idempotency key), as message 7\n",
		},
		"to users": {
			[]string{"--users", "a,b", "--user", "c,d", "x"},
			answer{202, `{"results":[{"id":"1","user":"a","sessions":2},{"id":"2","user":"b","sessions":0},{"id":"3","user":"c,d","sessions":0,` +
				`"duplicate":true}],"sessions":2}`},
			map[string]any{"users": []any{"c,d", "a", "b"}, "body_text": "x", "kept": true},
			"kept to 3 users: 1 connected with 2 sessions; the others get it when they connect; 1 user had it already (same idempotency key)\n",
		},
		"from files": {
			[]string{"--users-file", users, "--file", message}, answer{202,
				`{"results":[{"id":"1","user":"a","sessions":1},{"id":"2","user":"b,c","sessions":1}],"sessions":2}`},
			map[string]any{"users": []any{"a", "b,c"}, "body_base64": "/wA=", "kept": true},
			"kept to 2 users: 2 connected with 2 sessions; the others get it when they connect\n",
		},
		"that costs waiting messages": {
			[]string{"--user", "123", "x"}, answer{202, `{"id":"9","user":"123","sessions":0,"duplicate":false,"dropped":2}`},
			map[string]any{"user": "123", "body_text": "x", "kept": true},
			"message 9 is kept: user 123 is not connected and gets it when they are\n" +
				"user 123 lost 2 waiting messages, dropped to make room (kept.mailbox_length)\n",
		},
		"to a room": {
			[]string{"--room", "lobby", "x"}, answer{202, `{"sessions":null}`},
			map[string]any{"room": "lobby", "body_text": "x", "kept": false},
			"on its way to whoever is in room lobby\n",
		},
		"to all": {
			[]string{"--all", "--not-kept", "x"}, answer{202, `{"sessions":null}`},
			map[string]any{"all": true, "body_text": "x", "kept": false},
			"on its way to everyone who is connected\n",
		},
		"to sessions": {
			[]string{"--key", "a", "--key", "b", "x"}, answer{202, `{"sessions":2}`},
			map[string]any{"keys": []any{"a", "b"}, "body_text": "x", "kept": false},
			"on its way to 2 sessions\n",
		},
		"file - is standard input": {
			[]string{"--user", "123", "--file", "-"}, oneSession,
			map[string]any{"user": "123", "body_text": "from stdin\n", "kept": true},
			"message 281474976710657 is on its way to 1 session of user 123\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, map[string]answer{pushPath: test.answer})
			imgo(t, s, "from stdin\n", append([]string{"push"}, test.args...)...).want(t, 0, test.stdout)
			if len(s.requests) != 1 {
				t.Fatalf("%d requests", len(s.requests))
			}
			if diff := cmp.Diff(test.body, s.requests[0].Body); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPushLines(t *testing.T) {
	s := newServer(t, map[string]answer{pushPath: oneSession})
	r := imgo(t, s, "one\n\ntwo\r\n{\"three\":3}", "push", "--user", "123", "--stdin", "--idempotency-key", "k")
	if r.code != 0 || !strings.HasPrefix(r.stdout, "3 messages accepted in ") {
		t.Errorf("exit code %d, %v, %q", r.code, r.err, r.stdout)
	}
	var bodies, keys []any
	for _, asked := range s.requests {
		bodies, keys = append(bodies, asked.Body["body_text"]), append(keys, asked.Key)
	}
	if diff := cmp.Diff([]any{"one", "two", `{"three":3}`}, bodies); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]any{"k-1", "k-3", "k-4"}, keys); diff != "" {
		t.Error(diff)
	}

	r = imgo(t, s, "one\n", "push", "--user", "123", "--stdin", "--json")
	r.want(t, 0, oneSession.body)
	if !strings.HasPrefix(r.stderr, "1 message accepted in ") {
		t.Errorf("stderr %q", r.stderr)
	}

	s.answers[pushPath] = answer{507, `{"error":{"code":"disk_full","message":"the disk is nearly full"}}`}
	imgo(t, s, "one\ntwo\n", "push", "--user", "123", "--stdin").
		wantError(t, 1, "line 1:", "the disk is nearly full", "make room", "0 messages accepted before it")
	s.answers[pushPath] = answer{507, `{"error":{"code":"mailbox_full","message":"too many messages wait"}}`}
	full := imgo(t, s, "one\n", "push", "--user", "123", "--stdin")
	full.wantError(t, 1, "too many messages wait (mailbox_full)")
	if imgo(t, newServer(t, nil), "", "push", "--user", "1", "--stdin").code != 0 {
		t.Error("no lines are no error")
	}
}

// TestPushNamesWhoLost checks that a push to several users names each user for whom it is refused, or for whom waiting
// messages were dropped. It fails if it is refused for one.
func TestPushNamesWhoLost(t *testing.T) {
	const dropped = `{"id":"3","user":"c","sessions":0,"duplicate":false,"dropped":1}`
	lost := answer{202, `{"results":[{"id":"1","user":"a","sessions":2,"duplicate":false},` +
		`{"id":"0","user":"b","sessions":1,"duplicate":false,"refused":"mailbox_full"},` + dropped + `],"sessions":2}` + "\n"}
	s := newServer(t, map[string]answer{pushPath: lost})
	const refused = "the push was refused for 1 of 3 users"
	const names = "refused for user b (mailbox_full)\nuser c lost 1 waiting message, dropped to make room (kept.mailbox_length)\n"

	r := imgo(t, s, "", "push", "--users", "a,b,c", "x")
	r.want(t, 1, "kept to 2 users: 1 connected with 2 sessions; the others get it when they connect\n"+names)
	r.wantError(t, 1, refused)

	r = imgo(t, s, "", "push", "--users", "a,b,c", "--json", "x")
	r.want(t, 1, lost.body)
	r.wantError(t, 1, refused)

	r = imgo(t, s, "one\ntwo\n", "push", "--users", "a,b,c", "--stdin")
	r.want(t, 1, "")
	r.wantError(t, 1, "line 1: "+refused, "0 messages accepted before it")
	if want := "line 1: " + strings.TrimSuffix(strings.ReplaceAll(names, "\n", "\nline 1: "), "line 1: "); r.stderr != want {
		t.Errorf("stderr %q, want %q", r.stderr, want)
	}
	if len(s.requests) != 3 {
		t.Errorf("%d requests, want 3: a later line has overtaken a refused one", len(s.requests))
	}

	s.answers[pushPath] = answer{202, `{"results":[` + dropped + `],"sessions":0}`}
	if r = imgo(t, s, "one\n", "push", "--users", "c,c", "--stdin"); r.code != 0 || !strings.HasPrefix(r.stderr, "line 1: user c lost") {
		t.Errorf("exit code %d, %v, stderr %q", r.code, r.err, r.stderr)
	}
}

// TestPushEndsAtATerminal checks that an interrupt ends a command that waits for its standard input.
func TestPushEndsAtATerminal(t *testing.T) {
	s := newServer(t, map[string]answer{pushPath: oneSession})
	for name, args := range map[string][]string{
		"--stdin": {"--user", "1", "--stdin"}, "--file -": {"--user", "1", "--file", "-"}, "--users-file -": {"--users-file", "-", "x"},
	} {
		t.Run(name, func(t *testing.T) {
			stdin, terminal := io.Pipe()
			defer terminal.Close() // ends the read
			ctx, interrupt := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() {
				ended <- commands.Run(ctx, commands.Options{Stdin: stdin, Stdout: io.Discard, Stderr: io.Discard},
					append([]string{"imgo", "--server", s.URL, "push"}, args...))
			}()
			if _, err := io.WriteString(terminal, "half a line"); err != nil { // returns when it was read
				t.Fatal(err)
			}
			interrupt()
			select {
			case err := <-ended:
				if commands.ExitCode(err) != commands.ExitFailed || !strings.Contains(err.Error(), "interrupted") {
					t.Errorf("the command ended with %v", err)
				}
			case <-time.After(10 * time.Second):
				t.Error("the command goes on")
			}
		})
	}
	if len(s.requests) > 0 {
		t.Errorf("half a line was pushed: %v", s.requests)
	}
}

func TestUsage(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		want []string
	}{
		"command":                {[]string{"pusg"}, []string{`no command "pusg"`, "did you mean imgo push?", "imgo --help"}},
		"command like nothing":   {[]string{"frobnicate"}, []string{`no command "frobnicate"`}},
		"flag":                   {[]string{"push", "--usr", "1", "x"}, []string{"--usr", "did you mean --user?", "imgo push --help"}},
		"server flag":            {[]string{"--tpc", ":1"}, []string{"--tpc", "did you mean --tcp?"}},
		"group":                  {[]string{"token"}, []string{"imgo token needs a command: new, list, revoke"}},
		"subcommand":             {[]string{"users", "shw", "1"}, []string{"did you mean imgo users show?"}},
		"no user":                {[]string{"push", "x"}, []string{"to whom?", "--user"}},
		"no message":             {[]string{"push", "--user", "1"}, []string{"what is the message?"}},
		"message without quotes": {[]string{"push", "--user", "1", "hello", "world"}, []string{"quotes"}},
		"two messages":           {[]string{"push", "--user", "1", "--stdin", "x"}, []string{"not several"}},
		"two targets":            {[]string{"push", "--user", "1", "--all", "x"}, []string{"not to several"}},
		"ttl of a room":          {[]string{"push", "--room", "1", "--ttl", "1h", "x"}, []string{"--ttl"}},
		"ttl":                    {[]string{"push", "--user", "1", "--ttl", "soon", "x"}, []string{"ttl", "soon"}},
		"ttl 0":                  {[]string{"push", "--user", "1", "--ttl", "0s", "x"}, []string{"more than 0"}},
		"op":                     {[]string{"push", "--user", "1", "--op", "6", "x"}, []string{"--op 6", "1000"}},
		"token for whom":         {[]string{"token", "new"}, []string{"--user 123"}},
		"token new 7":            {[]string{"token", "new", "7"}, []string{"--user 7"}},
		"token ttl":              {[]string{"token", "new", "--user", "7", "--ttl", "-1h"}, []string{"must not be negative"}},
		"revoke what":            {[]string{"token", "revoke"}, []string{"--user"}},
		"revoke both":            {[]string{"token", "revoke", "T", "--user", "7"}, []string{"not both"}},
		"show whom":              {[]string{"users", "show"}, []string{"imgo users show 123"}},
		"two rooms":              {[]string{"rooms", "a", "b"}, []string{`unexpected argument "b"`, "one room"}},
		"server":                 {[]string{"nodes", "--server", "ftp://x"}, []string{"--server", "http://127.0.0.1:7172"}},
		"listen as whom":         {[]string{"listen"}, []string{"--user 123"}},
		"listen as both":         {[]string{"listen", "--user", "1", "--token", "t"}, []string{"not both"}},
		"listen count":           {[]string{"listen", "--user", "1", "--count", "0"}, []string{"--count"}},
		"listen address":         {[]string{"listen", "--token", "1", "--connect", "nowhere"}, []string{"nowhere", "host:port"}},
		"listen op":              {[]string{"listen", "--token", "1", "--connect", "h:1", "--op", "7"}, []string{"1000"}},
		"too much":               {[]string{"version", "x"}, []string{`"x"`}},
		"too much for stats":     {[]string{"stats", "x"}, []string{`"x"`}},
		"serve what":             {[]string{"serve", "push"}, []string{`unexpected argument "push"`}},
		"listen 7":               {[]string{"listen", "7"}, []string{`unexpected argument "7"; name the user with --user 7`}},
		"two tokens":             {[]string{"token", "revoke", "a", "b"}, []string{`unexpected argument "b"`, "one token"}},
		"explain whose":          {[]string{"explain", "1"}, []string{"--user 123"}},
		"explain what":           {[]string{"explain", "--user", "1"}, []string{"one message"}},
		"help topic":             {[]string{"help", "pusg"}, []string{`no command "pusg"`, "did you mean imgo push?"}},
		"empty message":          {[]string{"push", "--user", "1", ""}, []string{"the message is empty"}},
		"ttl without a unit":     {[]string{"push", "--user", "1", "--ttl", "5", "x"}, []string{"ttl", "a number and its unit", `"5s"`}},
		"verify without a unit":  {[]string{"verify", "--late", "5"}, []string{"late", "a number and its unit"}},
		"completion for what":    {[]string{"completion"}, []string{"bash, zsh or fish"}},
		"completion for another": {[]string{"completion", "tcsh"}, []string{`"tcsh"`, "bash, zsh or fish"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := imgo(t, nil, "", test.args...)
			r.wantError(t, commands.ExitUsage, test.want...)
			if r.stdout != "" || r.served {
				t.Errorf("stdout %q, served %v", r.stdout, r.served)
			}
		})
	}
}

func TestServe(t *testing.T) {
	for _, args := range [][]string{{}, {"serve"}, {"--tcp", ":1"}, {"--tcp=:1", "serve", "--ws", ":2"}} {
		if r := imgo(t, nil, "", args...); !r.served || r.code != 0 {
			t.Errorf("%q: served %v, %v", args, r.served, r.err)
		}
	}
}

func TestVersion(t *testing.T) {
	command, flag := imgo(t, nil, "", "version"), imgo(t, nil, "", "--version")
	if !strings.HasPrefix(command.stdout, "imgo ") || flag.stdout != command.stdout || flag.served {
		t.Errorf("version prints %q, --version %q", command.stdout, flag.stdout)
	}
}

// TestCompletion checks the words that imgo offers to a shell, and that each shell gets a script.
func TestCompletion(t *testing.T) {
	const flag = "--generate-bash-completion"
	if r := imgo(t, nil, "", flag); !strings.Contains(r.stdout, "push\n") || !strings.Contains(r.stdout, "listen\n") || r.served {
		t.Errorf("commands: %q, served %v", r.stdout, r.served)
	}
	if r := imgo(t, nil, "", "users", flag); !strings.Contains(r.stdout, "show\n") {
		t.Errorf("commands of users: %q", r.stdout)
	}
	if r := imgo(t, nil, "", "push", "--us", flag); !strings.Contains(r.stdout, "--users-file\n") {
		t.Errorf("flags of push: %q", r.stdout)
	}
	if r := imgo(t, nil, "", "--t", flag); !strings.Contains(r.stdout, "--tcp\n") {
		t.Errorf("flags: %q", r.stdout)
	}
	for shell, want := range map[string]string{"bash": "complete -o", "zsh": "bashcompinit", "fish": "complete -c imgo -f"} {
		if r := imgo(t, nil, "", "completion", shell); r.code != 0 || !strings.Contains(r.stdout, want) {
			t.Errorf("%s: %v, %q", shell, r.err, r.stdout)
		}
	}
}

func TestErrorsHaveTheMend(t *testing.T) {
	closed := waittest.FreeAddress(t)
	imgo(t, nil, "", "stats", "--server", closed).
		wantError(t, 1, "cannot reach http://"+closed, "is imgo running? Start it with `imgo`", "--server", "IMGO_SERVER")

	for name, test := range map[string]struct {
		answer answer
		want   []string
	}{
		"no key": {answer{401, `{"error":{"code":"unauthorized","field":"Authorization","message":"Authorization header is missing"}}`},
			[]string{"--api-key", "IMGO_API_KEY", "(unauthorized)"}},
		"bad input": {answer{400, `{"error":{"code":"invalid","field":"ttl","message":"must be at most 168h"}}`},
			[]string{"ttl must be at most 168h (invalid)"}},
		"unavailable": {answer{503, `{"error":{"code":"unavailable","message":"the server is stopping"}}`}, []string{"try again"}},
		"not imgo":    {answer{404, "<html>"}, []string{"404 Not Found", "is --server right?"}},
		"not JSON":    {answer{200, "<html>"}, []string{"is --server right?"}},
		"other JSON":  {answer{500, `{"oops":1}`}, []string{"500", "is --server right?"}},
		"wrong shape": {answer{202, `[1]`}, []string{"read the answer"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, map[string]answer{pushPath: test.answer})
			imgo(t, s, "", "push", "--user", "1", "x").wantError(t, 1, test.want...)
		})
	}
}

func TestToken(t *testing.T) {
	s := newServer(t, map[string]answer{
		"POST /v1/tokens":        {201, `{"token":"tk_secret","user":"123","expires_ms":0}`},
		"POST /v1/tokens/revoke": {200, `{"revoked":2}`},
	})
	r := imgo(t, s, "", "token", "new", "--user", "123")
	r.want(t, 0, "tk_secret\n")
	if !strings.Contains(r.stderr, "user 123") || !strings.Contains(r.stderr, "does not expire") {
		t.Errorf("stderr %q", r.stderr)
	}
	imgo(t, s, "", "token", "new", "--user", "123", "--ttl", "24h", "--single", "--json").
		want(t, 0, `{"token":"tk_secret","user":"123","expires_ms":0}`+"\n")
	imgo(t, s, "", "token", "revoke", "tk_secret").want(t, 0, "revoked 2 tokens\n")
	imgo(t, s, "", "token", "revoke", "--user", "123", "--close=false", "--json").want(t, 0, `{"revoked":2}`+"\n")
	var bodies []map[string]any
	for _, asked := range s.requests {
		bodies = append(bodies, asked.Body)
	}
	if diff := cmp.Diff([]map[string]any{
		{"user": "123"},
		{"user": "123", "ttl": "24h0m0s", "single": true},
		{"token": "tk_secret", "close": true},
		{"user": "123", "close": false},
	}, bodies); diff != "" {
		t.Error(diff)
	}
}

func TestServerAndKey(t *testing.T) {
	good, other := newServer(t, map[string]answer{"GET /v1/stats": {200, `{}`}}), newServer(t, nil)
	t.Setenv("IMGO_API_KEY", "from-env")
	for _, args := range [][]string{
		{"stats", "--server", good.URL, "--api-key", "k"},
		{"--server", good.URL, "--api-key", "k", "stats"}, // flags have priority over variables, before and after the command
		{"--server", other.URL, "stats", "--server", good.URL + "/", "--api-key", "k"},
		{"stats", "--server", strings.TrimPrefix(good.URL, "http://"), "--api-key=k"},
	} {
		if r := imgo(t, other, "", args...); r.code != 0 {
			t.Errorf("%q: %v", args, r.err)
		}
		if auth := good.requests[len(good.requests)-1].Auth; auth != "Bearer k" {
			t.Errorf("%q: Authorization %q", args, auth)
		}
	}
	imgo(t, good, "", "stats")
	if auth := good.requests[len(good.requests)-1].Auth; auth != "Bearer from-env" {
		t.Errorf("Authorization %q", auth)
	}
	if len(other.requests) != 0 {
		t.Errorf("the other server was asked %v", other.requests)
	}
}
