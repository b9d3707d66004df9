package job

import "imgo/envelope"

// deliveries are the deliveries that one read of a partition makes, by comet, in the order of the partition.
type deliveries struct {
	order []string
	of    map[string]*cometDeliveries
}

type cometDeliveries struct {
	last  uint64 // key of the newest delivery
	items []item
}

// item is a delivery and, for a room's message, the denials that learn from the reply.
type item struct {
	d      *envelope.Delivery
	denied *cometDenials
}

func newDeliveries() *deliveries { return &deliveries{of: make(map[string]*cometDeliveries)} }

// to returns the delivery of a record to a comet, and makes it if it is new. key identifies the record: the id of
// a kept message, or the position in the batch of the live log, from 1. A repeated key returns the same delivery.
// Keys must come in the order of the read.
func (ds *deliveries) to(comet string, key uint64, newDelivery func() *envelope.Delivery) *envelope.Delivery {
	c := ds.of[comet]
	if c == nil {
		c = &cometDeliveries{}
		ds.of[comet] = c
		ds.order = append(ds.order, comet)
	}
	if c.last != key || len(c.items) == 0 {
		c.last = key
		c.items = append(c.items, item{d: newDelivery()})
	}
	return c.items[len(c.items)-1].d
}

// learnFrom makes the denials learn from the reply to the comet's newest delivery.
func (ds *deliveries) learnFrom(comet string, denied *cometDenials) {
	c := ds.of[comet]
	c.items[len(c.items)-1].denied = denied
}

// enqueue queues each comet's deliveries. If direct is set, it acquires the push
// slots of idle comets instead. The caller must push with them.
func (ds *deliveries) enqueue(j *Job, r *reader, s *span, direct bool) (slots []pushSlot) {
	for _, comet := range ds.order {
		b := &batch{topic: r.topic, items: ds.of[comet].items, span: s}
		for _, it := range b.items {
			b.size += deliverySize(it.d)
		}
		if slot, ok := j.enqueue(comet, b, direct); ok {
			slots = append(slots, slot)
		}
	}
	return slots
}

// deliverySize returns about how much memory a delivery takes, in bytes.
func deliverySize(d *envelope.Delivery) int {
	return 128 + d.SizeVT() + 32*len(d.To) // a target has more bytes in memory
}
