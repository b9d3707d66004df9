package deploy_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// promQL lists the metrics and labels that an expression uses.
type promQL struct {
	selectors []selector
	// grouped are the labels after "by" and "without".
	grouped []string
}

// selector is one metric with its matchers.
type selector struct {
	metric   string
	matchers []matcher
	ranged   bool
	// within are the enclosing functions, the innermost first.
	within []string
}

type matcher struct{ label, op, value string }

// parsePromQL parses the part of PromQL that the alerts and dashboards use: selectors, ranges,
// functions, aggregations and operators. It does not check types.
func parsePromQL(text string) (q promQL, err error) {
	p := &promParser{q: &q}
	if p.tokens, err = promTokens(text); err != nil {
		return q, err
	}
	if err = p.expression(nil); err == nil && p.at < len(p.tokens) {
		err = fmt.Errorf("%q is too much", p.tokens[p.at])
	}
	return q, err
}

var promToken = regexp.MustCompile(`^(?:"(?:[^"\\]|\\.)*"|[a-zA-Z_$][a-zA-Z0-9_:$]*|[0-9]+(?:\.[0-9]+)?(?:ms|[smhdwy])?|=~|!~|!=|==|<=|` +
	`>=|[-+*/%^<>=(){}\[\],])`)

func promTokens(text string) ([]string, error) {
	var tokens []string
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimSpace(text) {
		token := promToken.FindString(text)
		if token == "" {
			return nil, fmt.Errorf("cannot read %q", text)
		}
		tokens = append(tokens, token)
		text = text[len(token):]
	}
	return tokens, nil
}

type promParser struct {
	tokens []string
	at     int
	q      *promQL
}

func (p *promParser) peek() string {
	if p.at == len(p.tokens) {
		return ""
	}
	return p.tokens[p.at]
}

func (p *promParser) next() string {
	token := p.peek()
	if token != "" {
		p.at++
	}
	return token
}

func (p *promParser) want(token string) error {
	if got := p.next(); got != token {
		return fmt.Errorf("%q stands where %q is wanted", got, token)
	}
	return nil
}

var (
	promOperators  = []string{"+", "-", "*", "/", "%", "^", "==", "!=", "<", ">", "<=", ">=", "and", "or", "unless"}
	promAggregates = []string{"sum", "min", "max", "avg", "count", "topk", "bottomk", "quantile"}
	promRanged     = []string{"rate", "irate", "increase", "changes", "deriv", "delta", "max_over_time", "min_over_time", "avg_over_time"}
	promFunctions  = append([]string{"histogram_quantile", "absent", "clamp_min", "clamp_max", "time", "vector"}, promRanged...)
	promName       = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_:]*$`)
	promNumber     = regexp.MustCompile(`^[0-9]+(\.[0-9]+)?$`)
	promDuration   = regexp.MustCompile(`^([0-9]+(ms|[smhdwy])|\$__rate_interval)$`)
)

func (p *promParser) expression(within []string) error {
	for {
		if err := p.operand(within); err != nil {
			return err
		}
		if !slices.Contains(promOperators, p.peek()) {
			return nil
		}
		p.next()
		if p.peek() == "bool" {
			p.next()
		}
		for _, word := range []string{"on", "ignoring", "group_left", "group_right"} {
			if p.peek() == word {
				p.next()
				if err := p.labels(); err != nil {
					return err
				}
			}
		}
	}
}

func (p *promParser) operand(within []string) error {
	token := p.next()
	switch {
	case token == "":
		return fmt.Errorf("it ends where a value is wanted")
	case token == "(":
		if err := p.expression(within); err != nil {
			return err
		}
		return p.want(")")
	case token == "-":
		return p.operand(within)
	case promNumber.MatchString(token) || strings.HasPrefix(token, `"`):
		return nil
	case slices.Contains(promAggregates, token):
		return p.aggregate(token, within)
	case promName.MatchString(token) && p.peek() == "(":
		if !slices.Contains(promFunctions, token) {
			return fmt.Errorf("%q is no function that this test knows", token)
		}
		return p.arguments(token, within)
	case promName.MatchString(token) && !slices.Contains(promOperators, token):
		return p.selector(token, within)
	}
	return fmt.Errorf("%q stands where a value is wanted", token)
}

func (p *promParser) aggregate(name string, within []string) error {
	grouping := func() error {
		if p.peek() != "by" && p.peek() != "without" {
			return nil
		}
		p.next()
		return p.labels()
	}
	if err := grouping(); err != nil {
		return err
	}
	if err := p.arguments(name, within); err != nil {
		return err
	}
	return grouping()
}

func (p *promParser) arguments(name string, within []string) error {
	within = append([]string{name}, within...)
	if err := p.want("("); err != nil {
		return err
	}
	for p.peek() != ")" {
		if err := p.expression(within); err != nil {
			return err
		}
		if p.peek() != "," {
			break
		}
		p.next()
	}
	return p.want(")")
}

func (p *promParser) labels() error {
	if err := p.want("("); err != nil {
		return err
	}
	for p.peek() != ")" {
		label := p.next()
		if !promName.MatchString(label) {
			return fmt.Errorf("%q is no label", label)
		}
		p.q.grouped = append(p.q.grouped, label)
		if p.peek() == "," {
			p.next()
		}
	}
	return p.want(")")
}

func (p *promParser) selector(metric string, within []string) error {
	s := selector{metric: metric, within: within}
	if p.peek() == "{" {
		p.next()
		for p.peek() != "}" {
			m := matcher{label: p.next(), op: p.next()}
			quoted := p.next()
			if !promName.MatchString(m.label) || !slices.Contains([]string{"=", "!=", "=~", "!~"}, m.op) || !strings.HasPrefix(quoted, `"`) {
				return fmt.Errorf("%s %s %s is no matcher", m.label, m.op, quoted)
			}
			m.value = strings.Trim(quoted, `"`)
			s.matchers = append(s.matchers, m)
			if p.peek() == "," {
				p.next()
			}
		}
		p.next()
	}
	if p.peek() == "[" {
		p.next()
		if d := p.next(); !promDuration.MatchString(d) {
			return fmt.Errorf("%q is no duration", d)
		}
		s.ranged = true
		if err := p.want("]"); err != nil {
			return err
		}
	}
	p.q.selectors = append(p.q.selectors, s)
	if wants := len(within) > 0 && slices.Contains(promRanged, within[0]); wants != s.ranged {
		return fmt.Errorf("%s: a range such as [5m] goes with rate and its like, and with nothing else", metric)
	}
	return nil
}

func TestPromQLParser(t *testing.T) {
	for _, test := range []struct {
		text string
		good bool
	}{
		{`up{job="imgo"} == 0`, true},
		{`histogram_quantile(0.99, sum by (le) (rate(a_bucket{x=~"a|b",y!="c"}[5m]))) > 1`, true},
		{`sum(a) / sum(b) > 0.05 and sum(a) by (instance) > 100`, true},
		{`a - -b * 2`, true},
		{`rate(a_total)`, false},
		{`a[5m]`, false},
		{`sum by (le (a)`, false},
		{`sum(a`, false},
		{`a b`, false},
		{`a{b}`, false},
		{`a{b="c"`, false},
		{`rat(a[5m])`, false},
		{`a > `, false},
		{`rate(a[5 minutes])`, false},
		{``, false},
	} {
		if _, err := parsePromQL(test.text); (err == nil) != test.good {
			t.Errorf("%s: error %v", test.text, err)
		}
	}
}
