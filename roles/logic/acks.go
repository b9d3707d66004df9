package logic

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"imgo/envelope"
)

// maxAckBytes bounds one record of acknowledgements. One that is larger than
// this by itself (a client with tens of thousands of ids) is cut.
const maxAckBytes = maxRecordBytes

// maxAckIDs bounds the ids of one Ack in a record: 10 bytes each at the most.
const maxAckIDs = maxAckBytes / 16

// Ack puts acknowledgements on the kept log, one record for each partition
// that has some (more where they would outgrow a record). They pass although
// the disk's reserve is reached: acknowledging is what frees it. With an error
// some may be there; acknowledging again is harmless.
func (l *Logic) Ack(ctx context.Context, r *envelope.AckRequest) error {
	ctx, end, err := l.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	byPartition := make(map[int32][]*envelope.Ack)
	ids := 0
	for _, a := range r.GetAcks() {
		if a.GetUser() == "" || len(a.GetIds()) == 0 {
			continue // acknowledges nothing
		}
		ids += len(a.GetIds())
		p := l.partition(a.GetUser())
		byPartition[p] = append(byPartition[p], cutAck(a)...)
	}
	var mu sync.Mutex
	var errs []error
	var g errgroup.Group
	// The log gathers what is appended at once into one commit: a partition
	// after the other would cost a commit each.
	g.SetLimit(4 * parallelCalls)
	for p, acks := range byPartition {
		g.Go(func() error {
			if err := l.appendAcks(ctx, p, acks); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
			return nil
		})
	}
	_ = g.Wait() // the errors are in errs
	err = attempted("append acknowledgements", errors.Join(errs...))
	l.metrics.acks.WithLabelValues(outcome(err)).Add(float64(ids))
	return err
}

func (l *Logic) appendAcks(ctx context.Context, partition int32, acks []*envelope.Ack) error {
	for len(acks) > 0 {
		n, size := 0, 0
		for n < len(acks) && (n == 0 || size+acks[n].SizeVT() <= maxAckBytes) {
			size += acks[n].SizeVT()
			n++
		}
		record := &envelope.Record{Id: envelope.NewRecordID(), TimeMs: l.nowMS(), Acks: &envelope.Acks{Acks: acks[:n]}}
		value, err := record.MarshalVT()
		if err != nil {
			return fmt.Errorf("encode the record: %w", err)
		}
		if _, err := l.kept.AppendEssential(ctx, partition, value); err != nil {
			return err
		}
		acks = acks[n:]
	}
	return nil
}

// cutAck makes acknowledgements that fit a record of one that may not.
func cutAck(a *envelope.Ack) []*envelope.Ack {
	if len(a.GetIds()) <= maxAckIDs {
		return []*envelope.Ack{a}
	}
	var out []*envelope.Ack
	for ids := range slices.Chunk(a.GetIds(), maxAckIDs) {
		out = append(out, &envelope.Ack{User: a.GetUser(), Device: a.GetDevice(), Ids: ids})
	}
	return out
}
