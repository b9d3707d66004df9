package raw

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// The schemes of addresses.
const (
	schemeTCP = "tcp"
	schemeTLS = "tls"
	schemeWS  = "ws"
	schemeWSS = "wss"
)

// Target is an address that clients connect to. Targets are comparable.
type Target struct {
	scheme  string
	address string // host:port, or the URL of a WebSocket
}

// ParseTarget parses host:port, tcp://host:port, tls://host:port, ws://host:port/sub or
// wss://host:port/sub. The default path of a WebSocket is /sub.
func ParseTarget(text string) (Target, error) {
	bad := func(why string) (Target, error) {
		return Target{}, fmt.Errorf("address %q %s: write host:port, tls://host:port or ws://host:port/sub", text, why)
	}
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		scheme, rest = schemeTCP, text
	}
	switch scheme {
	case schemeTCP, schemeTLS:
		host, port, err := net.SplitHostPort(rest)
		switch {
		case err != nil || port == "":
			return bad("has no port")
		case host == "":
			return bad("has no host")
		case !isPort(port):
			return bad("has a port that is not 1 to 65535")
		}
		return Target{scheme, rest}, nil
	case schemeWS, schemeWSS:
		u, err := url.Parse(text)
		if err != nil || u.Hostname() == "" || u.Port() != "" && !isPort(u.Port()) {
			return bad("is no WebSocket address")
		}
		if u.Path == "" || u.Path == "/" {
			u.Path = "/sub"
		}
		return Target{scheme, u.String()}, nil
	}
	return bad("has an unknown scheme")
}

func isPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n > 0
}

// WebSocket reports whether the target is a WebSocket.
func (t Target) WebSocket() bool { return t.scheme == schemeWS || t.scheme == schemeWSS }

// String returns the address in the form that ParseTarget reads.
func (t Target) String() string {
	if t.scheme == schemeTLS {
		return schemeTLS + "://" + t.address
	}
	return t.address
}

// Secure reports whether the connection is encrypted.
func (t Target) Secure() bool { return t.scheme == schemeTLS || t.scheme == schemeWSS }

// Transport returns "tcp" or "ws", whether or not the connection is encrypted.
func (t Target) Transport() string {
	if t.WebSocket() {
		return schemeWS
	}
	return schemeTCP
}

// Other parses another address of the same transport that a server names. A missing scheme or path
// is taken from this target. ok is false if the address cannot be used. If this target has TLS, an
// address without TLS cannot be used, because the token would be sent in the clear.
func (t Target) Other(address string) (other Target, ok bool) {
	if !strings.Contains(address, "://") {
		address = t.scheme + "://" + address
	}
	if t.WebSocket() {
		own, err := url.Parse(t.address)
		u, uerr := url.Parse(address)
		if err != nil || uerr != nil {
			return Target{}, false
		}
		if u.Path == "" || u.Path == "/" {
			u.Path, u.RawQuery = own.Path, own.RawQuery
		}
		address = u.String()
	}
	other, err := ParseTarget(address)
	if err != nil || other.WebSocket() != t.WebSocket() || t.Secure() && !other.Secure() {
		return Target{}, false
	}
	return other, true
}
