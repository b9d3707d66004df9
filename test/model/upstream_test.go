package model_test

import (
	"encoding/json"
	"fmt"
	"strconv"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/internal/settings"
	rules "imgo/internal/upstream"
)

// upstreamRules makes every message of a client an event.
func upstreamRules() rules.Rules {
	rule := settings.Default[rules.Rule]()
	rule.Ops, rule.To = []string{"*"}, rules.ToEvents
	return rules.Rules{Upstream: []rules.Rule{rule}}
}

// outgoing are the messages of one device for the backend. It sends one until that is answered, and some again.
type outgoing struct {
	id       uint64 // of the newest message
	answered uint64 // the newest one that has an answer
}

// upstream sends a message of a user's device by one of the logics: a new one, or the newest one again.
func (w *world) upstream() {
	user := users[w.dice.n(2)]
	o := w.outgoing[user]
	if o == nil {
		o = &outgoing{}
		w.outgoing[user] = o
	}
	if o.id == o.answered && (o.id == 0 || w.dice.n(3) > 0) {
		o.id++
	}
	reply, err := w.nodes[w.dice.n(2)].logic.Upstream(w.ctx, &envelope.UpstreamRequest{
		Op: 1000, ClientId: o.id, Body: []byte(strconv.FormatUint(o.id, 10)),
		Session: &envelope.SessionInfo{User: user, Device: devices[0], Address: &envelope.Address{Comet: "c", Session: 1}},
	})
	if err == nil && reply.GetCode() == "" {
		o.answered = o.id
	}
}

// judgeUpstream returns an error unless each message that has an answer is one event, in the order of the ids.
func (w *world) judgeUpstream(list []string) error {
	last := make(map[string]uint64)
	for _, text := range list {
		var e struct {
			Type string
			Data struct {
				User     string
				ClientID uint64 `json:"client_id,string"`
				Body     uint64
			}
		}
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			continue // another event has another body
		}
		if events.Type(e.Type) != events.Upstream {
			continue
		}
		if e.Data.ClientID != last[e.Data.User]+1 || e.Data.Body != e.Data.ClientID {
			return fmt.Errorf("after message %d of %s comes the event %s", last[e.Data.User], e.Data.User, text)
		}
		last[e.Data.User]++
	}
	for user, o := range w.outgoing {
		if last[user] < o.answered {
			return fmt.Errorf("%s has %d events of messages, %d were answered", user, last[user], o.answered)
		}
	}
	return nil
}
