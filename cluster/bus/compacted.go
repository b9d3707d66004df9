package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/segmentio/kafka-go"

	"imgo/envelope"
)

// compactedQueueBytes bounds what waits to be put.
const compactedQueueBytes = 4 << 20

// Compacted is a topic of one partition of which Kafka keeps the newest entry
// of each key at least, for ever. Its methods are safe for concurrent use.
type Compacted struct {
	log *Log
}

// Compacted opens a compacted topic, or makes it, as Log does.
func (b *Bus) Compacted(ctx context.Context, name string) (*Compacted, error) {
	s := spec{name: b.o.Prefix + "." + name, partitions: 1, policy: "compact"}
	if _, err := b.ensure(ctx, s); err != nil {
		return nil, err
	}
	c := &Compacted{b.newLog(name, s.name, 1, compactedQueueBytes)}
	if err := b.register(c); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// Put appends an entry and returns its offset once it is durable; a nil value
// lets Kafka forget the key. It errs as Log.Append does.
func (c *Compacted) Put(ctx context.Context, key, value []byte) (int64, error) {
	var offset [1]int64
	err := c.log.producer.append(ctx, offset[:], func(int) record { return record{key: nonNil(key), value: value} })
	return offset[0], err
}

// Follow calls fn, in order, for the entries that are there from an offset on
// (0: from the oldest) and for those that come, until ctx is done (ctx's
// error), fn fails (its error), Close is called (envelope.ErrClosed), or the
// topic is not the one that had the offset (envelope.ErrOutOfRange). While
// Kafka is away it waits. Offsets have gaps where entries were forgotten.
func (c *Compacted) Follow(ctx context.Context, from int64, fn func(offset int64, key, value []byte) error) error {
	l := c.log
	// Close ends the fetch under way.
	fetching, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	for backoff := minBackoff; ; {
		if err := errors.Join(l.producer.isClosed(), ctx.Err()); err != nil {
			return err
		}
		var refused error
		next, err := l.get(fetching, 0, from, func(offset int64, key, value []byte) {
			if refused == nil {
				refused = fn(offset, key, value)
			}
		})
		switch {
		case refused != nil:
			return refused
		case err == nil:
			from, backoff = next, minBackoff
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
			l.pause(err, 0, &backoff)
		}
	}
}

// End is the offset that the next entry gets. It asks Kafka, and errs as
// Log.Bounds does.
func (c *Compacted) End(ctx context.Context) (int64, error) {
	_, end, err := c.log.Bounds(ctx, 0)
	if err != nil {
		return 0, fmt.Errorf("find the end of %s: %w", c.log.topic, err)
	}
	return end, nil
}

// Close is Log.Close; it ends Follow.
func (c *Compacted) Close() error { return c.log.Close() }
