package store

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"imgo/envelope"
	"imgo/internal/collectors"
)

// LiveOptions are the options of a LiveLog.
type LiveOptions struct {
	// Partitions is the number of partitions, at least 1.
	Partitions int32
	// MaxBytes bounds one partition: its values, and 64 bytes for each. It is at least 1. The newest
	// entry stays even if it alone is larger.
	MaxBytes int
	// Retention is how long an entry stays while Run runs. 0 means until newer ones need its room.
	Retention time.Duration
	// Metrics registers the log's metrics, until Close. If it is nil, nothing is registered.
	Metrics prometheus.Registerer
}

// LiveLog is the log of envelopes that are worthless a minute later. It is in memory and
// ends with the process. It has the interface of Log. When a partition is full, its
// oldest entries are dropped and counted; appending never waits for a reader. Offsets
// begin at 0 with each start of the process.
//
// All methods are safe for concurrent use.
type LiveLog struct {
	tails     // one for each partition
	retention time.Duration
	registry  *collectors.Set

	closed atomic.Bool
	// droppedUnread counts entries that were dropped before any reader got them, and
	// droppedRead the others.
	droppedUnread, droppedRead atomic.Uint64
}

// NewLiveLog makes an empty log. Without Run no entry expires, but the bound holds.
func NewLiveLog(opt LiveOptions) (*LiveLog, error) {
	if opt.Partitions < 1 || opt.MaxBytes < 1 {
		return nil, fmt.Errorf("make the live log: %d partitions of %d bytes: each must be at least 1", opt.Partitions, opt.MaxBytes)
	}
	l := &LiveLog{tails: make(tails, opt.Partitions), retention: opt.Retention}
	for i := range l.tails {
		l.tails[i].limit = opt.MaxBytes
	}
	var err error
	if l.registry, err = collectors.Register(opt.Metrics, l); err != nil {
		return nil, fmt.Errorf("make the live log: register the store's metrics: %w", err)
	}
	return l, nil
}

// Generation returns 1: there are no records of an earlier generation.
func (l *LiveLog) Generation() uint16 { return 1 }

// Append adds value and returns its offset. It never blocks; ctx is checked once. Nobody
// may change value after the call.
func (l *LiveLog) Append(ctx context.Context, partition int32, value []byte) (int64, error) {
	entries := [1]envelope.Entry{{Partition: partition, Value: value}}
	err := l.AppendMany(ctx, entries[:])
	return entries[0].Offset, err
}

// AppendMany adds all entries and fills in their offsets.
func (l *LiveLog) AppendMany(ctx context.Context, entries []envelope.Entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for i := range entries {
		if err := l.tails.check(entries[i].Partition); err != nil {
			return err
		}
	}
	for i := 0; i < len(entries); {
		// Consecutive entries of one partition share one lock and one notification.
		t := &l.tails[entries[i].Partition]
		t.mu.Lock()
		if t.closed != nil {
			t.mu.Unlock()
			return t.closed
		}
		for partition := entries[i].Partition; i < len(entries) && entries[i].Partition == partition; i++ {
			entries[i].Offset = t.end
			l.appendLocked(t, entries[i].Value)
		}
		t.notifyLocked()
		t.mu.Unlock()
	}
	return nil
}

// appendLocked adds an entry and counts the entries that it displaces.
func (l *LiveLog) appendLocked(t *tailBuffer, value []byte) {
	dropped := t.appendLocked(value)
	if dropped == 0 {
		return
	}
	begin := t.begin + int64(dropped)
	read := min(max(t.read, t.begin), begin)
	l.droppedRead.Add(uint64(read - t.begin))
	l.droppedUnread.Add(uint64(begin - read))
	t.begin = begin
}

// Read waits until there is an entry at or after from, or ctx ends. It returns entries in
// order, at least one and about maxBytes at most. The error is envelope.ErrOutOfRange if
// from was dropped or is past the end. A reader that was too slow goes on at the begin
// that Bounds returns.
func (l *LiveLog) Read(ctx context.Context, partition int32, from int64, maxBytes int) ([]envelope.Entry, error) {
	if err := l.tails.check(partition); err != nil {
		return nil, err
	}
	entries, _, err := l.tails[partition].await(ctx, partition, from, maxBytes)
	return entries, err
}

// expirySteps divides the retention: an entry stays for at least the retention and at
// most one step longer.
const expirySteps = 8

// Run lets entries expire until ctx is done, then closes the log.
func (l *LiveLog) Run(ctx context.Context) error {
	defer func() { _ = l.Close() }()
	if l.retention == 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(max(time.Millisecond, l.retention/expirySteps))
	defer tick.Stop()
	// marks are the ends of all partitions at the last ticks. They cost less than a time
	// for each entry.
	var marks [][]int64
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		ends := make([]int64, len(l.tails))
		for i := range l.tails {
			_, ends[i], _ = l.tails[i].bounds()
		}
		if marks = append(marks, ends); len(marks) <= expirySteps {
			continue
		}
		for i := range l.tails {
			expire(&l.tails[i], marks[0][i])
		}
		marks = append(marks[:0], marks[1:]...)
	}
}

// expire drops the entries before an offset.
func expire(t *tailBuffer, before int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dropBeforeLocked(before)
	t.begin = max(t.begin, t.oldestLocked())
}

// Close ends waiting reads and refuses further calls with envelope.ErrClosed. A second
// call does nothing.
func (l *LiveLog) Close() error {
	if l.closed.Swap(true) {
		return nil
	}
	why := envelope.Errorf(envelope.CodeClosed, "the live log was closed")
	l.tails.close(why)
	l.registry.Unregister()
	return nil
}

// The metrics of a LiveLog. They are read when they are collected, so that the hot path
// counts nothing twice.
var (
	liveDropped = prometheus.NewDesc("imgo_store_live_dropped_total",
		"Entries that the live log dropped for lack of room; unread=true: before any reader was given them.", []string{"unread"}, nil)
	liveEntries = prometheus.NewDesc("imgo_store_live_entries", "Entries in the live log's memory.", []string{"partition"}, nil)
	liveBytes   = prometheus.NewDesc("imgo_store_live_size_bytes", "Bytes of the live log's memory.", []string{"partition"}, nil)
	liveEnd     = prometheus.NewDesc("imgo_store_live_end_offset", "The next offset of the live log.", []string{"partition"}, nil)
)

// Describe implements prometheus.Collector.
func (l *LiveLog) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(l, ch) }

// Collect implements prometheus.Collector.
func (l *LiveLog) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(liveDropped, prometheus.CounterValue, float64(l.droppedUnread.Load()), "true")
	ch <- prometheus.MustNewConstMetric(liveDropped, prometheus.CounterValue, float64(l.droppedRead.Load()), "false")
	for i := range l.tails {
		st := l.tails[i].stats()
		p := strconv.Itoa(i)
		ch <- prometheus.MustNewConstMetric(liveEntries, prometheus.GaugeValue, float64(st.entries), p)
		ch <- prometheus.MustNewConstMetric(liveBytes, prometheus.GaugeValue, float64(st.bytes), p)
		ch <- prometheus.MustNewConstMetric(liveEnd, prometheus.GaugeValue, float64(st.end), p)
	}
}
