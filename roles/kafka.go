package roles

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"imgo/cluster/bus"
	"imgo/cluster/growth"
	"imgo/config"
	"imgo/envelope"
	"imgo/internal/certfile"
	"imgo/internal/wait"
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

// kafka is the logs of a cluster, as a node has them on Kafka.
type kafka struct {
	*process
	bus    *bus.Bus // nil until it is open
	growth *growth.Growth
	live   *bus.Log
	tokens *tokenlog.Tokens // nil: this process runs no logic
	// waitingFor is why the node cannot open its logs yet. It is nil if the node is not known to wait.
	waitingFor atomic.Pointer[string]

	keptMu sync.Mutex
	kept   map[uint16]*bus.Log // by generation
}

// open opens all topics but those of a core, and the kept topic of the generation in use. db is for the tokens.
func (k *kafka) open(ctx context.Context, db *store.DB) (kept *bus.Log, err error) {
	cfg := k.cfg.Kafka
	secure, err := k.tls()
	if err != nil {
		return nil, err
	}
	if k.bus, err = awaitKafka(ctx, k, func(ctx context.Context) (*bus.Bus, error) {
		return bus.Open(ctx, bus.Options{
			Brokers: cfg.Brokers, Prefix: cfg.Prefix, ClientID: "imgo-" + k.name, Replication: cfg.Replication, MinInSync: cfg.MinInSync,
			Compression: cfg.Compression, WriteTimeout: cfg.WriteTimeout, StartTimeout: busTimeout,
			SASL: cfg.SASL, User: cfg.User, Password: cfg.Password, TLS: secure, Log: k.log, Metrics: k.metrics,
		})
	}); err != nil {
		return nil, err
	}
	if kept, err = k.openKept(ctx); err != nil {
		return nil, err
	}
	if k.live, err = awaitKafka(ctx, k, func(ctx context.Context) (*bus.Log, error) {
		return k.bus.Log(ctx, bus.TopicOptions{
			Name: "live", Partitions: int32(k.cfg.Live.Partitions), Retention: k.cfg.Live.Retention,
		})
	}); err != nil {
		return nil, err
	}
	if k.cfg.Runs(config.RoleLogic) {
		topic, err := k.awaitTopic(ctx, "tokens")
		if err != nil {
			return nil, err
		}
		if k.tokens, err = tokenlog.New(
			tokenlog.DefaultConfig(), k.opts.Faults.tokensTopic(topic), store.NewTokenView(db), k.log, k.metrics); err != nil {
			return nil, err
		}
	}
	return kept, nil
}

// abort gives up the appends that Kafka has not taken.
func (k *kafka) abort() {
	if k.bus != nil {
		k.bus.Abort()
	}
}

// close closes the connections to Kafka.
func (k *kafka) close() {
	if k.bus != nil {
		k.logClose(k.bus.Close())
	}
}

// openKept opens the generation of the kept topic in use.
func (k *kafka) openKept(ctx context.Context) (*bus.Log, error) {
	control, err := k.awaitTopic(ctx, "control")
	if err != nil {
		return nil, err
	}
	k.growth = growth.New(k.opts.Faults.Growth, control, k.log)
	if err := k.readControl(ctx); err != nil {
		return nil, err
	}
	inUse, _ := k.growth.Records()
	if err := k.checkRecords(inUse); err != nil {
		return nil, err
	}
	if s, _ := k.growth.State(); s.Generation > 0 {
		return k.awaitKept(ctx, s.Generation, s.Partitions)
	}
	// No growth was ever planned: the newest topic is the first, or there is none.
	kept, err := k.awaitKept(ctx, 0, int32(k.cfg.Kept.Partitions))
	if err != nil {
		return nil, err
	}
	// A plan is written before its topic is made. If another node planned a growth
	// meanwhile, its plan is known after this second read.
	if err := k.readControl(ctx); err != nil {
		return nil, err
	}
	if s, _ := k.growth.State(); s.Generation > 0 && s.Generation != kept.Generation() {
		return k.awaitKept(ctx, s.Generation, s.Partitions)
	}
	k.growth.Base(kept.Generation(), kept.Partitions())
	return kept, nil
}

// readControl reads the control topic.
func (k *kafka) readControl(ctx context.Context) error {
	_, err := awaitKafka(ctx, k, func(ctx context.Context) (struct{}, error) { return struct{}{}, k.growth.Read(ctx) })
	return err
}

// awaitTopic opens a compacted topic while the node starts, as awaitKafka does it.
func (k *kafka) awaitTopic(ctx context.Context, name string) (*bus.Compacted, error) {
	return awaitKafka(ctx, k, func(ctx context.Context) (*bus.Compacted, error) { return k.bus.Compacted(ctx, name) })
}

// awaitKept is keptOf while the node starts, as awaitKafka does it.
func (k *kafka) awaitKept(ctx context.Context, generation uint16, partitions int32) (*bus.Log, error) {
	return awaitKafka(ctx, k, func(ctx context.Context) (*bus.Log, error) { return k.keptOf(ctx, generation, partitions) })
}

// awaitKafka calls do while the node starts, and calls it again as long as Kafka does not answer. Meanwhile /readyz and
// the log say what the node waits for. It returns an error if only another setting can help, or if ctx is done.
func awaitKafka[T any](ctx context.Context, k *kafka, do func(context.Context) (T, error)) (T, error) {
	defer k.waitingFor.Store(nil)
	for backoff := (wait.Backoff{Min: 100 * time.Millisecond, Max: time.Second}); ; {
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
		k.waitingFor.Store(&reason)
		k.log.Warn().Err(err).Msg("Kafka does not answer yet: the node starts when it does")
		_ = backoff.Sleep(ctx) // the next try fails if ctx is done
	}
}

// keptOf opens a generation of the kept topic, or makes it with that number of
// partitions. Generation 0 stands for the newest one, which may have another number
// of partitions. A generation is opened once; later calls return the same log.
func (k *kafka) keptOf(ctx context.Context, generation uint16, partitions int32) (*bus.Log, error) {
	k.keptMu.Lock()
	defer k.keptMu.Unlock()
	if kept := k.kept[generation]; kept != nil {
		return kept, nil
	}
	kept, err := k.bus.Log(ctx, bus.TopicOptions{
		Name: "kept", Numbered: true, Generation: generation, Partitions: partitions, Lenient: generation == 0,
		Retention: k.cfg.Kept.Retention, MinRetention: k.cfg.Kept.MaxTTL,
	})
	if err != nil {
		return nil, err
	}
	if have := kept.Partitions(); have != int32(k.cfg.Kept.Partitions) {
		k.log.Info().Int32("partitions", have).Int("setting", k.cfg.Kept.Partitions).
			Msg("the kept topic has another number of partitions than kept.partitions. The setting applies only when the topic is created")
	}
	k.kept[kept.Generation()] = kept
	return kept, nil
}

// eventsOf opens the events topic of a generation of the kept topic, or makes it with that number of partitions. With 0
// partitions it does not make the topic: the error is envelope.ErrNotFound then.
func (k *kafka) eventsOf(ctx context.Context, generation uint16, partitions int32) (*bus.Log, error) {
	return k.bus.Log(ctx, bus.TopicOptions{
		Name: "events", Numbered: true, Generation: generation, Partitions: partitions,
		Retention: k.cfg.Events.Retention,
	})
}

// tls returns a function that gives the TLS settings of a new connection to Kafka, with the files as they are then. It
// returns nil without TLS.
func (k *kafka) tls() (func() *tls.Config, error) {
	cfg := k.cfg.Kafka
	if !cfg.TLS {
		return nil, nil
	}
	files := &certfile.Files{Cert: cfg.TLSCert, Key: cfg.TLSKey, CA: cfg.TLSCA, Log: k.log}
	if err := files.Load(); err != nil {
		return nil, fmt.Errorf("kafka.tls_cert, kafka.tls_key and kafka.tls_ca: %w", err)
	}
	return func() *tls.Config {
		cert, roots := files.Current()
		secure := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
		if cfg.TLSCert != "" {
			secure.Certificates = []tls.Certificate{*cert}
		}
		return secure
	}, nil
}

// group gives job or a hook its share of the partitions, as Kafka's consumer group assigns them.
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
