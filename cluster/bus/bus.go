package bus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
)

const (
	// DefaultWriteTimeout is how long an append may wait for Kafka.
	DefaultWriteTimeout = 10 * time.Second
	// DefaultStartTimeout bounds how long opening waits for Kafka.
	DefaultStartTimeout = 15 * time.Second

	// metadataTTL is how old what is known of leaders may be, in the middle:
	// after a broker died, appends go on about so much later than Kafka does.
	metadataTTL = 2 * time.Second
	// dialTimeout bounds each connection that is made, to the end of its
	// handshakes; one address of several gets hostTimeout of it.
	dialTimeout = 5 * time.Second
	hostTimeout = 2 * time.Second
	// idleTimeout is how long a connection may do nothing.
	idleTimeout = 30 * time.Second
	// callTimeout bounds one question to Kafka that has no other bound.
	callTimeout = 5 * time.Second
)

// Options are a Bus's. Brokers and Prefix must be set; of the rest the zero
// value means its default.
type Options struct {
	// Brokers are addresses of Kafka, host:port; one that is up is enough.
	Brokers []string
	// Prefix is what the names of topics and groups begin with.
	Prefix string
	// ClientID is what Kafka's logs call this process; "imgo".
	ClientID string
	// Replication is how many copies a topic that is made gets; 0: 3, or as
	// many as there are brokers.
	Replication int
	// MinInSync is how many copies must have a record before it counts; 0: 2
	// with three copies or more, else 1.
	MinInSync int
	// Compression is none, gzip, snappy, lz4 or zstd; "": none.
	Compression string
	// WriteTimeout is how long an append may wait for Kafka; 10 s.
	WriteTimeout time.Duration
	// StartTimeout bounds how long Open, Log and Compacted wait for a Kafka
	// that does not answer (yet); 15 s.
	StartTimeout time.Duration

	// SASL is none, plain, scram-sha-256 or scram-sha-512; "": none.
	SASL           string
	User, Password string
	// TLS is what connections use; nil: they are plain.
	TLS *tls.Config

	Log zerolog.Logger
	// Metrics is where metrics are registered, until Close; nil: nowhere.
	Metrics prometheus.Registerer
}

// Bus is the way to Kafka of a process. Its methods are safe for concurrent
// use.
type Bus struct {
	o           Options
	log         zerolog.Logger
	mechanism   sasl.Mechanism
	compression kafka.Compression
	metrics     *metrics
	dialer      *dialer
	brokers     int // that there were at the start

	ctx  context.Context // of the transports' goroutines, until Close
	stop context.CancelFunc

	mu     sync.Mutex
	open   []closer // logs, groups; in the order in which they were opened
	closed bool
}

type closer interface{ Close() error }

// Open reaches Kafka. The error says what to do about one that does not
// answer, that refuses the password, or whose certificate is not believed.
func Open(ctx context.Context, o Options) (*Bus, error) {
	if len(o.Brokers) == 0 || o.Prefix == "" {
		return nil, errors.New("open the bus: brokers and a prefix must be given")
	}
	if o.ClientID == "" {
		o.ClientID = "imgo"
	}
	if o.WriteTimeout <= 0 {
		o.WriteTimeout = DefaultWriteTimeout
	}
	if o.StartTimeout <= 0 {
		o.StartTimeout = DefaultStartTimeout
	}
	b := &Bus{o: o, log: o.Log.With().Str("part", "bus").Logger(), dialer: newDialer()}
	var err error
	if b.mechanism, err = mechanism(o); err != nil {
		return nil, fmt.Errorf("open the bus: %w", err)
	}
	if o.Compression != "" && o.Compression != "none" {
		if err := b.compression.UnmarshalText([]byte(o.Compression)); err != nil {
			return nil, fmt.Errorf("open the bus: compression %q: there are none, gzip, snappy, lz4 and zstd", o.Compression)
		}
	}
	if b.metrics, err = newMetrics(o.Metrics); err != nil {
		return nil, fmt.Errorf("open the bus: register its metrics: %w", err)
	}
	b.ctx, b.stop = context.WithCancel(context.Background())
	if err := b.reach(ctx); err != nil {
		_ = b.Close()
		return nil, fmt.Errorf("reach Kafka at %s: %w", strings.Join(o.Brokers, ", "), err)
	}
	return b, nil
}

// mechanism is how this process says who it is; nil: it does not.
func mechanism(o Options) (sasl.Mechanism, error) {
	switch o.SASL {
	case "", "none":
		return nil, nil
	case "plain":
		return plain.Mechanism{Username: o.User, Password: o.Password}, nil
	case "scram-sha-256":
		return scram.Mechanism(scram.SHA256, o.User, o.Password)
	case "scram-sha-512":
		return scram.Mechanism(scram.SHA512, o.User, o.Password)
	}
	return nil, fmt.Errorf("sasl %q: there are none, plain, scram-sha-256 and scram-sha-512", o.SASL)
}

// transport makes connections for the topics that are named; none: for
// questions about all of them.
func (b *Bus) transport(ttl time.Duration, topics ...string) *kafka.Transport {
	return &kafka.Transport{
		Dial: b.dialer.dial, DialTimeout: dialTimeout, IdleTimeout: idleTimeout,
		MetadataTTL: ttl, MetadataTopics: topics, ClientID: b.o.ClientID,
		TLS: b.o.TLS, SASL: b.mechanism, Context: b.ctx,
	}
}

// client makes calls that take up to timeout each.
func (b *Bus) client(timeout time.Duration, t *kafka.Transport) *kafka.Client {
	return &kafka.Client{Addr: kafka.TCP(b.o.Brokers...), Timeout: timeout, Transport: t}
}

// reach waits until Kafka answers, for StartTimeout.
func (b *Bus) reach(ctx context.Context) error {
	return b.try(ctx, func(ctx context.Context) error {
		meta, err := b.ask(ctx)
		if err == nil && len(meta.Brokers) == 0 {
			err = errors.New("it knows of no broker")
		}
		if err == nil {
			b.brokers = len(meta.Brokers)
		}
		return err
	})
}

// ask gets the metadata of the topics that are named (none: all), past any
// cache.
func (b *Bus) ask(ctx context.Context, topics ...string) (*kafka.MetadataResponse, error) {
	t := b.transport(time.Minute, topics...)
	defer t.CloseIdleConnections()
	return b.client(callTimeout, t).Metadata(ctx, &kafka.MetadataRequest{Topics: topics})
}

// retryPause is how long starting waits before it tries again.
const retryPause = 250 * time.Millisecond

// try repeats fn until it succeeds or fails for good, for StartTimeout.
func (b *Bus) try(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, b.o.StartTimeout)
	defer cancel()
	var last error
	for {
		err := fn(ctx)
		if err == nil || hopeless(err) {
			return explain(err)
		}
		// The end of our patience is not what went wrong.
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("gave up after up to %v: %w", b.o.StartTimeout, explain(last))
		case <-time.After(retryPause):
		}
	}
}

// register has something closed with the Bus.
func (b *Bus) register(c closer) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return errClosed("the bus")
	}
	b.open = append(b.open, c)
	return nil
}

// Close closes, newest first, what was opened, and every connection. A second
// call does nothing.
func (b *Bus) Close() error {
	b.mu.Lock()
	open, closed := b.open, b.closed
	b.open, b.closed = nil, true
	b.mu.Unlock()
	if closed {
		return nil
	}
	var err error
	for i := len(open) - 1; i >= 0; i-- {
		err = errors.Join(err, open[i].Close())
	}
	b.stop()
	b.dialer.close()
	b.metrics.close()
	return err
}
