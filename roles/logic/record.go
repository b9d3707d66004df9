package logic

import (
	"fmt"
	"time"

	"imgo/envelope"
)

// clock is the wall clock.
type clock func() time.Time

// ms returns the time in Unix milliseconds.
func (c clock) ms() int64 { return c().UnixMilli() }

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
