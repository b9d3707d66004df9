package e2e_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"imgo/config"
	defaults "imgo/internal/settings"
	"imgo/internal/upstream"
	"imgo/protocol"
	"imgo/transport"
)

// upstreamRule returns a rule with defaults.
func upstreamRule(to string, ops ...string) upstream.Rule {
	rule := defaults.Default[upstream.Rule]()
	rule.Ops, rule.To = ops, to
	return rule
}

// sendUpstream sends a message with an id, in a packet of version 2.
func (c *client) sendUpstream(op, seq int32, id uint64, body string) {
	c.t.Helper()
	if c.text {
		c.put(fmt.Sprintf(`{"ver":2,"op":%d,"seq":%d,"id":"%d","body":%s}`, op, seq, id, body))
		return
	}
	c.put(string(transport.AppendPacket(nil, protocol.Version2, protocol.HeaderV2, op, seq, id, []byte(body))))
}

// upstreamEvents returns the messages in the events topic: user, device, client id and body.
func (n *node) upstreamEvents(t *testing.T, want int) (list []string) {
	t.Helper()
	after := ""
	for len(list) < want {
		var page struct {
			Events []struct {
				Data struct {
					User, Device string
					ClientID     string          `json:"client_id"`
					Body         json.RawMessage `json:"body"`
					BodyText     string          `json:"body_text"`
				}
			}
			Next string
			More bool
		}
		n.call(t, "GET", "/v1/events?wait=20s&types=upstream.*&after="+after, "").decode(t, &page)
		if after = page.Next; len(page.Events) == 0 && !page.More {
			t.Fatalf("events %q, want %d", list, want)
		}
		for _, e := range page.Events {
			list = append(list, fmt.Sprintf("%s %s %s %s%s", e.Data.User, e.Data.Device, e.Data.ClientID, e.Data.Body, e.Data.BodyText))
		}
	}
	return list
}

// A client sends each message until it has an answer, over connections that break and across a node that is killed. Each
// message is one event.
func TestUpstreamEachOnce(t *testing.T) {
	n := start(t, func(cfg *config.Config) { cfg.Upstream = []upstream.Rule{upstreamRule(upstream.ToEvents, "*")} })
	random := rand.New(rand.NewPCG(1, 2))
	var c *client
	connect := func() {
		c = n.ws(t, random.IntN(2) == 0)
		c.login("v2", "alice", `,"device":"phone"`)
	}
	connect()
	const messages = 40
	var want []string
	for id := uint64(1); id <= messages; id++ {
		body := fmt.Sprintf(`{"n":%d}`, id)
		want = append(want, fmt.Sprintf("alice phone %d %s", id, body))
		for answered := false; !answered; {
			c.sendUpstream(1000, int32(id), id, body)
			switch random.IntN(4) {
			case 0: // the answer is lost
				_ = c.Close()
				connect()
			case 1: // sent again in the same session
				c.sendUpstream(1000, int32(id), id, body)
				c.receive()
				c.receive()
				answered = true
			default:
				if p := c.receive(); p.Op != 1000 || p.Seq != int32(id) || p.ID != 0 {
					t.Fatalf("message %d is answered with %+v %s", id, p, p.Body)
				}
				answered = true
			}
		}
		if id == messages/2 {
			n = n.restart(t)
			connect()
		}
	}
	if got := n.upstreamEvents(t, messages); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("events:\n%s", strings.Join(got, "\n"))
	}
	c = n.tcp(t)
	c.send(2, protocol.OpAuth, 1, `{"token":"alice","device":"phone"}`)
	if p := c.receive(); !strings.HasSuffix(string(p.Body), fmt.Sprintf(`,"published":"%d"}`, messages)) {
		t.Errorf("auth reply %s", p.Body)
	}
}

// What old clients send reaches the backend, and so do large bodies and those that are no text.
func TestUpstreamOfAllGenerations(t *testing.T) {
	n := start(t, func(cfg *config.Config) {
		cfg.Upstream = []upstream.Rule{upstreamRule(upstream.ToEvents, "4", "1000-1999")}
	})
	imgo := n.tcp(t)
	imgo.login("imgo", "bob", "")
	imgo.send(1, 4, 2, "hi")
	imgo.expect(5, "hi")
	want := []string{"bob   hi"}
	if got := n.upstreamEvents(t, 1); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Fatalf("events %q", got)
	}
	c := n.tcp(t)
	c.login("v2", "bob", "") // the same partition: the order is that of the log
	c.send(2, 1999, 3, strings.Repeat("\x01", 60<<10))
	c.expect(1999, "")
	c.send(2, 4, 4, "[1,\n 2]")
	c.expect(4, "")
	c.send(2, 2000, 5, "x")
	if p := c.receive(); p.Op != protocol.OpError || !strings.Contains(string(p.Body), `"unsupported"`) {
		t.Errorf("got %+v %s", p, p.Body)
	}
	if got := n.upstreamEvents(t, 3); len(got) != 3 || got[1] != "bob   " || got[2] != "bob   [1,2]" {
		t.Errorf("events %.100q", got)
	}
}

// A backend that is called answers the client.
func TestUpstreamCall(t *testing.T) {
	verifier, err := standardwebhooks.NewWebhook(hookSecret)
	if err != nil {
		t.Fatal(err)
	}
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = verifier.Verify(body, r.Header)
		}
		var call struct {
			User, Device string
			ClientID     string `json:"client_id"`
			Body         struct{ Buy int }
		}
		if err == nil {
			err = json.Unmarshal(body, &call)
		}
		switch {
		case err != nil:
			t.Errorf("a call cannot be used: %v", err)
		case call.Body.Buy == 0:
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"refuse":"nothing to buy"}`)
		default:
			_, _ = fmt.Fprintf(w, `{"order":%d,"of":%q,"id":%q}`, call.Body.Buy, call.User+"/"+call.Device, call.ClientID)
		}
	}))
	t.Cleanup(backend.Close)
	n := start(t, func(cfg *config.Config) {
		rule := upstreamRule(upstream.ToCall, "4")
		rule.URL, rule.Secrets = backend.URL, []string{hookSecret}
		cfg.Upstream = []upstream.Rule{rule}
	})
	for _, text := range []bool{false, true} {
		c := n.ws(t, text)
		c.login("v2", "alice", `,"device":"phone"`)
		c.sendUpstream(4, 1, 7, `{"buy":3}`)
		c.expect(4, `{"order":3,"of":"alice/phone","id":"7"}`)
		c.sendUpstream(4, 2, 8, `{}`)
		c.expect(protocol.OpError, `{"op":4,"code":"invalid","reason":"nothing to buy"}`)
	}
}
