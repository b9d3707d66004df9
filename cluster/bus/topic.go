package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"

	"imgo/envelope"
)

const (
	// maxMessageBytes is the largest batch that new topics take.
	maxMessageBytes = 2 << 20
	// maxBatchBytes bounds the records of one batch, as queuedRecord.cost counts them.
	maxBatchBytes = 1 << 20
	// needMessageBytes is the size that such a batch may have if it does not compress.
	needMessageBytes = maxBatchBytes + 64<<10
)

// topicSpec says how a topic must be.
type topicSpec struct {
	name         string // with the prefix
	partitions   int32  // 0: as many as there are, and the topic is not made
	lenient      bool   // partitions counts for a new topic only
	policy       string // cleanup.policy
	retention    time.Duration
	minRetention time.Duration
	config       map[string]string
}

// ensure makes the topic or checks it, waits until each of its partitions has a
// leader, and returns how many there are.
func (b *Bus) ensure(ctx context.Context, s topicSpec) (int32, error) {
	made := false
	var partitions int32
	err := b.retry(ctx, func(ctx context.Context) error {
		meta, err := b.metadata(ctx, s.name)
		if err != nil {
			return err
		}
		if len(meta.Topics) != 1 {
			return fmt.Errorf("asked for one topic, told of %d", len(meta.Topics))
		}
		t := meta.Topics[0]
		switch {
		case errors.Is(t.Error, kafka.UnknownTopicOrPartition) && s.partitions == 0:
			return envelope.Errorf(envelope.CodeNotFound, "the topic does not exist")
		case errors.Is(t.Error, kafka.UnknownTopicOrPartition) && !made:
			if err := b.create(ctx, s, len(meta.Brokers)); err != nil {
				return err
			}
			made = true
			return errors.New("the topic was made and is not there yet")
		case t.Error != nil:
			return t.Error
		}
		for _, p := range t.Partitions {
			if p.Error != nil || p.Leader.Host == "" {
				return fmt.Errorf("partition %d has no leader: check the brokers that hold it: %w",
					p.ID, cmp.Or(p.Error, error(kafka.LeaderNotAvailable)))
			}
		}
		partitions = int32(len(t.Partitions))
		return b.check(ctx, s, t, len(meta.Brokers))
	})
	if err != nil {
		return 0, fmt.Errorf("open the topic %s at %s: %w", s.name, strings.Join(b.o.Brokers, ", "), err)
	}
	return partitions, nil
}

// defaultCopies returns how many copies a topic has without a setting.
func defaultCopies(brokers int) int { return min(3, max(1, brokers)) }

// create makes the topic. If another node was faster, that is no error.
func (b *Bus) create(ctx context.Context, s topicSpec, brokers int) error {
	replication := cmp.Or(b.o.Replication, defaultCopies(brokers))
	minInSync := cmp.Or(b.o.MinInSync, min(2, max(1, replication-1)))
	if minInSync > replication {
		return settingErrorf("%d copies must have a record (kafka.min_in_sync), but there are only %d "+
			"(kafka.replication, or as many as there are brokers): lower the one or raise the other", minInSync, replication)
	}
	config := map[string]string{
		"cleanup.policy":      s.policy,
		"min.insync.replicas": strconv.Itoa(minInSync),
		"max.message.bytes":   strconv.Itoa(maxMessageBytes),
		// A copy that misses records must not become the leader.
		"unclean.leader.election.enable": "false",
	}
	if s.policy == "delete" {
		config["retention.ms"] = "-1"
		// The brokers' clocks count, so that a node with a wrong clock does not make
		// Kafka drop records early.
		config["message.timestamp.type"] = "LogAppendTime"
		if s.retention > 0 {
			config["retention.ms"] = strconv.FormatInt(s.retention.Milliseconds(), 10)
			// Kafka drops whole segments only.
			segment := min(max(s.retention/8, time.Minute), 24*time.Hour)
			config["segment.ms"] = strconv.FormatInt(segment.Milliseconds(), 10)
		}
	} else {
		// Kafka compacts whole segments only, and a node that starts reads what is not compacted.
		config["segment.ms"] = strconv.FormatInt(time.Hour.Milliseconds(), 10)
	}
	maps.Copy(config, s.config)
	topic := kafka.TopicConfig{
		Topic: s.name, NumPartitions: int(s.partitions), ReplicationFactor: replication,
	}
	for _, k := range slices.Sorted(maps.Keys(config)) {
		topic.ConfigEntries = append(topic.ConfigEntries, kafka.ConfigEntry{ConfigName: k, ConfigValue: config[k]})
	}
	t := b.transport(time.Minute, s.name)
	defer t.CloseIdleConnections()
	// kafka-go waits for the topic within this call until ctx is done.
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := b.client(callTimeout, t).CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{topic}})
	if err != nil {
		return fmt.Errorf("make it: %w", err)
	}
	switch err := res.Errors[s.name]; {
	case errors.Is(err, kafka.TopicAlreadyExists):
	case errors.Is(err, kafka.InvalidReplicationFactor):
		return fmt.Errorf("make it with %d copies: %w: there are %d brokers; set kafka.replication", replication, err, brokers)
	case err != nil:
		return fmt.Errorf("make it: %w", err)
	default:
		b.log.Info().Str("topic", s.name).Int("partitions", topic.NumPartitions).Int("copies", replication).
			Int("min_in_sync", minInSync).Str("retention_ms", config["retention.ms"]).Msg("made the topic")
	}
	return nil
}

// check returns an error that lists how an existing topic differs from s. brokers is how
// many run now.
func (b *Bus) check(ctx context.Context, s topicSpec, t kafka.Topic, brokers int) error {
	config, err := b.describe(ctx, s.name)
	if err != nil {
		return err
	}
	c := topicCheck{Bus: b, topicSpec: s, actual: config}
	if n := int32(len(t.Partitions)); s.partitions != 0 && n != s.partitions && !s.lenient {
		c.differs("it has %d partitions, the settings say %d: set the partitions to %d "+
			"(they cannot be changed in place: what is where goes by their number)", n, s.partitions, n)
	}
	if policy := config["cleanup.policy"]; policy != s.policy {
		c.differs("its cleanup.policy is %q, which would lose records; it must be %q: %s", policy, s.policy, c.alter("cleanup.policy", s.policy))
	}
	if s.policy == "delete" {
		c.checkRetention()
	}
	c.checkCopies(t, brokers)
	if n := c.number("max.message.bytes"); n >= 0 && n < needMessageBytes {
		c.differs("it takes batches of up to %d bytes (max.message.bytes), ours have up to %d: %s",
			n, needMessageBytes, c.alter("max.message.bytes", maxMessageBytes))
	}
	if len(c.wrong) > 0 {
		return settingErrorf("it is not as it must be: %s", strings.Join(c.wrong, "; also "))
	}
	return nil
}

// topicCheck compares an existing topic with its spec.
type topicCheck struct {
	*Bus
	topicSpec
	actual map[string]string // the configuration of the topic
	wrong  []string          // the differences, each with its fix
}

func (c *topicCheck) differs(format string, args ...any) {
	c.wrong = append(c.wrong, fmt.Sprintf(format, args...))
}

// number returns a number of the topic's configuration. -1 is Kafka's value for none.
func (c *topicCheck) number(key string) int64 {
	n, err := strconv.ParseInt(c.actual[key], 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// alter returns the command that changes a value of the topic's configuration.
func (c *topicCheck) alter(key string, value any) string {
	return fmt.Sprintf("kafka-configs.sh --bootstrap-server %s --alter --entity-type topics --entity-name %s --add-config %s=%v",
		c.o.Brokers[0], c.name, key, value)
}

// checkRetention compares how long the topic keeps records.
func (c *topicCheck) checkRetention() {
	need := max(c.minRetention, c.retention)
	switch ms := c.number("retention.ms"); {
	case ms >= 0 && ms < c.minRetention.Milliseconds():
		c.differs("it keeps records for %v (retention.ms), less than the %v that the longest ttl needs: %s",
			time.Duration(ms)*time.Millisecond, c.minRetention, c.alter("retention.ms", need.Milliseconds()))
	case ms >= 0 && ms < c.retention.Milliseconds(), ms >= 0 && c.retention == 0 && c.minRetention == 0:
		want := "for ever"
		if c.retention > 0 {
			want = "for " + c.retention.String()
		}
		c.differs("it keeps records for %v (retention.ms), the settings say %s: change the settings, or %s",
			time.Duration(ms)*time.Millisecond, want, c.alter("retention.ms", retentionMS(c.retention)))
	case c.retention > 0 && ms != c.retention.Milliseconds():
		c.log.Warn().Str("topic", c.name).Int64("retention_ms", ms).Dur("setting", c.retention).
			Msg("the topic keeps records for longer than the settings say; left as it is")
	}
	if bytes := c.number("retention.bytes"); bytes >= 0 {
		c.log.Warn().Str("topic", c.name).Int64("retention_bytes", bytes).
			Msg("the topic drops records by size too: some may go before their time")
	}
}

// checkCopies compares how many copies of a record there are, and how many must be written.
func (c *topicCheck) checkCopies(t kafka.Topic, brokers int) {
	copies := len(t.Partitions[0].Replicas)
	for _, p := range t.Partitions {
		copies = min(copies, len(p.Replicas))
	}
	if c.o.Replication > copies {
		c.differs("it has %d copies, the settings say %d: set kafka.replication to %d, or add copies with kafka-reassign-partitions.sh",
			copies, c.o.Replication, copies)
	}
	if want := defaultCopies(brokers); c.o.Replication == 0 && copies < want {
		c.log.Warn().Str("topic", c.name).Int("copies", copies).Int("brokers", brokers).
			Msgf("the topic has fewer copies than there are brokers for, as if it was made while some were down: raise it to %d copies "+
				"with kafka-reassign-partitions.sh, or set kafka.replication", want)
	}
	minInSync := c.number("min.insync.replicas")
	switch {
	case minInSync > int64(copies):
		c.differs("%d copies must have a record (min.insync.replicas), but there are only %d, so that every push would be refused: %s",
			minInSync, copies, c.alter("min.insync.replicas", max(1, copies-1)))
	case c.o.MinInSync > 0 && minInSync != int64(c.o.MinInSync):
		c.differs("its min.insync.replicas is %d, the settings say %d: set kafka.min_in_sync, or %s",
			minInSync, c.o.MinInSync, c.alter("min.insync.replicas", c.o.MinInSync))
	}
}

// retentionMS returns the setting retention.ms for d. A d of 0 means for ever.
func retentionMS(d time.Duration) int64 {
	if d == 0 {
		return -1
	}
	return d.Milliseconds()
}

// describe returns a topic's configuration.
func (b *Bus) describe(ctx context.Context, topic string) (map[string]string, error) {
	t := b.transport(time.Minute, topic)
	defer t.CloseIdleConnections()
	res, err := b.client(callTimeout, t).DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{
		Resources: []kafka.DescribeConfigRequestResource{{ResourceType: kafka.ResourceTypeTopic, ResourceName: topic}},
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("ask for its settings: %w", err)
	case len(res.Resources) != 1:
		return nil, fmt.Errorf("ask for its settings: told of %d topics", len(res.Resources))
	case res.Resources[0].Error != nil:
		return nil, fmt.Errorf("ask for its settings: %w", res.Resources[0].Error)
	}
	config := map[string]string{}
	for _, e := range res.Resources[0].ConfigEntries {
		config[e.ConfigName] = e.ConfigValue
	}
	return config, nil
}

// newestGeneration returns the highest generation of a topic, or 0 if there is none.
func (b *Bus) newestGeneration(ctx context.Context, name string) (uint16, error) {
	var newest uint16
	err := b.retry(ctx, func(ctx context.Context) error {
		meta, err := b.metadata(ctx)
		if err != nil {
			return err
		}
		for _, t := range meta.Topics {
			number, ok := strings.CutPrefix(t.Name, b.o.Prefix+"."+name+".")
			if n, err := strconv.ParseUint(number, 10, 16); ok && err == nil && strconv.FormatUint(n, 10) == number {
				newest = max(newest, uint16(n))
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("look for the topics %s.%s.* at %s: %w", b.o.Prefix, name, strings.Join(b.o.Brokers, ", "), err)
	}
	return newest, nil
}
