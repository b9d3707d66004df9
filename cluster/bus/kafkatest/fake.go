// Package kafkatest runs a Kafka for tests, and for trying imgo out. Fake is a Kafka in
// this process that tests can stop, slow down and make fail. Real is Apache Kafka in
// processes of its own. Neither keeps data for good.
package kafkatest

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"imgo/internal/openconns"
)

// Options are the options of a Fake. The zero value means one broker without TLS and
// without a login.
type Options struct {
	// Brokers is the number of brokers. 0 means one.
	Brokers int
	// Ports has the ports of 127.0.0.1, one a broker. Nil means free ones.
	Ports []int
	// TLS is the configuration of its listeners. Nil means no TLS.
	TLS *tls.Config
	// Users are the users that may log in. Nil means that there is no login.
	Users []User
}

// User is a user who may log in.
type User struct {
	Mechanism      string // PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512
	Name, Password string
}

// Fake is a Kafka in this process. Its methods are safe for concurrent use.
type Fake struct {
	// Cluster is the kfake cluster, for faults that have no method here.
	Cluster *kfake.Cluster

	open openconns.Set
	mu   sync.Mutex

	stopped bool
	delay   time.Duration
	done    chan struct{} // closed by Close
	once    sync.Once
}

// New starts a Fake that is closed when the test ends.
func New(t testing.TB, o Options) *Fake {
	t.Helper()
	f, err := Start(o)
	if err != nil {
		t.Fatalf("start a fake Kafka: %v", err)
	}
	t.Cleanup(f.Close)
	return f
}

// Start starts a Fake. The caller must close it.
func Start(o Options) (*Fake, error) {
	f := &Fake{done: make(chan struct{})}
	opts := []kfake.Opt{
		kfake.NumBrokers(max(o.Brokers, 1)), kfake.ListenFn(f.listen(o.TLS)), kfake.GroupMinSessionTimeout(100 * time.Millisecond),
		kfake.BrokerConfigs(map[string]string{"group.initial.rebalance.delay.ms": "0"}),
	}
	if len(o.Ports) > 0 {
		opts = append(opts, kfake.Ports(o.Ports...))
	}
	if len(o.Users) > 0 {
		opts = append(opts, kfake.EnableSASL())
	}
	for _, u := range o.Users {
		opts = append(opts, kfake.Superuser(u.Mechanism, u.Name, u.Password))
	}
	var err error
	if f.Cluster, err = kfake.NewCluster(opts...); err != nil {
		return nil, fmt.Errorf("start a fake Kafka: %w", err)
	}
	return f, nil
}

// Brokers returns the addresses of the brokers.
func (f *Fake) Brokers() []string { return f.Cluster.ListenAddrs() }

// Close stops the Fake for good. A second call does nothing.
func (f *Fake) Close() {
	f.once.Do(func() {
		close(f.done)
		f.open.Cut()
		f.Cluster.Close()
	})
}

// Stop closes every connection, and refuses new ones until Resume. The records stay.
func (f *Fake) Stop() {
	f.mu.Lock()
	f.stopped = true
	f.mu.Unlock()
	f.open.Cut()
}

// Resume takes connections again after Stop.
func (f *Fake) Resume() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = false
}

// Slow delays every answer from now on. 0 ends that. Delays under way do not change.
func (f *Fake) Slow(by time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.delay = by
}

// Silence makes one broker, by its number from 0 on, answer nothing until resume is called. It keeps its partitions.
func (f *Fake) Silence(broker int32) (resume func()) {
	var over atomic.Bool
	f.Cluster.Control(func(kmsg.Request) (kmsg.Response, error, bool) { //nolint:revive // the order is kfake's
		f.Cluster.KeepControl()
		return nil, nil, !over.Load() && f.Cluster.CurrentNode() == broker
	})
	return func() { over.Store(true) }
}

// Depose makes another broker the leader of a topic of one partition, and cuts the former leader off from it. Brokers have
// numbers from 0 on. The former one goes on to lead in its own view, and tells that to clients that ask it: its end stays
// what it is now, it has nothing new to read, and it gets no acknowledgement of other brokers for an append.
func (f *Fake) Depose(topic string, former, next int32) error {
	end := f.Cluster.PartitionInfo(topic, 0).HighWatermark
	f.Cluster.Control(func(req kmsg.Request) (kmsg.Response, error, bool) { //nolint:revive // the order is kfake's
		f.Cluster.KeepControl()
		if f.Cluster.CurrentNode() != former {
			return nil, nil, false
		}
		switch req := req.(type) {
		case *kmsg.MetadataRequest:
			if len(req.Topics) == 1 && req.Topics[0].Topic != nil && *req.Topics[0].Topic == topic {
				return f.staleMetadata(req, former), nil, true
			}
		case *kmsg.ListOffsetsRequest:
			if len(req.Topics) == 1 && req.Topics[0].Topic == topic {
				return staleEnd(req, end), nil, true
			}
		case *kmsg.FetchRequest:
			return nil, nil, len(req.Topics) == 1 && req.Topics[0].Topic == topic // it waits for records
		case *kmsg.ProduceRequest:
			return nil, nil, len(req.Topics) == 1 && req.Topics[0].Topic == topic // it waits for the other brokers
		}
		return nil, nil, false
	})
	return f.Cluster.MoveTopicPartition(topic, 0, next)
}

// staleMetadata says that leader leads the one topic of a request.
func (f *Fake) staleMetadata(req *kmsg.MetadataRequest, leader int32) kmsg.Response {
	res := req.ResponseKind().(*kmsg.MetadataResponse)
	for i, address := range f.Brokers() {
		host, port, _ := net.SplitHostPort(address)
		b := kmsg.NewMetadataResponseBroker()
		b.NodeID, b.Host = int32(i), host
		number, _ := strconv.Atoi(port)
		b.Port = int32(number)
		res.Brokers = append(res.Brokers, b)
	}
	p := kmsg.NewMetadataResponseTopicPartition()
	p.Leader, p.Replicas, p.ISR = leader, []int32{leader}, []int32{leader}
	t := kmsg.NewMetadataResponseTopic()
	t.Topic, t.Partitions = req.Topics[0].Topic, append(t.Partitions, p)
	res.Topics = append(res.Topics, t)
	return res
}

// staleEnd says that the one topic of a request begins at 0 and goes up to end.
func staleEnd(req *kmsg.ListOffsetsRequest, end int64) kmsg.Response {
	res := req.ResponseKind().(*kmsg.ListOffsetsResponse)
	t := kmsg.NewListOffsetsResponseTopic()
	t.Topic = req.Topics[0].Topic
	for _, asked := range req.Topics[0].Partitions {
		p := kmsg.NewListOffsetsResponseTopicPartition()
		p.Partition, p.Offset = asked.Partition, 0
		if asked.Timestamp == -1 { // the end
			p.Offset = end
		}
		t.Partitions = append(t.Partitions, p)
	}
	res.Topics = append(res.Topics, t)
	return res
}

// AppendTwice makes the next n appends to a topic ("": any) return an error although the
// records were appended. A caller that tries again appends twice. hits returns how many
// appends there were so far.
func (f *Fake) AppendTwice(topic string, n int) (hits func() int) {
	return f.Cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: kerr.RequestTimedOut, Count: n}).Hits
}

// RefuseAppends makes appends to partitions (none: all) of a topic ("": any) fail until
// resume is called, as if too few copies were in sync.
func (f *Fake) RefuseAppends(topic string, partitions ...int32) (resume func()) {
	return f.Cluster.Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Partitions: partitions, Err: kerr.NotEnoughReplicas, Count: -1,
	}).Remove
}

// RefuseTopic makes a topic impossible to make until resume is called, as if too few
// brokers were there.
func (f *Fake) RefuseTopic(topic string) (resume func()) {
	return f.Cluster.Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.CreateTopics}, Topic: topic, Err: kerr.InvalidReplicationFactor, Count: -1,
	}).Remove
}

func (f *Fake) listen(config *tls.Config) func(network, address string) (net.Listener, error) {
	return func(network, address string) (net.Listener, error) {
		l, err := net.Listen(network, address) //nolint:noctx // kfake's hook has no context
		if err != nil {
			return nil, err
		}
		var wrapped net.Listener = &listener{Listener: l, fake: f}
		if config != nil {
			wrapped = tls.NewListener(wrapped, config)
		}
		return wrapped, nil
	}
}

type listener struct {
	net.Listener
	fake *Fake
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		l.fake.mu.Lock()
		stopped := l.fake.stopped
		if !stopped {
			nc, _ = l.fake.open.Add(nc) // only a Set that was closed gives an error
		}
		l.fake.mu.Unlock()
		if !stopped {
			return &conn{Conn: nc, fake: l.fake, closed: make(chan struct{})}, nil
		}
		_ = nc.Close()
	}
}

// conn is a connection that looks open to kfake for a while after its end. kfake does not
// start the session timeout of a group member whose connection is gone when it is
// admitted. The member would have its partitions for ever, while Apache Kafka gives them
// to others soon.
type conn struct {
	net.Conn
	fake   *Fake
	once   sync.Once
	closed chan struct{} // by kfake
}

// openAfterEnd is longer than a member waits until it is admitted to its group.
const openAfterEnd = 15 * time.Second

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && n == 0 {
		timer := time.NewTimer(openAfterEnd)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.closed:
		case <-c.fake.done:
		}
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	c.fake.mu.Lock()
	delay := c.fake.delay
	c.fake.mu.Unlock()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-c.fake.done:
			return 0, io.ErrClosedPipe
		}
	}
	if n, err := c.Conn.Write(p); err == nil {
		return n, nil
	}
	return len(p), nil // the other side is gone
}

func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
