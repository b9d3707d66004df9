//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// relayPort is the port of a node's address at which the relay accepts its gossip.
const relayPort = "7947"

// relay forwards the gossip of all nodes, so that it can be cut off between some of
// them. Each node advertises the relay as its address. The relay recognizes the sender
// by its source address. It is safe for concurrent use.
type relay struct {
	mu   sync.Mutex
	cuts map[[2]string]bool // pairs of node IP addresses, in both orders
	has  map[string]bool    // IP addresses whose gossip is relayed
	ends []io.Closer
	wg   sync.WaitGroup
}

func newRelay() *relay {
	return &relay{cuts: make(map[[2]string]bool), has: make(map[string]bool)}
}

// add starts to relay the gossip of the node at ip.
func (r *relay) add(ctx context.Context, ip string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.has[ip] {
		return nil
	}
	from, to := net.JoinHostPort(ip, relayPort), net.JoinHostPort(ip, gossipPort)
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", from)
	if err != nil {
		return fmt.Errorf("relay gossip: %w", err)
	}
	p, err := config.ListenPacket(ctx, "udp", from)
	if err != nil {
		return errors.Join(fmt.Errorf("relay gossip: %w", err), l.Close())
	}
	target, err := net.ResolveUDPAddr("udp", to)
	if err != nil {
		return errors.Join(fmt.Errorf("relay gossip: %w", err), l.Close(), p.Close())
	}
	r.has[ip] = true
	r.ends = append(r.ends, l, p)
	r.wg.Go(func() { r.packets(p, ip, target) })
	r.wg.Go(func() { r.streams(l, ip, to) })
	return nil
}

func (r *relay) packets(p net.PacketConn, ip string, to net.Addr) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := p.ReadFrom(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue // such as the ICMP error of a node that has ended
		}
		if host, _, _ := net.SplitHostPort(from.String()); !r.isCut(host, ip) {
			_, _ = p.WriteTo(buf[:n], to) // packets may be lost
		}
	}
}

func (r *relay) streams(l net.Listener, ip, to string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		r.wg.Go(func() {
			defer c.Close()
			if host, _, _ := net.SplitHostPort(c.RemoteAddr().String()); r.isCut(host, ip) {
				return
			}
			d, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "tcp", to)
			if err != nil {
				return
			}
			defer d.Close()
			// Gossip streams end by themselves within seconds.
			limit := time.Now().Add(20 * time.Second)
			_, _ = c.SetDeadline(limit), d.SetDeadline(limit)
			var back sync.WaitGroup
			back.Go(func() {
				_, _ = io.Copy(c, d)
				_ = c.Close()
			})
			_, _ = io.Copy(d, c)
			_ = d.(*net.TCPConn).CloseWrite()
			back.Wait()
		})
	}
}

func (r *relay) isCut(a, b string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cuts[[2]string{a, b}]
}

// cut cuts off gossip between the nodes of some and those of others.
func (r *relay) cut(some, others []*node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range some {
		for _, b := range others {
			r.cuts[[2]string{a.ip, b.ip}], r.cuts[[2]string{b.ip, a.ip}] = true, true
		}
	}
}

// fix removes every cut.
func (r *relay) fix() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.cuts)
}

// close ends the relay and waits for its goroutines.
func (r *relay) close() {
	r.mu.Lock()
	for _, e := range r.ends {
		_ = e.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
}
