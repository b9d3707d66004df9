package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"

	"imgo/envelope"
)

// compactedQueueBytes bounds the entries that wait to be put.
const compactedQueueBytes = 4 << 20

// Compacted is a topic of one partition. Kafka keeps at least the newest entry of
// each key, for ever. Its methods are safe for concurrent use.
type Compacted struct {
	log *Log
}

// Compacted opens a compacted topic, or makes it, as Bus.Log does.
func (b *Bus) Compacted(ctx context.Context, name string) (*Compacted, error) {
	s := topicSpec{name: b.o.Prefix + "." + name, partitions: 1, policy: "compact"}
	if _, err := b.ensure(ctx, s); err != nil {
		return nil, err
	}
	c := &Compacted{b.newLog(name, s.name, 1, compactedQueueBytes)}
	if err := b.register(c.log); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// Put appends an entry and returns its offset once it is durable. A nil value lets
// Kafka forget the key. It returns the errors of Log.Append.
func (c *Compacted) Put(ctx context.Context, key, value []byte) (int64, error) {
	var offset [1]int64
	err := c.log.producer.append(ctx, offset[:], func(int) record { return record{key: nonNil(key), value: value} })
	return offset[0], err
}

// Follow calls fn, in order, for the existing entries from an offset on (0: from the
// oldest) and for those that come. It waits while Kafka is away. Offsets have gaps
// where entries were forgotten.
//
// It returns ctx's error when ctx is done, fn's error when fn fails, and
// envelope.ErrClosed after Close. It returns envelope.ErrOutOfRange if the topic
// cannot have had that offset, because it was made anew.
func (c *Compacted) Follow(ctx context.Context, from int64, fn func(offset int64, key, value []byte) error) error {
	l := c.log
	fetching, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)() // Close ends the fetch under way
	defer l.readers[0].clearFailing()
	for backoff := newBackoff(); ; {
		if err := errors.Join(l.producer.closedErr(), ctx.Err()); err != nil {
			return err
		}
		var refused error
		began := time.Now()
		next, err := l.fetchOnce(fetching, 0, from, func(offset int64, _ time.Time, key, value []byte) {
			if refused == nil {
				refused = fn(offset, key, value)
			}
		})
		if fetching.Err() == nil {
			l.noteFetch(0, began, err)
		}
		switch {
		case refused != nil:
			return refused
		case err == nil:
			from = next
			backoff.Reset()
			continue
		case errors.Is(err, kafka.OffsetOutOfRange):
			begin, end, err := l.Bounds(fetching, 0)
			switch {
			case err == nil && from == 0:
				from = begin
				continue
			case err == nil && (from < begin || from > end):
				return envelope.Errorf(envelope.CodeOutOfRange, "read %s at offset %d: it has %d up to %d", l.topic, from, begin, end)
			}
		}
		if fetching.Err() == nil {
			l.waitToRetry(err, 0, &backoff)
		}
	}
}

// End returns the offset that the next entry gets. It asks Kafka, and returns the
// errors of Log.Bounds.
func (c *Compacted) End(ctx context.Context) (int64, error) {
	_, end, err := c.log.Bounds(ctx, 0)
	if err != nil {
		return 0, fmt.Errorf("find the end of %s: %w", c.log.topic, err)
	}
	return end, nil
}

// Close is Log.Close, and ends Follow.
func (c *Compacted) Close() error { return c.log.Close() }
