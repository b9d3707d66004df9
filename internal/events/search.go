package events

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"imgo/envelope"
)

// OffsetAt returns the offset of the first event of a partition at or after a time, in Unix milliseconds. An
// event has the time of its record.
func OffsetAt(ctx context.Context, log envelope.Log, partition int32, ms int64) (int64, error) {
	low, high, err := log.Bounds(ctx, partition)
	if err != nil {
		return 0, fmt.Errorf("find the bounds of the events of partition %d: %w", partition, err)
	}
	for low < high {
		middle := low + (high-low)/2
		entries, err := log.Read(ctx, partition, middle, 1)
		if err != nil {
			return 0, fmt.Errorf("read the events of partition %d at %d: %w", partition, middle, err)
		}
		if len(entries) > 0 && eventMS(entries[0].Value) < ms {
			low = entries[0].Offset + 1
		} else {
			high = middle
		}
	}
	return low, nil
}

// eventMS returns the time of an event in Unix milliseconds, or 0 if it cannot be read.
func eventMS(value []byte) int64 {
	var d Document
	if json.Unmarshal(value, &d) != nil {
		return 0
	}
	return d.Time.UnixMilli()
}

// maxSearch bounds the events that OfMessage looks at.
const maxSearch = 50_000

// OfMessage returns the events of a user's message that have happened since a time, in Unix milliseconds.
// complete is false if there are too many events of others to look at all.
func OfMessage(ctx context.Context, log envelope.Log, partition int32, user string, message uint64, fromMS int64) (
	found []Record, complete bool, err error,
) {
	from, err := OffsetAt(ctx, log, partition, fromMS)
	if err != nil {
		return nil, false, err
	}
	_, end, err := log.Bounds(ctx, partition)
	if err != nil {
		return nil, false, fmt.Errorf("find the end of the events of partition %d: %w", partition, err)
	}
	r, err := ResumeReader(ctx, log, partition, from)
	if err != nil {
		return nil, false, err
	}
	seen := 0
	for r.Position().Offset < end {
		if seen > maxSearch {
			return found, false, nil
		}
		entries, err := r.read(ctx)
		if err != nil {
			return nil, false, err
		}
		seen += len(entries)
		for _, record := range r.decode(entries) {
			if record.User == user && messageOf(record.Value) == message {
				found = append(found, record)
			}
		}
	}
	return found, true, nil
}

// messageOf returns the id of the message that an event is about, or 0 if it is about none.
func messageOf(value []byte) uint64 {
	var d Document
	if json.Unmarshal(value, &d) != nil {
		return 0
	}
	return d.Data.ID
}

// Time returns the time of the record that caused the event.
func (r *Record) Time() time.Time { return time.UnixMilli(eventMS(r.Value)) }
