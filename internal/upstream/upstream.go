// Package upstream has the rules of [[upstream]]: what becomes of the messages that clients send to the
// backend. The roles comet and logic read the same rules.
//
// It decides by the operation alone, keeps no state and calls nobody.
package upstream

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"imgo/internal/settings"
	"imgo/internal/webhook"
	"imgo/protocol"
)

// The values of Rule.To.
const (
	// ToEvents makes each message an event, upstream.message.
	ToEvents = "events"
	// ToCall posts each message to the backend. Its answer is the client's.
	ToCall = "call"
	// ToDrop leaves messages unread, as a server without rules does.
	ToDrop = "drop"
)

// Rule says what becomes of the messages of some operations.
type Rule struct {
	Ops      []string      `toml:"ops" example:"[\"4\", \"1000-1999\"]" doc:"The operations: numbers and ranges of 4 and of those from 1000 on. \"*\" stands for all."`
	To       string        `toml:"to" choices:"events,call,drop" example:"\"events\"" doc:"events: each message is an event, upstream.message. call: each one is posted to url, and the answer is the client's. drop: it goes nowhere."`
	URL      string        `toml:"url" example:"\"\"" doc:"For call: the address that is called."`
	Secrets  []string      `toml:"secrets" secret:"true" example:"[]" doc:"For call: the secrets that sign each call (Standard Webhooks). Make one with: echo whsec_$(openssl rand -base64 32). List two while you replace one."`
	Timeout  time.Duration `toml:"timeout" default:"3s" unit:"duration" min:"100ms" max:"8s" example:"\"3s\"" doc:"For call: the longest time that one call may take."`
	InFlight int           `toml:"max_in_flight" default:"64" unit:"calls" min:"1" max:"10000" example:"64" doc:"For call: calls under way at a logic. Further ones wait for at most the timeout."`
}

// UnmarshalText reads "ops:to" or "ops:call:secret:url", as a flag or the environment gives it. The
// operations have a + between them.
func (r *Rule) UnmarshalText(text []byte) error {
	parts := strings.SplitN(string(text), ":", 4)
	*r = settings.Default[Rule]()
	switch {
	case len(parts) == 4:
		r.Secrets, r.URL = []string{parts[2]}, parts[3]
	case len(parts) != 2:
		// The value may have a secret: it is not repeated.
		return errors.New("is not a rule for messages from clients: write ops:to, such as 4+1000-1999:events, or ops:call:secret:url")
	}
	r.Ops, r.To = strings.Split(parts[0], "+"), parts[1]
	return nil
}

// Rules is the setting [[upstream]].
type Rules struct {
	Upstream []Rule `toml:"upstream" secret:"true" unit:"ops:to or ops:call:secret:url, comma-separated, as a flag or in the environment" doc:"What becomes of the messages that clients send to the backend: op 4, and operations from 1000 on. The first rule that has\nthe operation counts. A message without a rule is dropped. Every node that runs comet or logic needs the same rules."`
}

// span is a range of operations.
type span struct{ first, last int32 }

// anyOp is the pattern of all operations.
const anyOp = "*"

// parseOps returns the operations of a pattern: a number, a range, or a star.
func parseOps(pattern string) (span, error) {
	if pattern == anyOp {
		return span{protocol.OpSend, math.MaxInt32}, nil
	}
	first, last, ranged := strings.Cut(pattern, "-")
	if !ranged {
		last = first
	}
	from, err := strconv.ParseInt(first, 10, 32)
	to, err2 := strconv.ParseInt(last, 10, 32)
	s := span{int32(from), int32(to)}
	switch {
	case err != nil || err2 != nil:
		return s, fmt.Errorf("%q is neither an operation nor a range of them", pattern)
	case s.first > s.last:
		return s, fmt.Errorf("the range %q ends before it begins", pattern)
	case !Carries(s.first), s.first == protocol.OpSend && s.last != s.first:
		return s, fmt.Errorf("%q has operations that no message for the backend has", pattern)
	}
	return s, nil
}

// has reports whether other is a part of s, of the operations that messages have.
func (s span) has(other span) bool { return s.first <= other.first && other.last <= s.last }

// Carries reports whether a packet of an operation is a message for the backend.
func Carries(op int32) bool { return op == protocol.OpSend || op >= protocol.FirstAcceptedOp }

// Table finds the rule for an operation. It is safe for concurrent use.
type Table struct {
	rules []Rule
	spans [][]span
}

// NewTable returns a table of rules that have passed Check.
func NewTable(rules Rules) Table {
	t := Table{rules: rules.Upstream, spans: make([][]span, len(rules.Upstream))}
	for i := range t.rules {
		t.spans[i] = t.rules[i].all()
	}
	return t
}

// Find returns the index of the first rule that has an operation, and the rule. It returns nil if no rule has it, or if
// the rule is to drop it: that makes no difference.
func (t *Table) Find(op int32) (index int, rule *Rule) {
	if !Carries(op) {
		return 0, nil
	}
	for i, spans := range t.spans {
		if !slices.ContainsFunc(spans, func(s span) bool { return s.has(span{op, op}) }) {
			continue
		}
		if t.rules[i].To == ToDrop {
			return 0, nil
		}
		return i, &t.rules[i]
	}
	return 0, nil
}

// Check calls refuse for each rule that cannot be used, with what is wrong and the fix.
func (r *Rules) Check(refuse func(wrong, fix string)) {
	var before []span
	for i := range r.Upstream {
		refuse := func(wrong, fix string) { refuse(fmt.Sprintf("table %d: %s", i+1, wrong), fix) }
		rule := &r.Upstream[i]
		if len(rule.Ops) == 0 {
			refuse("there are no ops, so the rule never counts", `write ops = ["4", "1000-1999"], or ops = ["*"] for all`)
		}
		for _, pattern := range rule.Ops {
			ops, err := parseOps(pattern)
			if err != nil {
				refuse("ops: "+err.Error(), `use "4", numbers and ranges from 1000 on such as "1000-1999", or "*"`)
				continue
			}
			if slices.ContainsFunc(before, func(earlier span) bool { return earlier.has(ops) }) {
				refuse(fmt.Sprintf("ops: %q never counts, because an earlier rule has all of it", pattern),
					"put the rule for fewer operations first")
			}
		}
		before = append(before, rule.all()...)
		rule.checkCall(refuse)
	}
}

// all returns the operations of a rule.
func (r *Rule) all() (spans []span) {
	for _, pattern := range r.Ops {
		if ops, err := parseOps(pattern); err == nil {
			spans = append(spans, ops)
		}
	}
	return spans
}

// checkCall checks the address and the secrets of a rule.
func (r *Rule) checkCall(refuse func(wrong, fix string)) {
	if r.To != ToCall {
		if r.URL != "" || len(r.Secrets) > 0 {
			refuse(fmt.Sprintf("a url or secrets are given, but to = %q calls nobody", r.To), `write to = "call", or leave them out`)
		}
		return
	}
	webhook.Check(r.URL, r.Secrets, refuse)
}

// ExplainUpstream returns a line for each rule: what becomes of which messages.
func (r *Rules) ExplainUpstream() []string {
	lines := make([]string, len(r.Upstream))
	for i, rule := range r.Upstream {
		ops := "op " + strings.Join(rule.Ops, ", ")
		if len(rule.Ops) == 1 && rule.Ops[0] == anyOp {
			ops = "every op"
		}
		switch rule.To {
		case ToEvents:
			ops += ": messages become events (upstream.message)"
		case ToCall:
			ops += ": messages are posted to " + settings.HideCredentials(rule.URL)
		default:
			ops += ": messages are dropped"
		}
		lines[i] = ops
	}
	return lines
}
