package verify

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"imgo/clients/go/pushapi"
	"imgo/clients/go/raw"
	"imgo/internal/wait"
)

// places holds the addresses that devices connect to: those of the settings, or those that the API
// returns. Nodes come and go, so the API is asked again every askInterval. It is safe for
// concurrent use.
type places struct {
	api   *pushapi.Client
	given bool

	mu      sync.Mutex
	tcp, ws []raw.Target
	count   int // nodes
}

// askInterval is the time between two questions to the API for the addresses.
const askInterval = 2 * time.Second

func newPlaces(cfg Config, api *pushapi.Client) (*places, error) {
	p := &places{api: api, given: len(cfg.Clients) > 0}
	for _, text := range cfg.Clients {
		at, err := raw.ParseTarget(text)
		if err != nil {
			return nil, fmt.Errorf("client %w", err)
		}
		p.add(&p.tcp, &p.ws, at)
	}
	p.count = len(cfg.Clients)
	return p, nil
}

func (p *places) add(tcp, ws *[]raw.Target, at raw.Target) {
	if at.WebSocket() {
		*ws = append(*ws, at)
	} else {
		*tcp = append(*tcp, at)
	}
}

// find asks for the addresses once. It returns an error if there is none.
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
		return errors.New("no node says where clients connect: wait if the cluster has just started, or name the addresses")
	}
	return nil
}

// follow repeats the question until ctx is done. The last known addresses stay if no server answers
// or no node has a comet.
func (p *places) follow(ctx context.Context) {
	if p.given {
		return
	}
	for wait.Sleep(ctx, askInterval) == nil {
		_ = p.ask(ctx)
	}
}

func (p *places) ask(ctx context.Context) error {
	nodes, host, err := p.api.Nodes(ctx)
	if err != nil {
		return err
	}
	var tcp, ws []raw.Target
	for _, n := range nodes {
		if n.Leaving {
			continue
		}
		for network := range n.Clients {
			at, err := raw.ParseTarget(n.ClientAddress(network, host))
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

// nodes returns the number of nodes in the last answer, or of the addresses in the settings.
func (p *places) nodes() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

// pick returns a random address of a transport. If the transport has none, it returns one of the
// other transport. It avoids one address if there is another.
func (p *places) pick(ws bool, avoid raw.Target) raw.Target {
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
