package bus_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/segmentio/kafka-go"

	"imgo/cluster/bus"
	"imgo/cluster/bus/kafkatest"
	"imgo/envelope"
)

// makeTopic makes a topic with settings that differ from those of imgo's topics.
func makeTopic(t *testing.T, brokers []string, name string, partitions int, config map[string]string) {
	t.Helper()
	topic := kafka.TopicConfig{Topic: name, NumPartitions: partitions, ReplicationFactor: 1}
	for k, v := range config {
		topic.ConfigEntries = append(topic.ConfigEntries, kafka.ConfigEntry{ConfigName: k, ConfigValue: v})
	}
	conn, err := kafka.DialContext(testContext(t), "tcp", brokers[0])
	if err != nil {
		t.Fatalf("reach Kafka: %v", err)
	}
	defer conn.Close()
	if err := conn.CreateTopics(topic); err != nil {
		t.Fatalf("make %s: %v", name, err)
	}
	eventually(t, "Kafka knows the topic "+name, func() bool {
		made, err := conn.ReadPartitions(name)
		return err == nil && len(made) == partitions
	})
}

// TestTopicIsMadeByTwoAtOnce starts two processes at the same moment.
func TestTopicIsMadeByTwoAtOnce(t *testing.T) { testMadeAtOnce(t, fake(t).Brokers()) }

func testMadeAtOnce(t *testing.T, brokers []string) {
	p := prefix()
	var group sync.WaitGroup
	buses := make([]*bus.Bus, 4)
	logs := make([]*bus.Log, len(buses))
	for i := range buses {
		buses[i] = open(t, options(brokers, p))
	}
	for i := range buses {
		group.Go(func() {
			var err error
			if logs[i], err = buses[i].Log(testContext(t), bus.TopicOptions{Name: "kept", Numbered: true, Partitions: 5}); err != nil {
				t.Errorf("Log: %v", err)
			}
		})
	}
	group.Wait()
	if t.Failed() {
		return
	}
	for i, l := range logs {
		if l.Partitions() != 5 || l.Generation() != 1 || l.Topic() != p+".kept.1" {
			t.Fatalf("process %d: %s with %d partitions of generation %d", i, l.Topic(), l.Partitions(), l.Generation())
		}
		if offset, err := l.Append(testContext(t), 4, []byte("x")); err != nil || offset != int64(i) {
			t.Fatalf("process %d: Append: offset %d, %v", i, offset, err)
		}
	}
}

// TestTopicThatDiffers expects an error that says what differs and how to correct it.
func TestTopicThatDiffers(t *testing.T) { testDiffers(t, fake(t).Brokers()) }

func testDiffers(t *testing.T, brokers []string) {
	const day = 24 * time.Hour
	right := map[string]string{"cleanup.policy": "delete", "retention.ms": "691200000", "max.message.bytes": "2097152"} // 8 days
	tests := []struct {
		name   string
		config map[string]string
		set    func(o *bus.Options, topic *bus.TopicOptions)
		want   []string // in the error; none: no error
	}{
		{name: "as it must be"},
		{name: "another number of partitions than a new one would have",
			set: func(_ *bus.Options, o *bus.TopicOptions) { o.Partitions, o.Lenient = 99, true }},
		{name: "nothing said of partitions", set: func(_ *bus.Options, o *bus.TopicOptions) { o.Partitions = 0 }},
		{name: "keeps longer than asked", set: func(_ *bus.Options, o *bus.TopicOptions) { o.Retention = 7 * day }},
		{name: "keeps for ever", config: map[string]string{"retention.ms": "-1"}},
		{name: "other partitions", set: func(_ *bus.Options, o *bus.TopicOptions) { o.Partitions = 6 },
			want: []string{"it has 3 partitions, the settings say 6", "set the partitions to 3"}},
		{
			name: "keeps less than the longest ttl", config: map[string]string{"retention.ms": "3600000"},
			want: []string{"keeps records for 1h0m0s", "less than the 168h0m0s that the longest ttl needs",
				"kafka-configs.sh", "retention.ms=691200000"},
		},
		{
			name: "keeps less than the settings", config: map[string]string{"retention.ms": "648000000"}, // 7.5 days
			want: []string{"keeps records for 180h0m0s", "the settings say for 192h0m0s", "retention.ms=691200000"},
		},
		{name: "compacted", config: map[string]string{"cleanup.policy": "compact"},
			want: []string{`cleanup.policy is "compact"`, "would lose records", "cleanup.policy=delete"}},
		{
			name: "more in sync than there are", config: map[string]string{"min.insync.replicas": "2"},
			want: []string{"2 copies must have a record", "there are only 1", "min.insync.replicas=1"},
		},
		{
			name: "other in sync than set", set: func(o *bus.Options, _ *bus.TopicOptions) { o.MinInSync = 2 },
			want: []string{"min.insync.replicas is 1, the settings say 2", "set kafka.min_in_sync"},
		},
		{
			name: "fewer copies than set", set: func(o *bus.Options, _ *bus.TopicOptions) { o.Replication = 3 },
			want: []string{"it has 1 copies, the settings say 3", "set kafka.replication to 1"},
		},
		{name: "small batches", config: map[string]string{"max.message.bytes": "100000"},
			want: []string{"batches of up to 100000 bytes", "max.message.bytes=2097152"}},
		{
			name: "two things at once", config: map[string]string{"cleanup.policy": "compact", "max.message.bytes": "100000"},
			want: []string{"cleanup.policy", "; also ", "max.message.bytes"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := options(brokers, prefix())
			o.StartTimeout = waitLimit
			topic := bus.TopicOptions{Name: "kept", Partitions: 3, Retention: 8 * day, MinRetention: 7 * day}
			if test.set != nil {
				test.set(&o, &topic)
			}
			config := map[string]string{}
			for k, v := range right {
				config[k] = v
			}
			for k, v := range test.config {
				config[k] = v
			}
			makeTopic(t, brokers, o.Prefix+".kept", 3, config)
			_, err := open(t, o).Log(testContext(t), topic)
			if len(test.want) == 0 {
				if err != nil {
					t.Fatalf("Log: %v", err)
				}
				return
			}
			if err == nil {
				t.Fatal("Log: no error")
			}
			at := 0
			for _, want := range append([]string{o.Prefix + ".kept"}, test.want...) {
				i := strings.Index(err.Error()[at:], want)
				if i < 0 {
					t.Fatalf("Log: %v\nwant %q in it", err, want)
				}
				at += i
			}
			if strings.Contains(err.Error(), "gave up") {
				t.Fatalf("Log tried again after a permanent error: %v", err)
			}
		})
	}
}

// TestFewerCopiesThanPossible opens topics in a Kafka of three brokers. The log says which
// have fewer copies than there would be without a setting.
func TestFewerCopiesThanPossible(t *testing.T) {
	brokers := kafkatest.New(t, kafkatest.Options{Brokers: 3}).Brokers()
	for _, test := range []struct {
		name        string
		exists      bool // with one copy
		replication int
		warns       bool
	}{
		{name: "made while brokers were down", exists: true, warns: true},
		{name: "one copy is set", exists: true, replication: 1},
		{name: "made now"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var log bytes.Buffer
			o := options(brokers, prefix())
			if test.exists {
				o.Replication = 1
				if _, err := open(t, o).Log(testContext(t), bus.TopicOptions{Name: "kept", Partitions: 3}); err != nil {
					t.Fatalf("Log: %v", err)
				}
			}
			o.Log, o.Replication = zerolog.New(&log), test.replication
			if _, err := open(t, o).Log(testContext(t), bus.TopicOptions{Name: "kept", Partitions: 3}); err != nil {
				t.Fatalf("Log: %v", err)
			}
			if warns := strings.Contains(log.String(), "to 3 copies with kafka-reassign-partitions.sh"); warns != test.warns {
				t.Errorf("it warns: %v, want %v: %s", warns, test.warns, &log)
			}
		})
	}
}

// TestSettingsThatContradict expects errors before Kafka is asked.
func TestSettingsThatContradict(t *testing.T) {
	b := open(t, options(fake(t).Brokers(), prefix()))
	for _, test := range []struct {
		name string
		o    bus.TopicOptions
		want string
	}{
		{"retention under the longest ttl", bus.TopicOptions{Name: "kept", Retention: time.Hour, MinRetention: 2 * time.Hour},
			"a retention of 1h0m0s is less than the 2h0m0s that the longest ttl needs"},
		{"partitions under 0", bus.TopicOptions{Name: "kept", Partitions: -1}, "-1 partitions"},
		{"partitions beyond all measure", bus.TopicOptions{Name: "kept", Partitions: 1 << 20}, "1048576 partitions"},
	} {
		if _, err := b.Log(testContext(t), test.o); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

// TestMoreInSyncThanCopies expects an error when the topic is to be made.
func TestMoreInSyncThanCopies(t *testing.T) {
	o := options(fake(t).Brokers(), prefix())
	o.Replication, o.MinInSync = 1, 2
	_, err := open(t, o).Log(testContext(t), bus.TopicOptions{Name: "kept", Partitions: 3})
	if err == nil || !strings.Contains(err.Error(), "kafka.min_in_sync") {
		t.Fatalf("Log: %v, want an error that names kafka.min_in_sync", err)
	}
}

// TestNumberedLogsPickTheNewest opens several generations of a topic.
func TestNumberedLogsPickTheNewest(t *testing.T) { testNumbered(t, fake(t).Brokers()) }

func testNumbered(t *testing.T, brokers []string) {
	p := prefix()
	numbered := func(generation uint16, partitions int32) *bus.Log {
		t.Helper()
		l, err := open(t, options(brokers, p)).Log(testContext(t), bus.TopicOptions{
			Name: "kept", Numbered: true, Generation: generation, Partitions: partitions})
		if err != nil {
			t.Fatalf("Log generation %d: %v", generation, err)
		}
		return l
	}
	first := numbered(0, 3)
	if first.Generation() != 1 || first.Topic() != p+".kept.1" {
		t.Fatalf("the first log is %s, generation %d", first.Topic(), first.Generation())
	}
	// Names that are none of its generations.
	for _, other := range []string{".kept.07", ".kept.old", ".kept.70000", ".kept.", ".kept.9.1", ".keptother.8"} {
		makeTopic(t, brokers, p+other, 1, nil)
	}
	makeTopic(t, brokers, "x"+p+".kept.9", 1, nil)
	if again := numbered(0, 3); again.Generation() != 1 {
		t.Fatalf("generation %d was opened, want 1", again.Generation())
	}
	second := numbered(2, 6)
	if newest := numbered(0, 0); newest.Generation() != 2 || newest.Partitions() != 6 {
		t.Fatalf("generation %d with %d partitions was opened, want 2 with 6", newest.Generation(), newest.Partitions())
	}
	if old := numbered(1, 0); old.Generation() != 1 || old.Partitions() != 3 {
		t.Fatalf("generation %d with %d partitions was opened, want 1 with 3", old.Generation(), old.Partitions())
	}
	missing := bus.TopicOptions{Name: "kept", Numbered: true, Generation: 3}
	for range 2 { // the first try does not make it
		if l, err := open(t, options(brokers, p)).Log(testContext(t), missing); !errors.Is(err, envelope.ErrNotFound) {
			t.Fatalf("a generation that does not exist: %v, %v", l, err)
		}
	}
	// They are apart.
	for _, l := range []*bus.Log{first, second} {
		if offset, err := l.Append(testContext(t), 0, []byte("x")); err != nil || offset != 0 {
			t.Fatalf("Append to %s: offset %d, %v", l.Topic(), offset, err)
		}
	}
}

// TestOpenWaitsForKafka starts before Kafka does.
func TestOpenWaitsForKafka(t *testing.T) {
	k := fake(t)
	k.Stop()
	opened := make(chan error, 1)
	o := options(k.Brokers(), prefix())
	o.StartTimeout = waitLimit
	go func() {
		b, err := bus.Open(testContext(t), o)
		if err == nil {
			err = b.Close()
		}
		opened <- err
	}()
	k.Resume()
	if err := <-opened; err != nil {
		t.Fatalf("Open: %v", err)
	}
}

func TestOpenWithoutKafka(t *testing.T) {
	o := options([]string{"127.0.0.1:1"}, prefix())
	o.StartTimeout = 300 * time.Millisecond
	_, err := bus.Open(testContext(t), o)
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") || !strings.Contains(err.Error(), "nothing listens there") {
		t.Fatalf("Open: %v, want an error that says where nothing listens", err)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	o.StartTimeout = waitLimit
	start := time.Now()
	if _, err := bus.Open(ctx, o); err == nil || time.Since(start) >= waitLimit {
		t.Fatalf("cancelled Open: %v after %v", err, time.Since(start))
	}
}
