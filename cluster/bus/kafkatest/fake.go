// Package kafkatest gives tests a Kafka: Fake, in this process, which can be
// stopped, slowed down and made to fail, and Real, Apache Kafka itself. It is
// for tests, and for trying imgo out without a Kafka; it stores nothing that
// lasts.
package kafkatest

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Options are a Fake's; the zero value is one broker without TLS or login.
type Options struct {
	// Brokers is how many there are; 0: one.
	Brokers int
	// Ports are the brokers' ports of 127.0.0.1, one each; nil: free ones.
	Ports []int
	// TLS is what it listens with; nil: plainly.
	TLS *tls.Config
	// Users may log in, and nobody else; nil: everybody, without a login.
	Users []User
	// SessionTimeout is the least that groups may have; 0: 100 ms.
	SessionTimeout time.Duration
}

// User is somebody who may log in.
type User struct {
	Mechanism      string // PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512
	Name, Password string
}

// Fake is a Kafka in this process: one broker's worth of truth, nothing is
// replicated. Its methods are safe for concurrent use.
type Fake struct {
	// Cluster is what is behind it, for what has no method here.
	Cluster *kfake.Cluster

	mu      sync.Mutex
	conns   map[*conn]struct{}
	stopped bool
	delay   time.Duration
	done    chan struct{} // closed by Close
	once    sync.Once
}

// New starts a Fake that ends with the test.
func New(t testing.TB, o Options) *Fake {
	t.Helper()
	f, err := Start(o)
	if err != nil {
		t.Fatalf("start a fake Kafka: %v", err)
	}
	t.Cleanup(f.Close)
	return f
}

// Start starts a Fake; its caller closes it.
func Start(o Options) (*Fake, error) {
	f := &Fake{conns: map[*conn]struct{}{}, done: make(chan struct{})}
	opts := []kfake.Opt{
		kfake.NumBrokers(max(1, o.Brokers)), kfake.ListenFn(f.listen(o.TLS)),
		kfake.GroupMinSessionTimeout(max(o.SessionTimeout, 100*time.Millisecond)),
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

// Brokers are its addresses.
func (f *Fake) Brokers() []string { return f.Cluster.ListenAddrs() }

// Close ends it. A second call does nothing.
func (f *Fake) Close() {
	f.once.Do(func() {
		close(f.done)
		f.cut()
		f.Cluster.Close()
	})
}

// Stop cuts every connection and takes no more, until Resume. What was
// appended stays.
func (f *Fake) Stop() {
	f.mu.Lock()
	f.stopped = true
	f.mu.Unlock()
	f.cut()
}

// Resume ends a Stop.
func (f *Fake) Resume() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = false
}

// Slow delays every answer; 0: no more. Answers under way keep their delay.
func (f *Fake) Slow(by time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.delay = by
}

// AppendTwice has the next n appends to a topic ("": any) answered with an
// error although they were made: who tries again appends twice. It returns how
// many were so far.
func (f *Fake) AppendTwice(topic string, n int) (hits func() int) {
	return f.Cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: kerr.RequestTimedOut, Count: n}).Hits
}

// RefuseAppends has appends to a topic ("": any) fail, as when too few copies
// are in sync, until resume is called.
func (f *Fake) RefuseAppends(topic string) (resume func()) {
	return f.Cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: kerr.NotEnoughReplicas, Count: -1}).Remove
}

// cut ends every connection.
func (f *Fake) cut() {
	f.mu.Lock()
	conns := f.conns
	f.conns = map[*conn]struct{}{}
	f.mu.Unlock()
	for c := range conns {
		_ = c.Conn.Close()
	}
}

func (f *Fake) listen(config *tls.Config) func(network, address string) (net.Listener, error) {
	return func(network, address string) (net.Listener, error) {
		l, err := net.Listen(network, address) //nolint:noctx // what kfake asks for has no context
		if err != nil {
			return nil, err
		}
		var wrapped net.Listener = &listener{Listener: l, of: f}
		if config != nil {
			wrapped = tls.NewListener(wrapped, config)
		}
		return wrapped, nil
	}
}

type listener struct {
	net.Listener
	of *Fake
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &conn{Conn: nc, of: l.of, closed: make(chan struct{})}
		l.of.mu.Lock()
		stopped := l.of.stopped
		if !stopped {
			l.of.conns[c] = struct{}{}
		}
		l.of.mu.Unlock()
		if !stopped {
			return c, nil
		}
		_ = nc.Close()
	}
}

// conn is a connection as the fake's inside sees it: one that has ended looks
// open for another while. Of a member whose connection is gone by the time that
// it is let into its group kfake does not count the session's time: it would
// have its partitions for ever, where Kafka gives them to others soon.
type conn struct {
	net.Conn
	of     *Fake
	once   sync.Once
	closed chan struct{} // by kfake
}

// afterlife is longer than a member waits to be let in.
const afterlife = 15 * time.Second

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && n == 0 {
		timer := time.NewTimer(afterlife)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.closed:
		case <-c.of.done:
		}
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	c.of.mu.Lock()
	delay := c.of.delay
	c.of.mu.Unlock()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-c.of.done:
			return 0, io.ErrClosedPipe
		}
	}
	if n, err := c.Conn.Write(p); err == nil {
		return n, nil
	}
	return len(p), nil // nobody reads it
}

func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	c.of.mu.Lock()
	delete(c.of.conns, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}
