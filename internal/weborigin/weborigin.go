// Package weborigin compares the header Origin of browsers with the origins and hosts in the settings. A
// browser sends a name with other letters than ASCII in punycode, and no port that is the default of its
// scheme. Settings are brought into the same form. It imports no other package of imgo.
package weborigin

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

// defaultPorts are the ports that a browser leaves out.
var defaultPorts = map[string]string{"http": "80", "https": "443", "ws": "80", "wss": "443"}

// pattern is one entry of a List, in lower case and punycode.
type pattern struct {
	scheme string // empty: any
	host   string // an IPv6 address in brackets, or a pattern with stars
	port   string // a pattern. Empty means the default of the scheme, or any if the pattern has no scheme
}

// List is a list of allowed origins.
type List []pattern

// Parse reads patterns such as "example.com", "*.example.com:8443" or "https://example.com". A star
// stands for any text. A pattern without a scheme fits every scheme, and without a scheme and a port
// every port.
func Parse(patterns []string) (List, error) {
	list := make(List, len(patterns))
	for i, text := range patterns {
		p, err := parse(text)
		if err != nil {
			return nil, fmt.Errorf("origin pattern %q: %w", text, err)
		}
		list[i] = p
	}
	return list, nil
}

func parse(text string) (pattern, error) {
	rest := strings.TrimSuffix(strings.ToLower(strings.TrimSpace(text)), "/")
	var p pattern
	if scheme, after, ok := strings.Cut(rest, "://"); ok {
		p.scheme, rest = scheme, after
	}
	if strings.ContainsAny(rest, "/?#@\\ ") || rest == "" {
		return p, errors.New("it is neither a host nor a scheme and a host")
	}
	var err error
	if p.host, p.port, err = hostPort(rest); err != nil {
		return p, err
	}
	if p.host, err = punycode(p.host); err != nil {
		return p, err
	}
	for _, part := range []string{p.scheme, p.port} {
		if _, err := path.Match(part, ""); err != nil {
			return p, fmt.Errorf("%q: %w", part, err)
		}
	}
	number, err := strconv.Atoi(p.port)
	if p.port != "" && !strings.ContainsAny(p.port, "*?[") && (err != nil || number < 1 || number > 65535) {
		return p, fmt.Errorf("%q is no port", p.port)
	}
	return p, nil
}

// hostPort splits a pattern. The port is empty if it has none.
func hostPort(text string) (host, port string, err error) {
	if strings.HasPrefix(text, "[") {
		end := strings.IndexByte(text, ']') + 1
		if net.ParseIP(strings.Trim(text[:end], "[]")) == nil {
			return "", "", errors.New("what begins with a bracket is no IPv6 address, such as [::1]")
		}
		if host, text = text[:end], text[end:]; text == "" {
			return host, "", nil
		}
		port, ok := strings.CutPrefix(text, ":")
		if !ok || port == "" {
			return "", "", errors.New("there is no port behind the address")
		}
		return host, port, nil
	}
	host, port, ok := strings.Cut(text, ":")
	if host == "" || ok && port == "" || strings.Contains(port, ":") {
		return "", "", errors.New("write host or host:port (IPv6 in brackets)")
	}
	return host, port, nil
}

// punycode returns a host as browsers send it. Stars stay.
func punycode(host string) (string, error) {
	if strings.HasPrefix(host, "[") {
		return host, nil
	}
	labels := strings.Split(host, ".")
	for i, label := range labels {
		if !strings.ContainsFunc(label, func(r rune) bool { return r > '~' }) {
			continue
		}
		if strings.ContainsAny(label, "*?[") {
			return "", fmt.Errorf("%q has a star beside letters that are not ASCII: let the star stand for all between two dots", label)
		}
		ascii, err := idna.Lookup.ToASCII(label)
		if err != nil {
			return "", fmt.Errorf("%q is no name of a host: %w", label, err)
		}
		labels[i] = ascii
	}
	host = strings.Join(labels, ".")
	if _, err := path.Match(host, ""); err != nil {
		return "", fmt.Errorf("%q: %w", host, err)
	}
	return host, nil
}

// Allows reports whether an Origin header fits one of the patterns. It does not if it names no host.
func (l List) Allows(origin string) bool {
	u, err := url.Parse(strings.ToLower(origin))
	if err != nil || u.Host == "" {
		return false
	}
	port := u.Port()
	if port == "" {
		port = defaultPorts[u.Scheme]
	}
	for _, p := range l {
		if p.scheme != "" && !match(p.scheme, u.Scheme) || !p.fitsHost(u.Host) {
			continue
		}
		want := p.port
		if want == "" && p.scheme != "" {
			want = defaultPorts[u.Scheme]
		}
		if want == "" && (p.scheme == "" || port == "") || match(want, port) {
			return true
		}
	}
	return false
}

// AllowsHost reports whether a Host header fits the host of one of the patterns.
func (l List) AllowsHost(host string) bool {
	return slices.ContainsFunc(l, func(p pattern) bool { return p.fitsHost(strings.ToLower(host)) })
}

// fitsHost compares the host of host or host:port.
func (p pattern) fitsHost(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		if name = h; strings.HasPrefix(host, "[") {
			name = "[" + h + "]"
		}
	}
	if strings.HasPrefix(p.host, "[") {
		return p.host == name
	}
	return match(p.host, name)
}

func match(pattern, text string) bool {
	ok, err := path.Match(pattern, text)
	return err == nil && ok
}

// Exact returns an origin without a star in the form in which browsers send it.
func Exact(origin string) (string, error) {
	p, err := parse(origin)
	if err != nil {
		return "", fmt.Errorf("origin %q: %w", origin, err)
	}
	if p.scheme == "" || strings.ContainsAny(p.scheme+strings.Trim(p.host, "[]")+p.port, "*?[") {
		return "", fmt.Errorf("origin %q: it is no scheme and host, such as https://console.example.com", origin)
	}
	exact := p.scheme + "://" + p.host
	if p.port != "" && p.port != defaultPorts[p.scheme] {
		exact += ":" + p.port
	}
	return exact, nil
}
