package store

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"imgo/envelope"
)

// Defaults of LiveOptions.
const (
	DefaultLivePartitions = 16
	DefaultLiveMaxBytes   = 4 << 20
	DefaultLiveRetention  = time.Minute
)

// LiveOptions are a LiveLog's. The zero value of each means its default.
type LiveOptions struct {
	Partitions int32
	// MaxBytes bounds one partition: its values and 64 bytes for each. The
	// newest entry stays even if it alone is larger.
	MaxBytes int
	// Retention is how long an entry stays while Run runs; negative: until it
	// is pushed out.
	Retention time.Duration
	// Metrics is where the log's metrics are registered, until Close; nil:
	// nowhere.
	Metrics prometheus.Registerer
}

// LiveLog is the log of what is worthless a minute later: in memory, and gone
// with the process. It has the interface of Log. When a partition is full its
// oldest entries are dropped and counted; appending never waits for a reader.
// Offsets begin at 0 with each start of the process.
//
// All methods may be called by many goroutines at once.
type LiveLog struct {
	parts     []tail
	retention time.Duration
	meter     *meter

	closed atomic.Bool
	// lost counts entries that were dropped before any reader was given them,
	// old those that a reader had been given.
	lost, old atomic.Uint64
}

// NewLiveLog makes an empty log. Without Run nothing ages; the bound holds.
func NewLiveLog(opt LiveOptions) (*LiveLog, error) {
	if opt.Partitions == 0 {
		opt.Partitions = DefaultLivePartitions
	}
	if opt.Partitions < 0 {
		return nil, fmt.Errorf("make the live log: %d partitions: must be at least 1", opt.Partitions)
	}
	if opt.MaxBytes <= 0 {
		opt.MaxBytes = DefaultLiveMaxBytes
	}
	if opt.Retention == 0 {
		opt.Retention = DefaultLiveRetention
	}
	l := &LiveLog{parts: make([]tail, opt.Partitions), retention: opt.Retention}
	for i := range l.parts {
		l.parts[i].limit = opt.MaxBytes
	}
	var err error
	if l.meter, err = newMeter(opt.Metrics, l); err != nil {
		return nil, fmt.Errorf("make the live log: %w", err)
	}
	return l, nil
}

// Partitions is how many there are.
func (l *LiveLog) Partitions() int32 { return int32(len(l.parts)) }

// Generation is 1: nothing of an earlier process is left to be told apart.
func (l *LiveLog) Generation() uint16 { return 1 }

// Append adds value, which nobody may change from then on, and returns its
// offset. It never blocks; ctx is only looked at.
func (l *LiveLog) Append(ctx context.Context, partition int32, value []byte) (int64, error) {
	if err := l.checkAppend(ctx, partition); err != nil {
		return 0, err
	}
	t := &l.parts[partition]
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed != nil {
		return 0, t.closed
	}
	offset := t.end
	l.push(t, envelope.Entry{Partition: partition, Offset: offset, Value: value})
	t.signal()
	return offset, nil
}

// AppendMany adds all entries and fills in their offsets.
func (l *LiveLog) AppendMany(ctx context.Context, entries []envelope.Entry) error {
	for i := range entries {
		if err := l.checkAppend(ctx, entries[i].Partition); err != nil {
			return err
		}
	}
	for i := 0; i < len(entries); {
		// A run of one partition takes its lock once and wakes once.
		t := &l.parts[entries[i].Partition]
		t.mu.Lock()
		if t.closed != nil {
			t.mu.Unlock()
			return t.closed
		}
		for partition := entries[i].Partition; i < len(entries) && entries[i].Partition == partition; i++ {
			entries[i].Offset = t.end
			l.push(t, entries[i])
		}
		t.signal()
		t.mu.Unlock()
	}
	return nil
}

func (l *LiveLog) checkAppend(ctx context.Context, partition int32) error {
	if err := checkPartition(partition, len(l.parts)); err != nil {
		return err
	}
	return ctx.Err()
}

// push adds an entry and counts what it pushes out; t.mu must be held.
func (l *LiveLog) push(t *tail, e envelope.Entry) {
	if dropped := t.push(e); dropped > 0 {
		l.forget(t, t.begin+int64(dropped), true)
	}
}

// forget moves begin up over entries that are no longer in memory, and counts
// them when they had to go for lack of room; t.mu must be held.
func (l *LiveLog) forget(t *tail, begin int64, full bool) {
	if full {
		read := min(max(t.read, t.begin), begin)
		l.old.Add(uint64(read - t.begin))
		l.lost.Add(uint64(begin - read))
	}
	t.begin = begin
}

// Read blocks until there is an entry at or after from, or ctx is done, and
// returns entries in order, at least one and up to about maxBytes. The error
// is envelope.ErrOutOfRange when from was dropped or is past the end; a reader
// that was too slow goes on at Bounds' begin.
func (l *LiveLog) Read(ctx context.Context, partition int32, from int64, maxBytes int) ([]envelope.Entry, error) {
	if err := checkPartition(partition, len(l.parts)); err != nil {
		return nil, err
	}
	entries, _, err := l.parts[partition].await(ctx, partition, from, maxBytes)
	return entries, err
}

// Bounds are the oldest offset that is still there and the next one to be
// assigned.
func (l *LiveLog) Bounds(_ context.Context, partition int32) (begin, end int64, err error) {
	if err := checkPartition(partition, len(l.parts)); err != nil {
		return 0, 0, err
	}
	return l.parts[partition].bounds()
}

// Dropped counts the entries that were dropped for lack of room before any
// reader was given them.
func (l *LiveLog) Dropped() uint64 { return l.lost.Load() }

// ageSteps is into how many parts retention is divided: an entry stays for at
// least retention and at most a step longer.
const ageSteps = 8

// Run lets entries age until ctx is done, then closes the log.
func (l *LiveLog) Run(ctx context.Context) error {
	defer func() { _ = l.Close() }()
	if l.retention < 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(max(time.Millisecond, l.retention/ageSteps))
	defer tick.Stop()
	// marks are the ends of all partitions at the last ticks. Noting where the
	// log ended now and then is cheaper than noting when each entry came.
	var marks [][]int64
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		ends := make([]int64, len(l.parts))
		for i := range l.parts {
			_, ends[i], _ = l.parts[i].bounds()
		}
		if marks = append(marks, ends); len(marks) <= ageSteps {
			continue
		}
		for i := range l.parts {
			l.age(&l.parts[i], marks[0][i])
		}
		marks = append(marks[:0], marks[1:]...)
	}
}

// age drops the entries before an offset.
func (l *LiveLog) age(t *tail, before int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.ring) > t.head && t.first() < before {
		t.drop()
	}
	l.forget(t, max(t.begin, t.first()), false)
}

// Close ends blocked reads and refuses all that comes after it with
// envelope.ErrClosed.
func (l *LiveLog) Close() error {
	if l.closed.Swap(true) {
		return nil
	}
	why := envelope.Errorf(envelope.CodeClosed, "the live log was closed")
	for i := range l.parts {
		l.parts[i].close(why)
	}
	return l.meter.close()
}

// liveDesc describes a LiveLog's metrics, which are read when they are asked
// for: the hot path counts nothing twice.
type liveDesc struct{ dropped, entries, bytes, end *prometheus.Desc }

func newLiveDesc() liveDesc {
	return liveDesc{
		dropped: prometheus.NewDesc("imgo_store_live_dropped_total",
			"Entries that the live log dropped for lack of room; unread=true: before any reader was given them.", []string{"unread"}, nil),
		entries: prometheus.NewDesc("imgo_store_live_entries",
			"Entries in the live log's memory.", []string{"partition"}, nil),
		bytes: prometheus.NewDesc("imgo_store_live_size_bytes",
			"Bytes of the live log's memory.", []string{"partition"}, nil),
		end: prometheus.NewDesc("imgo_store_live_end_offset",
			"The next offset of the live log.", []string{"partition"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (l *LiveLog) Describe(ch chan<- *prometheus.Desc) {
	d := newLiveDesc()
	for _, desc := range []*prometheus.Desc{d.dropped, d.entries, d.bytes, d.end} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (l *LiveLog) Collect(ch chan<- prometheus.Metric) {
	d := newLiveDesc()
	ch <- prometheus.MustNewConstMetric(d.dropped, prometheus.CounterValue, float64(l.lost.Load()), "true")
	ch <- prometheus.MustNewConstMetric(d.dropped, prometheus.CounterValue, float64(l.old.Load()), "false")
	for i := range l.parts {
		t := &l.parts[i]
		t.mu.Lock()
		entries, bytes, end := len(t.ring)-t.head, t.bytes, t.end
		t.mu.Unlock()
		p := strconv.Itoa(i)
		ch <- prometheus.MustNewConstMetric(d.entries, prometheus.GaugeValue, float64(entries), p)
		ch <- prometheus.MustNewConstMetric(d.bytes, prometheus.GaugeValue, float64(bytes), p)
		ch <- prometheus.MustNewConstMetric(d.end, prometheus.GaugeValue, float64(end), p)
	}
}
