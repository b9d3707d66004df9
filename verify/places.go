package verify

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// places are where devices connect: as given, or as the API says, which is
// asked again all the time, since nodes come and go. Safe for concurrent use.
type places struct {
	api   *api
	given bool
	tls   *tls.Config
	http  *http.Client // of WebSockets

	mu      sync.Mutex
	tcp, ws []place
	count   int // nodes
}

// askAgain is how often the API is asked where devices connect.
const askAgain = 2 * time.Second

func newPlaces(cfg Config, a *api) (*places, error) {
	p := &places{api: a, given: len(cfg.Clients) > 0, tls: cfg.TLS, http: newHTTP(cfg.TLS, 1)}
	if p.tls == nil {
		p.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	for _, text := range cfg.Clients {
		at, err := parsePlace(text)
		if err != nil {
			return nil, err
		}
		p.add(&p.tcp, &p.ws, at)
	}
	p.count = len(cfg.Clients)
	return p, nil
}

func (p *places) add(tcp, ws *[]place, at place) {
	if at.ws {
		*ws = append(*ws, at)
	} else {
		*tcp = append(*tcp, at)
	}
}

func (p *places) close() { p.http.CloseIdleConnections() }

// find asks for the places; there must be one.
func (p *places) find(ctx context.Context) error {
	if p.given {
		return nil
	}
	if err := p.ask(ctx); err != nil {
		return fmt.Errorf("ask where clients connect: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.tcp)+len(p.ws) == 0 {
		return errors.New("no node says where clients connect: name the addresses")
	}
	return nil
}

// follow asks again and again until ctx is done. While nobody answers, or
// nobody knows of a comet, what was known last is good enough.
func (p *places) follow(ctx context.Context) {
	if p.given {
		return
	}
	for sleep(ctx, askAgain) == nil {
		_ = p.ask(ctx)
	}
}

func (p *places) ask(ctx context.Context) error {
	nodes, host, err := p.api.nodes(ctx)
	if err != nil {
		return err
	}
	var tcp, ws []place
	for _, n := range nodes {
		if n.Leaving {
			continue
		}
		for network, address := range n.Clients {
			at, err := parsePlace(reachable(network, address, host))
			if err != nil {
				return fmt.Errorf("node %s: %w", n.Name, err)
			}
			p.add(&tcp, &ws, at)
		}
	}
	if len(tcp)+len(ws) == 0 {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tcp, p.ws, p.count = tcp, ws, len(nodes)
	return nil
}

// reachable makes an address to listen on one to connect to: ":8080" is on
// the host of the API that said so.
func reachable(network, address, host string) string {
	scheme, rest, ok := strings.Cut(address, "://")
	if !ok {
		scheme, rest = network, address
	}
	rest, path, _ := strings.Cut(rest, "/")
	if h, port, err := net.SplitHostPort(rest); err == nil {
		if ip, err := netip.ParseAddr(h); h == "" || err == nil && ip.IsUnspecified() {
			rest = net.JoinHostPort(host, port)
		}
	}
	if path != "" {
		rest += "/" + path
	}
	return scheme + "://" + rest
}

// nodes is how many nodes there are, as far as is known.
func (p *places) nodes() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

// pick is any place of a transport, or of the other if it has none; not the
// one to avoid where there is a choice.
func (p *places) pick(ws bool, avoid place) place {
	p.mu.Lock()
	defer p.mu.Unlock()
	from := p.tcp
	if ws && len(p.ws) > 0 || len(p.tcp) == 0 {
		from = p.ws
	}
	at := rand.IntN(len(from))
	if from[at] == avoid {
		at = (at + 1) % len(from)
	}
	return from[at]
}
