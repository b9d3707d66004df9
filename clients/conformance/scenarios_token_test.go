package conformance

import (
	"encoding/json"

	"imgo/clients/conformance/driver"
	"imgo/protocol"
	"imgo/transport"
)

func tokenScenarios() []scenario {
	return []scenario{
		{
			name: "token_for_each_connection", play: playTokenForEach,
			about: "the token source is called before each connection",
		},
		{
			name: "token_source_fails", play: playTokenSourceFails,
			about: "a token source that fails counts as a failed attempt, and the event token tells",
		},
		{
			name: "token_source_never", play: playTokenSourceNever,
			about: "a token source that gives nothing within connect_timeout counts as a failed attempt",
		},
		{
			name: "token_refresh", play: playTokenRefresh,
			about: "before its token ends the session goes on with a new one, again and again",
		},
		{
			name: "token_refresh_refused", play: playTokenRefreshRefused,
			about: "a new token that the server refuses leaves the session as it is, and the client tries another one",
		},
		{
			name: "token_refresh_source_fails", play: playTokenRefreshSourceFails,
			about: "a token source that fails during a session is called again, and the session goes on",
		},
		{
			name: "token_without_source", play: playTokenWithoutSource,
			about: "a client without a token source lets its token end",
		},
		{
			name: "token_for_a_year", play: playTokenForAYear,
			about: "a token that ends after longer than a timer of 32 bits lasts is not replaced at once",
		},
		{
			name: "token_refresh_while_closing", play: playTokenRefreshWhileClosing,
			about: "close does not wait for a token source",
		},
	}
}

func playTokenForEach(w *world) {
	s := w.server()
	c := w.client(s, options{"token_source": true})
	c.connect()
	for _, token := range []string{"one", "two", "three"} {
		c.token(token)
		conn := s.session()
		c.state("live")
		if conn.auth.Token != token {
			w.Errorf("the client authenticates with the token %q, want %q", conn.auth.Token, token)
		}
		conn.Close()
	}
}

func playTokenSourceFails(w *world) {
	s := w.server()
	c := w.client(s, options{"token_source": true})
	tag := c.connect()
	for range 2 {
		c.wanted()
		c.do("token", fields{"error": "no token today"})
		c.problem("token")
		c.state("waiting")
	}
	c.token("good")
	s.session()
	c.ok(tag)
}

func playTokenSourceNever(w *world) {
	s := w.server()
	const hour = 3_600_000
	c := w.client(s, options{"token_source": true, "connect_timeout_ms": 300, "min_backoff_ms": hour, "max_backoff_ms": hour})
	tag := c.connect()
	c.wanted()
	c.problem("token")
	c.state("waiting")
	c.do("token", fields{"token": "late"}) // the answer to a call that was given up
	for !c.ended(tag) {
		c.connect() // on a slow machine an attempt may take longer than 300 ms
		c.token("good")
		raw, err := s.AcceptRaw(quiet)
		if err != nil || s.Handshake(raw) != nil {
			continue
		}
		conn := s.connection(raw)
		p, err := conn.Read()
		if err != nil {
			continue
		}
		if conn.took(p); conn.auth.Token != "good" {
			w.Fatalf("the client authenticates with the token %q of the call that was given up", conn.auth.Token)
		}
		conn.admit(authReply{})
		c.ok(tag)
	}
}

// newToken waits for a new token on a live session and returns it with its sequence.
func (c *connection) newToken() (token string, seq int32) {
	c.s.w.Helper()
	p := c.packet(protocol.OpAuth)
	var body authBody
	if err := json.Unmarshal(p.Body, &body); err != nil || p.Seq == 0 {
		c.s.w.Fatalf("op 7 with sequence %d and body %q: %v", p.Seq, p.Body, err)
	}
	return body.Token, p.Seq
}

func playTokenRefresh(w *world) {
	s := w.server()
	c := w.client(s, options{"token_source": true})
	c.connect()
	c.token("first")
	conn := s.sessionWith(authReply{ExpiresIn: 1, Heartbeat: 0.2})
	c.state("live")
	for _, token := range []string{"second", "third"} {
		c.token(token)
		got, seq := conn.newToken()
		if got != token {
			w.Errorf("the new token is %q, want %q", got, token)
		}
		conn.write(conn.reply(seq, authReply{ExpiresIn: 1}))
	}
	c.wanted() // the fourth
	conn.write(kept(1)...)
	c.message(1, numbered(1))
	conn.waitAcked(1)
	if n := c.count(func(e driver.Event) bool { return e.Event == "state" && e.State == "live" }); n != 1 {
		w.Errorf("the state became live %d times, want once: a new token is no new session", n)
	}
	if n := c.count(func(e driver.Event) bool { return e.Event == "error" }); n > 0 {
		w.Errorf("there are %d error events", n)
	}
}

func playTokenRefreshRefused(w *world) {
	s := w.server()
	c := w.client(s, options{"token_source": true})
	c.connect()
	c.token("first")
	conn := s.sessionWith(authReply{ExpiresIn: 2, Heartbeat: 0.2})
	c.state("live")
	c.token("of somebody else")
	_, seq := conn.newToken()
	conn.write(refusal(transport.Packet{Seq: seq}, `{"op":7,"code":"forbidden","reason":"of somebody else"}`))
	c.token("mine")
	token, seq := conn.newToken()
	if token != "mine" {
		w.Errorf("the new token is %q, want mine", token)
	}
	conn.write(conn.reply(seq, authReply{}))
	conn.beats(2)
	if n := c.count(func(e driver.Event) bool { return e.Event == "state" && e.State == "waiting" }); n > 0 {
		w.Error("the session ended")
	}
}

func playTokenRefreshSourceFails(w *world) {
	s := w.server()
	c := w.client(s, options{"token_source": true})
	c.connect()
	c.token("first")
	conn := s.sessionWith(authReply{ExpiresIn: 2, Heartbeat: 0.2})
	c.state("live")
	c.wanted()
	c.do("token", fields{"error": "no token today"})
	c.problem("token")
	c.token("second")
	token, seq := conn.newToken()
	if token != "second" {
		w.Errorf("the new token is %q, want second", token)
	}
	conn.write(conn.reply(seq, authReply{}))
	conn.write(kept(1)...)
	c.message(1, numbered(1))
	conn.waitAcked(1)
}

func playTokenWithoutSource(w *world) {
	s := w.server()
	c := w.client(s, nil)
	c.connect()
	conn := s.sessionWith(authReply{ExpiresIn: 1, Heartbeat: 0.3})
	c.state("live")
	conn.beats(6)
	conn.mu.Lock()
	defer conn.mu.Unlock()
	for _, p := range conn.packets[1:] {
		if p.Op == protocol.OpAuth {
			w.Errorf("the client sent the token again: %q", p.Body)
		}
	}
}

func playTokenForAYear(w *world) {
	s := w.server()
	c := w.client(s, options{"token_source": true})
	c.connect()
	c.token("first")
	conn := s.sessionWith(authReply{ExpiresIn: 365 * 24 * 3600, Heartbeat: 0.3})
	c.state("live")
	conn.beats(6)
	if n := c.count(func(e driver.Event) bool { return e.Event == "token_wanted" }); n != 1 {
		w.Errorf("the client wanted %d tokens, want 1", n)
	}
}

func playTokenRefreshWhileClosing(w *world) {
	s := w.server()
	c := w.client(s, options{"token_source": true, "connect_timeout_ms": 3_600_000})
	c.connect()
	c.token("first")
	conn := s.sessionWith(authReply{ExpiresIn: 1})
	c.state("live")
	c.wanted()
	c.close()
	conn.end()
}
