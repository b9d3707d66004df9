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
	"reflect"
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
//	# ws NAME          a conversation over WebSocket; a first word that begins with / is the path, with its query
//	# http             the calls of the HTTP API
//	recorded NAME      a recorded conversation, of the same file in testdata/recorded, that this one replays
//	token USER TOKEN   a token is made before
//	> HEX "BODY"       the client sends a packet; on WebSocket: > bin, or > text, > ping or > close for another frame
//	< HEX "BODY"       the server sends a packet; on WebSocket: < bin, < text, < pong or < close
//	nothing            the server sends nothing; the next line of the server shows it
//	end                the server ends the connection
//	other              the lines below are those of the conversation's other connection
//	call PATH "BODY"   a caller posts; the answer is not compared
//	POST PATH "BODY"   a call that is compared with the next line
//	= STATUS "TYPE" "BODY"  the recorded answer
//	! CASE             imgo differs here; CASE is one of the exceptions of the page on migration
//
// In a difference the recorded line comes first, then "! CASE", and then "! " and imgo's line, or several.
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

// transcripts are the files of testdata.
var transcripts = []string{"goim.txt", "imgo2016.txt", "goim-http.txt", "imgo2016-http.txt"}

func TestTranscripts(t *testing.T) {
	for _, file := range transcripts {
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
				if i+1 == len(lines) || !strings.HasPrefix(lines[i+1].text, "! ") {
					at.do(of)
					continue
				}
				// A difference: the recorded line, the case, and imgo's lines.
				for i++; i+1 < len(lines) && strings.HasPrefix(lines[i+1].text, "! "); i++ {
					at.do(line{strings.TrimPrefix(lines[i+1].text, "! "), lines[i+1].number})
				}
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
	link   // the connection that the lines are about
	other  link
	answer string // of the last call
}

// link is a connection of a conversation. ws is nil on TCP.
type link struct {
	client transporttest.Client
	ws     *transporttest.WebSocket
}

func begin(t *testing.T, n *harness.Node, file, name string) *conversation {
	t.Helper()
	c := &conversation{t: t, node: n, file: file, name: name}
	if name != "http" {
		c.link = c.dial()
	}
	return c
}

// dial opens a connection of the conversation.
func (c *conversation) dial() link {
	c.t.Helper()
	kind, rest, _ := strings.Cut(c.name, " ")
	conn, err := net.DialTimeout("tcp", c.node.ClientAddr(kind).String(), transporttest.WaitLimit)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	if kind == "tcp" {
		return link{client: &transporttest.Stream{Conn: conn}}
	}
	path, _, _ := strings.Cut(rest, " ")
	if !strings.HasPrefix(path, "/") {
		path = "/sub"
	}
	ws, response, err := transporttest.Upgrade(conn, path)
	if err != nil {
		c.t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusSwitchingProtocols {
		c.t.Fatalf("%s: the upgrade was answered %s", c.name, response.Status)
	}
	return link{ws, ws}
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
	case "recorded", "nothing":
	case "other":
		if c.other.client == nil {
			c.other = c.dial()
		}
		c.link, c.other = c.other, c.link
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
	switch { // as the callers of the old servers sent their forms
	case strings.HasPrefix(body, "--form"):
		r.Header.Set("Content-Type", "multipart/form-data; boundary=form")
	case strings.Contains(body, "="):
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
	return transporttest.RawFrame(frames[kind], true, b)
}

// frames are the first bytes of whole frames on WebSocket.
var frames = map[string]byte{"text": 0x81, "bin": 0x82, "close": 0x88, "ping": 0x89, "pong": 0x8a}

func (c *conversation) expect(of line, rest string) {
	c.t.Helper()
	kind, want := c.payload(of, rest)
	var got []byte
	var err error
	if c.ws == nil {
		got, err = c.client.Next()
	} else {
		var first byte
		if first, got, err = c.ws.ReadFrame(); err == nil && first != frames[kind] {
			err = fmt.Errorf("a frame that begins with %#x", first)
		}
	}
	if err != nil || !bytes.Equal(got, want) {
		c.fail(of, "got  %q, %v\nwant %q", got, err, want)
	}
}

// TestUpgrades checks the head of the answer to the upgrade of a WebSocket, which is goim's.
func TestUpgrades(t *testing.T) {
	n := start(t, true)
	for _, asked := range [][]string{nil, {"Sec-WebSocket-Extensions: permessage-deflate", "Sec-WebSocket-Protocol: chat"}} {
		conn, err := net.DialTimeout("tcp", n.ClientAddr("ws").String(), transporttest.WaitLimit)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, response, err := transporttest.Upgrade(conn, "/sub", asked...)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		got := response.Header
		got.Del("Sec-WebSocket-Accept") // it follows from the key
		want := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}
		if response.StatusCode != http.StatusSwitchingProtocols || !reflect.DeepEqual(got, want) {
			t.Errorf("asked with %q, it answered %s, %q", asked, response.Status, got)
		}
	}
}
