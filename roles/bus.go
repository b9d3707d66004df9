package roles

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"time"

	"imgo/cluster/bus"
	"imgo/roles/job"
	"imgo/roles/logic/tokenlog"
	"imgo/store"
)

// busTimeout bounds how long Kafka is waited for at the start: it may be
// starting, too.
const busTimeout = time.Minute

// openBus opens both topics, the tokens and job's group on Kafka.
func (n *Node) openBus(ctx context.Context) (keptLog, error) {
	ctx, cancel := context.WithTimeout(ctx, busTimeout)
	defer cancel()
	c, k := n.cluster, n.cfg.Kafka
	secure, err := n.kafkaTLS()
	if err != nil {
		return nil, err
	}
	b, err := bus.Open(ctx, bus.Options{
		Brokers: k.Brokers, Prefix: k.Prefix, ClientID: "imgo-" + n.name, Replication: k.Replication, MinInSync: k.MinInSync,
		Compression: k.Compression, WriteTimeout: k.WriteTimeout.Duration, StartTimeout: busTimeout,
		SASL: k.SASL, User: k.User, Password: k.Password, TLS: secure, Log: n.log, Metrics: n.metrics,
	})
	if err != nil {
		return nil, err
	}
	c.bus = b
	kept, err := b.Log(ctx, bus.TopicOptions{
		Name: "kept", Numbered: true, Partitions: int32(n.cfg.Kept.Partitions), Retention: n.cfg.Kept.Retention.Duration, MinRetention: n.cfg.Kept.MaxTTL.Duration,
	})
	if err != nil {
		return nil, err
	}
	live, err := b.Log(ctx, bus.TopicOptions{
		Name: "live", Partitions: int32(n.cfg.Live.Partitions), Retention: n.cfg.Live.Retention.Duration,
	})
	if err != nil {
		return nil, err
	}
	n.live = live
	c.peers = newPeers(n.name, kept.Partitions(), nil, c.pool, n.log)
	c.census = &census{peers: c.peers, pool: c.pool}
	if n.cfg.Runs(RoleLogic) {
		topic, err := b.Compacted(ctx, "tokens")
		if err != nil {
			return nil, err
		}
		if c.tokens, err = tokenlog.New(tokenlog.Config{}, topic, store.NewSharedTokens(n.db), n.log, n.metrics); err != nil {
			return nil, err
		}
	}
	if n.cfg.Runs(RoleJob) {
		g, err := b.Group(ctx, bus.GroupOptions{Name: "job", Logs: []*bus.Log{kept, live}})
		if err != nil {
			return nil, err
		}
		c.group = group{g}
	}
	return kept, nil
}

// kafkaTLS is how connections to Kafka are encrypted; nil: not at all.
func (n *Node) kafkaTLS() (*tls.Config, error) {
	k := n.cfg.Kafka
	if !k.TLS {
		return nil, nil
	}
	secure := &tls.Config{MinVersion: tls.VersionTLS12}
	if k.TLSCA != "" {
		pem, err := os.ReadFile(k.TLSCA)
		if err != nil {
			return nil, fmt.Errorf("kafka.tls_ca: %w", err)
		}
		secure.RootCAs = x509.NewCertPool()
		if !secure.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("kafka.tls_ca: %s has no certificate", k.TLSCA)
		}
	}
	if k.TLSCert != "" {
		pair, err := tls.LoadX509KeyPair(k.TLSCert, k.TLSKey)
		if err != nil {
			return nil, fmt.Errorf("kafka.tls_cert and kafka.tls_key: %w", err)
		}
		secure.Certificates = []tls.Certificate{pair}
	}
	return secure, nil
}

// group is job's share of the log's partitions, as Kafka's consumer group
// deals it out.
type group struct{ *bus.Group }

// Next waits for the next assignment.
func (g group) Next(ctx context.Context) (job.Assignment, error) {
	a, err := g.Group.Next(ctx)
	if err != nil {
		return nil, err
	}
	return assignment{a}, nil
}

type assignment struct{ *bus.Assignment }

// Parts are the partitions of the assignment.
func (a assignment) Parts() []job.Part {
	parts := a.Assignment.Parts()
	out := make([]job.Part, len(parts))
	for i, p := range parts {
		out[i] = job.Part{Topic: job.Topic(p.Topic), Partition: p.Partition, Next: p.Next}
	}
	return out
}

// Commit stores positions.
func (a assignment) Commit(ctx context.Context, at []job.Part) error {
	parts := make([]bus.Part, len(at))
	for i, p := range at {
		parts[i] = bus.Part{Topic: string(p.Topic), Partition: p.Partition, Next: p.Next}
	}
	return a.Assignment.Commit(ctx, parts)
}
