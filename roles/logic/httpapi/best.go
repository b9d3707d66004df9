package httpapi

import (
	"cmp"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"

	"imgo/envelope"
	"imgo/roles/logic"
	"imgo/roles/logic/httpapi/internal/views"
)

const (
	// defaultBest and maxBest are how many addresses one answer names.
	defaultBest = 5
	maxBest     = 20
	// Comets whose loads differ by less than a fifth, or by less than
	// nearSessions, count as equal. Their loads are known with a delay of a
	// second, and many clients that come at once must not all go to one comet.
	nearPart     = 0.2
	nearSessions = 50
)

// bestNodes answers GET /v1/nodes/best?transport=&zone=&n= with the addresses to
// which a client should connect, best first. Clients call it, so it needs no API
// key and any page may read the answer. It shows public addresses only.
func (h serverHandlers) bestNodes(c *call) error {
	transport, zone := c.Param("transport"), c.Param("zone")
	if !slices.Contains(h.transports, transport) {
		return envelope.Invalid("transport", "must be "+strings.Join(h.transports, " or "))
	}
	n, err := c.Number("n", defaultBest, 1, maxBest)
	if err != nil {
		return err
	}
	addresses := []string{}
	for _, node := range best(views.Comets(h.service.Nodes(c.Ctx)), zone) {
		if address := advertised(node, transport); address != "" && len(addresses) < int(n) && !slices.Contains(addresses, address) {
			addresses = append(addresses, address)
		}
	}
	c.W.Header().Set("Cache-Control", "no-store")
	return c.Reply(http.StatusOK, map[string]any{"addresses": addresses})
}

// best sorts the comets that accept clients. Those of the zone come first, and
// within a zone the least loaded. Chance decides between nearly equal ones.
func best(comets []logic.NodeInfo, zone string) []logic.NodeInfo {
	type ranked struct {
		logic.NodeInfo
		far  int
		load float64
	}
	var list []ranked
	for _, n := range comets {
		if !n.Ready || n.Leaving {
			continue
		}
		r := ranked{NodeInfo: n}
		if zone != "" && n.Zone != zone {
			r.far = 1
		}
		sessions := float64(max(n.Sessions, 0))
		r.load = (sessions + rand.Float64()*max(sessions*nearPart, nearSessions)) / float64(views.Weight(n))
		list = append(list, r)
	}
	slices.SortFunc(list, func(x, y ranked) int { return cmp.Or(cmp.Compare(x.far, y.far), cmp.Compare(x.load, y.load)) })
	sorted := make([]logic.NodeInfo, len(list))
	for i, r := range list {
		sorted[i] = r.NodeInfo
	}
	return sorted
}

// advertised returns the address to which a comet's clients connect by a
// transport, "" if the comet has announced none that others can use.
func advertised(n logic.NodeInfo, transport string) string {
	host, _, err := net.SplitHostPort(views.Bare(n.Clients[transport]))
	if ip := net.ParseIP(host); err != nil || host == "" || ip != nil && ip.IsUnspecified() {
		return ""
	}
	return n.Clients[transport]
}
