package bus

import (
	"cmp"
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
	// defaultQueueBytes bounds the records of a topic that wait for Kafka.
	defaultQueueBytes = 16 << 20
	// MaxRecordBytes is the size of the largest record that a log takes.
	MaxRecordBytes = 1<<20 - 1<<10
)

// TopicOptions are the options of Bus.Log. Name must be set.
type TopicOptions struct {
	// Name is the purpose of the topic, such as kept or live. The topic's name in
	// Kafka is the prefix, a dot, and Name.
	Name string
	// Numbered adds a dot and the generation to the topic's name, so that a topic
	// with more partitions can follow.
	Numbered bool
	// Generation is the generation to open. 0 means the newest one, or 1 if there is none.
	// Without Numbered it is 1.
	Generation uint16
	// Partitions is how many partitions there must be. 0 means as many as there are. Log
	// fails with envelope.ErrNotFound then if the topic does not exist.
	Partitions int32
	// Lenient makes Partitions count for a new topic only. An existing topic may have
	// another number.
	Lenient bool
	// Retention is how long records are kept. 0 means for ever. An existing topic that
	// keeps them for a shorter time is refused, one with a longer time is used.
	Retention time.Duration
	// MinRetention is the shortest retention that is possible: the longest ttl.
	MinRetention time.Duration
	// Config has further settings of a new topic, by Kafka's names.
	Config map[string]string
	// QueueBytes bounds the records that wait to be appended, with 64 bytes counted
	// for each. Appends over it wait. Each partition gets an eighth of it, or an even
	// part if that is more, and at least space for one record. 0 means 16 MiB.
	QueueBytes int64
}

// Log is a topic of records with contiguous offsets. Its methods are safe for
// concurrent use.
type Log struct {
	bus        *Bus
	name       string // without the prefix and the generation
	topic      string
	generation uint16
	log        zerolog.Logger
	meters     *meters

	transport *kafka.Transport
	client    *kafka.Client
	producer  *producer
	readers   []partitionReader
	ends      []atomic.Int64 // the ends of the partitions as last seen

	ctx     context.Context // of fetches; ends with Close
	stop    context.CancelFunc
	fetches sync.WaitGroup
	running atomic.Bool
	closing sync.Once
	stopped chan struct{} // closed by Close; ends Run
}

// Log opens a topic, or makes it if o has a number of partitions. Several nodes may do so at once. If an existing
// topic differs from what it must be, the error says how to correct that.
func (b *Bus) Log(ctx context.Context, o TopicOptions) (*Log, error) {
	s := topicSpec{
		name: b.o.Prefix + "." + o.Name, partitions: o.Partitions, lenient: o.Lenient, policy: "delete",
		retention: o.Retention, minRetention: o.MinRetention, config: o.Config,
	}
	if o.Retention > 0 && o.Retention < o.MinRetention {
		return nil, settingErrorf("open the topic %s: a retention of %v is less than the %v that the longest ttl needs",
			s.name, o.Retention, o.MinRetention)
	}
	if o.Partitions < 0 || o.Partitions > 1<<15 {
		return nil, settingErrorf("open the topic %s: %d partitions: must be 1 to %d", s.name, o.Partitions, 1<<15)
	}
	o.QueueBytes = cmp.Or(o.QueueBytes, defaultQueueBytes)
	generation := uint16(1)
	if o.Numbered {
		if generation = o.Generation; generation == 0 {
			newest, err := b.newestGeneration(ctx, o.Name)
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

// newLog makes a Log of an existing topic.
func (b *Bus) newLog(name, topic string, partitions int32, queueBytes int64) *Log {
	l := &Log{
		bus: b, name: name, topic: topic, generation: 1,
		log: b.log.With().Str("topic", topic).Logger(), meters: b.metrics.of(topic),
		transport: b.transport(metadataTTL, topic), readers: make([]partitionReader, partitions), ends: make([]atomic.Int64, partitions),
		stopped: make(chan struct{}),
	}
	l.client = b.client(callTimeout, l.transport)
	l.producer = newProducer(l, queueBytes)
	l.ctx, l.stop = context.WithCancel(context.Background())
	return l
}

// Name returns the name that the log was opened with, such as kept.
func (l *Log) Name() string { return l.name }

// Topic returns the topic's name in Kafka.
func (l *Log) Topic() string { return l.topic }

// Partitions returns how many partitions there are.
func (l *Log) Partitions() int32 { return int32(len(l.readers)) }

// Generation returns the upper part of the ids of this log's records. It is 1 or more.
func (l *Log) Generation() uint16 { return l.generation }

// Append blocks until the record is on as many copies as the topic asks for, and
// returns its offset. It waits while the queue is full.
//
// If ctx is done first, it returns ctx's error. If Kafka does not take the record
// within the write timeout, or before Bus.Abort, it returns an envelope.ErrUnavailable.
// In all these cases the record may still be appended. The error is envelope.ErrTooLarge for a record over
// MaxRecordBytes, and envelope.ErrClosed after Close. The caller must not change
// value after the call.
func (l *Log) Append(ctx context.Context, partition int32, value []byte) (int64, error) {
	var offset [1]int64
	err := l.producer.append(ctx, offset[:], func(int) record { return record{partition: partition, value: nonNil(value)} })
	return offset[0], err
}

// AppendEssential is Append: the bus does not know how full Kafka's disks are.
func (l *Log) AppendEssential(ctx context.Context, partition int32, value []byte) (int64, error) {
	return l.Append(ctx, partition, value)
}

// AppendMany appends all entries, in order, and sets their offsets. It returns the
// errors of Append for the whole call; some of the entries may have been appended.
func (l *Log) AppendMany(ctx context.Context, entries []envelope.Entry) error {
	offsets := make([]int64, len(entries))
	// A copy, because the caller may have returned before they are sent.
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

// nonNil returns value, or an empty slice for nil, which Kafka takes for a deletion.
func nonNil(value []byte) []byte {
	if value == nil {
		return []byte{}
	}
	return value
}

// sawEnd notes that the end of a partition is at least at the offset end.
func (l *Log) sawEnd(partition int32, end int64) {
	known := &l.ends[partition]
	for now := known.Load(); now < end && !known.CompareAndSwap(now, end); now = known.Load() {
	}
}

// End returns the next offset of a partition as last seen by an append, a read or
// Bounds, or 0 if it was not seen yet. It does not ask Kafka.
func (l *Log) End(partition int32) int64 {
	if partition < 0 || int(partition) >= len(l.ends) {
		return 0
	}
	return l.ends[partition].Load()
}

// Bounds returns the oldest offset that is still in a partition, and the next one to
// be assigned. It asks Kafka, and tries again while Kafka is away. It gives up when
// ctx is done, or with envelope.ErrUnavailable after the write timeout.
func (l *Log) Bounds(ctx context.Context, partition int32) (begin, end int64, err error) {
	if partition < 0 || int(partition) >= len(l.readers) {
		return 0, 0, errNoPartition(partition, len(l.readers))
	}
	asking, cancel := context.WithTimeout(ctx, l.bus.o.WriteTimeout)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)() // Close ends it
	for backoff := newBackoff(); ; {
		if err := l.producer.closedErr(); err != nil {
			return 0, 0, err
		}
		if begin, end, err = l.bounds(asking, partition); err == nil {
			return begin, end, nil
		}
		l.meters.fetchErrors.Inc()
		switch {
		case backoff.Sleep(asking) == nil:
			continue
		case l.ctx.Err() != nil:
			return 0, 0, l.producer.closedErr()
		case ctx.Err() != nil:
			return 0, 0, fmt.Errorf("ask for the ends of %s partition %d: %w", l.topic, partition, ctx.Err())
		}
		leader := cmp.Or(l.leader(partition), l.producer.brokers)
		return 0, 0, envelope.Errorf(envelope.CodeUnavailable, "ask for the ends of %s partition %d: Kafka (%s) did not say within %v: %v",
			l.topic, partition, leader, l.bus.o.WriteTimeout, explain(err))
	}
}

// bounds asks for Bounds once.
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
			// Kafka was asked for the two one after the other.
			return 0, 0, fmt.Errorf("it goes from %d to %d", p.FirstOffset, p.LastOffset)
		}
		l.sawEnd(partition, p.LastOffset)
		return p.FirstOffset, p.LastOffset, nil
	}
	return 0, 0, fmt.Errorf("no answer for partition %d", partition)
}

// sweepInterval is how often Run looks for streams that nobody reads.
const sweepInterval = 10 * time.Second

// Run frees memory that no reader uses, until ctx is done or Close is called. When ctx
// is done, it closes the log. Appends and reads do not need Run.
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
			for i := range l.readers {
				l.readers[i].sweep(now)
			}
		}
	}
}

// Close refuses further appends and ends blocked reads, both with
// envelope.ErrClosed. It waits until the queued records were appended, the write
// timeout is over, or Bus.Abort is called. A second call waits for the first.
func (l *Log) Close() error {
	l.closing.Do(func() {
		why := errClosed("the log " + l.topic)
		l.producer.refuse(why)
		for i := range l.readers {
			l.readers[i].close(why)
		}
		l.stop()
		l.producer.close(why)
		l.fetches.Wait()
		l.transport.CloseIdleConnections()
		l.bus.forget(l)
		close(l.stopped)
	})
	return nil
}
