package goim

import (
	"cmp"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"imgo/roles/logic"
	"imgo/roles/logic/httpapi/internal/httpcall"
	"imgo/roles/logic/httpapi/internal/views"
)

// weighted is /goim/nodes/weighted, in goim's order.
type weighted struct {
	Domain       string   `json:"domain,omitempty"`
	TCPPort      int32    `json:"tcp_port,omitempty"`
	WSPort       int32    `json:"ws_port,omitempty"`
	WSSPort      int32    `json:"wss_port,omitempty"`
	Heartbeat    int32    `json:"heartbeat,omitempty"`
	Nodes        []string `json:"nodes,omitempty"`
	Backoff      backoff  `json:"backoff,omitempty"`
	HeartbeatMax int32    `json:"heartbeat_max,omitempty"`
}

type backoff struct {
	MaxDelay  int32   `json:"max_delay,omitempty"`
	BaseDelay int32   `json:"base_delay,omitempty"`
	Factor    float32 `json:"factor,omitempty"`
	Jitter    float32 `json:"jitter,omitempty"`
}

const (
	// heartbeatSeconds is the time between the heartbeats of a client.
	heartbeatSeconds = 240
	// maxHeartbeats is how many may be missing before a client counts as gone.
	maxHeartbeats = 2
)

// maxNodes is the number of nodes in an answer of goim's balancer.
const maxNodes = 5

const (
	// baseWeight is the weight that a goim comet had by default. A comet of
	// weight 1 has it here.
	baseWeight = 10
	// regionGain is how much more a comet of the client's region weighed.
	regionGain = 1.6
)

// weightOf returns a comet's weight as goim computed it: the configured weight,
// plus what the comet lacks of its share of half of all connections.
func weightOf(fixed, total, conns, totalConns int, gain float64) int {
	gained := float64(fixed) * gain
	if totalConns <= 0 {
		return fixed
	}
	share := gained / float64(total+int(gained)-fixed)
	diff := share - float64(conns)/float64(totalConns)*0.5
	missing := diff * float64(totalConns)
	rounded := math.Floor(missing)
	if rounded-missing < -0.5 {
		rounded = math.Ceil(missing)
	}
	return max(1, min(int(gained+rounded), 1<<20))
}

// order sorts the comets that accept clients, as goim did, by weight. goim counted
// the clients that it had sent to a comet. Here chance decides between equals.
func order(comets []logic.NodeInfo, zone string) []logic.NodeInfo {
	comets = slices.DeleteFunc(comets, func(n logic.NodeInfo) bool { return !n.Ready || n.Leaving })
	rand.Shuffle(len(comets), func(i, j int) { comets[i], comets[j] = comets[j], comets[i] })
	total, conns := 0, 0
	for _, n := range comets {
		total += baseWeight * views.Weight(n)
		conns += n.Sessions
	}
	weights := make(map[string]int, len(comets))
	for _, n := range comets {
		gain := 1.0
		if zone != "" && n.Zone == zone {
			gain = regionGain
		}
		weights[n.Name] = weightOf(baseWeight*views.Weight(n), total, n.Sessions, conns, gain)
	}
	slices.SortStableFunc(comets, func(x, y logic.NodeInfo) int { return cmp.Compare(weights[y.Name], weights[x.Name]) })
	return comets
}

// nodesWeighted answers GET /goim/nodes/weighted?platform=&zone= with the comets,
// the greatest weight first. goim found the client's region by its address. Here
// the caller may name its zone. goim gave domains to the platform "web" and
// addresses to the others. Here both get the addresses that the comets announce.
func (a *API) nodesWeighted(c *httpcall.Call) error {
	reply := weighted{
		Domain: askedHost(c.R), Heartbeat: heartbeatSeconds, HeartbeatMax: maxHeartbeats,
		Backoff: backoff{MaxDelay: 300, BaseDelay: 3, Factor: 1.8, Jitter: 0.3},
	}
	transport := "tcp"
	if c.Param("platform") == "web" {
		transport = "ws"
	}
	for _, n := range order(views.Comets(a.service.Nodes(c.Ctx)), c.Param("zone")) {
		if reply.TCPPort == 0 {
			reply.TCPPort = portOf(n.Clients["tcp"])
		}
		port := &reply.WSPort
		if strings.HasPrefix(n.Clients["ws"], "wss://") {
			port = &reply.WSSPort
		}
		if *port == 0 {
			*port = portOf(n.Clients["ws"])
		}
		if host := clientHost(n, transport); host != "" && len(reply.Nodes) < maxNodes && !slices.Contains(reply.Nodes, host) {
			reply.Nodes = append(reply.Nodes, host)
		}
	}
	if len(reply.Nodes) == 0 {
		reply.Nodes = []string{reply.Domain}
	}
	return replyData(c, reply)
}

// instance is a comet of /goim/nodes/instances as goim's discovery had it.
type instance struct {
	Region   string            `json:"region"`
	Zone     string            `json:"zone"`
	Env      string            `json:"env"`
	AppID    string            `json:"appid"`
	Hostname string            `json:"hostname"`
	Addrs    []string          `json:"addrs"`
	Version  string            `json:"version"`
	LastTS   int64             `json:"latest_timestamp"` // Unix nanoseconds
	Metadata map[string]string `json:"metadata"`
}

// nodesInstances answers GET /goim/nodes/instances; null without a comet.
func (a *API) nodesInstances(c *httpcall.Call) error {
	var list []instance
	for _, n := range views.Comets(a.service.Nodes(c.Ctx)) {
		in := instance{
			Zone: n.Zone, AppID: "goim.comet", Hostname: n.Name, Addrs: []string{}, Version: n.Version,
			LastTS: n.StartMS * int64(time.Millisecond),
			Metadata: map[string]string{
				"addrs": clientHost(n, "tcp"), "conn_count": strconv.Itoa(n.Sessions), "ip_count": strconv.Itoa(n.Sessions),
				"offline": strconv.FormatBool(!n.Ready || n.Leaving), "weight": strconv.Itoa(baseWeight * views.Weight(n)),
			},
		}
		if n.Address != "" {
			in.Addrs = append(in.Addrs, "grpc://"+n.Address)
		}
		list = append(list, in)
	}
	return replyData(c, list)
}

// clientHost returns the host to which a node's clients connect: the one that the
// node announces for the transport, or else the node's own address. It returns ""
// if both stand for every address of the node's machine.
func clientHost(n logic.NodeInfo, transport string) string {
	for _, address := range []string{n.Clients[transport], n.Address} {
		host, _, err := net.SplitHostPort(views.Bare(address))
		if ip := net.ParseIP(host); err == nil && host != "" && (ip == nil || !ip.IsUnspecified()) {
			return host
		}
	}
	return ""
}

// askedHost returns the host of the request, without the port.
func askedHost(r *http.Request) string {
	if host, _, err := net.SplitHostPort(r.Host); err == nil {
		return host
	}
	return r.Host
}

// portOf returns the port of host:port, 0 if there is none.
func portOf(address string) int32 {
	_, text, err := net.SplitHostPort(views.Bare(address))
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0
	}
	return int32(n) // 16 bits
}
