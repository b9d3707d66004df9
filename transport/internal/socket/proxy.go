package socket

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/pires/go-proxyproto"

	"imgo/transport"
)

// RefusedProxy is the reason for a connection of a trusted proxy that does not
// begin with a header of the PROXY protocol.
const RefusedProxy = "proxy_header"

// Bounds and beginnings of a header of the PROXY protocol, version 1 and 2
// (haproxy.org, proxy-protocol.txt). Version 2 announces its length; proxies add
// some hundred bytes to the addresses.
const (
	proxyV1     = "PROXY "
	proxyV2     = "\r\n\r\n\x00\r\nQUIT\n"
	maxProxyV1  = 107
	proxyV2Head = 16
	maxProxyV2  = 4 << 10
)

var errNoProxyHeader = errors.New("the connection of a trusted proxy does not begin with a header of the PROXY protocol")

// IsProxyHeader reports whether b begins like a header of the PROXY protocol.
func IsProxyHeader(b []byte) bool {
	return bytes.HasPrefix(b, []byte(proxyV1)) || bytes.HasPrefix(b, []byte(proxyV2))
}

// proxyHeader returns the length of the header that b begins with. If it is
// incomplete, need is how many bytes it has, as far as that is known.
func proxyHeader(b []byte) (length, need int, err error) {
	begins := func(mark string) bool { return string(b[:min(len(b), len(mark))]) == mark[:min(len(b), len(mark))] }
	switch {
	case begins(proxyV2) && len(b) < proxyV2Head:
		return 0, proxyV2Head, nil
	case begins(proxyV2):
		length = proxyV2Head + int(binary.BigEndian.Uint16(b[proxyV2Head-2:]))
		if length > maxProxyV2 {
			return 0, 0, fmt.Errorf("a header of the PROXY protocol has %d bytes, at most %d are allowed", length, maxProxyV2)
		}
		if len(b) < length {
			return 0, length, nil
		}
		return length, 0, nil
	case begins(proxyV1):
		if end := bytes.Index(b, []byte("\r\n")); end >= 0 && end+2 <= maxProxyV1 {
			return end + 2, 0, nil
		}
		if len(b) < maxProxyV1 {
			return 0, maxProxyV1, nil
		}
	}
	return 0, 0, errNoProxyHeader
}

// Trusts reports whether addr is that of a trusted proxy.
func (a *Acceptor) Trusts(addr netip.Addr) bool {
	for _, network := range a.cfg.TrustedProxies {
		if network.Contains(addr) {
			return true
		}
	}
	return false
}

// expectsProxyHeader reports whether a connection from peer begins with a header
// of the PROXY protocol.
func (a *Acceptor) expectsProxyHeader(peer netip.AddrPort) bool {
	return a.cfg.ProxyProtocol && a.Trusts(peer.Addr())
}

// readProxyHeader reads at most once, and takes the header once it is complete.
// The error is transport.ErrPart or transport.ErrIdle until then. The address is
// not valid if the proxy speaks for itself, such as for a health check.
func readProxyHeader(in Input) (client netip.AddrPort, err error) {
	for filled := false; ; filled = true {
		if err := in.Err(); err != nil {
			return client, err
		}
		length, need, err := proxyHeader(in.Buffered())
		switch {
		case err != nil:
			return client, err
		case need == 0:
			client, err = parseProxyHeader(in.Buffered()[:length])
			in.Discard(length)
			return client, err
		case filled:
			return client, transport.ErrPart
		}
		if err := in.Fill(need); err != nil {
			return client, err
		}
	}
}

func parseProxyHeader(b []byte) (netip.AddrPort, error) {
	h, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(b)))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("read a header of the PROXY protocol: %w", err)
	}
	source, ok := h.SourceAddr.(*net.TCPAddr)
	if h.Command.IsLocal() || !ok {
		return netip.AddrPort{}, nil
	}
	client := source.AddrPort()
	return netip.AddrPortFrom(client.Addr().Unmap().WithZone(""), client.Port()), nil
}

// refuseProxy counts a connection whose header is missing or wrong. The client is
// told nothing, so that it comes back: it is not at fault.
func (a *Acceptor) refuseProxy(peer netip.AddrPort, err error) {
	a.cfg.Refused(RefusedProxy)
	a.warnProxy.Do(func() {
		a.cfg.Log.Warn().Err(err).Stringer("proxy", peer).Stringer("listener", a.Addr()).
			Msg("a proxy's connection is refused; more of the kind are only counted")
	})
}

// readmit has a connection count for the address to in place of from.
func (a *Acceptor) readmit(from, to netip.AddrPort) error {
	if from.Addr() == to.Addr() || a.cfg.Admit == nil {
		return nil
	}
	if err := a.cfg.Admit(to.Addr()); err != nil {
		a.cfg.Log.Debug().Err(err).Stringer("remote", to).Msg("connection refused")
		a.cfg.Refused(RefusedAdmit)
		return err
	}
	if a.cfg.Released != nil {
		a.cfg.Released(from.Addr())
	}
	return nil
}
