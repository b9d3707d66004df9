package commands_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestManageUsers(t *testing.T) {
	const all = `{"messages":3,"devices":2,"tokens":1,"sessions":1,"log_until_ms":1700000000000}`
	s := newServer(t, map[string]answer{
		"DELETE /v1/user?user=a%2Fb":                       {200, all},
		"DELETE /v1/user/devices?user=123&device=":         {200, `{"messages":4,"devices":1,"tokens":0,"sessions":2,"log_until_ms":0}`},
		"DELETE /v1/user?user=.":                           {200, all},
		"DELETE /v1/user/messages?user=%2F":                {200, all},
		"POST /v1/user/kick?user=online":                   {200, `{"sessions":1}`},
		"DELETE /v1/users/123/devices/phone":               {200, `{"messages":0,"devices":1,"tokens":0,"sessions":0,"log_until_ms":0}`},
		"DELETE /v1/user/devices?user=123&device=ph%2FOne": {200, `{"messages":0,"devices":1,"tokens":0,"sessions":0,"log_until_ms":0}`},
		"DELETE /v1/users/123/messages":                    {200, `{"messages":0,"devices":0,"tokens":0,"sessions":0,"log_until_ms":7}`},
		"POST /v1/users/123/kick":                          {200, `{"sessions":2}`},
		"POST /v1/users/123/read":                          {200, `{"sessions":1}`},
		"POST /v1/user/read?user=%2F":                      {200, `{"sessions":0}`},
		"GET /v1/users/123/tokens": {200, `{"user":"123","tokens":[{"created_ms":1700000000000,"expires_ms":0},` +
			`{"created_ms":1700000000000,"expires_ms":1700000000000}]}`},
		"GET /v1/users/4/tokens": {200, `{"user":"4","tokens":[]}`},
		"GET /v1/notices?after=0": {200, `{"notices":[{"seq":5,"time_ms":1700000000000,"kind":"mailbox_dropped","user":"123",` +
			`"detail":"why","count":7},` +
			`{"seq":6,"time_ms":1700000000000,"kind":"record_set_aside"}],"last":6}`},
		"GET /v1/notices?after=6": {200, `{"notices":[],"last":6}`},
	})
	at := time.UnixMilli(1_700_000_000_000).Format(time.RFC3339)
	for _, test := range []struct{ args, want string }{
		{"users erase a/b", "removed 3 messages, 2 devices, 1 token, 1 session\n"},
		{"users erase a/b --json", all + "\n"},
		{"users forget 123 ph/One", "removed 1 device\n"},
		{"users forget 123 phone", "removed 1 device\n"},
		{"users erase .", "removed 3 messages, 2 devices, 1 token, 1 session\n"},
		{"users purge /", "removed 3 messages, 2 devices, 1 token, 1 session\n"},
		{"users kick online", "closing 1 session\n"},
		{"users purge 123", "nothing was there\n"},
		{"users kick 123 --device phone --reason out --code 3100", "closing 2 sessions\n"},
		{"users read 123 --up-to 7 --id 9 --id 18446744073709551615 --device phone", "telling 1 session\n"},
		{"users read / --up-to 7 --json", `{"sessions":0}` + "\n"},
		{"token list 123", "user 123 has 2 tokens\n\nMADE                       EXPIRES\n" + at + "  never\n" + at + "  " + at + "\n"},
		{"token list 4", "user 4 has 0 tokens\n"},
		{"notices", "5  " + at + "  mailbox_dropped (7 times)  123  why\n6  " + at + "  record_set_aside           -    \n"},
		{"notices --after 6", ""},
		{"notices --after 6 --json", s.answers["GET /v1/notices?after=6"].body + "\n"},
	} {
		t.Run(test.args, func(t *testing.T) {
			if strings.Contains(at, "Z") {
				test.want = strings.ReplaceAll(test.want, "MADE                       EXPIRES", "MADE                  EXPIRES")
			}
			imgo(t, s, "", strings.Fields(test.args)...).want(t, 0, test.want)
		})
	}
	// The device without a name.
	imgo(t, s, "", "users", "forget", "123", "").want(t, 0, "removed 4 messages, 1 device, 2 sessions\n")
	for _, asked := range s.requests {
		want := map[string]any{"device": "phone", "reason": "out", "code": 3100.0}
		if asked.Path == "/v1/users/123/kick" && cmp.Diff(want, asked.Body) != "" {
			t.Errorf("asked %v", asked.Body)
		}
		want = map[string]any{"up_to": "7", "ids": []any{"9", "18446744073709551615"}, "device": "phone"}
		if asked.Path == "/v1/users/123/read" && cmp.Diff(want, asked.Body) != "" {
			t.Errorf("asked %v", asked.Body)
		}
	}
	for _, args := range []string{
		"token list", "users erase", "users forget 123", "users purge 1 2",
		"users read", "users read 1", "users read 1 --device d", "users kick", "users kick 1 --device d --session s", "notices x", "events x",
	} {
		if r := imgo(t, s, "", strings.Fields(args)...); r.code != 64 {
			t.Errorf("%s: exit code %d", args, r.code)
		}
	}
}
