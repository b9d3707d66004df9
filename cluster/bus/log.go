package bus

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/segmentio/kafka-go"

	"imgo/envelope"
)

const (
	// DefaultQueueBytes bounds what waits for Kafka, for each topic.
	DefaultQueueBytes = 16 << 20
	// MaxRecordBytes is the largest value that a log takes.
	MaxRecordBytes = 1<<20 - 1<<10
)

// TopicOptions are a Log's. Name must be set.
type TopicOptions struct {
	// Name is what the topic is for, such as kept or live: its name in Kafka is
	// the prefix, a dot, and this.
	Name string
	// Numbered has the generation at the end of the topic's name, after another
	// dot, so that a topic with more partitions can follow.
	Numbered bool
	// Generation is the one to open; 0: the newest there is, else 1. Without
	// Numbered it is 1.
	Generation uint16
	// Partitions is how many there must be; 0: as many as there are, 16 for a
	// new topic.
	Partitions int32
	// Lenient has Partitions count only where the topic is made: one that is
	// there may have another number.
	Lenient bool
	// Retention is how long records are kept; 0: for ever. A topic that keeps
	// them for less is refused, one that keeps them for longer is taken.
	Retention time.Duration
	// MinRetention is how long they must be kept at least: the longest ttl.
	MinRetention time.Duration
	// Config is set beside it where the topic is made, by Kafka's names.
	Config map[string]string
	// QueueBytes bounds what waits to be appended: records and 64 bytes for
	// each. Appends over it wait. 0: 16 MiB.
	QueueBytes int64
}

// Log is a topic of records with contiguous offsets. Its methods are safe for
// concurrent use.
type Log struct {
	bus        *Bus
	name       string // without prefix and generation
	topic      string
	generation uint16
	log        zerolog.Logger
	meters     *meters

	transport *kafka.Transport
	client    *kafka.Client
	producer  *producer
	parts     []part
	ends      []atomic.Int64 // high-water marks last seen

	ctx     context.Context // of fetching
	stop    context.CancelFunc
	fetches sync.WaitGroup
	running atomic.Bool
	closing sync.Once
	stopped chan struct{} // closed by Close; ends Run
}

// Log opens a topic, or makes it. Two nodes may do so at once. The error says
// how an existing topic differs from what it must be, and how to mend it.
func (b *Bus) Log(ctx context.Context, o TopicOptions) (*Log, error) {
	s := spec{
		name: b.o.Prefix + "." + o.Name, partitions: o.Partitions, lenient: o.Lenient, policy: "delete",
		retention: o.Retention, minRetention: o.MinRetention, config: o.Config,
	}
	if o.Retention > 0 && o.Retention < o.MinRetention {
		return nil, fmt.Errorf("open the topic %s: a retention of %v is less than the %v that the longest ttl needs", s.name, o.Retention, o.MinRetention)
	}
	if o.Partitions < 0 || o.Partitions > 1<<15 {
		return nil, fmt.Errorf("open the topic %s: %d partitions: must be 1 to %d", s.name, o.Partitions, 1<<15)
	}
	if o.QueueBytes <= 0 {
		o.QueueBytes = DefaultQueueBytes
	}
	generation := uint16(1)
	if o.Numbered {
		if generation = o.Generation; generation == 0 {
			newest, err := b.newest(ctx, o.Name)
			if err != nil {
				return nil, err
			}
			generation = max(1, newest)
		}
		s.name += "." + strconv.Itoa(int(generation))
	}
	partitions, err := b.ensure(ctx, s)
	if err != nil {
		return nil, err
	}
	l := b.newLog(o.Name, s.name, partitions, o.QueueBytes)
	l.generation = generation
	if err := b.register(l); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// newLog is a log on a topic that is there.
func (b *Bus) newLog(name, topic string, partitions int32, queueBytes int64) *Log {
	l := &Log{
		bus: b, name: name, topic: topic, generation: 1,
		log: b.log.With().Str("topic", topic).Logger(), meters: b.metrics.of(topic),
		transport: b.transport(metadataTTL, topic), parts: make([]part, partitions), ends: make([]atomic.Int64, partitions),
		stopped: make(chan struct{}),
	}
	l.client = b.client(callTimeout, l.transport)
	l.producer = newProducer(b, topic, l.transport, partitions, queueBytes)
	l.producer.moved, l.producer.end, l.producer.copies = l.moved, l.End, l.scan
	l.ctx, l.stop = context.WithCancel(context.Background())
	return l
}

// Name is what the log was opened as, such as kept.
func (l *Log) Name() string { return l.name }

// Topic is its name in Kafka.
func (l *Log) Topic() string { return l.topic }

// Partitions is how many there are.
func (l *Log) Partitions() int32 { return int32(len(l.parts)) }

// Generation is the upper part of the ids of this log's records, from 1.
func (l *Log) Generation() uint16 { return l.generation }

// Append blocks until the record is on as many copies as the topic asks for,
// and returns its offset. It waits while the queue is full. When ctx is done
// first it returns ctx's error, although the record may still be appended. It
// is refused with envelope.ErrUnavailable when Kafka does not take it within
// the write timeout (it may be appended all the same), with
// envelope.ErrTooLarge over MaxRecordBytes, with envelope.ErrClosed after
// Close. Nobody may change value once it was given to Append.
func (l *Log) Append(ctx context.Context, partition int32, value []byte) (int64, error) {
	var offset [1]int64
	err := l.producer.append(ctx, offset[:], func(int) record { return record{partition: partition, value: nonNil(value)} })
	return offset[0], err
}

// AppendEssential is Append: what Kafka's disks have left is not known here.
func (l *Log) AppendEssential(ctx context.Context, partition int32, value []byte) (int64, error) {
	return l.Append(ctx, partition, value)
}

// AppendMany appends all entries, in order, and fills in their offsets. It
// errs as Append does, for the whole call; some of the entries may have been
// appended then.
func (l *Log) AppendMany(ctx context.Context, entries []envelope.Entry) error {
	offsets := make([]int64, len(entries))
	// A copy: the caller may be gone by the time they are sent.
	records := make([]record, len(entries))
	for i := range entries {
		records[i] = record{partition: entries[i].Partition, value: nonNil(entries[i].Value)}
	}
	if err := l.producer.append(ctx, offsets, func(i int) record { return records[i] }); err != nil {
		return err
	}
	for i := range entries {
		entries[i].Offset = offsets[i]
	}
	return nil
}

// nonNil keeps an empty record from becoming Kafka's null.
func nonNil(value []byte) []byte {
	if value == nil {
		return []byte{}
	}
	return value
}

// moved notes that a partition goes up to end at least.
func (l *Log) moved(partition int32, end int64) {
	known := &l.ends[partition]
	for now := known.Load(); now < end && !known.CompareAndSwap(now, end); now = known.Load() {
	}
}

// End is the next offset of a partition as it was last seen, by an append, a
// read or Bounds; 0: not yet. It asks nobody.
func (l *Log) End(partition int32) int64 {
	if partition < 0 || int(partition) >= len(l.ends) {
		return 0
	}
	return l.ends[partition].Load()
}

// Bounds are the oldest offset that is still there and the next one to be
// assigned. It asks Kafka, and tries again while that is away, until ctx is
// done or the write timeout is over (envelope.ErrUnavailable).
func (l *Log) Bounds(ctx context.Context, partition int32) (begin, end int64, err error) {
	if partition < 0 || int(partition) >= len(l.parts) {
		return 0, 0, noPartition(partition, len(l.parts))
	}
	wait, cancel := context.WithTimeout(ctx, l.bus.o.WriteTimeout)
	defer cancel()
	for backoff := minBackoff; ; backoff = min(2*backoff, maxBackoff) {
		if err := l.producer.isClosed(); err != nil {
			return 0, 0, err
		}
		if begin, end, err = l.bounds(wait, partition); err == nil {
			return begin, end, nil
		}
		l.meters.fetchErrors.Inc()
		select {
		case <-time.After(backoff):
			continue
		case <-l.ctx.Done():
			return 0, 0, l.producer.isClosed()
		case <-wait.Done():
		}
		if ctx.Err() != nil {
			return 0, 0, fmt.Errorf("ask for the ends of %s partition %d: %w", l.topic, partition, ctx.Err())
		}
		return 0, 0, envelope.Errorf(envelope.CodeUnavailable, "ask for the ends of %s partition %d: Kafka (%s) did not say within %v: %v",
			l.topic, partition, l.producer.brokers, l.bus.o.WriteTimeout, explain(err))
	}
}

// bounds asks once.
func (l *Log) bounds(ctx context.Context, partition int32) (begin, end int64, err error) {
	res, err := l.client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{
		l.topic: {kafka.FirstOffsetOf(int(partition)), kafka.LastOffsetOf(int(partition))},
	}})
	if err != nil {
		return 0, 0, err
	}
	for _, p := range res.Topics[l.topic] {
		if p.Partition != int(partition) {
			continue
		}
		if p.Error != nil {
			return 0, 0, p.Error
		}
		if p.FirstOffset < 0 || p.LastOffset < p.FirstOffset {
			// The two were asked for one after the other.
			return 0, 0, fmt.Errorf("it goes from %d to %d", p.FirstOffset, p.LastOffset)
		}
		l.moved(partition, p.LastOffset)
		return p.FirstOffset, p.LastOffset, nil
	}
	return 0, 0, fmt.Errorf("no answer for partition %d", partition)
}

// sweepInterval is how often Run looks for read-ahead that nobody reads.
const sweepInterval = 10 * time.Second

// Run lets go of memory that no reader uses until ctx is done or Close is
// called; it then takes no more, waits for what is queued and returns nil.
// Appends and reads do not wait for Run.
func (l *Log) Run(ctx context.Context) error {
	if !l.running.CompareAndSwap(false, true) {
		return fmt.Errorf("run the log %s: it runs already", l.topic)
	}
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return l.Close()
		case <-l.stopped:
			return nil
		case now := <-tick.C:
			for i := range l.parts {
				l.parts[i].sweep(now)
			}
		}
	}
}

// Close refuses further appends, ends blocked reads (both envelope.ErrClosed),
// and waits until what is queued was appended or the write timeout is over. A
// second call waits for the first.
func (l *Log) Close() error {
	l.closing.Do(func() {
		why := errClosed("the log " + l.topic)
		l.producer.refuse(why)
		for i := range l.parts {
			l.parts[i].close(why)
		}
		l.stop()
		l.producer.close(why)
		l.fetches.Wait()
		l.transport.CloseIdleConnections()
		close(l.stopped)
	})
	return nil
}
