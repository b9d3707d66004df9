package httpapi

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

	"imgo/envelope"
	"imgo/roles/logic"
)

// Goim is what /goim/nodes/weighted tells clients of where to connect and how
// often to beat. A zero field has the default that its comment names.
type Goim struct {
	// Domain stands in where no comet says where its clients connect; the
	// host that the caller asked.
	Domain string
	// The ports of clients; those that the comets say (wss: none).
	TCPPort, WSPort, WSSPort int
	// Heartbeat is how often to beat, HeartbeatMax after how many missed ones
	// a client is gone; 4 min and 2.
	Heartbeat    time.Duration
	HeartbeatMax int
}

func (g Goim) withDefaults() Goim {
	g.Heartbeat = cmp.Or(g.Heartbeat, 4*time.Minute)
	g.HeartbeatMax = cmp.Or(g.HeartbeatMax, 2)
	return g
}

// goimTop is a room of /goim/online/top.
type goimTop struct {
	RoomID string `json:"room_id"`
	Count  int32  `json:"count"`
}

// goimOnlineTop answers GET /goim/online/top?type=&limit=: the fullest rooms
// whose id begins with type.
func (a *API) goimOnlineTop(c *call) error {
	b := c.bind()
	kind, limit := b.query.Get("type"), b.integer("limit", 64)
	b.require("type", "Type", kind != "")
	b.require("limit", "Limit", limit != 0)
	if !b.ok(c) {
		return nil
	}
	if limit < 0 { // crashed goim's handler
		return c.goimRefuse(envelope.Invalid("limit", "must not be negative"))
	}
	rooms, err := a.service.Rooms(c.ctx)
	if err != nil {
		return c.goimRefuse(err)
	}
	tops := []goimTop{}
	for _, r := range fullest(rooms, kind) {
		if int64(len(tops)) == limit {
			break
		}
		// Rooms that are not goim's have no type and no place here.
		if _, id, ok := strings.Cut(r.Room, "://"); ok {
			tops = append(tops, goimTop{RoomID: id, Count: count32(r.Sessions)})
		}
	}
	return c.goimResult(tops)
}

func count32(n uint32) int32 { return int32(min(n, math.MaxInt32)) } // min

// goimOnlineRoom answers GET /goim/online/room?type=&rooms=&rooms=.
func (a *API) goimOnlineRoom(c *call) error {
	b := c.bind()
	kind, rooms := b.query.Get("type"), b.query["rooms"]
	b.require("type", "Type", kind != "")
	b.require("rooms", "Rooms", len(rooms) > 0)
	if !b.ok(c) {
		return nil
	}
	counts, err := a.service.Rooms(c.ctx)
	if err != nil {
		return c.goimRefuse(err)
	}
	online := make(map[string]int32, len(rooms))
	for _, room := range rooms {
		online[room] = count32(counts[goimRoom(kind, room)])
	}
	return c.goimResult(online)
}

// goimOnlineTotal answers GET /goim/online/total. Addresses are not counted
// over comets, so ip_count is what it can be at most: the connections.
func (a *API) goimOnlineTotal(c *call) error {
	s, err := a.service.Stats(c.ctx)
	if err != nil {
		return err
	}
	return c.goimResult(map[string]int{"ip_count": s.Sessions, "conn_count": s.Sessions})
}

// goimWeighted is /goim/nodes/weighted, in goim's order.
type goimWeighted struct {
	Domain       string      `json:"domain,omitempty"`
	TCPPort      int32       `json:"tcp_port,omitempty"`
	WSPort       int32       `json:"ws_port,omitempty"`
	WSSPort      int32       `json:"wss_port,omitempty"`
	Heartbeat    int32       `json:"heartbeat,omitempty"`
	Nodes        []string    `json:"nodes,omitempty"`
	Backoff      goimBackoff `json:"backoff,omitempty"`
	HeartbeatMax int32       `json:"heartbeat_max,omitempty"`
}

type goimBackoff struct {
	MaxDelay  int32   `json:"max_delay,omitempty"`
	BaseDelay int32   `json:"base_delay,omitempty"`
	Factor    float32 `json:"factor,omitempty"`
	Jitter    float32 `json:"jitter,omitempty"`
}

// goimMaxNodes is how many nodes goim's balancer named.
const goimMaxNodes = 5

const (
	// goimWeight is the weight that a goim comet had by default: here that of
	// weight 1.
	goimWeight = 10
	// goimGain is how much more a comet of the client's region weighed.
	goimGain = 1.6
)

// goimWeightOf is a comet's weight as goim computed it: what it is set to, and
// what it lacks of its share of half of all connections.
func goimWeightOf(fixed, total, conns, totalConns int, gain float64) int {
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

// goimOrder sorts the comets that clients may go to, as goim did: the greatest
// weight first. goim counted a client whom it had sent somewhere; here the
// order of equals is left to chance.
func goimOrder(comets []logic.NodeInfo, zone string) []logic.NodeInfo {
	comets = slices.DeleteFunc(comets, func(n logic.NodeInfo) bool { return !n.Ready || n.Leaving })
	rand.Shuffle(len(comets), func(i, j int) { comets[i], comets[j] = comets[j], comets[i] })
	total, conns := 0, 0
	for _, n := range comets {
		total += goimWeight * weightOf(n)
		conns += n.Sessions
	}
	weights := make(map[string]int, len(comets))
	for _, n := range comets {
		gain := 1.0
		if zone != "" && n.Zone == zone {
			gain = goimGain
		}
		weights[n.Name] = goimWeightOf(goimWeight*weightOf(n), total, n.Sessions, conns, gain)
	}
	slices.SortStableFunc(comets, func(x, y logic.NodeInfo) int { return cmp.Compare(weights[y.Name], weights[x.Name]) })
	return comets
}

// goimNodesWeighted answers GET /goim/nodes/weighted?platform=&zone=: the
// comets with the greatest weight first. goim found the client's region by its
// address; here the caller may name its zone. goim gave domains to the platform "web" and addresses to the
// others; here both get where the comets say that their clients connect.
func (a *API) goimNodesWeighted(c *call) error {
	cfg := a.cfg.Goim
	reply := goimWeighted{
		Domain: cfg.Domain, TCPPort: port32(cfg.TCPPort), WSPort: port32(cfg.WSPort), WSSPort: port32(cfg.WSSPort),
		Heartbeat:    int32(min(cfg.Heartbeat/time.Second, math.MaxInt32)), // min
		Backoff:      goimBackoff{MaxDelay: 300, BaseDelay: 3, Factor: 1.8, Jitter: 0.3},
		HeartbeatMax: port32(cfg.HeartbeatMax),
	}
	if reply.Domain == "" {
		reply.Domain = askedHost(c.r)
	}
	transport := "tcp"
	if c.param("platform") == "web" {
		transport = "ws"
	}
	for _, n := range goimOrder(a.comets(c), c.param("zone")) {
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
		if host := clientHost(n, transport); host != "" && len(reply.Nodes) < goimMaxNodes && !slices.Contains(reply.Nodes, host) {
			reply.Nodes = append(reply.Nodes, host)
		}
	}
	if len(reply.Nodes) == 0 {
		reply.Nodes = []string{reply.Domain}
	}
	return c.goimResult(reply)
}

// goimInstance is a comet of /goim/nodes/instances as goim's discovery had it.
type goimInstance struct {
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

// goimNodesInstances answers GET /goim/nodes/instances; null without a comet.
func (a *API) goimNodesInstances(c *call) error {
	var list []goimInstance
	for _, n := range a.comets(c) {
		in := goimInstance{
			Zone: n.Zone, AppID: "goim.comet", Hostname: n.Name, Addrs: []string{}, Version: n.Version,
			LastTS: n.StartMS * int64(time.Millisecond),
			Metadata: map[string]string{
				"addrs": clientHost(n, "tcp"), "conn_count": strconv.Itoa(n.Sessions), "ip_count": strconv.Itoa(n.Sessions),
				"offline": strconv.FormatBool(!n.Ready || n.Leaving), "weight": strconv.Itoa(goimWeight * weightOf(n)),
			},
		}
		if n.Address != "" {
			in.Addrs = append(in.Addrs, "grpc://"+n.Address)
		}
		list = append(list, in)
	}
	return c.goimResult(list)
}

// comets are the nodes that hold connections.
func (a *API) comets(c *call) []logic.NodeInfo {
	var list []logic.NodeInfo
	for _, n := range a.service.Nodes(c.ctx) {
		if slices.Contains(n.Roles, "comet") {
			list = append(list, n)
		}
	}
	return list
}

// clientHost is where a node's clients connect, without the port: what the
// node says for the transport, or else the node's own address. "" where both
// are "every address of this machine", which nobody else can connect to.
func clientHost(n logic.NodeInfo, transport string) string {
	for _, address := range []string{n.Clients[transport], n.Address} {
		host, _, err := net.SplitHostPort(bare(address))
		if ip := net.ParseIP(host); err == nil && host != "" && (ip == nil || !ip.IsUnspecified()) {
			return host
		}
	}
	return ""
}

// askedHost is the host that the caller asked, without the port.
func askedHost(r *http.Request) string {
	if host, _, err := net.SplitHostPort(r.Host); err == nil {
		return host
	}
	return r.Host
}

// bare is an address without its scheme (tls://, wss://) and path, if it has
// them.
func bare(address string) string {
	if _, rest, ok := strings.Cut(address, "://"); ok {
		address = rest
	}
	address, _, _ = strings.Cut(address, "/")
	return address
}

// portOf is the port of host:port, 0 without one.
func portOf(address string) int32 {
	_, text, err := net.SplitHostPort(bare(address))
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0
	}
	return int32(n) // 16 bits
}

func port32(n int) int32 { return int32(max(0, min(n, math.MaxInt32))) } // min
