package console_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// walkthrough goes through the page like a person who tries the server: connect, push, go offline,
// and come back to the kept messages. base is the address of the page. user must be new to the
// server.
func walkthrough(t *testing.T, s screen, base, user string) {
	t.Helper()
	b := open(t, s)
	b.name += "-" + user
	b.visit(base)
	if title := eval[string](b, "document.title"); title != "imgo" {
		t.Errorf("the title is %q, want imgo", title)
	}
	b.state("idle")
	if nameless := eval[[]string](b, `[...document.querySelectorAll('input, textarea, button')]
		.filter((e) => !e.labels?.length && !e.textContent.trim() && !e.ariaLabel).map((e) => e.id)`); len(nameless) > 0 {
		t.Errorf("controls without a name for a screen reader: %q", nameless)
	}
	b.shot("empty")

	b.click("#connect")
	b.says("#connect-error", "Enter a user.")
	if id := eval[string](b, "document.activeElement.id"); id != "user" {
		t.Errorf("after an error the focus is on %q, want the wrong field", id)
	}
	b.enter("#user", user)
	b.click("#connect")
	b.state("live")

	b.push(`{"text":"Hello, `+user+`"}`, "Kept as")
	first := b.arrives("{\n  \"text\": \"Hello, " + user + "\"\n}")
	if !first[0].Kept || first[0].ID == "" {
		t.Errorf("a kept push is shown as %+v", first[0])
	}
	b.click(".switch")
	b.push("just a text", "Sent")
	if m := b.arrives("just a text"); m[0].Kept || m[0].ID != "" {
		t.Errorf("a push that is not kept is shown as %+v", m[0])
	}
	b.click(".switch")
	markup := `<img src=x onerror="document.title='broken'"><b>bold</b>`
	b.push(markup, "Kept as")
	b.arrives(markup)

	b.click(".rooms summary")
	b.enter("#room", "lobby")
	b.click("#join")
	b.says("#list", "Joined the room lobby")
	b.click(`.segments label:has([value="room"])`)
	b.push(`"to the room"`, "Sent")
	b.arrives("to the room")
	b.click(`.segments label:has([value="all"])`)
	b.push(`"to everyone"`, "Sent")
	b.arrives("to everyone")
	b.click(".rooms summary")
	b.shot("live")

	b.click("#toggle")
	b.state("offline")
	b.click(`.segments label:has([value="user"])`)
	before := b.messages()
	for _, text := range []string{"one", "two", "three"} {
		b.push(`"`+text+`"`, "Kept as")
	}
	if after := b.messages(); len(after) != len(before) {
		t.Errorf("messages arrive while offline: %+v", after[len(before):])
	}
	b.shot("offline")

	b.click("#toggle")
	b.state("live")
	b.says("#list", "kept messages were waiting")
	b.arrives("one", "two", "three")
	b.shot("back")

	b.click("#toggle")
	b.state("offline")
	b.click("#toggle")
	b.state("live")
	b.push(`"the last"`, "Kept as")
	b.arrives("one", "two", "three", "the last")
	b.checkOnce()

	b.visit(base)
	if got := eval[string](b, "document.getElementById('user').value"); got != user {
		t.Errorf("after a reload the user is %q, want %q", got, user)
	}
	b.do("press Enter in the user's field", chromedp.Focus(chromedp.CSS("#user")), chromedp.KeyEvent(kb.Enter))
	b.state("live")
	b.push(`"after the reload"`, "Kept as")
	b.arrives("after the reload")
	b.checkOnce()
	if title := eval[string](b, "document.title"); title != "imgo" {
		t.Errorf("a message changed the page: its title is %q", title)
	}
	b.checkProblems()
}

// checkOnce checks that every kept message is shown once, in the order of the ids.
func (b *tab) checkOnce() {
	b.Helper()
	var last uint64
	for _, m := range b.messages() {
		if !m.Kept {
			continue
		}
		id, err := strconv.ParseUint(m.ID, 10, 64)
		if err != nil {
			b.Errorf("message %+v: %v", m, err)
		}
		if id <= last {
			b.Errorf("message %+v comes after id %d", m, last)
		}
		last = id
	}
}

func TestBrowserDesktop(t *testing.T) { walkthrough(t, desktop, newFakeServer(t).URL, "ana") }

func TestBrowserPhone(t *testing.T) { walkthrough(t, phone, newFakeServer(t).URL, "ben") }

// TestBrowserNarrow looks at the page on the narrowest screens, and with larger letters.
func TestBrowserNarrow(t *testing.T) {
	s := newFakeServer(t)
	for _, width := range []int64{320, 390} {
		narrow := phone
		narrow.name, narrow.width = "narrow-"+strconv.FormatInt(width, 10), width
		b := open(t, narrow)
		b.visit(s.URL)
		b.click(`.segments label:has([value="all"])`)
		b.shot("everyone")
		b.enter("#user", "a-user-with-a-name-that-is-longer-than-most-"+strconv.FormatInt(width, 10))
		b.click("#connect")
		b.state("live")
		b.shot("live")
		eval[bool](b, `(document.body.style.fontSize = '20px',
			document.querySelectorAll('.segments span, h2').forEach((e) => e.style.fontSize = '19px'), true)`)
		b.shot("larger")
		b.checkProblems()
	}
}

// importElsewhere loads the client from the server into a page of another origin.
func importElsewhere(t *testing.T, base string) {
	t.Helper()
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = fmt.Fprintf(w, `<!doctype html><link rel="icon" href="data:,"><form id="connect-form">elsewhere</form><script type="module">
			import { ImgoClient } from '%s/console/client/imgo.js';
			document.title = typeof ImgoClient;
		</script>`, base)
	}))
	defer other.Close()
	b := open(t, desktop)
	b.visit(other.URL)
	b.until("the other page has the client", func() bool { return eval[string](b, "document.title") == "function" })
	b.checkProblems()
}

func TestBrowserImportElsewhere(t *testing.T) { importElsewhere(t, newFakeServer(t).URL) }

// TestBrowserProblems checks what the page shows when something goes wrong.
func TestBrowserProblems(t *testing.T) {
	s := newFakeServer(t)
	s.apiKey = "secret"
	dark := phone
	dark.dark = true
	b := open(t, dark)
	b.expected = []string{"401", "ERR_CONNECTION_REFUSED", "WebSocket connection to", "net::ERR"}
	b.visit(s.URL + "/?user=ana&device=laptop")

	b.click("#connect")
	b.says("#connect-error", "asks for an API key")
	b.shot("key")
	b.enter("#key", "wrong")
	b.click("#connect")
	b.says("#connect-error", "does not know this API key")
	b.enter("#key", "secret")
	b.click("#connect")
	b.state("live")
	b.push(`{"n":9007199254740993}`, "Kept as")
	b.push(" ", "Write a message.")

	s.flood(300)
	b.arrives("298", "299", "300")
	if n := eval[int](b, "document.querySelectorAll('#list > li').length"); n != 200 {
		t.Errorf("the page shows %d entries, want 200", n)
	}
	b.says("#count", "301")
	b.shot("flood")
	b.click("#clear")
	b.says("#empty", "No messages yet")

	// A room that the server does not let the client into, or takes it out of, is not shown.
	b.click(".rooms summary")
	b.enter("#room", "private")
	b.click("#join")
	b.says("#connect-error", "a rule")
	b.says("#rooms-count", "0")
	b.enter("#room", "lobby")
	b.click("#join")
	b.says("#list", "Joined the room lobby")
	b.says("#rooms-count", "1")
	s.takeOut("lobby")
	b.says("#list", "taken you out of the room lobby: closed")
	b.says("#rooms-count", "0")
	b.click(".rooms summary")

	// After a lost connection the page reconnects by itself, and no message is shown twice.
	b.push(`"before"`, "Kept as")
	b.arrives("before")
	s.drop()
	b.says("#list", "Connection lost")
	b.state("live")
	b.push(`"after"`, "Kept as")
	b.arrives("before", "after")

	// When the server stops, the page says so and keeps trying.
	s.stop()
	b.state("waiting")
	b.says("#connect-error", "connection was lost")
	b.push(`"nobody hears this"`, "cannot be reached")
	b.says("#state", "Retrying in")
	b.shot("waiting")

	b.click("#toggle")
	b.state("offline")
	b.click("#leave")
	b.state("idle")
	b.checkProblems()
}

// TestBrowserRefused checks that the page explains a final refusal by its close code.
func TestBrowserRefused(t *testing.T) {
	s := newFakeServer(t)
	body, err := json.Marshal(map[string]any{"code": 3504, "reason": "too many sessions", "reconnect": false})
	if err != nil {
		t.Fatal(err)
	}
	s.close = frame{Ver: 2, Op: 6, Body: body}
	b := open(t, desktop)
	b.visit(s.URL)
	b.enter("#user", "ana")
	b.click("#connect")
	b.state("refused")
	b.says("#connect-error", "as many sessions as the server allows")
	b.shot("refused")
	b.checkProblems()
}

// TestBrowserNamesBelieved connects to servers that accept any token as the user name, with and
// without an API that issues tokens.
func TestBrowserNamesBelieved(t *testing.T) {
	b := open(t, desktop)
	b.expected = []string{"404"}
	for _, noTokens := range []bool{false, true} {
		s := newFakeServer(t)
		s.believes, s.noTokens = true, noTokens
		b.visit(s.URL)
		b.enter("#user", "ana")
		b.click("#connect")
		b.state("live")
		b.push(`"hello"`, "Kept as")
		b.arrives("hello")
	}
	b.checkProblems()
}
