package bus_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"imgo/cluster/bus"
	"imgo/cluster/bus/kafkatest"
)

// TestRealKafka runs the tests of the bus on Apache Kafka. Its start takes long, so there is one for
// all tests that need one broker. It knows one user, and has addresses that need no login.
func TestRealKafka(t *testing.T) {
	t.Parallel()
	k := kafkatest.NewReal(t, kafkatest.RealOptions{Memory: "256M", Users: []kafkatest.User{{Name: "imgo", Password: "the-right-one"}}})
	brokers := k.BrokersWithoutLogin()
	t.Run("Login", func(t *testing.T) { testRealLogin(t, k.Brokers()) })
	t.Run("Conformance", func(t *testing.T) { conform(t, brokers, 15) })
	t.Run("MadeAtOnce", func(t *testing.T) { testMadeAtOnce(t, brokers) })
	t.Run("Differs", func(t *testing.T) { testDiffers(t, brokers) })
	t.Run("Numbered", func(t *testing.T) { testNumbered(t, brokers) })
	t.Run("Compressions", func(t *testing.T) { testCompressions(t, brokers) })
	t.Run("MoreCopiesThanBrokers", func(t *testing.T) {
		o := options(brokers, prefix())
		o.Replication = 3
		_, err := open(t, o).Log(testContext(t), bus.TopicOptions{Name: "kept", Partitions: 3})
		if err == nil || !strings.Contains(err.Error(), "there are 1 brokers; set kafka.replication") {
			t.Fatalf("Log: %v, want an error that names kafka.replication", err)
		}
	})
	t.Run("Times", func(t *testing.T) { testTimes(t, brokers) })
	t.Run("Group", func(t *testing.T) { testGroup(t, brokers) })
	t.Run("Compacted", func(t *testing.T) { testCompacted(t, brokers) })
	t.Run("Outage", func(t *testing.T) { testOutage(t, stoppableReal{k}) })
}

// testTimes checks that the time of an entry is the broker's, whatever the clock of the process that
// appended it says. The fake Kafka of the other tests cannot show this: it writes its time into each record.
func testTimes(t *testing.T, brokers []string) {
	l, err := open(t, options(brokers, prefix())).Log(testContext(t), bus.TopicOptions{Name: "kept", Numbered: true, Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	transport := &kafka.Transport{}
	defer transport.CloseIdleConnections()
	client := &kafka.Client{Addr: kafka.TCP(brokers...), Transport: transport}
	for _, compression := range []kafka.Compression{0, kafka.Lz4} {
		for _, wrong := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
			res, err := client.Produce(testContext(t), &kafka.ProduceRequest{
				Topic: l.Topic(), Partition: 0, RequiredAcks: kafka.RequireAll, Compression: compression,
				Records: kafka.NewRecordReader(kafka.Record{Time: time.Now().Add(wrong), Value: kafka.NewBytes([]byte("x"))}),
			})
			if err != nil || res.Error != nil {
				t.Fatal(err, res)
			}
			got, err := l.Read(testContext(t), 0, res.BaseOffset, 1)
			if err != nil {
				t.Fatal(err)
			}
			if got[0].TimeMS != res.LogAppendTime.UnixMilli() {
				t.Errorf("compression %v: the entry of a process whose clock is %v ahead is of %v, want the broker's %v",
					compression, wrong, time.UnixMilli(got[0].TimeMS), res.LogAppendTime)
			}
		}
	}
}

// stoppableReal is a stoppable kafkatest.Real.
type stoppableReal struct{ *kafkatest.Real }

func (r stoppableReal) Brokers() []string { return r.BrokersWithoutLogin() }

func (r stoppableReal) stop(t *testing.T) {
	if err := r.Stop(); err != nil {
		t.Fatalf("stop Kafka: %v", err)
	}
}

func (r stoppableReal) start(t *testing.T) {
	if err := r.Start(context.Background()); err != nil {
		t.Fatalf("start Kafka: %v", err)
	}
}

// TestRealKafkaLosesABroker kills one of three brokers. Appends wait, and none fails. Then the broker
// starts again, and all brokers stop and start again.
func TestRealKafkaLosesABroker(t *testing.T) {
	t.Parallel()
	k := kafkatest.NewReal(t, kafkatest.RealOptions{Brokers: 3, Memory: "256M"})
	o := options(k.Brokers(), prefix())
	o.WriteTimeout = waitLimit
	l := kept(t, open(t, o))
	all := appendThrough(t, l, func() {
		if err := k.Kill(0); err != nil {
			t.Errorf("kill a broker: %v", err)
		}
		// These appends wait until the other brokers serve without it.
		for range 3 {
			for p := range l.Partitions() {
				if _, err := l.Append(testContext(t), p, []byte("x")); err != nil {
					t.Errorf("Append without a broker: %v", err)
				}
			}
		}
	})
	checkAppended(t, l, all)
	if n := len(k.Brokers()); n != 3 || k.Count() != 3 {
		t.Fatalf("%d addresses, Count %d; want 3", n, k.Count())
	}
	for _, end := range []struct {
		name string
		do   func() error
	}{{"killed", func() error { return nil }}, {"stopped", k.Stop}} {
		if err := end.do(); err != nil {
			t.Fatalf("%s: %v", end.name, err)
		}
		if err := k.Start(context.Background()); err != nil {
			t.Fatalf("start after %s: %v", end.name, err)
		}
	}
	checkAppended(t, l, all)
}

// testRealLogin logs in at a Kafka that knows one user.
func testRealLogin(t *testing.T, brokers []string) {
	testLogin(t, brokers, func() func() { return func() {} }, "plain", "scram-sha-512")
	o := options(brokers, prefix())
	o.SASL, o.User, o.Password = "scram-sha-256", "imgo", "right"
	_, err := bus.Open(testContext(t), o)
	checkRefusedAtOnce(t, err, "check kafka.sasl")
	o.SASL = ""
	o.StartTimeout = time.Second
	if _, err := bus.Open(testContext(t), o); err == nil || !strings.Contains(err.Error(), "kafka.sasl") {
		t.Fatalf("Open without a login: %v, want an error that names kafka.sasl", err)
	}
}
