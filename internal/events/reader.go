package events

import (
	"context"
	"errors"
	"fmt"
	"math"

	"imgo/envelope"
)

const (
	// readBytes is how much of a partition is read at a time.
	readBytes = 256 << 10
	// tailEntries is how many of the last entries are read to find the highest id. Behind the
	// highest id there are only repetitions.
	tailEntries = 4096
)

// Record is one event as the topic has it.
type Record struct {
	Header
	// Partition and Offset are its place in the topic.
	Partition int32
	Offset    int64
	// Value is the CloudEvents object.
	Value []byte
}

// Position is a place in a partition: the offset of the next entry, and the highest id before it.
type Position struct {
	Offset int64
	Last   ID
}

// Reader reads the events of one partition, each one once and in order. It is for one goroutine.
type Reader struct {
	log       envelope.Log
	partition int32
	at        Position
	skipped   int64
}

// NewReader returns a reader that goes on at a position.
func NewReader(log envelope.Log, partition int32, at Position) *Reader {
	return &Reader{log: log, partition: partition, at: at}
}

// ResumeReader returns a reader that goes on at an offset, as a consumer group has committed it.
// It reads the entries before the offset for the highest id. It returns an error if the log cannot be read.
func ResumeReader(ctx context.Context, log envelope.Log, partition int32, offset int64) (*Reader, error) {
	at, err := lastPosition(ctx, log, partition, offset)
	if err != nil {
		return nil, err
	}
	return NewReader(log, partition, Position{Offset: offset, Last: at.Last}), nil
}

// FirstOffset returns the offset of the first event that each partition of a topic ever had.
func FirstOffset(log envelope.Log) int64 {
	if l, ok := log.(interface{ First() int64 }); ok {
		return l.First()
	}
	return 0 // Kafka
}

// Position returns where the reader goes on.
func (r *Reader) Position() Position { return r.at }

// Skipped returns how many entries left the topic before they were read.
func (r *Reader) Skipped() int64 { return r.skipped }

// Next blocks until there are events, and returns them: at least one.
func (r *Reader) Next(ctx context.Context) ([]Record, error) {
	for {
		entries, err := r.read(ctx)
		if err != nil {
			return nil, err
		}
		if records := r.decode(entries); len(records) > 0 {
			return records, nil
		}
	}
}

// read blocks until there are entries, and returns them. It returns none if it has skipped what retention has removed:
// there may be nothing left to read.
func (r *Reader) read(ctx context.Context) ([]envelope.Entry, error) {
	entries, err := r.log.Read(ctx, r.partition, r.at.Offset, readBytes)
	if errors.Is(err, envelope.ErrOutOfRange) {
		err = r.skip(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("read the events of partition %d from %d: %w", r.partition, r.at.Offset, err)
	}
	return entries, nil
}

// decode returns the events of entries that are not repetitions. An entry that cannot be read is
// left out: it is of somebody else.
func (r *Reader) decode(entries []envelope.Entry) (records []Record) {
	for _, e := range entries {
		r.at.Offset = e.Offset + 1
		id, err := idOfEvent(e.Value)
		if err != nil || !id.After(r.at.Last) {
			continue
		}
		h, err := ParseHeader(e.Value)
		if err != nil {
			continue
		}
		r.at.Last = id
		records = append(records, Record{Header: h, Partition: r.partition, Offset: e.Offset, Value: e.Value})
	}
	return records
}

// skip goes on at the beginning of the partition if retention has overtaken the reader.
func (r *Reader) skip(ctx context.Context) error {
	begin, end, err := r.log.Bounds(ctx, r.partition)
	switch {
	case err != nil:
		return err
	case r.at.Offset > end:
		return envelope.Errorf(envelope.CodeOutOfRange, "offset %d is behind the end of the events topic (%d)", r.at.Offset, end)
	case r.at.Offset < begin:
		r.skipped += begin - r.at.Offset
		r.at.Offset = begin
	}
	return nil
}

// Highest returns the highest id that a partition has; the zero ID if it is empty. All events with lower ids are in
// the topic too. It returns an error if the log cannot be read.
func Highest(ctx context.Context, log envelope.Log, partition int32) (ID, error) {
	at, err := lastPosition(ctx, log, partition, math.MaxInt64)
	return at.Last, err
}

// lastPosition returns the end of a partition, or offset if that is lower, with the highest id among the last entries
// before it.
func lastPosition(ctx context.Context, log envelope.Log, partition int32, offset int64) (at Position, err error) {
	begin, end, err := log.Bounds(ctx, partition)
	if err != nil {
		return at, fmt.Errorf("find the bounds of the events of partition %d: %w", partition, err)
	}
	at.Offset = min(offset, end)
	for from := max(begin, at.Offset-tailEntries); from < at.Offset; {
		entries, err := log.Read(ctx, partition, from, readBytes)
		if err != nil {
			return at, fmt.Errorf("read the last events of partition %d: %w", partition, err)
		}
		for _, e := range entries {
			if from = e.Offset + 1; e.Offset >= at.Offset {
				break
			}
			if id, err := idOfEvent(e.Value); err == nil && id.After(at.Last) {
				at.Last = id
			}
		}
	}
	return at, nil
}
