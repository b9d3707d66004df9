package job

import (
	"context"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"imgo/envelope"
)

// groups are a batch's deliveries by comet, in the order of the batch.
type groups struct {
	order []string
	of    map[string]*group
}

type group struct {
	last uint64 // key of the newest delivery
	ds   []*envelope.Delivery
}

func newGroups() *groups { return &groups{of: make(map[string]*group)} }

// delivery is a comet's delivery for what key tells apart, made if it is new.
// Keys come in the order of the batch.
func (g *groups) delivery(comet string, key uint64, make func() *envelope.Delivery) *envelope.Delivery {
	c := g.of[comet]
	if c == nil {
		c = &group{}
		g.of[comet] = c
		g.order = append(g.order, comet)
	}
	if c.last != key || len(c.ds) == 0 {
		c.last = key
		c.ds = append(c.ds, make())
	}
	return c.ds[len(c.ds)-1]
}

func (g *groups) send(j *Job) {
	for _, comet := range g.order {
		ds := g.of[comet].ds
		size := 0
		for _, d := range ds {
			size += deliverySize(d)
		}
		j.deliver(comet, size, ds...)
	}
}

// deliverySize is about how much memory a delivery holds, in bytes.
func deliverySize(d *envelope.Delivery) int {
	n := 128 + len(d.Body) + 32*len(d.To)
	if d.Backlog != nil {
		for _, k := range d.Backlog.Messages {
			n += 64 + len(k.Body)
		}
	}
	return n
}

// sender tells one comet, in the order of its queue. The queue is bounded in
// bytes; what does not fit is refused.
type sender struct {
	j     *Job
	comet string
	wake  chan struct{}
	gone  chan struct{}
	once  sync.Once

	mu    sync.Mutex
	queue []*envelope.Delivery
	bytes int
}

func newSender(j *Job, comet string) *sender {
	return &sender{j: j, comet: comet, wake: make(chan struct{}, 1), gone: make(chan struct{})}
}

// put queues deliveries, all or (false) none.
func (s *sender) put(size int, ds []*envelope.Delivery) bool {
	s.mu.Lock()
	if s.bytes > 0 && s.bytes+size > s.j.cfg.QueueBytes {
		s.mu.Unlock()
		return false
	}
	s.queue = append(s.queue, ds...)
	s.bytes += size
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return true
}

func (s *sender) end() { s.once.Do(func() { close(s.gone) }) }

func (s *sender) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.gone:
			return
		case <-s.wake:
		}
		for {
			s.mu.Lock()
			ds := s.queue
			s.queue, s.bytes = nil, 0
			s.mu.Unlock()
			if len(ds) == 0 {
				break
			}
			s.push(ctx, ds)
		}
	}
}

func (s *sender) push(ctx context.Context, ds []*envelope.Delivery) {
	c := s.j.d.Comets.Comet(s.comet)
	if c == nil {
		s.j.metrics.skipped.WithLabelValues("gone").Add(float64(len(ds)))
		return
	}
	pctx, cancel := context.WithTimeout(ctx, s.j.cfg.PushTimeout)
	defer cancel()
	if err := c.Push(pctx, &envelope.PushRequest{Deliveries: ds}); err != nil && ctx.Err() == nil {
		s.j.metrics.skipped.WithLabelValues("failed").Add(float64(len(ds)))
		s.j.often.Warn().Err(err).Str("comet", s.comet).Int("deliveries", len(ds)).Msg("comet was not told: skipped")
	}
}

type metrics struct {
	carried *prometheus.CounterVec
	skipped *prometheus.CounterVec
	retries prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	m := &metrics{
		carried: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "imgo_job_carried_envelopes_total",
			Help: "Records and envelopes that were read and carried on, by topic."}, []string{"topic"}),
		skipped: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "imgo_job_skipped_deliveries_total",
			Help: "Deliveries that were not carried, by reason: the comet is gone, slow or failed, the record was trimmed or unreadable."}, []string{"reason"}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{Name: "imgo_job_retries_total",
			Help: "Batches that could not be carried at once and are tried again."}),
	}
	reg.MustRegister(m.carried, m.skipped, m.retries)
	return m
}
