package job

import (
	"context"
	"fmt"
	"time"

	"imgo/envelope"
)

// pushes are the pushes in a batch of kept records, and the question to their owner.
type pushes struct {
	all []pushed
	req envelope.ResolveRequest
}

type pushed struct {
	id     uint64
	timeMS int64
	push   *envelope.Push
}

// decodePushes decodes a batch of a partition of the kept topic.
func (r *reader) decodePushes(entries []envelope.Entry) *pushes {
	p := &pushes{req: envelope.ResolveRequest{Partition: uint32(r.partition)}}
	for _, e := range entries {
		var rec envelope.Record
		if err := e.Record(&rec); err != nil {
			r.j.unread("unreadable", 1)
			r.j.log.Error().Err(err).Int32("partition", r.partition).Int64("offset", e.Offset).Msg("a record cannot be read: not carried")
			continue
		}
		if rec.Push == nil {
			continue
		}
		id := envelope.ID(r.log.Generation(), e.Offset)
		p.all = append(p.all, pushed{id, rec.TimeMs, rec.Push})
		p.req.Items = append(p.req.Items, &envelope.ResolveItem{Id: id, Users: rec.Push.Users})
	}
	return p
}

// deliverKept asks the owner which sessions get each push of a batch, and queues the
// deliveries.
func (j *Job) deliverKept(ctx context.Context, r *reader, s *span, entries []envelope.Entry) error {
	p := r.decodePushes(entries)
	if len(p.all) == 0 {
		return nil
	}
	reply, err := j.resolve(ctx, r.partition, &p.req)
	if err != nil {
		return fmt.Errorf("resolve %d records: %w", len(p.all), err)
	}
	out, err := p.deliveries(reply)
	if err != nil {
		return err
	}
	j.metrics.carried.WithLabelValues(string(Kept)).Add(float64(len(p.all)))
	out.enqueue(j, r, s, false)
	return nil
}

// deliveries makes deliveries of the pushes, to the sessions in the owner's reply.
func (p *pushes) deliveries(reply *envelope.ResolveReply) (*deliveries, error) {
	if len(reply.Items) != len(p.all) {
		return nil, envelope.Errorf(envelope.CodeInternal, "owner resolved %d records of %d", len(reply.Items), len(p.all))
	}
	out := newDeliveries()
	for i, of := range p.all {
		for _, t := range reply.Items[i].To {
			d := out.deliveryTo(t.GetTo().GetComet(), of.id, func() *envelope.Delivery {
				return &envelope.Delivery{Id: of.id, Op: of.push.Op, Body: of.push.Body, TimeMs: of.timeMS}
			})
			d.To = append(d.To, &envelope.Target{Session: t.GetTo().GetSession(), Prev: t.Prev})
		}
	}
	return out, nil
}

// ownerInterval is how often a question without an answer checks that the owner is
// still the same.
const ownerInterval = 100 * time.Millisecond

// resolve asks the current owner. It gives up when another one becomes the owner before
// the answer has come.
func (j *Job) resolve(ctx context.Context, partition int32, req *envelope.ResolveRequest) (*envelope.ResolveReply, error) {
	owner, err := j.d.Owners.Owner(partition)
	if err != nil {
		return nil, fmt.Errorf("find the owner of partition %d: %w", partition, err)
	}
	ctx, cancel := context.WithTimeout(ctx, j.cfg.ResolveTimeout)
	defer cancel()
	defer cancelWhen(ctx, ownerInterval, func() bool {
		current, err := j.d.Owners.Owner(partition)
		return err != nil || current != owner
	}, cancel).Stop()
	return owner.Resolve(ctx, req)
}
