package roles

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"imgo/cluster/bus"
	"imgo/cluster/growth"
	"imgo/config"
	"imgo/envelope"
	"imgo/roles/job"
	"imgo/roles/logic/tokenlog"
	"imgo/store"
)

const (
	// busTimeout bounds the wait for Kafka when a topic is opened while the node runs.
	busTimeout = time.Minute
	// kafkaTry is how long a node that starts waits for Kafka before it says so and tries again. There
	// is no limit to that, since Kafka may come at any time.
	kafkaTry = 5 * time.Second
)

// kafkaStorage is the side of a node that opens its logs on Kafka.
type kafkaStorage struct{ *Node }

// openBus opens all topics and the consumer group of job on Kafka.
func (n kafkaStorage) openBus(ctx context.Context) (none storage, err error) {
	c, k := n.cluster, n.cfg.Kafka
	secure, err := n.tls()
	if err != nil {
		return none, err
	}
	b, err := awaitKafka(ctx, n, func(ctx context.Context) (*bus.Bus, error) {
		return bus.Open(ctx, bus.Options{
			Brokers: k.Brokers, Prefix: k.Prefix, ClientID: "imgo-" + n.name, Replication: k.Replication, MinInSync: k.MinInSync,
			Compression: k.Compression, WriteTimeout: k.WriteTimeout, StartTimeout: busTimeout,
			SASL: k.SASL, User: k.User, Password: k.Password, TLS: secure, Log: n.log, Metrics: n.metrics,
		})
	})
	if err != nil {
		return none, err
	}
	c.bus = b
	kept, err := n.openKept(ctx)
	if err != nil {
		return none, err
	}
	if c.live, err = awaitKafka(ctx, n, func(ctx context.Context) (*bus.Log, error) {
		return b.Log(ctx, bus.TopicOptions{
			Name: "live", Partitions: int32(n.cfg.Live.Partitions), Retention: n.cfg.Live.Retention,
		})
	}); err != nil {
		return none, err
	}
	n.live = c.live
	c.status = &statusReport{cluster: c}
	if n.cfg.Runs(config.RoleLogic) {
		topic, err := n.awaitTopic(ctx, "tokens")
		if err != nil {
			return none, err
		}
		if c.tokens, err = tokenlog.New(tokenlog.Config{}, topic, store.NewSharedTokens(n.db), n.log, n.metrics); err != nil {
			return none, err
		}
	}
	s, err := n.storageOf(ctx, kept)
	if err != nil {
		return none, err
	}
	c.remote.Store(s.remote)
	return s, nil
}

// openKept opens the generation of the kept topic in use.
func (n kafkaStorage) openKept(ctx context.Context) (*bus.Log, error) {
	c := n.cluster
	control, err := n.awaitTopic(ctx, "control")
	if err != nil {
		return nil, err
	}
	c.growth = growth.New(n.opts.Growth, control, n.log)
	if err := n.readControl(ctx); err != nil {
		return nil, err
	}
	if err := n.checkRecords(n.records.inUse()); err != nil {
		return nil, err
	}
	if s, _ := c.growth.State(); s.Generation > 0 {
		return n.awaitKept(ctx, s.Generation, s.Partitions)
	}
	// No growth was ever planned: the newest topic is the first, or there is none.
	kept, err := n.awaitKept(ctx, 0, int32(n.cfg.Kept.Partitions))
	if err != nil {
		return nil, err
	}
	// A plan is written before its topic is made. If another node planned a growth
	// meanwhile, its plan is known after this second read.
	if err := n.readControl(ctx); err != nil {
		return nil, err
	}
	if s, _ := c.growth.State(); s.Generation > 0 && s.Generation != kept.Generation() {
		return n.awaitKept(ctx, s.Generation, s.Partitions)
	}
	c.growth.Base(kept.Generation(), kept.Partitions())
	return kept, nil
}

// readControl reads the control topic.
func (n kafkaStorage) readControl(ctx context.Context) error {
	_, err := awaitKafka(ctx, n, func(ctx context.Context) (struct{}, error) { return struct{}{}, n.cluster.growth.Read(ctx) })
	return err
}

// awaitTopic is Bus.Compacted at the start.
func (n kafkaStorage) awaitTopic(ctx context.Context, name string) (*bus.Compacted, error) {
	return awaitKafka(ctx, n, func(ctx context.Context) (*bus.Compacted, error) { return n.cluster.bus.Compacted(ctx, name) })
}

// awaitKept is keptOf at the start.
func (n kafkaStorage) awaitKept(ctx context.Context, generation uint16, partitions int32) (*bus.Log, error) {
	return awaitKafka(ctx, n, func(ctx context.Context) (*bus.Log, error) { return n.keptOf(ctx, generation, partitions) })
}

// awaitKafka does something that needs Kafka's answer while the node starts. It tries again while Kafka does not answer,
// and then /readyz and the log say what it waits for. It returns an error that only another setting ends, or that
// of ctx.
func awaitKafka[T any](ctx context.Context, n kafkaStorage, do func(context.Context) (T, error)) (T, error) {
	defer n.waitingFor.Store(nil)
	for {
		try, cancel := context.WithTimeout(ctx, kafkaTry)
		result, err := do(try)
		cancel()
		if ctx.Err() != nil && err != nil {
			return result, fmt.Errorf("wait for Kafka: %w", ctx.Err())
		}
		if err == nil || !errors.Is(err, envelope.ErrUnavailable) && bus.Permanent(err) {
			return result, err
		}
		reason := err.Error()
		n.waitingFor.Store(&reason)
		n.log.Warn().Err(err).Msg("Kafka does not answer yet: the node starts when it does")
	}
}

// keptOf opens a generation of the kept topic, or makes it with that number of
// partitions. Generation 0 stands for the newest one, which may have another number
// of partitions. A generation is opened once; later calls return the same log.
func (n kafkaStorage) keptOf(ctx context.Context, generation uint16, partitions int32) (*bus.Log, error) {
	c := n.cluster
	c.keptMu.Lock()
	defer c.keptMu.Unlock()
	if kept := c.kept[generation]; kept != nil {
		return kept, nil
	}
	kept, err := c.bus.Log(ctx, bus.TopicOptions{
		Name: "kept", Numbered: true, Generation: generation, Partitions: partitions, Lenient: generation == 0,
		Retention: n.cfg.Kept.Retention, MinRetention: n.cfg.Kept.MaxTTL,
	})
	if err != nil {
		return nil, err
	}
	if have := kept.Partitions(); have != int32(n.cfg.Kept.Partitions) {
		n.log.Info().Int32("partitions", have).Int("setting", n.cfg.Kept.Partitions).
			Msg("the kept topic has another number of partitions than kept.partitions. The setting applies only when the topic is created")
	}
	c.kept[kept.Generation()] = kept
	return kept, nil
}

// storageOf returns the storage of a core that uses this generation of the kept
// topic.
func (n kafkaStorage) storageOf(ctx context.Context, kept *bus.Log) (storage, error) {
	c := n.cluster
	s := storage{kept: kept, remote: newRemoteRoles(n.name, kept, c.members, c.pool, &c.refreshing, n.log)}
	posts := n.cfg.Runs(config.RoleJob) && len(n.cfg.Hooks) > 0
	if n.cfg.Runs(config.RoleRouter) || n.cfg.Runs(config.RoleLogic) || posts {
		var err error
		if s.events, err = n.eventsOf(ctx, kept.Generation(), kept.Partitions()); err != nil {
			return storage{}, err
		}
	}
	if n.cfg.Runs(config.RoleJob) {
		var err error
		if s.group, err = c.bus.Group(ctx, bus.GroupOptions{Name: "job", Logs: []*bus.Log{kept, c.live}}); err != nil {
			return storage{}, err
		}
	}
	return s, nil
}

// eventsOf opens the events topic of a generation of the kept topic.
func (n kafkaStorage) eventsOf(ctx context.Context, generation uint16, partitions int32) (*bus.Log, error) {
	return n.cluster.bus.Log(ctx, bus.TopicOptions{
		Name: "events", Numbered: true, Generation: generation, Partitions: partitions, Retention: n.cfg.Events.Retention,
	})
}

// tls returns the TLS settings for connections to Kafka, or nil without TLS.
func (n kafkaStorage) tls() (*tls.Config, error) {
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

// group gives job its share of the partitions, as Kafka's consumer group assigns them.
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

// Parts returns the partitions of the assignment.
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
