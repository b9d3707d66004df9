package ancestors_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"imgo/roles"
	"imgo/test/harness"
	"imgo/transport/transporttest"
)

// The lines of a transcript. A conversation has its own connection; a call is a conversation by itself.
//
//	# tcp NAME         a conversation over TCP
//	# ws NAME          a conversation over WebSocket
//	# http             the calls of the HTTP API
//	token USER TOKEN   a token is made before
//	> HEX "BODY"       the client sends a packet; on WebSocket: > bin, or > text for a text frame
//	< HEX "BODY"       the server sends a packet; on WebSocket: < bin or < text
//	end                the server ends the connection
//	call PATH "BODY"   a caller posts; the answer is not compared
//	POST PATH "BODY"   a call that is compared with the next line
//	= STATUS "TYPE" "BODY"  the recorded answer
//	! REASON           imgo differs here: what it does follows in a line that begins with "!"
//
// In a line of a difference the recorded line comes first, then "! REASON", then "! " and imgo's line.
type line struct {
	text   string
	number int
}

func readTranscript(t *testing.T, file string) []line {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	var lines []line
	for i, text := range strings.Split(string(b), "\n") {
		if text = strings.TrimSpace(text); text != "" && !strings.HasPrefix(text, "//") {
			lines = append(lines, line{text, i + 1})
		}
	}
	return lines
}

// start starts a node as the old servers ran: goim believed the member id, imgo 2016 wanted a token.
func start(t *testing.T, goim bool) *harness.Node {
	t.Helper()
	cfg := harness.Settings(t)
	cfg.Auth.Mode = "token"
	if goim {
		cfg.Auth.Mode = "none"
	}
	return harness.Start(t, cfg, roles.RunOptions{}, nil)
}

func TestTranscripts(t *testing.T) {
	for _, file := range []string{"goim.txt", "imgo2016.txt", "goim-http.txt", "imgo2016-http.txt"} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			n := start(t, strings.HasPrefix(file, "goim"))
			var at *conversation
			lines := readTranscript(t, file)
			for i := 0; i < len(lines); i++ {
				of := lines[i]
				if name, ok := strings.CutPrefix(of.text, "# "); ok {
					at = begin(t, n, file, name)
					continue
				}
				want := of
				// A difference: the recorded line, the reason, and imgo's line.
				if i+2 < len(lines) && strings.HasPrefix(lines[i+1].text, "! ") && strings.HasPrefix(lines[i+2].text, "! ") {
					want = line{strings.TrimPrefix(lines[i+2].text, "! "), lines[i+2].number}
					i += 2
				}
				at.do(want)
			}
		})
	}
}

// conversation is the replay of one.
type conversation struct {
	t      *testing.T
	node   *harness.Node
	file   string
	name   string
	client transporttest.Client
	ws     *transporttest.WebSocket
	answer string // of the last call
}

func begin(t *testing.T, n *harness.Node, file, name string) *conversation {
	t.Helper()
	c := &conversation{t: t, node: n, file: file, name: name}
	kind, _, _ := strings.Cut(name, " ")
	if kind == "http" {
		return c
	}
	conn, err := net.DialTimeout("tcp", n.ClientAddr(kind).String(), transporttest.WaitLimit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if kind == "tcp" {
		c.client = &transporttest.Stream{Conn: conn}
		return c
	}
	ws, response, err := transporttest.Upgrade(conn, "/sub")
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%s: the upgrade was answered %s", name, response.Status)
	}
	c.client, c.ws = ws, ws
	return c
}

func (c *conversation) fail(of line, format string, args ...any) {
	c.t.Helper()
	c.t.Errorf("%s:%d: %s: %s", c.file, of.number, c.name, fmt.Sprintf(format, args...))
}

// do replays one line.
func (c *conversation) do(of line) {
	c.t.Helper()
	verb, rest, _ := strings.Cut(of.text, " ")
	switch verb {
	case ">":
		if err := c.client.Send(c.frame(of, rest)); err != nil {
			c.fail(of, "send: %v", err)
		}
	case "<":
		c.expect(of, rest)
	case "end":
		b, err := c.client.Next()
		var closed *transporttest.Closed
		if err == nil || !errors.Is(err, io.EOF) && !errors.As(err, &closed) {
			c.fail(of, "got %q, %v, want the end", b, err)
		}
	case "token":
		user, token, _ := strings.Cut(rest, " ")
		token, err := strconv.Unquote(token)
		if err != nil {
			c.fail(of, "%v", err)
			return
		}
		if got := c.call("POST", "/v1/tokens", fmt.Sprintf(`{"user":%q,"token":%q}`, user, token)); !strings.HasPrefix(got, "= 201 ") {
			c.fail(of, "the token was answered %s", got)
		}
	case "call":
		path, body := c.pathBody(of, rest)
		if got := c.call("POST", path, body); !strings.HasPrefix(got, "= 200 ") {
			c.fail(of, "the call was answered %s", got)
		}
	case "=":
		if c.answer != of.text {
			c.fail(of, "got  %s\nwant %s", c.answer, of.text)
		}
	default:
		path, body := c.pathBody(of, rest)
		c.answer = c.call(verb, path, body)
	}
}

// pathBody splits a path from a quoted body, which may be missing.
func (c *conversation) pathBody(of line, rest string) (path, body string) {
	path, quoted, _ := strings.Cut(rest, " ")
	if quoted == "" {
		return path, ""
	}
	body, err := strconv.Unquote(quoted)
	if err != nil {
		c.fail(of, "the body %s: %v", quoted, err)
	}
	return path, body
}

// call calls the HTTP API and returns the answer as a transcript has it.
func (c *conversation) call(method, path, body string) string {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.node.Base+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	if strings.Contains(body, "=") { // as the callers of the old servers sent their forms
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	transport := &http.Transport{DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	a, err := transport.RoundTrip(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return fmt.Sprintf("= %d %q %q", a.StatusCode, a.Header.Get("Content-Type"), b)
}

// payload returns the bytes of HEX "BODY", and the type of the frame on WebSocket.
func (c *conversation) payload(of line, rest string) (kind string, b []byte) {
	if c.ws != nil {
		kind, rest, _ = strings.Cut(rest, " ")
	}
	digits, quoted, found := strings.Cut(rest, `"`)
	b, err := hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
	if err == nil && found {
		var body string
		body, err = strconv.Unquote(`"` + quoted)
		b = append(b, body...)
	}
	if err != nil {
		c.fail(of, "%s: %v", rest, err)
	}
	return kind, b
}

func (c *conversation) frame(of line, rest string) []byte {
	kind, b := c.payload(of, rest)
	if c.ws == nil {
		return b
	}
	first := byte(0x82)
	if kind == "text" {
		first = 0x81
	}
	return transporttest.RawFrame(first, true, b)
}

func (c *conversation) expect(of line, rest string) {
	c.t.Helper()
	kind, want := c.payload(of, rest)
	if c.ws != nil {
		c.ws.Text = kind == "text"
	}
	got, err := c.client.Next()
	if err != nil || !bytes.Equal(got, want) {
		c.fail(of, "got  %q, %v\nwant %q", got, err, want)
	}
}
