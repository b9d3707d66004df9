package loopback_test

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	"imgo/internal/loopback"
)

func TestHost(t *testing.T) {
	for host, want := range map[string]bool{
		"127.0.0.1": true, "127.9.9.9": true, "::1": true, "::ffff:127.0.0.1": true, "localhost": true, "LocalHost": true,
		"": false, "0.0.0.0": false, "::": false, "10.0.0.1": false, "localhost.": false, "localhost.evil.example": false,
		"127.0.0.1.nip.io": false, "2130706433": false, "evil.example": false,
	} {
		if got := loopback.Host(host); got != want {
			t.Errorf("%q: %v", host, got)
		}
	}
}

func TestCheck(t *testing.T) {
	trusted := func(host string) bool { return host == "console.example" }
	for _, tt := range []struct {
		host, header, proto string
		refused             string // a part of the error, or empty
	}{
		{host: "127.0.0.1:7172"}, {host: "localhost:7172"}, {host: "localhost"}, {host: "[::1]:7172"}, {host: "[::1]"},
		{host: "127.0.0.1:7172", header: "X-Api-Key: k"},
		{host: "console.example"},
		{host: "evil.example:7172", refused: "Host"},
		{host: "evil.example", refused: "Host"},
		{host: "", refused: "Host"},
		{host: "imgo", refused: "Host"},
		{host: "127.0.0.1.evil.example:7172", refused: "Host"},
		{host: "127.0.0.1", header: "X-Forwarded-For: 1.2.3.4", refused: "X-Forwarded-For"},
		{host: "127.0.0.1", header: "X-Forwarded-For: ", refused: "X-Forwarded-For"},
		{host: "127.0.0.1", header: "X-Forwarded-Proto: https", refused: "X-Forwarded-Proto"},
		{host: "127.0.0.1", header: "Forwarded: for=1.2.3.4", refused: "Forwarded"},
		{host: "127.0.0.1", header: "Via: 1.1 proxy", refused: "Via"},
		{host: "127.0.0.1", header: "X-Real-IP: 1.2.3.4", refused: "X-Real-Ip"},
		{host: "127.0.0.1", header: "CF-Connecting-IP: 1.2.3.4", refused: "Cf-Connecting-Ip"},
		{host: "console.example", header: "X-Forwarded-For: 1.2.3.4", refused: "X-Forwarded-For"},
		{host: "127.0.0.1", proto: "HTTP/1.0", refused: "the request has HTTP/1.0, with which some proxies forward: send HTTP/1.1"},
	} {
		r := httptest.NewRequest("GET", "/v1/stats", nil)
		r.Host = tt.host
		if name, value, ok := strings.Cut(tt.header, ": "); ok {
			r.Header.Set(name, value)
		}
		if tt.proto != "" {
			r.Proto, r.ProtoMajor, r.ProtoMinor = tt.proto, 1, 0
		}
		err := loopback.Check(r, trusted)
		var refusal *loopback.Refusal
		switch {
		case tt.refused == "" && err != nil:
			t.Errorf("%+v: %v", tt, err)
		case tt.refused != "" && (!errors.As(err, &refusal) || !strings.HasPrefix(err.Error(), "the ") ||
			!strings.Contains(err.Error(), tt.refused) ||
			refusal.Header == "" && err.Error() != tt.refused):
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

func TestOrigin(t *testing.T) {
	for origin, want := range map[string]bool{
		"http://localhost:3000": true, "http://127.0.0.1": true, "https://[::1]:7172": true, "HTTP://LOCALHOST": true,
		"null": false, "": false, "https://evil.example": false, "http://localhost.evil.example": false, "%": false,
		"http://127.0.0.1@evil.example": false,
	} {
		if got := loopback.Origin(origin); got != want {
			t.Errorf("%q: %v", origin, got)
		}
	}
}
