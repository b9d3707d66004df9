package members

import (
	"context"
	"fmt"
	"log"
	"net"

	"time"

	"github.com/hashicorp/memberlist"

	"imgo/internal/openconns"
)

// transport is memberlist's transport with two additions: its streams end when gossip
// ends, and tests can cut the network.
type transport struct {
	*memberlist.NetTransport
	ip    net.IP
	cut   func(network, address string) bool
	ctx   context.Context // of dials
	abort context.CancelFunc

	streams openconns.Set // that this node has opened
}

// listen binds TCP and UDP to the same port.
func listen(ip net.IP, port int, logger *log.Logger, cut func(network, address string) bool) (*transport, error) {
	tries := 1
	if port == 0 {
		tries = 10 // a port that is free for TCP may be taken for UDP
	}
	var (
		nt  *memberlist.NetTransport
		err error
	)
	for range tries {
		nt, err = memberlist.NewNetTransport(&memberlist.NetTransportConfig{BindAddrs: []string{ip.String()}, BindPort: port, Logger: logger})
		if err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	t := &transport{NetTransport: nt, ip: ip, cut: cut}
	t.ctx, t.abort = context.WithCancel(context.Background())
	context.AfterFunc(t.ctx, t.streams.Close)
	return t, nil
}

// WriteTo implements memberlist.Transport.
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress implements memberlist.NodeAwareTransport.
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	if t.cut != nil && t.cut("udp", a.Addr) {
		return time.Now(), nil // lost without an error, as packets can be
	}
	return t.NetTransport.WriteToAddress(b, a)
}

// DialTimeout implements memberlist.Transport.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	if t.cut != nil && t.cut("tcp", a.Addr) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("%s is cut off", a.Addr)}
	}
	d := net.Dialer{Timeout: timeout}
	if !t.ip.IsUnspecified() {
		// The same source address as that of packets, for firewalls and for tests
		// that cut the network.
		d.LocalAddr = &net.TCPAddr{IP: t.ip}
	}
	c, err := d.DialContext(t.ctx, "tcp", a.Addr)
	if err != nil {
		return nil, err
	}
	return t.streams.Add(c)
}

// Shutdown implements memberlist.Transport.
func (t *transport) Shutdown() error {
	t.abort()
	return t.NetTransport.Shutdown()
}
