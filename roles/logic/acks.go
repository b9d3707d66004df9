package logic

import (
	"context"
	"maps"
	"slices"

	"imgo/envelope"
)

const (
	// maxAckBytes bounds one record of acknowledgements. A client with tens of
	// thousands of ids has several.
	maxAckBytes = maxRecordBytes
	// maxAckIDs bounds the ids of one Ack in a record: each has 10 bytes at most.
	maxAckIDs = maxAckBytes / 16
)

// ackHandler appends acknowledgements to the kept log.
type ackHandler struct{ *shared }

// Ack puts acknowledgements on the kept log, one record for each partition
// that has some (more where they would outgrow a record). They pass although
// the disk's reserve is reached: acknowledging is what frees it. The reply names
// the partitions that did not take all of theirs in time. Some may be there;
// acknowledging again is harmless.
func (h *ackHandler) Ack(ctx context.Context, r *envelope.AckRequest) (*envelope.PartsReply, error) {
	ctx, end, err := h.life.beginParts(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	byPartition := make(map[int32][]*envelope.Ack)
	for _, a := range r.GetAcks() {
		if a.GetUser() == "" || len(a.GetIds()) == 0 {
			continue // it acknowledges nothing
		}
		p := h.owners.partition(a.GetUser())
		byPartition[p] = append(byPartition[p], splitAck(a)...)
	}
	partitions := slices.Collect(maps.Keys(byPartition))
	var failed failedParts
	// The log puts appends that come together into one commit. One partition
	// after the other would cost a commit each.
	_ = inParallel(len(partitions), 4*parallelCalls, func(i int) error {
		p := partitions[i]
		err := h.append(ctx, p, byPartition[p])
		if err != nil {
			failed.add(p, err)
		}
		ids := 0
		for _, a := range byPartition[p] {
			ids += len(a.GetIds())
		}
		h.metrics.acks.WithLabelValues(outcome(asUnavailable(err))).Add(float64(ids))
		return nil
	})
	return failed.reply(h.shared, "append acknowledgements")
}

// append appends the acknowledgements of one partition, in as many records as
// they need.
func (h *ackHandler) append(ctx context.Context, partition int32, acks []*envelope.Ack) error {
	for len(acks) > 0 {
		n, size := 0, 0
		for n < len(acks) && (n == 0 || size+acks[n].SizeVT() <= maxAckBytes) {
			size += acks[n].SizeVT()
			n++
		}
		value, err := encodeRecord(&envelope.Record{Acks: &envelope.Acks{Acks: acks[:n]}}, h.now())
		if err != nil {
			return err
		}
		if _, err := h.kept.log.AppendEssential(ctx, partition, value); err != nil {
			return err
		}
		acks = acks[n:]
	}
	return nil
}

// splitAck returns acknowledgements that say the same as a, each with at most
// maxAckIDs ids.
func splitAck(a *envelope.Ack) []*envelope.Ack {
	if len(a.GetIds()) <= maxAckIDs {
		return []*envelope.Ack{a}
	}
	var parts []*envelope.Ack
	for ids := range slices.Chunk(a.GetIds(), maxAckIDs) {
		parts = append(parts, &envelope.Ack{User: a.GetUser(), Device: a.GetDevice(), Ids: ids, Auto: a.GetAuto()})
	}
	return parts
}
