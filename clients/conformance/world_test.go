package conformance

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imgo/clients/conformance/driver"
	"imgo/clients/conformance/peer"
	"imgo/transport/transporttest"
)

// world is what a scenario plays with: a driver, the servers and the clients that it makes.
type world struct {
	*testing.T
	fault     fault
	lang      driver.Language
	command   driver.Command
	transport string
	driver    *driver.Process
	own       bool // nobody else uses the driver
	clients   int
	ca        string // the path of the certificate of the servers with TLS
	tls       *tls.Config
}

// startDriver starts a driver, which ends with the test.
func startDriver(t *testing.T, command driver.Command) *driver.Process {
	t.Helper()
	p, err := driver.Start(t.Context(), command)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

// restart starts a driver for the next clients.
func (w *world) restart() {
	w.Helper()
	w.driver, w.own, w.clients = startDriver(w.T, w.command), true, 0
}

// listen starts a server with a transport. address is empty for any port.
func (w *world) listen(transport, address string) *server {
	w.Helper()
	var config *tls.Config
	if transport == peer.TLS || transport == peer.WSS {
		config = w.certificate()
	}
	s, err := peer.Listen(transport, address, config)
	if err != nil {
		w.Fatal(err)
	}
	server := &server{Server: s, w: w}
	w.Cleanup(func() {
		s.Close()
		server.reading.Wait()
	})
	return server
}

// server starts a server with the transport of the scenario.
func (w *world) server() *server {
	w.Helper()
	return w.listen(w.transport, "")
}

// certificate makes the certificate of the servers of the scenario.
func (w *world) certificate() *tls.Config {
	w.Helper()
	if w.tls == nil {
		w.ca, w.tls = newCertificate(w.T)
	}
	return w.tls
}

// newCertificate makes a certificate for 127.0.0.1. It returns the path of its PEM file.
func newCertificate(t *testing.T) (ca string, config *tls.Config) {
	t.Helper()
	cert, key := transporttest.WriteCert(t, t.TempDir(), "localhost")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x509.ParseCertificate(pair.Certificate[0]); err != nil {
		t.Fatal(err)
	}
	return cert, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
}

// options are the options of a client, by the names of the specification.
type options map[string]any

// client makes a client of a server. Its backoff and its ack delay are short unless o says otherwise.
func (w *world) client(s *server, o options) *client {
	w.Helper()
	all := options{"address": s.URL(), "token": "token", "min_backoff_ms": 10, "max_backoff_ms": 50, "ack_delay_ms": 5}
	if w.ca != "" {
		all["ca"] = w.ca
	}
	maps.Copy(all, o)
	if all["token_source"] == true && o["token"] == nil {
		delete(all, "token")
	}
	if w.fault.options != nil {
		w.fault.options(all)
	}
	c := w.unmade()
	c.ok(c.start("new", fields{"options": all}))
	return c
}

// unmade returns a client for which the driver has not been told to make one.
func (w *world) unmade() *client {
	c := &client{w: w, driver: w.driver, at: map[string]int{}}
	if w.clients++; !w.own || w.clients > 1 {
		c.name = fmt.Sprintf("%s-%d", w.Name(), w.clients)
	} // else it is the driver's default client
	c.driver.Listen(c.name, c.receive)
	w.Cleanup(func() {
		c.driver.Listen(c.name, nil)
		if w.Failed() {
			w.Logf("client %q did:\n%s", c.name, c.history())
			if w.own { // else it is the log of many scenarios
				w.Logf("the driver wrote:\n%s", c.driver.Log())
			}
		}
		// The client may be closed already, and the driver may have ended.
		_ = c.driver.Do(c.command("release", nil))
		_ = c.driver.Do(c.command("close", fields{"tag": lastTag.Add(1)}))
	})
	return c
}

// fields are the members of a command beside "do", "client" and "tag".
type fields map[string]any

// client is one client in a driver.
type client struct {
	w      *world
	driver *driver.Process
	name   string

	changes // with each event
	events  []driver.Event

	at map[string]int // for each kind of event, the index of the next one to look at
}

// receive records an event.
func (c *client) receive(e driver.Event) {
	events := []driver.Event{e}
	if c.w.fault.event != nil {
		events = c.w.fault.event(e)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, events...)
	c.changedLocked()
}

// history returns the last events for a person.
func (c *client) history() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	for _, e := range c.events[max(0, len(c.events)-40):] {
		if len(e.Body) > 40 {
			e.Body = append(slices.Clone(e.Body[:40]), "…"...)
		}
		line, err := json.Marshal(e)
		if err != nil {
			return err.Error()
		}
		var m map[string]any
		if json.Unmarshal(line, &m) == nil {
			maps.DeleteFunc(m, func(k string, v any) bool {
				return v == nil || v == "" || v == 0.0 || v == false || k == "client" || k == "result" || (k == "id" || k == "up_to") && v == "0"
			})
		}
		line, _ = json.Marshal(m) // it was JSON before
		fmt.Fprintf(&b, "  %s %s\n", line, e.Body)
	}
	return b.String()
}

// do gives a command that has no answer.
func (c *client) do(do string, f fields) {
	c.w.Helper()
	if err := c.driver.Do(c.command(do, f)); err != nil {
		c.w.Fatalf("%v; %v", err, c.driver.Err())
	}
}

// set gives a command that changes the driver, and waits until that is so.
func (c *client) set(do string, f fields) {
	c.w.Helper()
	c.ok(c.start(do, f))
}

// command returns a command for the client.
func (c *client) command(do string, f fields) map[string]any {
	command := map[string]any{"do": do}
	if do == c.w.fault.unheard {
		command["do"] = "release" // nothing is held
	}
	if c.name != "" {
		command["client"] = c.name
	}
	maps.Copy(command, f)
	return command
}

// start gives a command and returns its tag.
func (c *client) start(do string, f fields) (tag int) {
	c.w.Helper()
	tag = int(lastTag.Add(1))
	all := fields{"tag": tag}
	maps.Copy(all, f)
	c.do(do, all)
	return tag
}

// next waits for the next event of a kind that matches, and passes the ones before it by. what describes it.
func (c *client) next(kind, what string, match func(driver.Event) bool) driver.Event {
	c.w.Helper()
	var found driver.Event
	c.until(what, func() bool {
		for i := c.at[kind]; i < len(c.events); i++ {
			if e := c.events[i]; e.Event == kind && (match == nil || match(e)) {
				c.at[kind], found = i+1, e
				return true
			}
		}
		return false
	})
	return found
}

// until waits until cond holds. It is called with the lock held. what describes it.
func (c *client) until(what string, cond func() bool) {
	c.w.Helper()
	if c.await(c.driver.Ended(), cond) {
		return
	}
	select {
	case <-c.driver.Ended():
		c.w.Fatalf("the driver ended instead of: %s; %v", what, c.driver.Err())
	default:
		c.w.Fatalf("not within %s: %s", peer.Limit, what)
	}
}

// count returns how many events match.
func (c *client) count(match func(driver.Event) bool) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.events {
		if match(e) {
			n++
		}
	}
	return n
}

// finish waits for the end of a command.
func (c *client) finish(tag int) driver.Event {
	c.w.Helper()
	var end driver.Event
	c.until(fmt.Sprintf("the end of the command with tag %d", tag), func() bool {
		i := slices.IndexFunc(c.events, func(e driver.Event) bool { return endOf(e, tag) })
		if i >= 0 {
			end = c.events[i]
		}
		return i >= 0
	})
	return end
}

// endOf reports whether an event is the end of a command.
func endOf(e driver.Event, tag int) bool {
	return e.Tag == tag && (e.Event == "done" || e.Event == "failed")
}

// ended reports whether a command has ended.
func (c *client) ended(tag int) bool {
	return c.count(func(e driver.Event) bool { return endOf(e, tag) }) > 0
}

// ok waits until a command has succeeded.
func (c *client) ok(tag int) driver.Result {
	c.w.Helper()
	e := c.finish(tag)
	if e.Event != "done" {
		c.w.Fatalf("the command with tag %d failed: %s, %s", tag, e.Code, e.Message)
	}
	return e.Result
}

// fails waits until a command has failed with one of the codes.
func (c *client) fails(tag int, codes ...driver.Code) driver.Event {
	c.w.Helper()
	e := c.finish(tag)
	if e.Event != "failed" || !slices.Contains(codes, e.Code) {
		c.w.Fatalf("the command with tag %d: %s with code %q (%s), want it to fail with one of %q", tag, e.Event, e.Code, e.Message, codes)
	}
	if e.Message == "" {
		c.w.Errorf("the error %s has no text", e.Code)
	}
	return e
}

// connect connects and does not wait. It returns the tag.
func (c *client) connect() int {
	c.w.Helper()
	return c.start("connect", nil)
}

// state waits for the next change to a state.
func (c *client) state(state string) driver.Event {
	c.w.Helper()
	return c.next("state", "the state "+state, func(e driver.Event) bool { return e.State == state })
}

// message waits for the next message and checks its id and body. An empty body is {} in a JSON frame.
func (c *client) message(id uint64, body []byte) driver.Event {
	c.w.Helper()
	e := c.next("message", fmt.Sprintf("the message %d", id), nil)
	if e.ID != id || e.Kept != (id != 0) || !bytes.Equal(e.Body, body) {
		c.w.Fatalf("the handler got message %d, kept %t, with %.100q, want message %d with %.100q", e.ID, e.Kept, e.Body, id, body)
	}
	return e
}

// handled waits until the handler has succeeded for a message.
func (c *client) handled(id uint64) {
	c.w.Helper()
	c.next("handled", fmt.Sprintf("the end of the handler for %d", id), func(e driver.Event) bool { return e.ID == id })
}

// given returns how often the handler got a message.
func (c *client) given(id uint64) int {
	return c.count(func(e driver.Event) bool { return e.Event == "message" && e.ID == id })
}

// problem waits for the next error event with a code.
func (c *client) problem(code driver.Code) driver.Event {
	c.w.Helper()
	e := c.next("error", "the error event "+string(code), func(e driver.Event) bool { return e.Code == code })
	if e.Message == "" {
		c.w.Errorf("the error event %s has no text", code)
	}
	return e
}

// token answers the next wanted token.
func (c *client) token(token string) {
	c.w.Helper()
	c.wanted()
	c.do("token", fields{"token": token})
}

// wanted waits until the client wants a token.
func (c *client) wanted() {
	c.w.Helper()
	c.next("token_wanted", "a call of the token source", nil)
}

// close closes the client and waits for the end of that.
func (c *client) close() {
	c.w.Helper()
	c.ok(c.start("close", nil))
	c.state("closed")
}

// path returns the path of a file in a folder of the scenario.
func (w *world) path() string {
	w.Helper()
	return filepath.Join(w.TempDir(), "file")
}

// readFile returns the content of a file.
func (w *world) readFile(path string) []byte {
	w.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		w.Fatal(err)
	}
	return b
}

// appendZeros appends three bytes to a file, which a file system may leave there after a power cut.
func (w *world) appendZeros(path string) {
	w.Helper()
	if err := os.WriteFile(path, append(w.readFile(path), 0, 0, 0), 0o600); err != nil {
		w.Fatal(err)
	}
}
