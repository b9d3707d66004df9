package weborigin_test

import (
	"testing"

	"imgo/internal/weborigin"
)

func TestAllows(t *testing.T) {
	for _, test := range []struct {
		pattern, origin string
		want            bool
	}{
		{"bücher.example", "https://xn--bcher-kva.example", true},
		{"Bücher.example", "https://xn--bcher-kva.example:8443", true},
		{"*.bücher.example", "https://shop.xn--bcher-kva.example", true},
		{"https://bücher.example", "https://xn--bcher-kva.example", true},
		{"xn--bcher-kva.example", "https://xn--bcher-kva.example", true},
		{"localhost", "http://localhost:3000", true},
		{"localhost:3000", "http://localhost:3000", true},
		{"localhost:3000", "http://localhost:3001", false},
		{"localhost:*", "http://localhost", true},
		{"example.com:443", "https://example.com", true},
		{"example.com:443", "http://example.com", false},
		{"example.com:80", "http://example.com", true},
		{"https://example.com", "https://example.com", true},
		{"https://example.com:443", "https://example.com", true},
		{"https://example.com", "https://example.com:8443", false},
		{"https://example.com:*", "https://example.com:8443", true},
		{"[::1]", "http://[::1]:3000", true},
		{"[::1]:3000", "http://[::1]:3000", true},
		{"[::1]:3000", "http://[::1]", false},
		{"http://[::1]:3000", "http://[::1]:3000", true},
		{"[::1]", "http://[::2]", false},
		{"example.com", "https://example.com.evil.example", false},
		{"example.com", "https://evil.example/example.com", false},
		{"*", "https://anything.example:99", true},
		{"*", "null", false},
		{"chrome-extension://abcdef", "chrome-extension://abcdef", true},
		{"chrome-extension://abcdef", "https://abcdef", false},
	} {
		list, err := weborigin.Parse([]string{test.pattern})
		if err != nil {
			t.Errorf("%s: %v", test.pattern, err)
			continue
		}
		if got := list.Allows(test.origin); got != test.want {
			t.Errorf("%s allows %s: %t, want %t", test.pattern, test.origin, got, test.want)
		}
	}
}

func TestPatternsThatAreNone(t *testing.T) {
	for _, text := range []string{
		"", " ", "https://", "https://[", "a[b", "example.com/path", "user@example.com", "a b", "example.com:", ":80", "example.com:http",
		"example.com:70000", "::1", "[::1", "[::1]8", "[x", "bü*.example", "-ü.example", `a\b`,
	} {
		if list, err := weborigin.Parse([]string{text}); err == nil {
			t.Errorf("%q was taken as %v", text, list)
		}
	}
}

func TestAllowsHost(t *testing.T) {
	list, err := weborigin.Parse([]string{"https://bücher.example", "[::1]:3000"})
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]bool{
		"xn--bcher-kva.example": true, "XN--bcher-kva.example:8090": true, "[::1]:8090": true, "[::1]": true, "example": false,
	} {
		if got := list.AllowsHost(host); got != want {
			t.Errorf("%s: %t, want %t", host, got, want)
		}
	}
}

func TestExact(t *testing.T) {
	for text, want := range map[string]string{
		"HTTPS://Console.Example.com/":     "https://console.example.com",
		"https://console.example.com:443":  "https://console.example.com",
		"https://bücher.example:8443":      "https://xn--bcher-kva.example:8443",
		"http://[::1]:7172":                "http://[::1]:7172",
		"console.example.com":              "",
		"https://*.example.com":            "",
		"https://console.example.com/path": "",
	} {
		got, err := weborigin.Exact(text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v, want %q", text, got, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("https://*.bücher.example:8443", "https://a.xn--bcher-kva.example:8443")
	f.Add("[::1]:*", "http://[::1]")
	f.Fuzz(func(_ *testing.T, pattern, origin string) {
		if list, err := weborigin.Parse([]string{pattern}); err == nil {
			list.Allows(origin)
			list.AllowsHost(origin)
		}
		_, _ = weborigin.Exact(pattern)
	})
}
