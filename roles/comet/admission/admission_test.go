package admission_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"imgo/internal/wait/waittest"
	"imgo/protocol"
	"imgo/roles/comet/admission"
	"imgo/transport"
	"imgo/transport/pipe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// controller is a Controller with a callback that a test may replace. It admits
// everybody otherwise.
type controller struct {
	*admission.Controller
	t       *testing.T
	workers *admission.Workers
	admit   func(ctx context.Context, p *admission.PendingConnect) error
	metrics admission.Metrics
	reading atomic.Int32 // sessions that have begun to read

	mu       sync.Mutex
	admitted []string // bodies of the auth packets
	refused  []error
}

// start makes a controller that ends with the test.
func start(t *testing.T, change func(c *controller, cfg *admission.Config)) *controller {
	c := &controller{t: t, workers: admission.NewWorkers()}
	c.metrics = admission.Metrics{
		Connections:  prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "connections"}, []string{"transport"}),
		Waiting:      prometheus.NewGauge(prometheus.GaugeOpts{Name: "waiting"}),
		AuthPackets:  prometheus.NewCounter(prometheus.CounterOpts{Name: "auth"}),
		EarlyPackets: prometheus.NewCounter(prometheus.CounterOpts{Name: "early"}),
	}
	ctx, cancel := context.WithCancel(context.Background())
	cfg := admission.Config{
		Context: ctx, CallTimeout: 5 * time.Second, HandshakeTimeout: 5 * time.Second, MaxWait: 30 * time.Second,
		Metrics: c.metrics, Log: zerolog.Nop(),
	}
	cfg.Admit = c.callback
	if change != nil {
		change(c, &cfg)
	}
	c.Controller = admission.New(cfg, admission.NewAcceptLimiter(0, 0), c.workers)
	t.Cleanup(func() {
		c.Close()
		c.Wait()
		cancel()
		c.workers.Stop()
	})
	return c
}

// callback is Config.Admit.
func (c *controller) callback(ctx context.Context, p *admission.PendingConnect) error {
	if p.Err == nil && c.admit != nil {
		if err := c.admit(ctx, p); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.Err != nil {
		c.refused = append(c.refused, p.Err)
		return nil
	}
	c.admitted = append(c.admitted, string(p.Packet.Body))
	p.Answered = !strings.HasPrefix(string(p.Packet.Body), "bad")
	p.Session = &session{c, p.Conn}
	return nil
}

// session reads until its client leaves.
type session struct {
	c    *controller
	conn transport.Conn
}

func (s *session) Run() {
	s.c.reading.Add(1)
	for {
		if _, err := admission.ReadStep(s.conn); err != nil {
			s.c.Release(s.conn)
			return
		}
	}
}

// dial connects a client, which leaves when the test ends.
func (c *controller) dial() *pipe.Client { return c.dialWith(pipe.Options{}) }

func (c *controller) dialWith(o pipe.Options) *pipe.Client {
	client, conn := pipe.New(o)
	c.Serve(conn)
	c.t.Cleanup(func() { _ = client.Close() })
	return client
}

// connect has n clients send their auth packets, one after the other.
func (c *controller) connect(n int) {
	c.t.Helper()
	for i := range n {
		c.send(c.dial(), 1, protocol.OpAuth, fmt.Sprintf("u%04d", i))
		synctest.Wait() // the packet has come before the next one is sent
	}
}

func (c *controller) send(client *pipe.Client, version int16, op int32, body string) {
	c.t.Helper()
	if err := client.Send(transport.Packet{Version: version, Op: op, Body: []byte(body)}); err != nil {
		c.t.Fatal(err)
	}
}

// value returns the sum of a collector's gauges.
func (c *controller) value(of prometheus.Collector) float64 {
	c.t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(of)
	families, err := reg.Gather()
	if err != nil {
		c.t.Fatal(err)
	}
	sum := 0.0
	for _, family := range families {
		for _, m := range family.GetMetric() {
			sum += m.GetGauge().GetValue()
		}
	}
	return sum
}

// counts returns how many clients were admitted, and how many were refused for
// err or an error that wraps it.
func (c *controller) counts(err error) (admitted, refused int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, got := range c.refused {
		if errors.Is(got, err) {
			refused++
		}
	}
	return len(c.admitted), refused
}

// want checks these counts, and that no client was refused for another reason.
func (c *controller) want(admitted int, err error, refused int) {
	c.t.Helper()
	gotAdmitted, gotRefused := c.counts(err)
	c.mu.Lock()
	all := slices.Clone(c.refused)
	c.mu.Unlock()
	if gotAdmitted != admitted || gotRefused != refused || len(all) != refused {
		c.t.Fatalf("%d admitted and %d refused for %v, want %d and %d; refused: %v", gotAdmitted, gotRefused, err, admitted, refused, all)
	}
}

// order returns the bodies of the auth packets in the order of their admission.
func (c *controller) order() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.admitted)
}

// TestRateAndOrder checks that clients are admitted at the connect rate, in the
// order in which they came.
func TestRateAndOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, func(_ *controller, cfg *admission.Config) { cfg.Rate, cfg.Burst = 10, 5 })
		c.connect(50)
		c.want(5, nil, 0)
		if n := c.value(c.metrics.Waiting); n != 45 {
			t.Errorf("%v clients wait, want 45", n)
		}
		time.Sleep(2050 * time.Millisecond)
		c.want(25, nil, 0)
		time.Sleep(3 * time.Second)
		c.want(50, nil, 0)
		if order := c.order(); !slices.IsSorted(order) {
			t.Errorf("admitted out of order: %v", order)
		}
		if n := c.value(c.metrics.Waiting); n != 0 {
			t.Errorf("%v clients wait, want none", n)
		}
	})
}

// TestRateRefuses checks that a client is refused at once if the connect rate
// alone would make it wait for longer than MaxWait.
func TestRateRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, func(_ *controller, cfg *admission.Config) { cfg.Rate, cfg.Burst, cfg.MaxWait = 2, 3, 5*time.Second })
		c.connect(20)
		c.want(3, admission.ErrRate, 7)
		time.Sleep(5050 * time.Millisecond)
		c.want(13, admission.ErrRate, 7)
	})
}

// TestPacketBytes checks that the auth packets of the clients that wait are bounded in bytes.
func TestPacketBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, func(_ *controller, cfg *admission.Config) { cfg.Rate, cfg.Burst = 10, 1 })
		c.connect(1)
		const size = 1 << 20
		body := string(make([]byte, size))
		sendLarge := func() {
			c.send(c.dialWith(pipe.Options{MaxBody: size, Buffer: 2 * size}), 1, protocol.OpAuth, body)
			synctest.Wait()
		}
		for range 65 {
			sendLarge()
		}
		c.want(1, admission.ErrPacketBytes, 1)
		time.Sleep(105 * time.Millisecond) // one of them has left the queue
		sendLarge()
		c.want(2, admission.ErrPacketBytes, 1)
	})
}

// TestRetry checks that a client is tried again after an error, about once a second, and that it finds the session
// of its first try.
func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failing bool
		tries := map[string]int{}
		c := start(t, func(c *controller, cfg *admission.Config) {
			c.admit = func(_ context.Context, p *admission.PendingConnect) error {
				c.mu.Lock()
				defer c.mu.Unlock()
				first := tries[string(p.Packet.Body)] == 0
				if first != (p.Session == nil) {
					t.Errorf("try %d has the session %v", tries[string(p.Packet.Body)]+1, p.Session)
				}
				tries[string(p.Packet.Body)]++
				p.Session = &session{c, p.Conn}
				if failing {
					return errors.New("no answer")
				}
				return nil
			}
		})
		failing = true
		c.send(c.dial(), 1, protocol.OpAuth, "first")
		time.Sleep(10 * time.Second)
		c.connect(5)
		time.Sleep(10 * time.Second)
		c.want(0, nil, 0)
		if n := tries["first"]; n < 20 || n > 60 {
			t.Errorf("tries in 20 s: %v", tries)
		}
		c.mu.Lock()
		failing = false
		c.mu.Unlock()
		time.Sleep(10 * time.Second)
		c.want(6, nil, 0)
	})
}

// TestNoAnswer checks that a client that logic is not asked about does not count as an answer of logic.
func TestNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		tries := map[time.Time]int{}
		c := start(t, func(c *controller, cfg *admission.Config) {
			cfg.MaxWait, cfg.Log = 10*time.Second, zerolog.New(&log)
			c.admit = func(_ context.Context, p *admission.PendingConnect) error {
				if strings.HasPrefix(string(p.Packet.Body), "bad") {
					return nil
				}
				c.mu.Lock()
				defer c.mu.Unlock()
				tries[time.Now()]++
				return errors.New("no answer")
			}
		})
		c.send(c.dial(), 1, protocol.OpAuth, "first")
		time.Sleep(5 * time.Second) // by now the pause between two tries is long
		c.mu.Lock()
		clear(tries)
		c.mu.Unlock()
		for i := range 20 {
			c.send(c.dial(), 1, protocol.OpAuth, fmt.Sprintf("bad%d", i))
			c.send(c.dial(), 1, protocol.OpAuth, fmt.Sprintf("u%d", i))
		}
		time.Sleep(9 * time.Second) // the first one is refused meanwhile
		c.mu.Lock()
		if n := len(tries); n < 5 || n > 20 {
			t.Errorf("logic was asked at %d moments in 9 s, want about once a second", n)
		}
		for at, n := range tries {
			if n > 16 {
				t.Errorf("logic was asked about %d clients at %v", n, at)
			}
		}
		c.mu.Unlock()
		synctest.Wait()
		if warned := strings.Count(log.String(), "\n"); warned != 1 || strings.Contains(log.String(), "again\"") {
			t.Errorf("the log has %d lines, want one for the outage:\n%s", warned, &log)
		}
	})
}

// TestOnePartition checks that clients that logic cannot decide about, because their partition fails, do not delay
// the others. Before that logic may have been away altogether.
func TestOnePartition(t *testing.T) {
	for _, test := range []struct {
		name      string
		good, bad int           // clients a second
		takes     time.Duration // until a try of a bad client fails, unless its time ends before
		away      time.Duration // logic at first
		within    time.Duration // for the good clients
	}{
		{"some hang", 75, 5, time.Hour, 0, 100 * time.Millisecond},
		{"some fail at once", 75, 5, 0, 0, 100 * time.Millisecond},
		{"many hang", 185, 15, time.Hour, 0, 100 * time.Millisecond},
		{"as many hang as do not", 1, 1, time.Hour, 0, 1100 * time.Millisecond},
		{"some hang after logic was away", 75, 5, time.Hour, 20 * time.Second, 100 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				var late, admitted int
				var longest time.Duration // until a bad client is refused
				c := start(t, func(c *controller, cfg *admission.Config) {
					cfg.Admit = func(ctx context.Context, p *admission.PendingConnect) error {
						if errors.Is(p.Err, admission.ErrWait) {
							c.mu.Lock()
							longest = max(longest, time.Since(p.Started))
							c.mu.Unlock()
						}
						return c.callback(ctx, p)
					}
					c.admit = func(ctx context.Context, p *admission.PendingConnect) error {
						if time.Since(began) < test.away || string(p.Packet.Body) == "u of the partition that fails" {
							select {
							case <-ctx.Done():
							case <-time.After(test.takes):
							}
							return errors.New("no answer")
						}
						time.Sleep(2 * time.Millisecond)
						c.mu.Lock()
						defer c.mu.Unlock()
						admitted++
						if p.Started.Sub(began) > test.away+10*time.Second && time.Since(p.Started) > test.within {
							late++
						}
						return nil
					}
				})
				const seconds = 45
				for i := range seconds * (test.good + test.bad) {
					body := "u"
					if i%(test.good+test.bad) < test.bad {
						body = "u of the partition that fails"
					}
					c.send(c.dial(), 1, protocol.OpAuth, body)
					time.Sleep(time.Second / time.Duration(test.good+test.bad))
				}
				synctest.Wait()
				c.mu.Lock()
				defer c.mu.Unlock()
				if late > 0 || admitted != seconds*test.good {
					t.Errorf("%d of %d clients were admitted, %d of them after more than %v", admitted, seconds*test.good, late, test.within)
				}
				if longest > 36*time.Second { // MaxWait, and the last try
					t.Errorf("a client waited for %v", longest)
				}
			})
		})
	}
}

// TestPartitionRecovers checks that clients of a partition that failed for a moment are admitted soon, while older ones of
// another partition that goes on to fail wait for their next try.
func TestPartitionRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var admitted int
		c := start(t, func(c *controller, _ *admission.Config) {
			c.admit = func(_ context.Context, p *admission.PendingConnect) error {
				switch body := string(p.Packet.Body); {
				case body == "fails", body == "recovers" && time.Since(began) < 2*time.Second:
					return errors.New("no answer")
				case body == "recovers":
					c.mu.Lock()
					defer c.mu.Unlock()
					admitted++
					if waited := time.Since(p.Started); waited > 3*time.Second {
						t.Errorf("a client was admitted after %v", waited)
					}
				}
				return nil
			}
		})
		for i := range 45 * 30 {
			body := "u"
			if i%3 == 2 {
				body = "fails"
			}
			c.send(c.dial(), 1, protocol.OpAuth, body)
			if 45 <= i && i < 55 {
				c.send(c.dial(), 1, protocol.OpAuth, "recovers")
			}
			time.Sleep(time.Second / 30)
		}
		synctest.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		if admitted != 10 {
			t.Errorf("%d of 10 clients were admitted", admitted)
		}
	})
}

// TestMaxWait checks that a client is refused after MaxWait whether Admit fails or
// takes its whole time.
func TestMaxWait(t *testing.T) {
	for name, admit := range map[string]func(context.Context, *admission.PendingConnect) error{
		"fails":      func(context.Context, *admission.PendingConnect) error { return io.ErrNoProgress },
		"takes long": func(ctx context.Context, _ *admission.PendingConnect) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := start(t, func(c *controller, cfg *admission.Config) { c.admit, cfg.MaxWait = admit, 12*time.Second })
				c.connect(300)
				time.Sleep(11900 * time.Millisecond)
				c.want(0, nil, 0)
				time.Sleep(6 * time.Second) // a call that has begun is waited for
				c.want(0, admission.ErrWait, 300)
			})
		})
	}
}

// TestConcurrency checks the adaptive limit: 64 calls at first, up to 256 while
// answers are quick, 16 while they are slow.
func TestConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, most int
		took := 100 * time.Millisecond
		c := start(t, func(c *controller, cfg *admission.Config) {
			cfg.MaxWait = time.Hour
			c.admit = func(context.Context, *admission.PendingConnect) error {
				c.mu.Lock()
				running++
				most = max(most, running)
				d := took
				c.mu.Unlock()
				time.Sleep(d)
				c.mu.Lock()
				running--
				c.mu.Unlock()
				return nil
			}
		})
		highest := func(d time.Duration) int {
			c.mu.Lock()
			most = 0
			c.mu.Unlock()
			time.Sleep(d)
			c.mu.Lock()
			defer c.mu.Unlock()
			return most
		}
		go c.connectAtOnce(5000)
		if n := highest(50 * time.Millisecond); n != 64 {
			t.Errorf("at first %d calls ran at a time, want 64", n)
		}
		if n := highest(500 * time.Millisecond); n != 256 {
			t.Errorf("with quick answers %d calls ran at a time, want 256", n)
		}
		c.mu.Lock()
		took = 2 * time.Second // more than a fifth of CallTimeout
		c.mu.Unlock()
		highest(time.Minute)
		if n := highest(10 * time.Second); n != 16 {
			t.Errorf("with slow answers %d calls ran at a time, want 16", n)
		}
	})
}

// connectAtOnce has n clients connect at once.
func (c *controller) connectAtOnce(n int) {
	for range n {
		c.send(c.dial(), 1, protocol.OpAuth, "u")
	}
}

// TestClose checks that Close refuses clients that wait, clients that have not
// sent an auth packet, and clients that come later.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, func(_ *controller, cfg *admission.Config) { cfg.Rate, cfg.Burst = 1, 1 })
		c.connect(10)
		c.dial()
		synctest.Wait()
		c.Close()
		synctest.Wait()
		c.want(1, admission.ErrStopping, 10)
		c.dial()
		c.want(1, admission.ErrStopping, 11)
		if n := c.value(c.metrics.Connections); n != 1 {
			t.Errorf("%v connections are open, want that of the admitted client", n)
		}
	})
}

// TestEarlyPackets checks what a client may send before its auth packet.
func TestEarlyPackets(t *testing.T) {
	const early = protocol.OpHeartbeat
	for _, test := range []struct {
		name    string
		version int16
		packets int
		body    string
		refused bool
	}{
		{"few packets of version 1", 1, 16, "", false},
		{"one packet more", 1, 17, "", true},
		{"many bytes", 1, 2, string(make([]byte, 9000)), true},
		{"one packet of version 2 with a goim header", protocol.Version2, 1, "", false},
		{"one packet with the longer header", protocol.Version2, 1, "long", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := start(t, nil)
				client := c.dial()
				for range test.packets {
					if test.body == "long" { // an id makes the header long
						_ = client.Send(transport.Packet{Version: test.version, Op: early, ID: 1})
						continue
					}
					c.send(client, test.version, early, test.body)
				}
				_ = client.Send(transport.Packet{Version: test.version, Op: protocol.OpAuth}) // fails if it is refused
				synctest.Wait()
				if !test.refused {
					c.want(1, nil, 0)
					return
				}
				var bad *transport.ProtocolError
				c.mu.Lock()
				defer c.mu.Unlock()
				if len(c.refused) != 1 || !errors.As(c.refused[0], &bad) || bad.Kind != "before_auth" {
					t.Errorf("refused: %v", c.refused)
				}
			})
		})
	}
}

// TestHandshakeTimeout checks that a client cannot buy time with early packets.
func TestHandshakeTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, nil)
		client := c.dial()
		for range 4 {
			time.Sleep(1200 * time.Millisecond)
			c.send(client, 1, protocol.OpHeartbeat, "")
		}
		c.want(0, nil, 0)
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		c.want(0, admission.ErrHandshakeTimeout, 1)
	})
}

// TestClientLeaves checks that a client that leaves before auth frees everything.
func TestClientLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, nil)
		client := c.dial()
		synctest.Wait()
		if n := c.value(c.metrics.Connections); n != 1 {
			t.Errorf("%v connections are open, want 1", n)
		}
		_ = client.Close()
		synctest.Wait()
		c.want(0, io.EOF, 1)
		if n := c.value(c.metrics.Connections); n != 0 {
			t.Errorf("%v connections are open, want none", n)
		}
	})
}

// TestCallContext checks that every call of Admit has most of CallTimeout.
func TestCallContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, func(c *controller, cfg *admission.Config) {
			cfg.Rate, cfg.Burst = 10, 1
			c.admit = func(ctx context.Context, _ *admission.PendingConnect) error {
				if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) < 5*time.Second*7/8 || time.Until(deadline) > 5*time.Second {
					t.Errorf("the deadline is in %v", time.Until(deadline))
				}
				return ctx.Err()
			}
		})
		c.connect(100)
		time.Sleep(20 * time.Second)
		c.want(100, nil, 0)
	})
}

// TestFinish checks that a client that is admitted, but not finished, has no slot and does not count as slow. Its session
// reads only when it is finished.
func TestFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, func(c *controller, _ *admission.Config) {
			c.admit = func(_ context.Context, p *admission.PendingConnect) error {
				p.Finish = sleeping(10 * time.Second)
				return nil
			}
		})
		const clients = 1000
		c.connectAtOnce(clients)
		time.Sleep(time.Second)
		if n := c.reading.Load(); n != 0 {
			t.Errorf("%d sessions read before they are finished", n)
		}
		c.want(clients, nil, 0)
		time.Sleep(10 * time.Second)
		if n := c.reading.Load(); n != clients {
			t.Errorf("%d sessions read, want %d", n, clients)
		}
	})
}

// sleeping is a task that takes a time.
type sleeping time.Duration

func (s sleeping) Run() { time.Sleep(time.Duration(s)) }

// TestSessionKeepsNothing checks that a connection with a goroutine, which ends with the session, holds nothing of its
// admission in memory while the session lives.
func TestSessionKeepsNothing(t *testing.T) {
	type kept struct {
		body   weak.Pointer[byte]
		header weak.Pointer[string]
		finish weak.Pointer[finishing]
	}
	made := make(chan kept, 1)
	c := start(t, func(c *controller, _ *admission.Config) {
		c.admit = func(_ context.Context, p *admission.PendingConnect) error {
			values, finish := []string{"value"}, &finishing{answer: make([]byte, 1<<10)}
			p.Header, p.Finish = map[string][]string{"Name": values}, finish
			made <- kept{weak.Make(&p.Packet.Body[0]), weak.Make(&values[0]), weak.Make(finish)}
			return nil
		}
	})
	c.send(c.dial(), 1, protocol.OpAuth, strings.Repeat("x", 1<<10))
	k := <-made
	waittest.Eventually(t, "the session reads", func() bool { return c.reading.Load() == 1 })
	for name, gone := range map[string]func() bool{
		"the auth packet":  func() bool { return k.body.Value() == nil },
		"the header":       func() bool { return k.header.Value() == nil },
		"what finished it": func() bool { return k.finish.Value() == nil },
	} {
		waittest.Eventually(t, name+" is freed", func() bool { runtime.GC(); return gone() })
	}
	if n := c.reading.Load(); n != 1 {
		t.Errorf("%d sessions read, want 1", n)
	}
}

// finishing is a task that holds the answer of logic.
type finishing struct{ answer []byte }

func (f *finishing) Run() { clear(f.answer) }
