package roles

import (
	"cmp"
	"fmt"
	"net"
	"strings"

	"imgo/envelope"
	"imgo/roles/comet"
	"imgo/transport"
	"imgo/transport/tcp"
	"imgo/transport/ws"
)

// clientTransport is one way for clients to connect, as the settings have it.
type clientTransport struct {
	scheme    string // as in transport.Traits
	listen    string // the address to bind. Empty means off
	tls       bool   // if the node has a certificate
	tlsPrefix string // of an address that uses TLS
	advertise string // the address that clients are told instead of the bound one
	path      string // of its URLs. It is empty if clients are told addresses alone
	bind      transport.ListenFunc
}

// clientSide is the side of a node that clients connect to.
type clientSide struct{ *Node }

// transports lists the transports that this program knows, in display order. CONTRIBUTING.md (A transport)
// has the other places that know them.
func (n clientSide) transports() []clientTransport {
	c, advertise := n.cfg.Comet, n.cfg.Cluster
	bindTCP := func(l transport.ListenConfig) (transport.Listener, error) {
		l.ProxyProtocol = c.TCPProxyProtocol
		return tcp.Listen(l)
	}
	bindWS := func(l transport.ListenConfig) (transport.Listener, error) {
		l.ProxyProtocol = c.WSProxyProtocol
		return ws.Listen(ws.Config{
			ListenConfig: l, Origins: c.WSOrigins, Local: n.cfg.Auth.BelievesClients(), RequestSize: c.WSRequestSize,
			KeepHeader:   n.cfg.Auth.NeedsHandshake(),
			ClientHeader: c.WSClientHeader,
		})
	}
	return []clientTransport{
		{scheme: tcp.Scheme, listen: c.TCP, tls: c.TCPTLS, tlsPrefix: "tls://", advertise: advertise.TCPAddress, bind: bindTCP},
		{scheme: ws.Scheme, listen: c.WS, tls: c.WSTLS, tlsPrefix: "wss://", advertise: advertise.WSAddress, bind: bindWS, path: "/sub"},
	}
}

// listenFuncs returns the functions that bind comet's listeners.
func (n clientSide) listenFuncs() ([]transport.ListenFunc, error) {
	c := n.cfg.Comet
	certificate := func(*transport.ListenConfig) {}
	if c.TLSCert != "" {
		config, err := transport.ReloadingTLS(c.TLSCert, c.TLSKey, n.log)
		if err != nil {
			return nil, fmt.Errorf("comet.tls_cert and comet.tls_key: %w", err)
		}
		certificate = func(l *transport.ListenConfig) { l.TLS = config }
	}
	proxies, err := c.ProxyNetworks()
	if err != nil {
		return nil, fmt.Errorf("comet.trusted_proxies: %w", err)
	}
	var funcs []transport.ListenFunc
	for _, t := range n.transports() {
		if t.listen == "" {
			continue
		}
		funcs = append(funcs, func(l transport.ListenConfig) (transport.Listener, error) {
			l.Addr, l.TrustedProxies = t.listen, proxies
			if t.tls {
				certificate(&l)
			}
			return t.bind(l)
		})
	}
	return funcs, nil
}

// ClientAddr returns the address that clients of a transport connect to, or nil
// if the node does not listen for it.
func (n *Node) ClientAddr(scheme string) net.Addr {
	if n.comet == nil {
		return nil
	}
	return n.comet.Addr(scheme)
}

// addresses returns the addresses for clients by transport. It omits the host if a listener is bound
// to every address, since the caller knows one.
func (n clientSide) addresses() map[string]string {
	out := make(map[string]string, 2)
	for _, t := range n.transports() {
		a := n.ClientAddr(t.scheme)
		if a == nil {
			continue
		}
		host, port, err := net.SplitHostPort(a.String())
		if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
			host = ""
		}
		out[t.scheme] = n.url(t, net.JoinHostPort(host, port))
	}
	return out
}

// endpoints returns the addresses that clients are told. The advertised address takes precedence over
// the bound one. A bound address that other hosts cannot reach is omitted.
func (n clientSide) endpoints() []*envelope.Endpoint {
	if n.comet == nil {
		return nil
	}
	var list []*envelope.Endpoint
	for _, t := range n.transports() {
		if address := cmp.Or(t.advertise, reachable(n.ClientAddr(t.scheme))); address != "" {
			list = append(list, &envelope.Endpoint{Scheme: t.scheme, Address: n.url(t, address)})
		}
	}
	return list
}

// url returns an address with the scheme that shows the use of TLS.
// Without TLS, or if the address has a scheme already, it returns the address unchanged.
func (n clientSide) url(t clientTransport, address string) string {
	if !t.tls || n.cfg.Comet.TLSCert == "" || strings.Contains(address, "://") {
		return address
	}
	return t.tlsPrefix + address
}

// cometConfig returns the settings of this node's comet.
func (n clientSide) cometConfig() (comet.Config, error) {
	c := comet.DefaultConfig()
	c.Name = n.name
	c.Sockets, c.Protocol, c.Limits, c.Delivery = n.cfg.Comet.Sockets, n.cfg.Protocol, n.cfg.Limits.Limits, n.cfg.Delivery.Delivery
	c.Shutdown, c.Expiry = n.cfg.Shutdown.Shutdown, n.cfg.Auth.Expiry
	c.Upstream = n.cfg.Rules
	c.Handshake = n.cfg.Auth.NeedsHandshake()
	c.Faults = n.opts.Faults.Comet
	// The other parts need time to stop too. The HTTP side gets a quarter of the timeout.
	c.DrainTimeout = n.cfg.Shutdown.Timeout * 3 / 10
	c.CloseTimeout = min(c.DrainTimeout, c.CloseTimeout)
	if n.cluster != nil {
		c.Others = n.cluster.otherComets(n.cfg.Cluster.Zone)
	}
	var err error
	c.Listen, err = n.listenFuncs()
	return c, err
}
