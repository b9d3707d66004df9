package config

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"imgo/envelope"
)

// Cluster sets how this node finds the other nodes and how they call it. It has no effect while
// Join is empty.
type Cluster struct {
	Join          []string      `toml:"join" flag:"join" common:"true" unit:"addresses, host or host:port" doc:"Nodes to join; one that is up is enough, and a name may stand for many. This node itself may be\namong them: the first node of a cluster joins itself. Empty: no cluster, all in this process.\nNeeds kafka.brokers."`
	Gossip        string        `toml:"gossip" default:":7946" flag:"gossip" unit:"address" doc:"Where this node exchanges gossip about the nodes (TCP and UDP). An address other than loopback needs a secret."`
	GossipAddress string        `toml:"gossip_address" unit:"host:port" doc:"Where other nodes reach this node's gossip, if not at cluster.gossip. Empty: imgo finds out."`
	RPC           string        `toml:"rpc" default:":7170" flag:"rpc" unit:"address" doc:"Where other nodes call this one (gRPC). An address other than loopback needs a secret or certificates."`
	RPCAddress    string        `toml:"rpc_address" unit:"host:port" doc:"Where other nodes call this node, if not at cluster.rpc. Empty: imgo finds out."`
	Secret        string        `toml:"secret" secret:"true" unit:"at least 16 bytes, the same on every node" doc:"Encrypts gossip, and encrypts and authenticates calls where there are no certificates."`
	TLSCert       string        `toml:"tls_cert" unit:"PEM file" doc:"This node's certificate for calls (mutual TLS); re-read when it changes. Empty: the secret protects calls."`
	TLSKey        string        `toml:"tls_key" unit:"PEM file" doc:"The certificate's private key."`
	TLSCA         string        `toml:"tls_ca" unit:"PEM file" doc:"The CA that signed the certificates of the other nodes."`
	DeadAfter     time.Duration `toml:"dead_after" default:"2s" unit:"duration" min:"500ms" max:"1m" doc:"A node that does not answer for about this time is declared dead."`
	Zone          string        `toml:"zone" unit:"up to 32 bytes" doc:"Where this node is. Clients get the comets of their own zone first."`
	Weight        int           `toml:"weight" default:"1" min:"1" max:"1000" doc:"How many clients this comet should have in proportion to others."`

	ClientAddresses
}

// Kafka sets how the node reaches the log of a cluster.
type Kafka struct {
	Brokers      []string      `toml:"brokers" flag:"kafka" common:"true" unit:"addresses, host:port" doc:"Kafka, which carries everything between nodes. Needs cluster.join. Empty: the log is in this process."`
	Prefix       string        `toml:"prefix" default:"imgo" unit:"1 to 64 of a-z A-Z 0-9 . _ -" doc:"The prefix of the topics and of job's consumer group. Each imgo cluster on this Kafka needs its own."`
	Replication  int           `toml:"replication" unit:"copies" min:"0" max:"15" doc:"Copies of each topic that imgo creates. 0: 3, or the number of brokers if that is smaller."`
	MinInSync    int           `toml:"min_in_sync" unit:"copies" min:"0" max:"15" doc:"Copies that must hold a push before it is accepted. 0: 2 with three copies or more, else 1."`
	Compression  string        `toml:"compression" default:"lz4" choices:"none,gzip,snappy,lz4,zstd" doc:"How batches are compressed on the way to and in Kafka."`
	WriteTimeout time.Duration `toml:"write_timeout" default:"10s" unit:"duration" min:"500ms" max:"5m" doc:"How long a push may wait for Kafka before it is refused."`
	SASL         string        `toml:"sasl" default:"none" choices:"none,plain,scram-sha-256,scram-sha-512" doc:"How imgo authenticates to Kafka."`
	User         string        `toml:"user" doc:"The user name for sasl."`
	Password     string        `toml:"password" secret:"true" doc:"The password for sasl."`
	TLS          bool          `toml:"tls" doc:"Whether connections to Kafka use TLS."`
	TLSCA        string        `toml:"tls_ca" unit:"PEM file" doc:"The CA that signed Kafka's certificates; re-read when it changes. Empty: the CAs of the system."`
	TLSCert      string        `toml:"tls_cert" unit:"PEM file" doc:"imgo's own certificate, if Kafka asks for one; re-read when it changes."`
	TLSKey       string        `toml:"tls_key" unit:"PEM file" doc:"The certificate's private key."`
}

// Clustered reports whether this node belongs to a cluster.
func (cfg *Config) Clustered() bool { return len(cfg.Cluster.Join) > 0 }

// minSecret is the smallest length of the cluster secret in bytes. A shorter one could be guessed.
const minSecret = 16

// maxAdvertised is the largest length of an advertised address in bytes. All that a node says about
// itself must fit into 512 bytes of gossip.
const maxAdvertised = 100

// cluster checks the settings by which nodes find and trust one another.
func (v *validation) cluster() {
	c := &v.cfg.Cluster
	switch {
	case v.cfg.Clustered() && len(v.cfg.Kafka.Brokers) == 0:
		v.refuse("cluster.join", "names other nodes, but there is no Kafka: what one node accepted the others would never see",
			"name the brokers, such as --kafka 10.0.0.9:9092, or leave --join out to run alone")
	case !v.cfg.Clustered() && len(v.cfg.Kafka.Brokers) > 0:
		v.refuse("kafka.brokers", "names Kafka, but cluster.join is empty: this node would neither find others nor be found",
			"name a node to join, or this node itself if it is the first (--join 127.0.0.1), or leave --kafka out to run alone")
	}
	if !v.cfg.Clustered() {
		return
	}
	for _, address := range c.Join {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			host, port = strings.Trim(address, "[]"), "7946"
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" || strings.ContainsAny(host, " /,") {
			v.refuse("cluster.join", fmt.Sprintf("has %q, which is no address", address),
				"write host or host:port, such as 10.0.0.1 or imgo.internal:7946 (IPv6: [::1]:7946)")
		}
	}
	rpc := v.listenAddress("cluster.rpc", "--rpc", c.RPC, ":7170")
	gossip := v.listenAddress("cluster.gossip", "--gossip", c.Gossip, ":7946")
	v.certificate("cluster", c.TLSCert, c.TLSKey)
	v.readable("cluster.tls_ca", c.TLSCA)
	if (c.TLSCert == "") != (c.TLSCA == "") {
		v.refuse("cluster.tls_ca", "and cluster.tls_cert belong together: one shows who this node is, the other whom it believes", "give both")
	}
	const fix = "make a secret (export IMGO_CLUSTER_SECRET=$(openssl rand -hex 32) in the shell) and give every node the same"
	if n := len(c.Secret); n > 0 && n < minSecret {
		v.refuse("cluster.secret", fmt.Sprintf("has %d bytes", n),
			fmt.Sprintf("use at least %d, such as the output of: openssl rand -hex 32", minSecret))
	}
	if gossip.on && !gossip.loopback && c.Secret == "" {
		v.refuse("cluster.gossip",
			fmt.Sprintf("is %s, beyond loopback, and there is no cluster.secret: anybody who can reach it could join", c.Gossip),
			fix+", or gossip on 127.0.0.1:"+strconv.Itoa(gossip.port))
	}
	if rpc.on && !rpc.loopback && c.Secret == "" && c.TLSCert == "" {
		v.refuse("cluster.rpc",
			fmt.Sprintf("is %s, beyond loopback, and there is neither cluster.secret nor a certificate: anybody who can reach it could push", c.RPC),
			fix+", or listen on 127.0.0.1:"+strconv.Itoa(rpc.port))
	}
	v.advertised("cluster.gossip_address", c.GossipAddress)
	v.advertised("cluster.rpc_address", c.RPCAddress)
	v.clientAddresses()
	if len(c.Zone) > 32 || c.Zone != "" && envelope.CheckName("zone", c.Zone) != nil {
		v.refuse("cluster.zone", fmt.Sprintf("is %q", c.Zone), "use up to 32 bytes without control characters")
	}
	v.kafka()
}

// advertised checks an address that other nodes or clients are given. An empty address is valid.
func (v *validation) advertised(key, address string) {
	if address == "" {
		return
	}
	host, port, err := net.SplitHostPort(address)
	n, perr := strconv.ParseUint(port, 10, 16)
	ip := net.ParseIP(host)
	if err != nil || perr != nil || n == 0 || host == "" || len(address) > maxAdvertised || ip != nil && ip.IsUnspecified() {
		v.refuse(key, fmt.Sprintf("is %q, which others cannot connect to", address),
			"write the host and port by which they reach this node, such as 10.0.0.1:7170")
	}
}

// kafka checks the settings of the connection to Kafka.
func (v *validation) kafka() {
	k := &v.cfg.Kafka
	for _, address := range k.Brokers {
		host, port, err := net.SplitHostPort(address)
		if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 || host == "" {
			v.refuse("kafka.brokers", fmt.Sprintf("has %q, which is no address", address), "write host:port, such as 10.0.0.9:9092")
		}
	}
	if k.Prefix == "" || len(k.Prefix) > MaxNodeID || strings.ContainsFunc(k.Prefix, func(r rune) bool { return !nodeIDRune(r) }) {
		v.refuse("kafka.prefix", fmt.Sprintf("is %q", k.Prefix), fmt.Sprintf("use 1 to %d of the letters a-z A-Z 0-9 . _ -", MaxNodeID))
	}
	if k.Replication > 0 && k.MinInSync > k.Replication {
		v.refuse("kafka.min_in_sync",
			fmt.Sprintf("is %d, more than the %d copies of kafka.replication: every push would be refused", k.MinInSync, k.Replication), "lower it")
	}
	if (k.SASL != "none") != (k.User != "" && k.Password != "") {
		v.refuse("kafka.sasl", fmt.Sprintf("is %s, which does not go with kafka.user and kafka.password", k.SASL),
			"give all three, or none of them")
	}
	if !k.TLS && (k.TLSCA != "" || k.TLSCert != "") {
		v.refuse("kafka.tls", "is off, but files for it are given", "set kafka.tls = true, or leave them out")
	}
	v.certificate("kafka", k.TLSCert, k.TLSKey)
	v.readable("kafka.tls_ca", k.TLSCA)
}

// Runs reports whether this process runs the role.
func (cfg *Config) Runs(role string) bool {
	return !cfg.Clustered() || slices.Contains(cfg.Roles, role)
}
