package bus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/segmentio/kafka-go"

	"imgo/envelope"
)

// UnreadableAfter is how long the reads of a partition fail until it counts as unreadable. It is longer than Kafka
// takes to move a broker's partitions to another broker.
const UnreadableAfter = 10 * time.Second

// failing is what is known of a partition whose reads fail while a reader waits. The zero value means that none has
// failed since the last success.
type failing struct {
	since time.Time // when the first of them began
	err   error     // of the last one
	// leader is the address of the broker that Kafka names as the partition's leader. It is "" if Kafka names none, or
	// was not asked yet.
	leader string
	logged bool // the log has a line about it
}

// noteFetch notes how a fetch of a partition ended, and tells of a partition that becomes unreadable or readable.
func (l *Log) noteFetch(partition int32, began time.Time, err error) {
	if err == nil || errors.Is(err, kafka.OffsetOutOfRange) || errors.Is(err, envelope.ErrOutOfRange) {
		if l.readers[partition].clearFailing() {
			l.log.Info().Int32("partition", partition).Msg("the partition can be read again")
		}
		return
	}
	if l.ctx.Err() != nil {
		return // Close ended the fetch
	}
	p := &l.readers[partition]
	p.mu.Lock()
	if p.failing.since.IsZero() {
		p.failing.since = began
	}
	p.failing.err = err
	logged := p.failing.logged
	long := time.Since(p.failing.since) > UnreadableAfter
	p.failing.logged = logged || long
	p.mu.Unlock()
	if !long {
		return
	}
	leader := l.leader(partition)
	p.mu.Lock()
	if p.failing.logged { // another fetch may have succeeded
		p.failing.leader = leader
	}
	p.mu.Unlock()
	if !logged {
		l.log.Error().Err(explain(err)).Int32("partition", partition).Str("leader", leader).Dur("since", UnreadableAfter).
			Msg("the partition cannot be read: trying again")
	}
}

// clearFailing notes that the reads of the partition do not fail, or that nobody reads it. It reports whether the log
// has a line that they fail.
func (p *partitionReader) clearFailing() (logged bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	logged = p.failing.logged
	p.failing = failing{}
	return logged
}

// leader returns the address of the broker that Kafka names as the leader of a partition, or "" if no broker says one. It
// takes the metadata that the transport has.
func (l *Log) leader(partition int32) string {
	ctx, cancel := context.WithTimeout(l.ctx, callTimeout)
	defer cancel()
	meta, err := l.client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{l.topic}})
	if err != nil {
		return ""
	}
	for _, t := range meta.Topics {
		for _, p := range t.Partitions {
			if p.ID == int(partition) && p.Leader.Host != "" {
				return net.JoinHostPort(p.Leader.Host, strconv.Itoa(p.Leader.Port))
			}
		}
	}
	return ""
}

// Unreadable returns an error if the reads of a partition have failed for longer than UnreadableAfter, although Kafka names
// a broker that leads it. A partition that nobody reads, or that has no leader for anybody, is not meant.
func (l *Log) Unreadable(partition int32) error {
	if partition < 0 || int(partition) >= len(l.readers) {
		return nil
	}
	p := &l.readers[partition]
	p.mu.Lock()
	f := p.failing
	p.mu.Unlock()
	if f.leader == "" {
		return nil
	}
	return fmt.Errorf("partition %d of %s was not read for %s, because its broker %s does not answer this node: %w",
		partition, l.topic, time.Since(f.since).Round(time.Second), f.leader, explain(f.err))
}

// failingCollector exports for how long the reads of partitions have failed.
type failingCollector struct{ bus *Bus }

var failingDesc = prometheus.NewDesc("imgo_bus_fetch_failing_seconds",
	"How long no fetch of a partition has succeeded although a reader waits. 0: the last one has.", []string{"topic", "partition"}, nil)

func (c failingCollector) Describe(ch chan<- *prometheus.Desc) { ch <- failingDesc }

func (c failingCollector) Collect(ch chan<- prometheus.Metric) {
	c.bus.mu.Lock()
	open := slices.Clone(c.bus.open)
	c.bus.mu.Unlock()
	seen := make(map[string]bool) // a topic may be open twice
	for _, each := range open {
		l, ok := each.(*Log)
		if !ok || seen[l.topic] {
			continue
		}
		seen[l.topic] = true
		for i := range l.readers {
			p := &l.readers[i]
			p.mu.Lock()
			read, since := len(p.streams) > 0, p.failing.since
			p.mu.Unlock()
			seconds := 0.0
			if !since.IsZero() {
				read, seconds = true, time.Since(since).Seconds()
			}
			if read {
				ch <- prometheus.MustNewConstMetric(failingDesc, prometheus.GaugeValue, seconds, l.topic, strconv.Itoa(i))
			}
		}
	}
}
