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
)

const (
	// fetchBytes is how much one fetch asks for, compressed.
	fetchBytes = 512 << 10
	// fetchWait is how long Kafka holds a fetch at the end of a partition.
	fetchWait = 500 * time.Millisecond
	// tailBytes is how much of what was read before stays in memory for readers
	// a little behind, beside what the newest fetch brought.
	tailBytes = 256 << 10
	// maxStreams is how many places of a partition are read at once without
	// fetching twice: router, job, and two that catch up.
	maxStreams = 4
	// unused is how long a stream that nobody reads is kept.
	unused = 30 * time.Second
)

// part is a partition as it is read. Each place that somebody reads at has a
// stream; readers that are near one another share it.
type part struct {
	mu      sync.Mutex
	streams []*stream
	closed  error
}

// stream is a run of entries in memory, and the fetch that adds to it. A fetch
// is under way only while somebody waits at its end or has just come there; it
// needs no goroutine in between. part.mu guards it.
type stream struct {
	entries  []envelope.Entry
	bytes    int
	first    int64 // the lowest offset that it can serve
	next     int64 // what the next fetch asks for
	fetching bool
	waiters  int
	wake     chan struct{} // closed when something has changed
	err      error         // why it ended
	used     time.Time
}

// Read blocks until the partition has an entry at or after from, or ctx is
// done (ctx's error), and returns entries in order, at least one and up to
// about maxBytes of values, which nobody may change. While Kafka is away it
// waits.
//
// The error is envelope.ErrOutOfRange when from is no longer there or is past
// the end, and envelope.ErrClosed after Close.
func (l *Log) Read(ctx context.Context, partition int32, from int64, maxBytes int) ([]envelope.Entry, error) {
	if partition < 0 || int(partition) >= len(l.parts) {
		return nil, noPartition(partition, len(l.parts))
	}
	if from < 0 {
		// Kafka has a meaning for these.
		return nil, l.outOfRange(ctx, partition, from)
	}
	p := &l.parts[partition]
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if p.closed != nil {
			return nil, p.closed
		}
		s := p.at(from)
		if from < s.next {
			entries := s.collect(from, maxBytes)
			if len(entries) > 0 {
				if entries[len(entries)-1].Offset+1 >= s.next {
					l.fetch(partition, s) // ahead of the next Read
				}
				return entries, nil
			}
			// The entries up to next are gone from the log, which has gaps then.
			from = s.next
			continue
		}
		l.fetch(partition, s)
		if err := p.wait(ctx, s); err != nil {
			return nil, err
		}
		if s.err != nil {
			return nil, s.err
		}
	}
}

// at is the stream to read from an offset; a new one if there is none. p.mu
// must be held.
func (p *part) at(from int64) *stream {
	var best *stream
	for _, s := range p.streams {
		if s.err == nil && s.first <= from && from <= s.next && (best == nil || s.next > best.next) {
			best = s
		}
	}
	now := time.Now()
	if best == nil {
		if len(p.streams) >= maxStreams {
			// The one that was left alone for longest. Whoever waits for it
			// gets what it fetches all the same.
			oldest := slices.MinFunc(p.streams, func(a, b *stream) int { return a.used.Compare(b.used) })
			p.drop(oldest)
		}
		best = &stream{first: from, next: from}
		p.streams = append(p.streams, best)
	}
	best.used = now
	return best
}

func (p *part) drop(s *stream) {
	p.streams = slices.DeleteFunc(p.streams, func(other *stream) bool { return other == s })
}

// wait lets go of p.mu until something has changed at s.
func (p *part) wait(ctx context.Context, s *stream) error {
	if s.wake == nil {
		s.wake = make(chan struct{})
	}
	wake := s.wake
	s.waiters++
	p.mu.Unlock()
	var err error
	select {
	case <-wake:
	case <-ctx.Done():
		err = ctx.Err()
	}
	p.mu.Lock()
	s.waiters--
	s.used = time.Now()
	return err
}

// signal wakes all who wait; part.mu must be held.
func (s *stream) signal() {
	if s.wake != nil {
		close(s.wake)
		s.wake = nil
	}
}

// collect copies entries from an offset on; part.mu must be held.
func (s *stream) collect(from int64, maxBytes int) []envelope.Entry {
	at := sort.Search(len(s.entries), func(i int) bool { return s.entries[i].Offset >= from })
	n, bytes := at, 0
	for ; n < len(s.entries); n++ {
		if bytes += len(s.entries[n].Value); n > at && bytes > maxBytes {
			break
		}
	}
	return slices.Clone(s.entries[at:n])
}

// add takes what a fetch brought, and lets go of what is too old; part.mu must
// be held.
func (s *stream) add(entries []envelope.Entry, next int64) {
	fresh := 0
	for i := range entries {
		fresh += len(entries[i].Value) + entryOverhead
	}
	drop := 0
	for drop < len(s.entries) && s.bytes > tailBytes {
		s.bytes -= len(s.entries[drop].Value) + entryOverhead
		drop++
	}
	if drop > 0 {
		// Into memory of its own: what is dropped must not stay there.
		s.entries = append(make([]envelope.Entry, 0, len(s.entries)-drop+len(entries)), s.entries[drop:]...)
		if len(s.entries) > 0 {
			s.first = s.entries[0].Offset
		} else {
			s.first = s.next
		}
	}
	s.entries = append(s.entries, entries...)
	s.bytes += fresh
	s.next = next
}

// sweep drops streams that nobody reads any more.
func (p *part) sweep(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.streams = slices.DeleteFunc(p.streams, func(s *stream) bool {
		return s.waiters == 0 && !s.fetching && now.Sub(s.used) > unused
	})
}

// close ends all reads.
func (p *part) close(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed == nil {
		p.closed = why
	}
	for _, s := range p.streams {
		s.err = why
		s.signal()
	}
}

// fetch begins to fetch for a stream, if nobody does; part.mu must be held.
func (l *Log) fetch(partition int32, s *stream) {
	if s.fetching || l.parts[partition].closed != nil {
		return
	}
	s.fetching = true
	next := s.next
	l.fetches.Go(func() { l.fill(partition, s, next) })
}

// fill brings the next entries of a stream. It goes on while there are none,
// or Kafka is away, for as long as somebody waits for them.
func (l *Log) fill(partition int32, s *stream, next int64) {
	p := &l.parts[partition]
	for backoff := minBackoff; ; {
		var entries []envelope.Entry
		after, err := l.get(l.ctx, partition, next, func(offset int64, _, value []byte) {
			entries = append(entries, envelope.Entry{Partition: partition, Offset: offset, Value: value})
		})
		if errors.Is(err, kafka.OffsetOutOfRange) {
			err = l.outOfRange(l.ctx, partition, next)
		}
		p.mu.Lock()
		switch {
		case p.closed != nil:
		case err == nil && after > next:
			s.add(entries, after)
		case errors.Is(err, envelope.ErrOutOfRange):
			s.err = err
			p.drop(s)
		case s.waiters == 0: // nobody wants it any more, or again
		default:
			p.mu.Unlock()
			if err != nil {
				l.pause(err, partition, &backoff)
			} else {
				backoff = minBackoff
			}
			continue
		}
		s.fetching = false
		s.signal()
		p.mu.Unlock()
		return
	}
}

// pause notes that fetching failed and waits before it is tried again.
func (l *Log) pause(err error, partition int32, backoff *time.Duration) {
	l.meters.fetchErrors.Inc()
	l.log.Debug().Err(err).Int32("partition", partition).Msg("fetching failed: trying again")
	select {
	case <-time.After(*backoff):
	case <-l.ctx.Done():
	}
	*backoff = min(2**backoff, maxBackoff)
}

// get fetches once, from an offset on, and waits a little for what is not
// there yet. It returns the offset after the last entry; from: there was none.
func (l *Log) get(ctx context.Context, partition int32, from int64, fn func(offset int64, key, value []byte)) (next int64, err error) {
	res, err := l.client.Fetch(ctx, &kafka.FetchRequest{
		Topic: l.topic, Partition: int(partition), Offset: from,
		MinBytes: 1, MaxBytes: fetchBytes, MaxWait: fetchWait,
	})
	if err != nil {
		return from, err
	}
	if res.Error != nil {
		return from, res.Error
	}
	next = from
	bytes := 0
	for {
		rec, err := res.Records.ReadRecord()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if next > from {
				break // it is met again by the next fetch
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
			continue // a batch comes as a whole
		}
		next = rec.Offset + 1
		bytes += len(key) + len(value)
		fn(rec.Offset, key, value)
	}
	l.meters.fetchBytes.Add(float64(bytes))
	l.moved(partition, max(next, res.HighWatermark))
	if next == from && res.HighWatermark > from {
		return from, fmt.Errorf("there are offsets up to %d, but none came from %d on", res.HighWatermark, from)
	}
	return next, nil
}

// scan reads a partition from one offset on to before another, once.
func (l *Log) scan(ctx context.Context, partition int32, from, before int64, fn func(offset int64, value []byte)) error {
	for from < before {
		next, err := l.get(ctx, partition, from, func(offset int64, _, value []byte) {
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

// readAll copies what kafka-go keeps in memory that it uses again, and frees
// that.
func readAll(b kafka.Bytes) ([]byte, error) {
	if b == nil {
		return nil, nil
	}
	defer func() { _ = b.Close() }()
	return kafka.ReadAll(b)
}

// outOfRange is why an offset cannot be read: envelope.ErrOutOfRange, or what
// went wrong, when it can after all.
func (l *Log) outOfRange(ctx context.Context, partition int32, from int64) error {
	begin, end, err := l.Bounds(ctx, partition)
	if err != nil {
		return err
	}
	if from >= begin && from <= end {
		return fmt.Errorf("Kafka says that offset %d is out of range, and that it has %d up to %d", from, begin, end)
	}
	return envelope.Errorf(envelope.CodeOutOfRange, "read %s partition %d at offset %d: it has %d up to %d", l.topic, partition, from, begin, end)
}
