package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"imgo/internal/weborigin"
	"imgo/roles/comet"
)

// Comet sets the addresses and the TLS of the client listeners.
type Comet struct {
	TCP           string   `toml:"tcp" default:":8080" flag:"tcp" common:"true" unit:"address, or off" doc:"Where TCP clients connect."`
	WS            string   `toml:"ws" default:":8090" flag:"ws" common:"true" unit:"address, or off" doc:"Where WebSocket clients connect, path /sub."`
	TLSCert       string   `toml:"tls_cert" unit:"PEM file" doc:"The certificate (chain) for clients; re-read when it changes. Empty: no TLS."`
	TLSKey        string   `toml:"tls_key" unit:"PEM file" doc:"The certificate's private key."`
	TCPTLS        bool     `toml:"tcp_tls" default:"true" doc:"Whether the TCP port uses the certificate, where one is given."`
	WSTLS         bool     `toml:"ws_tls" default:"true" doc:"Whether the WebSocket port uses the certificate, where one is given."`
	WSRequestSize int      `toml:"ws_request_size" default:"32KiB" unit:"size" min:"1KiB" max:"1MiB" doc:"The longest request that opens a WebSocket, with all its cookies. A longer one is refused (HTTP 431)."`
	WSOrigins     []string `toml:"ws_origins" unit:"hosts or origins such as \"example.com\", \"*.example.com\", \"https://example.com:8443\"" doc:"The web pages that may open a WebSocket. A host without a port stands for all of its ports.\nEmpty: any. Clients other than browsers send no origin and are always accepted."`

	TrustedProxies   []string `toml:"trusted_proxies" unit:"networks such as 10.0.0.0/8, or addresses" doc:"The proxies and load balancers that are believed when they tell a client's address, which limits, logs\nand the API go by. The address of any other peer is the client's."`
	TCPProxyProtocol bool     `toml:"tcp_proxy_protocol" doc:"Whether the trusted proxies begin connections to the TCP port with the PROXY protocol (version 1 or 2).\nOne without it is closed."`
	WSProxyProtocol  bool     `toml:"ws_proxy_protocol" doc:"Whether the trusted proxies begin connections to the WebSocket port with the PROXY protocol (version 1 or 2).\nOne without it is closed."`
	WSClientHeader   string   `toml:"ws_client_header" default:"X-Forwarded-For" choices:"X-Forwarded-For,Forwarded" doc:"The header in which the trusted proxies tell a client's address. The other one is ignored, because\na proxy passes it on as a client has sent it."`

	comet.Sockets
}

// ClientAddresses are where the clients of a comet in a cluster are told to connect.
type ClientAddresses struct {
	TCPAddress string `toml:"tcp_address" unit:"host:port" doc:"The TCP address of this comet that clients are told. Empty: they are told none."`
	WSAddress  string `toml:"ws_address" unit:"host:port, or ws:// or wss:// and that" doc:"The WebSocket address of this comet that clients are told. Empty: they are told none."`
}

// cometListener is one way for clients to connect. Its settings are comet.NAME, comet.NAME_proxy_protocol and
// cluster.NAME_address.
type cometListener struct {
	name              string
	example           string  // of an address
	address           *string // empty: off
	proxyProtocol     bool
	advertised        string   // the address that clients are told
	advertisedSchemes []string // with which it may begin
}

func (l *cometListener) key() string { return "comet." + l.name }

// listeners returns every way for clients to connect.
func (cfg *Config) listeners() []cometListener {
	c, cluster := &cfg.Comet, &cfg.Cluster
	return []cometListener{
		{name: "tcp", example: ":8080", address: &c.TCP, proxyProtocol: c.TCPProxyProtocol, advertised: cluster.TCPAddress},
		{name: "ws", example: ":8090", address: &c.WS, proxyProtocol: c.WSProxyProtocol, advertised: cluster.WSAddress,
			advertisedSchemes: []string{"ws", "wss"}},
	}
}

// ProxyNetworks returns TrustedProxies. An address is a network of its own.
func (c *Comet) ProxyNetworks() ([]netip.Prefix, error) {
	var networks []netip.Prefix
	for _, text := range c.TrustedProxies {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			var addr netip.Addr
			if addr, err = netip.ParseAddr(text); err == nil {
				network, err = addr.Prefix(addr.BitLen())
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%q is neither a network nor an address", text)
		}
		networks = append(networks, network.Masked())
	}
	return networks, nil
}

// comet checks the client listeners and returns those that are on.
func (v *validation) comet() []listener {
	c := &v.cfg.Comet
	var on []listener
	if !v.cfg.Runs(RoleComet) {
		return nil
	}
	var keys []string
	for _, l := range v.cfg.listeners() {
		keys = append(keys, l.key())
		if *l.address != "" {
			on = append(on, v.listenAddress(l.key(), "--"+l.name, *l.address, l.example))
		}
	}
	if len(on) == 0 {
		v.refuse(keys[0], "is off, and so is every other way to connect", "leave one on: "+strings.Join(keys, ", "))
	}
	v.certificate("comet", c.TLSCert, c.TLSKey)
	networks, err := c.ProxyNetworks()
	if err != nil {
		v.refuse("comet.trusted_proxies", "has "+err.Error(), "write networks such as 10.0.0.0/8, or addresses such as 10.0.0.7")
	}
	for _, l := range v.cfg.listeners() {
		if l.proxyProtocol && err == nil && len(networks) == 0 {
			v.refuse(l.key()+"_proxy_protocol", "is set, and comet.trusted_proxies is empty", "name the networks of the proxies there")
		}
	}
	for _, pattern := range c.WSOrigins {
		if _, err := weborigin.Parse([]string{pattern}); err != nil {
			v.refuse("comet.ws_origins", "has the "+err.Error(),
				"write a host such as example.com or *.example.com, or an origin such as https://example.com:8443")
		}
	}
	return on
}

// clientAddresses checks the addresses that clients are told.
func (v *validation) clientAddresses() {
	for _, l := range v.cfg.listeners() {
		key, address := "cluster."+l.name+"_address", l.advertised
		if scheme, rest, ok := strings.Cut(address, "://"); ok && len(l.advertisedSchemes) > 0 {
			address, _, _ = strings.Cut(rest, "/")
			if !slices.Contains(l.advertisedSchemes, scheme) {
				v.refuse(key, fmt.Sprintf("is %q", l.advertised),
					"write host:port, "+strings.Join(l.advertisedSchemes, "://host:port or ")+"://host:port")
			}
		}
		v.advertised(key, address)
	}
}
