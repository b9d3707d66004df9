package kafkatest

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"imgo/internal/freeport"
	"imgo/internal/process"
	"imgo/internal/wait"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"golang.org/x/sync/errgroup"
)

// startLimit bounds the start of the brokers, until they serve.
const startLimit = 90 * time.Second

// RealOptions are the options of a Real. The zero value means one broker on a free port,
// without a login.
type RealOptions struct {
	// Brokers is the number of brokers, 1 or 3. 0 means 1.
	Brokers int
	// Addresses has an address for each broker, host:port. A broker also uses the two
	// ports after it. Nil means free ones of 127.0.0.1.
	Addresses []string
	// Dir is the folder of data and logs, which stay there. Empty means a temporary folder
	// that Close removes.
	Dir string
	// Users are the users that may log in, by PLAIN and SCRAM-SHA-512. Nil means that there is
	// no login. Their Mechanism is not used.
	Users []User
	// Memory is the heap of each broker, as for java's -Xmx. The default is "384M".
	Memory string
	// Short is for tests: the brokers start with less CPU time, and have less
	// throughput.
	Short bool
	// Logf logs what happens. Nil means that nothing is logged.
	Logf func(format string, args ...any)
}

// Real is Apache Kafka in processes of its own (KRaft, each process is broker and
// controller). Its methods are safe for concurrent use, and run one after the other.
type Real struct {
	o       RealOptions
	dir     string
	brokers []*broker

	mu sync.Mutex
}

// NewReal starts a Real that is closed when the test ends, and logs to the test. Without Java or Maven the test
// is skipped, or fails if CI=true.
func NewReal(t testing.TB, o RealOptions) *Real {
	t.Helper()
	o.Short, o.Logf = true, t.Logf
	r, err := StartReal(context.Background(), o)
	switch {
	case errors.Is(err, ErrMissing) && os.Getenv("CI") != "true":
		t.Skipf("skipped: %v", err)
	case err != nil:
		t.Fatalf("start a real Kafka: %v", err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("end the real Kafka: %v", err)
		}
	})
	return r
}

// StartReal starts a Real and waits until it serves. The caller must close it. The error
// is ErrMissing without Java or Maven.
func StartReal(ctx context.Context, o RealOptions) (r *Real, err error) {
	o.Brokers = max(1, o.Brokers)
	if len(o.Addresses) > 0 && len(o.Addresses) != o.Brokers {
		return nil, fmt.Errorf("start Kafka: %d addresses for %d brokers", len(o.Addresses), o.Brokers)
	}
	o.Memory = cmp.Or(o.Memory, "384M")
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	r = &Real{o: o, dir: o.Dir}
	java, err := exec.LookPath("java")
	if err != nil {
		return nil, fmt.Errorf("%w: Java is not installed; scripts/setup kafka does it on Debian", ErrMissing)
	}
	jars, err := Jars(ctx, o.Logf)
	if err != nil {
		return nil, err
	}
	if r.dir == "" {
		if r.dir, err = os.MkdirTemp("", "imgo-kafka-"); err != nil {
			return nil, fmt.Errorf("start Kafka: %w", err)
		}
	} else if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return nil, fmt.Errorf("start Kafka: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
			r = nil
		}
	}()
	if err := r.prepare(ctx, java, jars); err != nil {
		return r, err
	}
	return r, r.Start(ctx)
}

// prepare sets the addresses of each broker, and writes its settings and disk.
func (r *Real) prepare(ctx context.Context, java, jars string) error {
	for i := range r.o.Brokers {
		b := &broker{number: i + 1, dir: filepath.Join(r.dir, fmt.Sprintf("broker-%d", i+1))}
		b.java = []string{"-Xmx" + r.o.Memory, "-XX:+UseSerialGC"}
		if r.o.Short {
			b.java = append(b.java, "-XX:TieredStopAtLevel=1")
		}
		b.java = append(b.java, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true",
			"-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS", "-cp", filepath.Join(jars, "*"))
		b.Process = process.Process{
			Binary: java, Name: fmt.Sprintf("broker %d", b.number), Log: b.dir + ".log",
			Args: append(slices.Clone(b.java), "kafka.Kafka", b.properties()),
		}
		at, err := brokerAddresses(r.o.Addresses, i)
		if err != nil {
			return fmt.Errorf("addresses for broker %d: %w", b.number, err)
		}
		b.address, b.controller, b.internal = at[0], at[1], at[2]
		r.brokers = append(r.brokers, b)
	}
	id, err := r.clusterID()
	if err != nil {
		return err
	}
	var g errgroup.Group
	for _, b := range r.brokers {
		if err := b.configure(r.o, r.brokers); err != nil {
			return err
		}
		g.Go(func() error { return b.format(ctx, id, r.o.Users) })
	}
	return g.Wait()
}

// brokerAddresses returns the three addresses of a broker, with ports in a row: for clients, for the
// controller and for the other brokers. Without configured ones they are any that are free.
func brokerAddresses(configured []string, i int) ([]string, error) {
	if len(configured) == 0 {
		return freeport.Find("127.0.0.1", 3)
	}
	host, text, err := net.SplitHostPort(configured[i])
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return nil, err
	}
	at := func(offset int) string { return net.JoinHostPort(host, strconv.Itoa(port+offset)) }
	return []string{at(0), at(1), at(2)}, nil
}

// clusterID returns the id that all disks of this Kafka have. It is stored in the folder.
func (r *Real) clusterID() (string, error) {
	path := filepath.Join(r.dir, "cluster.id")
	if id, err := os.ReadFile(path); err == nil {
		return string(id), nil
	}
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails
	raw[0] &= 0x7f           // no leading dash, which would be an option
	id := base64.RawURLEncoding.EncodeToString(raw[:])
	if err := os.WriteFile(path, []byte(id), 0o644); err != nil {
		return "", fmt.Errorf("name the cluster: %w", err)
	}
	return id, nil
}

// Count returns the number of brokers, running or not.
func (r *Real) Count() int { return len(r.brokers) }

// Brokers returns the addresses of the brokers.
func (r *Real) Brokers() []string {
	var out []string
	for _, b := range r.brokers {
		out = append(out, b.address)
	}
	return out
}

// BrokersWithoutLogin returns the addresses at which the brokers need no login.
func (r *Real) BrokersWithoutLogin() []string {
	var out []string
	for _, b := range r.brokers {
		out = append(out, b.internal)
	}
	return out
}

// Start starts the brokers that do not run. It waits until all brokers serve and all
// copies are in sync.
func (r *Real) Start(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for _, b := range r.brokers {
		if b.Running() {
			continue
		}
		r.o.Logf("starting %s at %s; its log is %s", b.Name, b.address, b.Log)
		if err := b.Start(); err != nil {
			return err
		}
	}
	backoff := wait.Backoff{Min: 50 * time.Millisecond, Max: 150 * time.Millisecond}
	var last error
	for {
		err := r.check(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		for _, b := range r.brokers {
			if err := b.Ended(); err != nil {
				return err
			}
		}
		if err := backoff.Sleep(ctx); err != nil {
			return fmt.Errorf("wait for Kafka: %w (%w)", last, err)
		}
	}
}

// Stop stops all brokers in good order. Their data stays for Start.
func (r *Real) Stop() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var g errgroup.Group
	for _, b := range r.brokers {
		g.Go(b.stop)
	}
	return g.Wait()
}

// Kill ends broker i, counted from 0, with SIGKILL.
func (r *Real) Kill(i int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.brokers[i].kill()
}

// Close ends all brokers with SIGKILL, and removes a temporary folder.
func (r *Real) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var err error
	for _, b := range r.brokers {
		err = errors.Join(err, b.kill())
	}
	if r.o.Dir == "" {
		err = errors.Join(err, os.RemoveAll(r.dir))
	}
	return err
}

// probeTopic is the topic that is appended to, to see whether Kafka serves.
const probeTopic = "kafkatest-probe"

// check returns an error that says what is missing until Kafka serves. A broker that
// listens may not serve yet.
func (r *Real) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	// Start tries again, not the client.
	opts := []kgo.Opt{kgo.SeedBrokers(r.Brokers()...), kgo.DefaultProduceTopic(probeTopic), kgo.DisableIdempotentWrite(),
		kgo.RequestRetries(0), kgo.RecordRetries(0), kgo.MetadataMinAge(50 * time.Millisecond)}
	if len(r.o.Users) > 0 {
		opts = append(opts, kgo.SASL(plain.Auth{User: r.o.Users[0].Name, Pass: r.o.Users[0].Password}.AsMechanism()))
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return fmt.Errorf("make a client of Kafka: %w", err)
	}
	defer client.Close()
	known := &kmsg.MetadataResponse{}
	for i, b := range client.SeedBrokers() {
		if known, err = kmsg.NewPtrMetadataRequest().RequestWith(ctx, b); err != nil {
			return fmt.Errorf("ask broker %d: %w", i+1, err)
		}
		if len(known.Brokers) < len(r.brokers) {
			return fmt.Errorf("broker %d knows of %d brokers of %d", i+1, len(known.Brokers), len(r.brokers))
		}
	}
	probed := false
	for _, topic := range known.Topics {
		probed = probed || *topic.Topic == probeTopic
		for _, p := range topic.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil || len(p.ISR) < len(p.Replicas) {
				return errors.Join(fmt.Errorf("%d of %d copies of %s are in sync", len(p.ISR), len(p.Replicas), *topic.Topic), err)
			}
		}
	}
	if !probed {
		create, topic := kmsg.NewPtrCreateTopicsRequest(), kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = probeTopic, 1, int16(len(r.brokers))
		create.Topics = append(create.Topics, topic)
		_, err := create.RequestWith(ctx, client)
		return errors.Join(errors.New("the probe topic was made and is not there yet"), err)
	}
	if err := client.ProduceSync(ctx, kgo.StringRecord("x")).FirstErr(); err != nil {
		return fmt.Errorf("append to %s: %w", probeTopic, err)
	}
	return nil
}
