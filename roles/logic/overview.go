package logic

import (
	"context"
	"sync/atomic"
	"time"

	"imgo/envelope"
)

// NodeInfo is one node as GET /v1/nodes shows it.
type NodeInfo struct {
	Name     string            `json:"name"`
	Roles    []string          `json:"roles"`
	Address  string            `json:"address,omitempty"`
	Version  string            `json:"version"`
	StartMS  int64             `json:"start_ms"`
	Ready    bool              `json:"ready"`
	Sessions int               `json:"sessions"`
	Clients  map[string]string `json:"clients,omitempty"` // "tcp", "ws": where clients connect
	// Weight is the node's share of clients in proportion to other nodes'. 0 means 1.
	Weight int    `json:"weight,omitempty"`
	Zone   string `json:"zone,omitempty"`
	// Leaving reports whether the node drains, so that clients go elsewhere.
	Leaving bool `json:"leaving,omitempty"`
	// ClockMS is how far the node's clock is ahead of that of the node that answers, in
	// milliseconds. It is negative if the clock is behind, and 0 if the node was not asked.
	ClockMS int64 `json:"clock_ms,omitempty"`
}

// Partitions is what GET /v1/partitions shows of the kept topic.
type Partitions struct {
	// Kept is how many partitions it has, and Generation counts its topics, from 1.
	Kept       int `json:"kept"`
	Generation int `json:"generation"`
	// Next is how many it will have when it has grown, Moved is how many of Kept
	// have moved, and SinceMS is when the growth began, in Unix milliseconds.
	Next    int   `json:"next,omitempty"`
	Moved   int   `json:"moved,omitempty"`
	SinceMS int64 `json:"since_ms,omitempty"`
}

// Stats is what GET /v1/stats shows of the whole server, as logic sees it.
type Stats struct {
	Sessions int               `json:"sessions"`
	Comets   map[string]int    `json:"comets"`
	Rooms    int               `json:"rooms"`
	Pushes   map[string]uint64 `json:"pushes"` // by kind, of this logic since its start
	UptimeMS int64             `json:"uptime_ms"`
}

// overviewHandler answers questions about the server as a whole.
type overviewHandler struct {
	*shared
	started time.Time
}

// CountByComet counts the sessions of each comet that answered.
func (h *overviewHandler) CountByComet(ctx context.Context) (map[string]int, error) {
	replies, err := h.comets.ask(ctx, &envelope.RoomsRequest{})
	if err != nil {
		return nil, err
	}
	return countByComet(replies), nil
}

func countByComet(replies map[string]*envelope.RoomsReply) map[string]int {
	counts := make(map[string]int, len(replies))
	for name, reply := range replies {
		counts[name] = int(reply.GetSessions())
	}
	return counts
}

// Stats returns the server's statistics, as the comets that answered have them,
// and this logic's own pushes since it started.
func (h *overviewHandler) Stats(ctx context.Context) (Stats, error) {
	replies, err := h.comets.ask(ctx, &envelope.RoomsRequest{})
	if err != nil {
		return Stats{}, err
	}
	stats := Stats{
		Comets: countByComet(replies), Rooms: len(countByRoom(replies)),
		Pushes: make(map[string]uint64), UptimeMS: h.now().Sub(h.started).Milliseconds(),
	}
	for _, n := range stats.Comets {
		stats.Sessions += n
	}
	for kind, n := range h.metrics.accepted {
		stats.Pushes[kind] = n.total.Load()
	}
	return stats, nil
}

// ForgetComet has every router drop what it remembers of that comet's sessions,
// and of no other's, and counts them. A comet that is alive announces its
// sessions again. With an error some routers may have dropped theirs.
func (h *overviewHandler) ForgetComet(ctx context.Context, comet string) (int, error) {
	ctx, end, err := h.life.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer end()
	if err := envelope.CheckName("comet", comet); err != nil {
		return 0, err
	}
	var n atomic.Int64
	err = h.owners.callAll("forget the comet", func(r Router) error {
		reply, err := r.Forget(ctx, &envelope.ForgetRequest{Comet: comet})
		n.Add(int64(reply.GetSessions()))
		return err
	})
	return int(n.Load()), err
}
