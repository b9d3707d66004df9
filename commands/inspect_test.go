package commands_test

import (
	"strings"
	"testing"
	"time"
)

func TestInspect(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_000).Format(time.RFC3339)
	const someone = `{"name":"n-1","user":"123","device":"phone","platform":"","address":"10.0.0.1:5","transport":"tcp",` +
		`"since_ms":1700000000000,"rooms":["a","b"]}`
	s := newServer(t, map[string]answer{
		"GET /v1/user?user=a%2Fb": {200,
			`{"user":"a/b","online":true,"sessions":[` + someone + `],"devices":[` +
				`{"device":"","online":false,"last_seen_ms":1700000000000,"pending":2},` +
				`{"device":"phone","online":true,"last_seen_ms":1700000000001,"pending":0}],` +
				`"pending":2,"oldest_id":"1","newest_id":"2","dropped":3,"last_seen_ms":0,"since_ms":1700000000000}`},
		"GET /v1/users/9":                      {200, `{"user":"9","online":false,"sessions":[],"devices":[],"pending":1}`},
		"GET /v1/rooms":                        {200, `{"rooms":[{"room":"lobby","sessions":12},{"room":"x","sessions":1}],"total":5}`},
		"GET /v1/rooms?limit=5&prefix=live%2F": {200, `{"rooms":[],"total":0}`},
		"GET /v1/rooms/lobby":                  {200, `{"room":"lobby","sessions":1,"members":[` + someone + `]}`},
		"GET /v1/stats":                        {200, `{"sessions":3,"comets":{"b":1,"a":2},"rooms":4,"pushes":{"kept":10},"uptime_ms":90500}`},
		"GET /v1/nodes": {200,
			`{"nodes":[{"name":"n","roles":["comet","logic"],"version":"v1","start_ms":1700000000000,"ready":true,"sessions":3,` +
				`"clients":{"ws":":8090","tcp":":8080"}},` +
				`{"name":"m","roles":["comet"],"address":"10.0.0.1:7172","version":"v1","start_ms":1700000000000,"ready":true,"sessions":0,` +
				`"weight":4,"zone":"z-1","leaving":true,"clock_ms":-3600499}]}`},
	})
	for _, test := range []struct{ args, want string }{
		{"users show a/b", "user a/b is online since " + at + ", with 2 messages waiting and 3 dropped from a full mailbox\n" +
			"\nSESSION  DEVICE  OVER  ADDRESS     SINCE                      ROOMS\n" +
			"n-1      phone   tcp   10.0.0.1:5  " + at + "  a,b\n" +
			"\nDEVICE     WAITING  LAST SEEN\n(default)  2        " + at + "\nphone      0        online\n"},
		{"users show 9", "user 9 is offline, with 1 message waiting\n"},
		{"rooms", "ROOM   SESSIONS\nlobby  12\nx      1\nand 3 more: --limit shows them\n"},
		{"rooms --prefix live/ --limit 5", "no room has members; join one with: imgo listen --user 123 --room lobby\n"},
		{"rooms lobby", "room lobby has 1 session\n\nUSER  SESSION  DEVICE  OVER  ADDRESS     SINCE\n123   n-1      phone   tcp   10.0.0.1:5  " +
			"" + at + "\n"},
		{"rooms lobby --json", s.answers["GET /v1/rooms/lobby"].body + "\n"},
		{"stats", "up             1m31s\nsessions       3\nrooms          4\nsessions of a  2\nsessions of b  1\npushes: kept   10\n"},
	} {
		t.Run(test.args, func(t *testing.T) {
			if strings.Contains(at, "Z") {
				test.want = strings.ReplaceAll(test.want, "SINCE                      ROOMS", "SINCE                 ROOMS")
			}
			imgo(t, s, "", strings.Fields(test.args)...).want(t, 0, test.want)
		})
	}
	r := imgo(t, s, "", "nodes")
	for _, part := range []string{"comet,logic", "yes", "tcp :8080, ws :8090", "leaving", "  4       z-1   ", "-1h0m0s  v1",
		"10.0.0.1:7172  -\n"} {
		if !strings.Contains(r.stdout, part) {
			t.Errorf("nodes do not show %q:\n%s", part, r.stdout)
		}
	}
	imgo(t, s, "", "nodes", "--json").want(t, 0, s.answers["GET /v1/nodes"].body+"\n")
}

func TestVersionAndHelp(t *testing.T) {
	if r := imgo(t, nil, "", "version"); r.code != 0 || !strings.HasPrefix(r.stdout, "imgo ") || !strings.Contains(r.stdout, "go1.") {
		t.Errorf("version: %q, %v", r.stdout, r.err)
	}
	for _, args := range [][]string{{"--help"}, {"-h"}, {"help"}} {
		r := imgo(t, nil, "", args...)
		for _, part := range []string{"FIRST STEPS", "imgo push --user 123", "--tcp", "EXIT CODES", "listen"} {
			if !strings.Contains(r.stdout, part) {
				t.Errorf("%q does not show %q", args, part)
			}
		}
		if strings.Contains(r.stdout, "--api-key") || r.served || r.code != 0 {
			t.Errorf("%q: served %v, %v\n%s", args, r.served, r.err, r.stdout)
		}
	}
	for _, args := range [][]string{{"push", "--help"}, {"help", "push"}, {"push", "x", "--help"}} {
		if r := imgo(t, nil, "", args...); r.code != 0 || !strings.Contains(r.stdout, "--idempotency-key") ||
			!strings.Contains(r.stdout, "tail -f") {
			t.Errorf("%q: %v\n%s", args, r.err, r.stdout)
		}
	}
}
