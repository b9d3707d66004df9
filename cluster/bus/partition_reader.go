package bus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"imgo/envelope"
	"imgo/internal/wait"
)

const (
	// fetchBytes is how many bytes one fetch asks for, compressed.
	fetchBytes = 512 << 10
	// fetchWait is how long Kafka waits for a record at the end of a partition before
	// it answers a fetch.
	fetchWait = 500 * time.Millisecond
	// tailBytes is how many bytes of a stream stay in memory for readers that are a
	// little behind, beside the newest fetch.
	tailBytes = 256 << 10
	// maxStreams is how many places of a partition can be read at the same time
	// without fetching twice: by router, by job, and by two that catch up.
	maxStreams = 4
	// maxUnused is how long a stream that nobody reads is kept.
	maxUnused = 30 * time.Second
)

// partitionReader reads a partition. Each place that is read has a stream. Readers at
// nearly the same place share a stream.
type partitionReader struct {
	mu      sync.Mutex
	streams []*stream
	closed  error
	failing failing
}

// stream has consecutive entries in memory, and the fetch that adds to them. A fetch
// is under way only while a reader waits at the end or has just come there. Between
// fetches there is no goroutine. The lock of its partitionReader guards it.
type stream struct {
	entries  []envelope.Entry
	bytes    int
	first    int64 // lowest offset that it can serve
	next     int64 // offset that the next fetch asks for
	fetching bool
	waiters  int
	changed  chan struct{} // closed by the next change. It is nil if nobody waits
	err      error         // why it has ended
	used     time.Time     // when it was read last
}

// Read blocks until the partition has an entry at or after from, or ctx is done. It
// returns entries in order: at least one, and up to about maxBytes of values. The
// caller must not change the values. While Kafka is away, Read waits.
//
// The error is envelope.ErrOutOfRange if from is no longer in the log or is past its
// end, envelope.ErrClosed after Close, and ctx's error if ctx is done.
func (l *Log) Read(ctx context.Context, partition int32, from int64, maxBytes int) ([]envelope.Entry, error) {
	if partition < 0 || int(partition) >= len(l.readers) {
		return nil, errNoPartition(partition, len(l.readers))
	}
	if from < 0 {
		// Negative offsets have a special meaning for Kafka.
		return nil, l.outOfRange(ctx, partition, from)
	}
	p := &l.readers[partition]
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if p.closed != nil {
			return nil, p.closed
		}
		s := p.streamLocked(from)
		if from < s.next {
			entries := s.copyLocked(from, maxBytes)
			if len(entries) > 0 {
				if entries[len(entries)-1].Offset+1 >= s.next {
					l.startFetchLocked(partition, s) // ahead of the next Read
				}
				return entries, nil
			}
			// The entries before next are no longer in the log.
			from = s.next
			continue
		}
		l.startFetchLocked(partition, s)
		if err := p.waitLocked(ctx, s); err != nil {
			return nil, err
		}
		if s.err != nil {
			return nil, s.err
		}
	}
}

// streamLocked returns the stream to read from an offset. It makes one if there is
// none.
func (p *partitionReader) streamLocked(from int64) *stream {
	var best *stream
	for _, s := range p.streams {
		if s.err == nil && s.first <= from && from <= s.next && (best == nil || s.next > best.next) {
			best = s
		}
	}
	now := time.Now()
	if best == nil {
		if len(p.streams) >= maxStreams {
			// Readers that wait for the dropped stream still get what it fetches.
			oldest := slices.MinFunc(p.streams, func(a, b *stream) int { return a.used.Compare(b.used) })
			p.dropLocked(oldest)
		}
		best = &stream{first: from, next: from}
		p.streams = append(p.streams, best)
	}
	best.used = now
	return best
}

func (p *partitionReader) dropLocked(s *stream) {
	p.streams = slices.DeleteFunc(p.streams, func(other *stream) bool { return other == s })
}

// waitLocked waits for a change of s, and unlocks p.mu meanwhile.
func (p *partitionReader) waitLocked(ctx context.Context, s *stream) error {
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	changed := s.changed
	s.waiters++
	p.mu.Unlock()
	var err error
	select {
	case <-changed:
	case <-ctx.Done():
		err = ctx.Err()
	}
	p.mu.Lock()
	s.waiters--
	s.used = time.Now()
	return err
}

// notifyLocked wakes all readers that wait.
func (s *stream) notifyLocked() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// copyLocked copies entries from an offset on.
func (s *stream) copyLocked(from int64, maxBytes int) []envelope.Entry {
	at := sort.Search(len(s.entries), func(i int) bool { return s.entries[i].Offset >= from })
	n, bytes := at, 0
	for ; n < len(s.entries); n++ {
		if bytes += len(s.entries[n].Value); n > at && bytes > maxBytes {
			break
		}
	}
	return slices.Clone(s.entries[at:n])
}

// addLocked adds the entries of a fetch, and drops the oldest ones over tailBytes.
func (s *stream) addLocked(entries []envelope.Entry, next int64) {
	drop := 0
	for drop < len(s.entries) && s.bytes > tailBytes {
		s.bytes -= len(s.entries[drop].Value) + entryOverhead
		drop++
	}
	if drop > 0 {
		// A new slice, so that the memory of the dropped entries is freed.
		s.entries = append(make([]envelope.Entry, 0, len(s.entries)-drop+len(entries)), s.entries[drop:]...)
		if len(s.entries) > 0 {
			s.first = s.entries[0].Offset
		} else {
			s.first = s.next
		}
	}
	s.entries = append(s.entries, entries...)
	for i := range entries {
		s.bytes += len(entries[i].Value) + entryOverhead
	}
	s.next = next
}

// sweep drops streams that nobody has read for maxUnused.
func (p *partitionReader) sweep(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.streams = slices.DeleteFunc(p.streams, func(s *stream) bool {
		return s.waiters == 0 && !s.fetching && now.Sub(s.used) > maxUnused
	})
}

// close ends all reads, and frees their memory.
func (p *partitionReader) close(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed == nil {
		p.closed = why
	}
	for _, s := range p.streams {
		s.err = why
		s.notifyLocked()
	}
	p.streams = nil
}

// startFetchLocked starts a fetch for a stream, unless one is under way.
func (l *Log) startFetchLocked(partition int32, s *stream) {
	if s.fetching || l.readers[partition].closed != nil {
		return
	}
	s.fetching = true
	next := s.next
	l.fetches.Go(func() { l.fetch(partition, s, next) })
}

// fetch fetches the next entries of a stream. While there are none, or Kafka is away,
// it tries again as long as a reader waits.
func (l *Log) fetch(partition int32, s *stream, next int64) {
	p := &l.readers[partition]
	for backoff := newBackoff(); ; {
		var entries []envelope.Entry
		began := time.Now()
		after, err := l.fetchOnce(l.ctx, partition, next, func(offset int64, at time.Time, _, value []byte) {
			entries = append(entries, envelope.Entry{Partition: partition, Offset: offset, Value: value, TimeMS: at.UnixMilli()})
		})
		if errors.Is(err, kafka.OffsetOutOfRange) {
			err = l.outOfRange(l.ctx, partition, next)
		}
		l.noteFetch(partition, began, err)
		p.mu.Lock()
		switch {
		case p.closed != nil:
		case err == nil && after > next:
			s.addLocked(entries, after)
		case errors.Is(err, envelope.ErrOutOfRange):
			s.err = err
			p.dropLocked(s)
		case s.waiters == 0:
			if !slices.ContainsFunc(p.streams, func(other *stream) bool { return other != s && other.fetching }) {
				p.failing = failing{} // nobody reads
			}
		default:
			p.mu.Unlock()
			if err != nil {
				l.waitToRetry(err, partition, &backoff)
			} else {
				backoff.Reset()
			}
			continue
		}
		s.fetching = false
		s.notifyLocked()
		p.mu.Unlock()
		return
	}
}

// waitToRetry counts a failed fetch, and waits before the next try.
func (l *Log) waitToRetry(err error, partition int32, backoff *wait.Backoff) {
	l.meters.fetchErrors.Inc()
	l.log.Debug().Err(err).Int32("partition", partition).Msg("fetching failed: trying again")
	_ = backoff.Sleep(l.ctx) // the next fetch fails if ctx is done
}

// fetchOnce fetches once from an offset on, and calls fn for each entry, with the time at which
// a broker took it. At the end of the partition it waits for fetchWait. It returns the
// offset after the last entry, which is from if there was none.
func (l *Log) fetchOnce(
	ctx context.Context, partition int32, from int64, fn func(offset int64, at time.Time, key, value []byte),
) (next int64, err error) {
	res, err := l.fetchPartition(ctx, partition, from)
	if err != nil {
		return from, err
	}
	next = from
	bytes := 0
	for {
		rec, err := res.RecordSet.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if next > from {
				break // the next fetch returns the error again
			}
			return from, fmt.Errorf("read the answer: %w", err)
		}
		key, err := readAll(rec.Key)
		if err != nil {
			return from, fmt.Errorf("read the key at offset %d: %w", rec.Offset, err)
		}
		value, err := readAll(rec.Value)
		if err != nil {
			return from, fmt.Errorf("read the record at offset %d: %w", rec.Offset, err)
		}
		if rec.Offset < next {
			continue // Kafka sends whole batches
		}
		next = rec.Offset + 1
		bytes += len(key) + len(value)
		fn(rec.Offset, rec.Time, key, value)
	}
	l.meters.fetchBytes.Add(float64(bytes))
	l.sawEnd(partition, max(next, res.HighWatermark))
	if next == from && res.HighWatermark > from {
		return from, fmt.Errorf("there are offsets up to %d, but none came from %d on", res.HighWatermark, from)
	}
	return next, nil
}

// scan calls fn for the records of a partition from offset from to before offset
// before.
func (l *Log) scan(ctx context.Context, partition int32, from, before int64, fn func(offset int64, value []byte)) error {
	for from < before {
		next, err := l.fetchOnce(ctx, partition, from, func(offset int64, _ time.Time, _, value []byte) {
			if offset < before {
				fn(offset, value)
			}
		})
		switch {
		case errors.Is(err, kafka.OffsetOutOfRange): // trimmed meanwhile
			begin, _, err := l.bounds(ctx, partition)
			if err != nil {
				return err
			}
			next = max(begin, from+1)
		case err != nil:
			return err
		}
		from = next
	}
	return nil
}

// readAll copies b, whose memory kafka-go uses again, and frees it.
func readAll(b kafka.Bytes) ([]byte, error) {
	if b == nil {
		return nil, nil
	}
	defer func() { _ = b.Close() }()
	return kafka.ReadAll(b)
}

// outOfRange returns why an offset cannot be read: an envelope.ErrOutOfRange, or another
// error if the offset is in the partition after all.
func (l *Log) outOfRange(ctx context.Context, partition int32, from int64) error {
	begin, end, err := l.Bounds(ctx, partition)
	if err != nil {
		return err
	}
	if from >= begin && from <= end {
		return fmt.Errorf("Kafka says that offset %d is out of range, and that it has %d up to %d", from, begin, end)
	}
	return envelope.Errorf(envelope.CodeOutOfRange, "read %s partition %d at offset %d: it has %d up to %d",
		l.topic, partition, from, begin, end)
}
