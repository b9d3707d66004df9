package job

import "imgo/envelope"

// deliveries are the deliveries that one read of a partition makes, by comet, in the order of the partition.
type deliveries struct {
	order   []string
	byComet map[string]*cometDeliveries
}

type cometDeliveries struct {
	last  uint64 // key of the newest delivery
	items []item
}

// item is a delivery. For a room's message, denied records the rooms that the reply denies.
type item struct {
	d      *envelope.Delivery
	denied *cometDenials
}

func newDeliveries() *deliveries { return &deliveries{byComet: make(map[string]*cometDeliveries)} }

// deliveryTo returns the delivery of a record to a comet, and makes it if it is new. key identifies the record: the id of
// a kept message, or the position in the batch of the live log, from 1. A repeated key returns the same delivery.
// Keys must come in the order of the read.
func (ds *deliveries) deliveryTo(comet string, key uint64, newDelivery func() *envelope.Delivery) *envelope.Delivery {
	c := ds.byComet[comet]
	if c == nil {
		c = &cometDeliveries{}
		ds.byComet[comet] = c
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
	c := ds.byComet[comet]
	c.items[len(c.items)-1].denied = denied
}

// enqueue queues each comet's deliveries. If direct is set, it acquires the push
// slots of idle comets instead. The caller must push with them.
func (ds *deliveries) enqueue(j *Job, r *reader, s *span, direct bool) (slots []pushSlot) {
	for _, comet := range ds.order {
		b := &batch{topic: r.topic, items: ds.byComet[comet].items, span: s}
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
	return 128 + d.SizeVT() + 32*len(d.To) // a target takes more memory than its encoding
}
