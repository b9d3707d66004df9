package logic

import (
	"context"
	"fmt"
	"time"

	"imgo/envelope"
)

// clock is the wall clock.
type clock func() time.Time

// ms returns the time in Unix milliseconds.
func (c clock) ms() int64 { return c().UnixMilli() }

// keptWriter appends single records to the kept topic. Safe for concurrent use.
type keptWriter struct {
	log     KeptLog
	records RecordVersions // nil: records of every version may be appended
	now     clock
}

// require returns an error unless all nodes read records of a version.
func (w *keptWriter) require(ctx context.Context, version uint32) error {
	if w.records == nil {
		return nil
	}
	return w.records.Require(ctx, version)
}

// append appends a record to the partition of a key, and returns its id once it is durable. An essential record passes
// although the disk's reserve is reached.
func (w *keptWriter) append(ctx context.Context, key, what string, r *envelope.Record, essential bool) (id uint64, err error) {
	value, err := encodeRecord(r, w.now())
	if err != nil {
		return 0, err
	}
	entries := []envelope.Entry{{Partition: envelope.Partition(key, int(w.log.Partitions())), Value: value}}
	if essential {
		entries[0].Offset, err = w.log.AppendEssential(ctx, entries[0].Partition, value)
	} else {
		err = w.log.AppendMany(ctx, entries)
	}
	if err != nil {
		return 0, appended(what, err)
	}
	return envelope.ID(w.log.Generation(), entries[0].Offset), nil
}

// encodeRecord returns a record of the kept topic as bytes, once it has its
// time and, unless it has one, a new id.
func encodeRecord(r *envelope.Record, now time.Time) ([]byte, error) {
	if r.Id == nil {
		r.Id = envelope.NewRecordID()
	}
	r.TimeMs = now.UnixMilli()
	value, err := r.MarshalVT()
	if err != nil {
		return nil, fmt.Errorf("encode the record: %w", err)
	}
	return value, nil
}
