package commands_test

import (
	"strings"
	"testing"

	"imgo/commands"
)

// TestVerifyUsage checks that imgo verify refuses wrong arguments without a call to the server, and
// that the error says what to write. Package verify tests the runs themselves. The main package
// tests the whole command line.
func TestVerifyUsage(t *testing.T) {
	s := newServer(t, nil)
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"an argument":      {[]string{"now"}, `unexpected argument "now"`},
		"no users":         {[]string{"--users", "0"}, "--users must be 1 to"},
		"too many devices": {[]string{"--devices", "65"}, "--devices must be 1 to 64"},
		"no rate":          {[]string{"--rate", "0"}, "--rate must be more than 0"},
		"no number":        {[]string{"--rate", "NaN"}, "--rate must be more than 0"},
		"no share":         {[]string{"--not-kept", "10"}, "--not-kept must be 0 to 1"},
		"negative churn":   {[]string{"--churn", "-1"}, "--churn must be 0 to 60"},
		"too large":        {[]string{"--size", "1000000"}, "--size must be 0 to"},
		"before it began":  {[]string{"--duration", "-1s"}, "-duration: must not be negative"},
		"no time":          {[]string{"--settle", "0"}, "--settle must be more than 0"},
		"no kind":          {[]string{"--kinds", "tcp,pigeon"}, `--kinds has "pigeon", must be of tcp, ws, json, no-ack, sdk, sdk-ws`},
		"no driver":        {[]string{"--kinds", "driver"}, `--driver names no program for the kind "driver"`},
		"too many slow":    {[]string{"--slow", "101"}, "--slow must be 0 to the number of users"},
		"lazier than all":  {[]string{"--lazy", "2"}, "--lazy must be 0 to 1"},
		"negative rooms":   {[]string{"--rooms", "-1"}, "--rooms must be 0 to"},
		"no broadcast":     {[]string{"--broadcast", "-1"}, "--broadcast must be 0 to 1"},
		"no large share":   {[]string{"--large", "NaN"}, "--large must be 0 to 1"},
		"no way to lie":    {[]string{"--falsify", "forget"}, `--falsify is "forget", must be one of lose, repeat, swap, event-lose`},
		"no events":        {[]string{"--falsify", "event-lose"}, `--falsify is "event-lose", which needs events`},
		"no hook":          {[]string{"--hook", "7180"}, `--hook is "7180", must be host:port`},
		"no secret":        {[]string{"--hook", "127.0.0.1:7180", "--hook-secret", "-"}, "--hook-secret is no secret of a hook: make one with"},
		"never late":       {[]string{"--late", "0"}, "--late must be more than 0"},
		"no unit":          {[]string{"--duration", "10"}, "duration"},
		"an API address":   {[]string{"--server", "http://a:1,ftp://b"}, `"ftp://b" is no web address`},
		"a client address": {[]string{"--connect", "10.0.0.1"}, `"10.0.0.1" has no port`},
		"an unknown flag":  {[]string{"--user", "3"}, "did you mean --users?"},
	} {
		t.Run(name, func(t *testing.T) {
			imgo(t, s, "", append([]string{"verify"}, c.args...)...).wantError(t, commands.ExitUsage, c.want, "see: imgo verify --help")
		})
	}
	if len(s.requests) > 0 {
		t.Errorf("the server was asked %+v", s.requests)
	}
}

// TestVerifyCannot uses servers that cannot be verified. The command must exit with code 1, print
// nothing to standard output, and give the reason.
func TestVerifyCannot(t *testing.T) {
	nobody := answer{200, `{"nodes":[]}`}
	for name, c := range map[string]struct {
		answers map[string]answer
		want    string
	}{
		"not imgo":              {nil, "answered 404"},
		"no comet":              {map[string]answer{"GET /v1/nodes": nobody}, "no node says where clients connect"},
		"an address of nothing": {map[string]answer{"GET /v1/nodes": {200, `{"nodes":[{"name":"n1","clients":{"tcp":"nowhere"}}]}`}}, "node n1"},
		"no tokens": {map[string]answer{
			"GET /v1/nodes":   {200, `{"nodes":[{"name":"n1","clients":{"tcp":":1"}}]}`},
			"POST /v1/tokens": {401, `{"error":{"code":"unauthorized","message":"no key"}}`},
		}, "is the API key right?"},
	} {
		t.Run(name, func(t *testing.T) {
			// With one user the fake server gets one request at a time.
			r := imgo(t, newServer(t, c.answers), "", "verify", "--users", "1")
			r.wantError(t, 1, c.want, "--server, --connect")
			if r.stdout != "" {
				t.Errorf("stdout has %q", r.stdout)
			}
		})
	}
}

// TestVerifyHelp checks that the help contains examples.
func TestVerifyHelp(t *testing.T) {
	r := imgo(t, nil, "", "verify", "--help")
	r.want(t, 0, r.stdout)
	for _, part := range []string{"imgo verify --users 1000", "--duration 0", "--server", "$IMGO_SERVER", "--late-fails", "--json", "Ctrl-C",
		"exit code 1"} {
		if !strings.Contains(r.stdout, part) {
			t.Errorf("the help does not have %q", part)
		}
	}
}
