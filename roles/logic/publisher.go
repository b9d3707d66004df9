package logic

import (
	"context"
	"fmt"
	"slices"

	"imgo/envelope"
)

// publisher appends to the live topic. Safe for concurrent use.
type publisher struct {
	live LiveLog
	now  clock
}

// liveRecord is an envelope for the live topic.
type liveRecord struct {
	// key selects the partition. It is the name of a comet or room, an envelope.RepeatKey, or
	// empty for everyone. Records of one key keep their order.
	key      string
	envelope *envelope.Envelope
}

// publish appends records, in their order, and gives them the time. action names the operation in errors.
func (p *publisher) publish(ctx context.Context, action string, records ...liveRecord) error {
	if len(records) == 0 {
		return nil
	}
	entries := make([]envelope.Entry, 0, len(records))
	for _, r := range records {
		value, err := p.encode(r.envelope)
		if err != nil {
			return attempted(action, err)
		}
		entries = append(entries, envelope.Entry{
			Partition: envelope.Partition(r.key, int(p.live.Partitions())), Value: value,
		})
	}
	return attempted(action, p.live.AppendMany(ctx, entries))
}

// publishEverywhere appends one envelope to every partition. action names the operation in errors.
func (p *publisher) publishEverywhere(ctx context.Context, action string, e *envelope.Envelope) error {
	value, err := p.encode(e)
	if err != nil {
		return attempted(action, err)
	}
	entries := make([]envelope.Entry, p.live.Partitions())
	for i := range entries {
		entries[i] = envelope.Entry{Partition: int32(i), Value: value}
	}
	return attempted(action, p.live.AppendMany(ctx, entries))
}

func (p *publisher) encode(e *envelope.Envelope) ([]byte, error) {
	e.TimeMs = p.now.ms()
	value, err := e.MarshalVT()
	if err != nil {
		return nil, fmt.Errorf("encode the envelope: %w", err)
	}
	return value, nil
}

// maxAddresses bounds the addresses of one envelope.
const maxAddresses = 1000

// byComet returns the records for addresses, each address once. The sessions of one comet share a record, which
// has at most maxAddresses of them. fill makes a record's envelope.
func byComet(to []*envelope.Address, fill func([]*envelope.Address) *envelope.Envelope) []liveRecord {
	if len(to) == 1 { // as in most pushes
		return []liveRecord{{key: to[0].GetComet(), envelope: fill(to)}}
	}
	groups := make(map[string][]*envelope.Address)
	var comets []string // in the order of their first address
	seen := make(map[envelope.AddressKey]struct{}, len(to))
	for _, a := range to {
		s := a.AsKey()
		if _, again := seen[s]; again {
			continue
		}
		seen[s] = struct{}{}
		if _, known := groups[s.Comet]; !known {
			comets = append(comets, s.Comet)
		}
		groups[s.Comet] = append(groups[s.Comet], a)
	}
	var records []liveRecord
	for _, comet := range comets {
		for chunk := range slices.Chunk(groups[comet], maxAddresses) {
			records = append(records, liveRecord{key: comet, envelope: fill(chunk)})
		}
	}
	return records
}
