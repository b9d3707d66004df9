// Package loopback decides whether a program of this machine sent a request. Two callers
// need that, because they ask for no secret: the API without keys, and the listeners
// without authentication. It imports no other package of imgo.
package loopback

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// Host reports whether only this machine can reach the host, which has no port. A name
// other than localhost could resolve to any address, so it does not count as loopback.
func Host(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// Refusal is why a request is not believed to come straight from a program of this
// machine.
type Refusal struct {
	// Header is the header at fault, and Message says what is wrong with it. For the protocol version Header is empty,
	// and Message is a whole sentence.
	Header, Message string
}

func (r *Refusal) Error() string {
	if r.Header == "" {
		return r.Message
	}
	return "the header " + r.Header + " " + r.Message
}

// forwarding are the headers that proxies add, beside all that begin with X-Forwarded.
var forwarding = []string{
	"Forwarded", "Via", "X-Real-Ip", "X-Client-Ip", "X-Cluster-Client-Ip", "True-Client-Ip", "Cf-Connecting-Ip", "Cf-Ray",
	"Fastly-Client-Ip", "X-Envoy-External-Address", "X-Original-Forwarded-For", "X-Original-Host", "X-Appengine-User-Ip",
	"X-Azure-Clientip", "X-Amzn-Trace-Id",
}

// Check returns a *Refusal unless a request looks as if a program of this machine had
// sent it, and no proxy and no page of another site. The source address proves nothing:
// behind a proxy every request comes from loopback. trusted reports whether the host of
// a request, such as "console.example.com:8443", is known.
//
// A proxy that speaks HTTP/1.1, replaces Host with the address that it calls, and adds
// no header looks like a program. Only a secret tells the two apart.
func Check(r *http.Request, trusted func(host string) bool) error {
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Forwarded") || slices.Contains(forwarding, name) {
			return &Refusal{name, "shows that a proxy forwards the request"}
		}
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if !Host(strings.Trim(host, "[]")) && !trusted(r.Host) {
		return &Refusal{"Host", fmt.Sprintf("is %.100q, and neither localhost nor a loopback address", r.Host)}
	}
	// nginx forwards with HTTP/1.0, unless it is told otherwise, and adds nothing else.
	if !r.ProtoAtLeast(1, 1) {
		return &Refusal{"", "the request has HTTP/1.0, with which some proxies forward: send HTTP/1.1"}
	}
	return nil
}

// Origin reports whether the header Origin of a request names a page of this machine.
func Origin(header string) bool {
	u, err := url.Parse(header)
	return err == nil && Host(u.Hostname())
}
