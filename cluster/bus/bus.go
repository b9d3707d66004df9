package bus

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"imgo/internal/wait"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
)

const (
	// defaultWriteTimeout is how long an append may wait for Kafka.
	defaultWriteTimeout = 10 * time.Second
	// defaultStartTimeout is how long opening may wait for Kafka.
	defaultStartTimeout = 15 * time.Second

	// metadataTTL is how long the known leaders of partitions are used. After the
	// death of a broker, appends go on about this much later than Kafka itself.
	metadataTTL = 2 * time.Second
	// dialTimeout bounds the making of a connection, with its handshakes. If a name
	// has several addresses, each gets at most hostTimeout of it.
	dialTimeout = 5 * time.Second
	hostTimeout = 2 * time.Second
	// idleTimeout is how long an unused connection stays open.
	idleTimeout = 30 * time.Second
	// callTimeout bounds one request to Kafka that has no other bound.
	callTimeout = 5 * time.Second
)

// Options are the options of Open. Brokers and Prefix must be set. For the others,
// the zero value means the default.
type Options struct {
	// Brokers are addresses of Kafka, host:port. One that answers is enough.
	Brokers []string
	// Prefix is the beginning of the names of topics and groups.
	Prefix string
	// ClientID is the name of this process in Kafka's logs; default "imgo".
	ClientID string
	// Replication is how many copies a new topic gets. 0 means 3, or as many as there are
	// brokers.
	Replication int
	// MinInSync is how many copies must have a record before it counts as appended;
	// 0: 2 with three copies or more, else 1.
	MinInSync int
	// Compression is none, gzip, snappy, lz4 or zstd. "" means none.
	Compression string
	// WriteTimeout is how long an append may wait for Kafka; default 10 s.
	WriteTimeout time.Duration
	// StartTimeout is how long Open, Log and Compacted wait for a Kafka that does not
	// answer; default 15 s.
	StartTimeout time.Duration

	// SASL is none, plain, scram-sha-256 or scram-sha-512. "" means none.
	SASL           string
	User, Password string
	// TLS returns the configuration of a new connection, which sets the host's name in it.
	// If TLS is nil, connections are not encrypted.
	TLS func() *tls.Config

	Log zerolog.Logger
	// Metrics registers the metrics until Close. If it is nil, nothing is registered.
	Metrics prometheus.Registerer
}

// Bus is the access of one process to Kafka. Its methods are safe for concurrent use.
type Bus struct {
	o           Options
	log         zerolog.Logger
	mechanism   sasl.Mechanism
	compression kafka.Compression
	metrics     *metrics
	dialer      *dialer
	brokers     int // number of brokers at the start

	ctx  context.Context // of the transports' goroutines; ends with Close
	stop context.CancelFunc

	appends context.Context // of the appends of all logs; ends with Abort
	abort   context.CancelFunc

	mu     sync.Mutex
	open   []io.Closer // logs and groups that are open, in the order in which they were opened
	closed bool
}

// Open connects to Kafka. If Kafka does not answer, refuses the password or has a
// certificate that is not trusted, the error says what to do.
func Open(ctx context.Context, o Options) (*Bus, error) {
	if len(o.Brokers) == 0 || o.Prefix == "" {
		return nil, settingErrorf("open the bus: brokers and a prefix must be given")
	}
	o.ClientID = cmp.Or(o.ClientID, "imgo")
	o.WriteTimeout = cmp.Or(o.WriteTimeout, defaultWriteTimeout)
	o.StartTimeout = cmp.Or(o.StartTimeout, defaultStartTimeout)
	b := &Bus{o: o, log: o.Log.With().Str("part", "bus").Logger(), dialer: &dialer{tls: o.TLS}}
	var err error
	if b.mechanism, err = mechanism(o); err != nil {
		return nil, fmt.Errorf("open the bus: %w", err)
	}
	if o.Compression != "" && o.Compression != "none" {
		if err := b.compression.UnmarshalText([]byte(o.Compression)); err != nil {
			return nil, settingErrorf("open the bus: compression %q: there are none, gzip, snappy, lz4 and zstd", o.Compression)
		}
	}
	if b.metrics, err = newMetrics(o.Metrics, b); err != nil {
		return nil, settingErrorf("open the bus: register its metrics: %v", err)
	}
	b.ctx, b.stop = context.WithCancel(context.Background())
	b.appends, b.abort = context.WithCancel(context.Background())
	if err := b.reach(ctx); err != nil {
		_ = b.Close()
		return nil, fmt.Errorf("reach Kafka at %s: %w", strings.Join(o.Brokers, ", "), err)
	}
	return b, nil
}

// mechanism returns how this process logs in, or nil if it does not.
func mechanism(o Options) (sasl.Mechanism, error) {
	algorithm := scram.SHA256
	switch o.SASL {
	case "", "none":
		return nil, nil
	case "plain":
		return plain.Mechanism{Username: o.User, Password: o.Password}, nil
	case "scram-sha-256":
	case "scram-sha-512":
		algorithm = scram.SHA512
	default:
		return nil, settingErrorf("sasl %q: there are none, plain, scram-sha-256 and scram-sha-512", o.SASL)
	}
	m, err := scram.Mechanism(algorithm, o.User, o.Password)
	if err != nil { // its text has the password
		return nil, settingErrorf("kafka.user or kafka.password has a character that %s does not allow: is there a newline at the end?", o.SASL)
	}
	return m, nil
}

// transport returns a transport for some topics, or for requests about all topics if
// none is given. ttl is how long it uses known metadata.
func (b *Bus) transport(ttl time.Duration, topics ...string) *kafka.Transport {
	return &kafka.Transport{
		Dial: b.dialer.dial, DialTimeout: dialTimeout, IdleTimeout: idleTimeout,
		MetadataTTL: ttl, MetadataTopics: topics, ClientID: b.o.ClientID,
		SASL: b.mechanism, Context: b.ctx,
	}
}

// client returns a client whose calls take at most timeout each.
func (b *Bus) client(timeout time.Duration, t *kafka.Transport) *kafka.Client {
	return &kafka.Client{Addr: kafka.TCP(b.o.Brokers...), Timeout: timeout, Transport: t}
}

// reach waits until Kafka answers, for StartTimeout.
func (b *Bus) reach(ctx context.Context) error {
	return b.retry(ctx, func(ctx context.Context) error {
		meta, err := b.metadata(ctx)
		if err == nil && len(meta.Brokers) == 0 {
			err = errors.New("it knows of no broker")
		}
		if err == nil {
			b.brokers = len(meta.Brokers)
		}
		return err
	})
}

// metadata asks Kafka for the metadata of some topics (none: all), past any cache.
func (b *Bus) metadata(ctx context.Context, topics ...string) (*kafka.MetadataResponse, error) {
	t := b.transport(time.Minute, topics...)
	defer t.CloseIdleConnections()
	return b.client(callTimeout, t).Metadata(ctx, &kafka.MetadataRequest{Topics: topics})
}

// retry repeats fn for StartTimeout, until it succeeds or fails for good.
func (b *Bus) retry(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, b.o.StartTimeout)
	defer cancel()
	backoff := wait.Backoff{Min: 100 * time.Millisecond, Max: 500 * time.Millisecond}
	start := time.Now()
	var last error
	for {
		err := fn(ctx)
		if err == nil || Permanent(err) {
			return explain(err)
		}
		// The end of StartTimeout is not what went wrong.
		if last == nil || ctx.Err() == nil {
			last = err
		}
		if backoff.Sleep(ctx) != nil {
			return fmt.Errorf("no answer for %v: %w", time.Since(start).Round(time.Second), explain(last))
		}
	}
}

// register makes Close close c. It returns an error if the Bus is closed.
func (b *Bus) register(c io.Closer) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return errClosed("the bus")
	}
	b.open = append(b.open, c)
	return nil
}

// forget makes Close leave out c, which is closed already.
func (b *Bus) forget(c io.Closer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open = slices.DeleteFunc(b.open, func(other io.Closer) bool { return other == c })
}

// Abort makes appends fail that Kafka has not taken, now and later, so that Close does not wait for Kafka. They return an
// envelope.ErrUnavailable and may still happen.
func (b *Bus) Abort() { b.abort() }

// Close closes the logs and groups that were opened, newest first, and every
// connection. A second call does nothing.
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
	b.abort()
	b.stop()
	b.dialer.close()
	b.metrics.registered.Unregister()
	return err
}
