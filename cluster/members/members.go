// Package members finds out by gossip (memberlist) which nodes are alive, and what each
// node says about itself.
//
// Members owns the gossip port and the newest View. A View never changes; a newer one
// replaces it as a whole. The package guarantees, with the default settings:
//
//   - A node that leaves is known to have left within a fraction of a second.
//   - A node that dies is known to be dead after about cluster.dead_after (2 s), and after 3 s at worst.
//   - The others know a node that starts, and each change of a node's Meta, within a
//     fraction of a second, even if some packets are lost. A node may start with another
//     address than before, and its predecessor need not be known to be dead.
//   - Two halves of a cluster that could not reach each other find each other again.
//
// The Views of different nodes differ for moments. So two nodes that decide by their
// Views may decide differently.
//
// Every start of a node has its own gossip name: the node's name and some random
// characters. So memberlist never has to merge two starts of one node. Of several starts
// with one name, the View has the latest.
package members

import (
	"cmp"
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"

	"imgo/envelope"
)

// DefaultPort is the gossip port of addresses without a port.
const DefaultPort = 7946

// Resolver finds the addresses of a host; *net.Resolver is one.
type Resolver interface {
	LookupHost(ctx context.Context, host string) ([]string, error)
}

// Options are the options of New. Name and Bind must be set.
type Options struct {
	// Name is the node's name. No other living node may have it.
	Name string
	// Bind is the address for gossip, host:port, over TCP and UDP. Port 0 means a free
	// one.
	Bind string
	// Advertise is the address for the other nodes, host:port. Without a port it is
	// the bound port. If it is empty, it is the bound address, or the first private
	// address of this host if that is unspecified.
	Advertise string
	// Join has addresses of nodes that may be running, host or host:port. A name is
	// looked up for each try, and all its addresses are tried.
	Join []string
	// Secret is the same on all nodes. If it is empty, gossip is not encrypted.
	Secret string
	// Meta is what this node says about itself. StartMs 0 means now.
	Meta *envelope.NodeMeta

	// ProbeInterval is the time between two probes of other nodes (default 300 ms).
	// ProbeTimeout bounds the answer to a probe (default 150 ms).
	ProbeInterval, ProbeTimeout time.Duration
	// SuspicionMult is for how many probe intervals, at least, a node that does not
	// answer can refute that it is dead (default 3).
	SuspicionMult int
	// GossipInterval is the time between two gossip messages (default 50 ms).
	GossipInterval time.Duration
	// RejoinInterval is the time between two tries to reach missing nodes (default 2 s).
	RejoinInterval time.Duration

	Log zerolog.Logger
	// Metrics registers the metrics. If it is nil, nothing is registered.
	Metrics prometheus.Registerer
	// Resolver looks up names. If it is nil, the resolver of the system does.
	Resolver Resolver
	// Faults are for tests.
	Faults Faults
}

// fill sets the defaults.
func (o *Options) fill() {
	o.ProbeInterval = cmp.Or(o.ProbeInterval, 300*time.Millisecond)
	o.ProbeTimeout = cmp.Or(o.ProbeTimeout, min(150*time.Millisecond, o.ProbeInterval/2))
	o.GossipInterval = cmp.Or(o.GossipInterval, 50*time.Millisecond)
	o.RejoinInterval = cmp.Or(o.RejoinInterval, 2*time.Second)
	o.SuspicionMult = cmp.Or(o.SuspicionMult, 3)
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
}

// Members is this node's membership in the cluster. Its methods are safe for
// concurrent use.
type Members struct {
	o         Options
	log       zerolog.Logger
	gossip    string // gossip name of this start
	bound     string // host:port
	advertise string // host:port
	transport *transport
	list      *memberlist.Memberlist
	metrics   *metrics
	meta      atomic.Pointer[[]byte]
	view      atomic.Pointer[View]

	metaMu sync.Mutex // one UpdateMeta at a time

	mu    sync.Mutex
	known map[string]*life     // living nodes, by gossip name
	lost  map[string]time.Time // when nodes died, by address

	endMu     sync.Mutex
	left      bool
	leaveErr  error // of the first Leave
	closed    bool
	closeDone chan struct{}
}

// New binds the gossip port. Other nodes can find this node from now on. Run looks for
// them.
func New(o Options) (*Members, error) {
	o.fill()
	if o.Name == "" {
		return nil, errors.New("a node needs a name (node.name)")
	}
	var random [4]byte
	rand.Read(random[:]) //nolint:errcheck // it never fails
	m := &Members{
		o: o, log: o.Log.With().Str("part", "members").Logger(),
		gossip: o.Name + "~" + hex.EncodeToString(random[:]),
		known:  make(map[string]*life), lost: make(map[string]time.Time),
		closeDone: make(chan struct{}),
	}
	m.view.Store(&View{next: make(chan struct{})})
	meta := &envelope.NodeMeta{}
	if o.Meta != nil {
		meta = proto.CloneOf(o.Meta)
	}
	meta.StartMs = cmp.Or(meta.StartMs, time.Now().UnixMilli())
	if err := m.setMeta(meta); err != nil {
		return nil, err
	}
	var err error
	if m.metrics, err = newMetrics(o.Metrics, m); err != nil {
		return nil, fmt.Errorf("register the metrics of members: %w", err)
	}
	if err := m.open(); err != nil {
		return nil, err
	}
	return m, nil
}

// open binds and starts memberlist.
func (m *Members) open() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ip, port, err := m.resolve(ctx, m.o.Bind, DefaultPort)
	if err != nil {
		return fmt.Errorf("bind gossip to %q: %w", m.o.Bind, err)
	}
	logger := log.New(newLogWriter(m.log), "", 0)
	if m.transport, err = listen(ip, port, logger, m.o.Faults.Cut); err != nil {
		return fmt.Errorf("bind gossip (TCP and UDP) to %s: %w", m.o.Bind, err)
	}
	m.bound = net.JoinHostPort(ip.String(), fmt.Sprint(m.transport.GetAutoBindPort()))
	if err := m.create(ctx, ip, logger); err != nil {
		return errors.Join(err, m.transport.Shutdown())
	}
	return nil
}

func (m *Members) create(ctx context.Context, bound net.IP, logger *log.Logger) error {
	ip, port := bound, m.transport.GetAutoBindPort()
	var err error
	switch {
	case m.o.Advertise != "":
		if ip, port, err = m.resolve(ctx, m.o.Advertise, port); err != nil {
			return fmt.Errorf("advertise gossip at %q: %w", m.o.Advertise, err)
		}
		port = cmp.Or(port, m.transport.GetAutoBindPort())
	case bound.IsUnspecified():
		if ip, err = privateIP(bound.To4() == nil); err != nil {
			return err
		}
	}
	m.advertise = net.JoinHostPort(ip.String(), fmt.Sprint(port))
	c := memberlist.DefaultLANConfig()
	c.Name = m.gossip
	c.Transport = m.transport
	c.BindAddr, c.BindPort = bound.String(), m.transport.GetAutoBindPort()
	c.AdvertiseAddr, c.AdvertisePort = ip.String(), port
	c.ProbeInterval, c.ProbeTimeout = m.o.ProbeInterval, m.o.ProbeTimeout
	c.GossipInterval, c.SuspicionMult = m.o.GossipInterval, m.o.SuspicionMult
	c.SuspicionMaxTimeoutMult = 2 // in a cluster of two, no third node confirms a suspicion
	c.AwarenessMaxMultiplier = 3  // bounds how much slower a node under load suspects others
	c.TCPTimeout = 2 * time.Second
	c.PushPullInterval = 10 * time.Second
	// The library's default (4) sends a change too rarely. In one of 200 starts of five
	// nodes, a node did not know of another until the next exchange of states.
	// Leave and UpdateMeta return when the change was sent as often.
	c.RetransmitMult = 8
	c.Delegate, c.Events = delegate{m}, delegate{m}
	c.Logger = logger
	if m.o.Secret != "" {
		if c.SecretKey, err = hkdf.Key(sha256.New, []byte(m.o.Secret), nil, "imgo gossip key 1", 32); err != nil {
			return fmt.Errorf("derive the key of gossip from cluster.secret: %w", err)
		}
	}
	if m.list, err = memberlist.Create(c); err != nil {
		return fmt.Errorf("start gossip at %s: %w", m.bound, err)
	}
	return nil
}

// resolve returns the IP and port of an address to bind or advertise. port is for an
// address without one.
func (m *Members) resolve(ctx context.Context, address string, port int) (net.IP, int, error) {
	host, service := splitPort(address)
	if service != "" {
		p, err := net.DefaultResolver.LookupPort(ctx, "tcp", service)
		if err != nil {
			return nil, 0, err
		}
		port = p
	}
	if host == "" {
		return net.IPv4zero, port, nil
	}
	if ip := net.ParseIP(host); ip != nil {
		return ip, port, nil
	}
	addrs, err := m.o.Resolver.LookupHost(ctx, host)
	if err != nil {
		return nil, 0, err
	}
	for _, a := range addrs {
		if ip := net.ParseIP(a); ip != nil {
			return ip, port, nil
		}
	}
	return nil, 0, fmt.Errorf("%s has no address", host)
}

// splitPort splits an address. It takes host, host:port, [v6]:port and v6.
func splitPort(address string) (host, port string) {
	if host, port, err := net.SplitHostPort(address); err == nil {
		return host, port
	}
	return strings.Trim(address, "[]"), ""
}

// privateIP returns the first private address of this host.
func privateIP(v6 bool) (net.IP, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("find this host's addresses: %w", err)
	}
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if ok && n.IP.IsPrivate() && (n.IP.To4() != nil || v6) {
			return n.IP, nil
		}
	}
	return nil, errors.New("this host has no private address that other nodes could reach it at: set cluster.advertise")
}

// Addr returns the bound address, host:port.
func (m *Members) Addr() string { return m.bound }

// Advertised returns the address for the other nodes, host:port.
func (m *Members) Advertised() string { return m.advertise }

// UpdateMeta changes what this node says about itself, and sends it to the others. The
// error says which fields are too long, or that no node could be told yet. In that case
// the next exchange of states tells them.
func (m *Members) UpdateMeta(meta *envelope.NodeMeta) error {
	m.metaMu.Lock()
	defer m.metaMu.Unlock()
	m.endMu.Lock()
	gone := m.left || m.closed
	m.endMu.Unlock()
	if gone {
		return envelope.Errorf(envelope.CodeClosed, "tell other nodes what is new: this node has left")
	}
	meta = proto.CloneOf(meta)
	meta.StartMs = cmp.Or(meta.StartMs, m.self().meta.StartMs)
	if err := m.setMeta(meta); err != nil {
		return err
	}
	if err := m.list.UpdateNode(2 * time.Second); err != nil {
		return fmt.Errorf("tell other nodes what is new: %w", err)
	}
	return nil
}

// setMeta sets the encoded meta that memberlist asks for.
func (m *Members) setMeta(meta *envelope.NodeMeta) error {
	b, err := meta.MarshalVT()
	if err != nil {
		return fmt.Errorf("marshal the node's meta: %w", err)
	}
	if len(b) > memberlist.MetaMaxSize {
		roles := strings.Join(meta.Roles, ",")
		var endpoints strings.Builder
		for _, e := range meta.Endpoints {
			fmt.Fprintf(&endpoints, ", %s (%d)", e.GetScheme(), len(e.GetAddress()))
		}
		return envelope.Errorf(envelope.CodeTooLarge,
			"what this node tells of itself takes %d bytes and may take %d: "+
				"shorten the longest of roles (%d), rpc (%d), http (%d)%s, zone (%d), version (%d)",
			len(b), memberlist.MetaMaxSize, len(roles), len(meta.Rpc), len(meta.Http), endpoints.String(), len(meta.Zone), len(meta.Version))
	}
	m.meta.Store(&b)
	return nil
}

// Leave tells the others that this node leaves. It takes at most a second, or until ctx
// is done. If it returns nil, the others know, or this node was closed. A later call returns
// the same. Run goes on until its context is done.
func (m *Members) Leave(ctx context.Context) error {
	timeout := time.Second
	if d, ok := ctx.Deadline(); ok {
		timeout = max(min(timeout, time.Until(d)), time.Millisecond)
	}
	m.endMu.Lock()
	defer m.endMu.Unlock()
	if m.closed || m.left {
		return m.leaveErr
	}
	m.left = true
	if err := m.list.Leave(timeout); err != nil {
		m.leaveErr = fmt.Errorf("leave the cluster: %w", err)
	}
	return m.leaveErr
}

// Close ends gossip at once and tells nobody, as a kill does.
func (m *Members) Close() error {
	m.transport.abort() // so that no goroutine waits for another node
	m.endMu.Lock()
	defer m.endMu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	defer close(m.closeDone)
	if err := m.list.Shutdown(); err != nil {
		return fmt.Errorf("stop gossip: %w", err)
	}
	return nil
}
