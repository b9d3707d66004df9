package ws

import (
	"net/http"
	"net/netip"
	"strings"
)

// The request headers in which proxies tell a client's address.
const (
	HeaderXForwardedFor = "X-Forwarded-For"
	HeaderForwarded     = "Forwarded" // RFC 7239
)

// clientAddress returns the address of the client that a request comes from. peer
// is the other end of the connection. Each proxy appends the address that it sees,
// so the list is read from its end, for as long as the address that tells is that
// of a trusted proxy. Entries that a client has put into the list itself are never reached.
// Only one header is read, because a proxy passes on the other one as it came.
func (l *Listener) clientAddress(r *http.Request, peer netip.AddrPort) netip.AddrPort {
	if !l.acceptor.Trusts(peer.Addr()) {
		return peer
	}
	var nodes []string
	for _, line := range r.Header.Values(l.clientHeader) {
		for item := range strings.SplitSeq(line, ",") {
			if l.clientHeader == HeaderForwarded {
				item = forwardedFor(item)
			}
			nodes = append(nodes, item)
		}
	}
	client := peer
	for i := len(nodes) - 1; i >= 0 && l.acceptor.Trusts(client.Addr()); i-- {
		node, ok := parseNode(nodes[i])
		if !ok {
			break
		}
		client = node
	}
	return client
}

// forwardedFor returns the value of "for" in one element of Forwarded.
func forwardedFor(element string) string {
	for pair := range strings.SplitSeq(element, ";") {
		name, value, _ := strings.Cut(pair, "=")
		if strings.EqualFold(strings.TrimSpace(name), "for") {
			return strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	return ""
}

// parseNode reads an address with or without a port. Names that hide an address,
// such as "unknown", are none.
func parseNode(text string) (netip.AddrPort, bool) {
	text = strings.TrimSpace(text)
	if node, err := netip.ParseAddrPort(text); err == nil {
		return netip.AddrPortFrom(node.Addr().Unmap().WithZone(""), node.Port()), true
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"))
	return netip.AddrPortFrom(addr.Unmap().WithZone(""), 0), err == nil
}
