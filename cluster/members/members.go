// Package members knows which nodes are alive and what each tells of itself,
// by gossip (memberlist).
//
// Members owns the gossip port and the newest View, which never changes and is
// swapped as a whole. It guarantees: a node that leaves is known to have left
// in a fraction of a second, one that dies within about 1.5 s (3 s at worst,
// with the defaults), one that starts at once, at its old address or another,
// also while its predecessor is not yet known to be dead; and two halves of a
// cluster that could not see one another find each other again.
//
// Views of different nodes differ for moments. Whoever decides by them must
// bear that two nodes decide differently.
//
// Every start of a node has a gossip name of its own, its name and some random
// characters: so memberlist never has to reconcile two lives of one node, and
// of several with one name the View has that which started last.
package members

import (
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

// DefaultPort is where a node gossips unless it says otherwise.
const DefaultPort = 7946

// Resolver finds the addresses of a host; *net.Resolver is one.
type Resolver interface {
	LookupHost(ctx context.Context, host string) ([]string, error)
}

// Options are what a Members is made of. Name and Bind must be set.
type Options struct {
	// Name is the node's, unique among the living.
	Name string
	// Bind is where it gossips, host:port, over TCP and UDP. Port 0: a free one.
	Bind string
	// Advertise is where the others reach it, host:port. Without a port: the
	// bound one. Empty: the bound address, or where that is unspecified the
	// first private address of this host.
	Advertise string
	// Join are nodes that may be there already, host or host:port. A name is
	// looked up each time, and all its addresses are tried.
	Join []string
	// Secret is what all nodes must share; empty: gossip is plain.
	Secret string
	// Meta is what this node tells of itself. StartMs 0: now.
	Meta *envelope.NodeMeta

	// ProbeInterval is how often a node looks at another (300 ms), and
	// ProbeTimeout how soon that one must answer (150 ms).
	ProbeInterval, ProbeTimeout time.Duration
	// SuspicionMult is for how many probe intervals a node that does not answer
	// may say that it lives, at least (3).
	SuspicionMult int
	// GossipInterval is how often news are passed on (100 ms).
	GossipInterval time.Duration
	// RejoinInterval is how often nodes that should be there are tried (2 s).
	RejoinInterval time.Duration

	Log zerolog.Logger
	// Metrics is where the metrics are registered; nil: nowhere.
	Metrics prometheus.Registerer
	// Resolver looks up names; nil: the system's.
	Resolver Resolver
	// Cut says whether nothing may go to a gossip address: a partition of the
	// network, for tests. Both sides must have it cut.
	Cut func(address string) bool
}

// fill puts the defaults where nothing is set.
func (o *Options) fill() {
	set := func(d *time.Duration, to time.Duration) {
		if *d <= 0 {
			*d = to
		}
	}
	set(&o.ProbeInterval, 300*time.Millisecond)
	set(&o.ProbeTimeout, min(150*time.Millisecond, o.ProbeInterval/2))
	set(&o.GossipInterval, 100*time.Millisecond)
	set(&o.RejoinInterval, 2*time.Second)
	if o.SuspicionMult <= 0 {
		o.SuspicionMult = 3
	}
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
}

// Members is this node among the others. Its methods are safe for concurrent
// use.
type Members struct {
	o         Options
	log       zerolog.Logger
	gossip    string // this start's gossip name
	bound     string // host:port
	advertise string // host:port
	transport *transport
	list      *memberlist.Memberlist
	metrics   *metrics
	meta      atomic.Pointer[[]byte]
	view      atomic.Pointer[View]

	metaMu sync.Mutex // one UpdateMeta at a time

	mu    sync.Mutex
	known map[string]*life // by gossip name: who is alive
	lost  map[string]time.Time

	endMu     sync.Mutex
	left      bool
	closed    bool
	closeDone chan struct{}
}

// New binds the gossip port and makes the node known to whoever finds it; Run
// looks for others.
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
	if meta.StartMs == 0 {
		meta.StartMs = time.Now().UnixMilli()
	}
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
	ip, port, err := m.place(ctx, m.o.Bind, DefaultPort)
	if err != nil {
		return fmt.Errorf("bind gossip to %q: %w", m.o.Bind, err)
	}
	logger := log.New(newLogWriter(m.log), "", 0)
	if m.transport, err = listen(ip, port, logger, m.o.Cut); err != nil {
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
		if ip, port, err = m.place(ctx, m.o.Advertise, port); err != nil {
			return fmt.Errorf("advertise gossip at %q: %w", m.o.Advertise, err)
		}
		if port == 0 {
			port = m.transport.GetAutoBindPort()
		}
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
	c.SuspicionMaxTimeoutMult = 2 // nobody confirms a suspicion in a cluster of two
	c.AwarenessMaxMultiplier = 3  // a node under load is slower to suspect, not blind
	c.TCPTimeout = 2 * time.Second
	c.PushPullInterval = 10 * time.Second
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

// place is an address to bind or advertise; the port where it names none.
func (m *Members) place(ctx context.Context, address string, port int) (net.IP, int, error) {
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

// splitPort takes host, host:port, [v6]:port and v6 apart.
func splitPort(address string) (host, port string) {
	if host, port, err := net.SplitHostPort(address); err == nil {
		return host, port
	}
	return strings.Trim(address, "[]"), ""
}

// privateIP is the first private address of this host.
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

// Addr is where the node is bound, host:port.
func (m *Members) Addr() string { return m.bound }

// Advertised is where the others reach it, host:port.
func (m *Members) Advertised() string { return m.advertise }

// UpdateMeta tells the others what is new about this node, and returns when the
// news is on its way. The error says which fields are too long, or that nobody
// could be told yet (they will be, by the next exchange of states).
func (m *Members) UpdateMeta(meta *envelope.NodeMeta) error {
	m.metaMu.Lock()
	defer m.metaMu.Unlock()
	m.endMu.Lock()
	over := m.left || m.closed
	m.endMu.Unlock()
	if over {
		return envelope.Errorf(envelope.CodeClosed, "tell other nodes what is new: this node has left")
	}
	meta = proto.CloneOf(meta)
	if meta.StartMs == 0 {
		meta.StartMs = m.self().meta.StartMs
	}
	if err := m.setMeta(meta); err != nil {
		return err
	}
	if err := m.list.UpdateNode(2 * time.Second); err != nil {
		return fmt.Errorf("tell other nodes what is new: %w", err)
	}
	return nil
}

// setMeta keeps the meta that memberlist asks for.
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
			"what this node tells of itself takes %d bytes and may take %d: shorten the longest of roles (%d), rpc (%d), http (%d)%s, zone (%d), version (%d)",
			len(b), memberlist.MetaMaxSize, len(roles), len(meta.Rpc), len(meta.Http), endpoints.String(), len(meta.Zone), len(meta.Version))
	}
	m.meta.Store(&b)
	return nil
}

// Leave tells the others that this node goes, for at most a second or what ctx
// gives. They know when it returns without an error; Run goes on until its
// context is done.
func (m *Members) Leave(ctx context.Context) error {
	timeout := time.Second
	if d, ok := ctx.Deadline(); ok {
		timeout = max(min(timeout, time.Until(d)), time.Millisecond)
	}
	m.endMu.Lock()
	defer m.endMu.Unlock()
	if m.closed || m.left {
		return nil
	}
	m.left = true
	if err := m.list.Leave(timeout); err != nil {
		return fmt.Errorf("leave the cluster: %w", err)
	}
	return nil
}

// Close ends gossip at once, without a word to the others, as a kill does.
func (m *Members) Close() error {
	m.transport.abort() // what waits for a node waits no longer
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
