//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"imgo/clients/go/pushapi"
	"imgo/internal/wait"
	"imgo/verify"
)

const (
	// measureTime is the duration of each measurement.
	measureTime = 10 * time.Second
	// latencyRate is the rate in pushes a second at which the time to a receipt is measured.
	latencyRate = 250
	// callers is the number of concurrent callers in the throughput measurements.
	callers = 64
	// allPartitionUsers is a number of users that very likely covers every partition.
	allPartitionUsers = 200
)

// body is the body of each push, about as large as a short notification.
var body = json.RawMessage(`{"text":"a message of two hundred bytes, as a short notification is, for a measurement of what a push costs",` +
	`"from":"bench/chaos","and":"something to fill it up to two hundred bytes, no more....."}`)

// figure is one number that is measured in each run.
type figure struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"`
	Runs   []float64 `json:"runs"`
	Min    float64   `json:"min"`
	Median float64   `json:"median"`
	Max    float64   `json:"max"`
}

// figures are all figures, in the order in which they were first added.
type figures struct {
	subject
	Figures []*figure `json:"figures"`
}

func (f *figures) add(name, unit string, value float64) {
	i := slices.IndexFunc(f.Figures, func(one *figure) bool { return one.Name == name })
	if i < 0 {
		i = len(f.Figures)
		f.Figures = append(f.Figures, &figure{Name: name, Unit: unit})
	}
	f.Figures[i].Runs = append(f.Figures[i].Runs, value)
}

// String returns the figures as a table.
func (f *figures) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "imgo on Kafka %s, commit %s\n%s, which also run Kafka and the load; %d brokers; %d nodes of each role\n\n",
		f.Date.Format("2006-01-02 15:04:05Z"), f.Commit, f.Machine, f.Brokers, f.Each)
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\tmin\tmedian\tmax\t\n")
	for _, one := range f.Figures {
		fmt.Fprintf(t, "%s\t%.4g\t%.4g\t%.4g\t%s\n", one.Name, one.Min, one.Median, one.Max, one.Unit)
	}
	_ = t.Flush() // into memory
	return b.String()
}

// measure measures a cluster without faults. Only the last measurement stops the
// routers and deletes their disks.
func (st *stage) measure(ctx context.Context, stdout io.Writer) error {
	s := st.s
	f := &figures{subject: newSubject(ctx, s)}
	api, err := pushapi.New(pushapi.Config{Servers: st.c.at("logic", httpPort), Timeout: 20 * time.Second, Conns: callers})
	if err != nil {
		return err
	}
	defer api.Close()
	p := &pusher{api: api}
	for i := range s.runs {
		st.say("run %d of %d: from a push to its receipt", i+1, s.runs)
		if err := st.latency(ctx, f); err != nil {
			return err
		}
		st.say("run %d of %d: pushes to users who are connected", i+1, s.runs)
		if err := st.connected(ctx, f); err != nil {
			return err
		}
		st.say("run %d of %d: pushes to users who are away", i+1, s.runs)
		if err := st.away(ctx, f, p); err != nil {
			return err
		}
	}
	st.say("pushing until there are %d messages for users who are away; there are %d", s.messages, p.accepted.Load())
	if err := p.push(ctx, func() bool { return p.accepted.Load() >= int64(s.messages) }); err != nil {
		return err
	}
	for i := range s.runs {
		st.say("run %d of %d: a router with an empty disk", i+1, s.runs)
		if err := st.rebuild(ctx, f, p); err != nil {
			return err
		}
	}
	for _, one := range f.Figures {
		sorted := slices.Sorted(slices.Values(one.Runs))
		one.Min, one.Median, one.Max = sorted[0], sorted[len(sorted)/2], sorted[len(sorted)-1]
	}
	fmt.Fprint(stdout, f)
	return f.store(s.out, "cluster", f.String(), f)
}

// verifyAt runs verify for a while, which pushes kept messages to devices. onPhase, if
// not nil, is called at the start of each phase after the connecting.
func (st *stage) verifyAt(
	ctx context.Context, users int, rate float64, callers int, onPhase func(context.Context, string) error,
) (*verify.Report, error) {
	cfg := verify.DefaultConfig()
	cfg.API, cfg.Clients = st.c.at("logic", httpPort), st.c.at("comet", tcpPort)
	cfg.Users, cfg.Devices, cfg.Rate, cfg.Callers = users, 1, rate, callers
	cfg.NotKept, cfg.Keyless, cfg.Churn, cfg.Body, cfg.Duration = 0, 1, 0, 150, measureTime
	cfg.OnPhase = onPhase
	v, err := verify.New(cfg)
	if err != nil {
		return nil, err
	}
	r, err := v.Run(ctx)
	if err != nil {
		return nil, err
	}
	if !r.OK {
		return nil, fmt.Errorf("verify found a violation or a problem:\n%s", r)
	}
	return r, nil
}

// latency measures the time from an HTTP push to its receipt by a client.
func (st *stage) latency(ctx context.Context, f *figures) error {
	r, err := st.verifyAt(ctx, 200, latencyRate, callers, nil)
	if err != nil {
		return err
	}
	f.add(fmt.Sprintf("push to receipt, %d a second: p50", latencyRate), "ms", ms(r.Deliveries.P50))
	f.add(fmt.Sprintf("push to receipt, %d a second: p99", latencyRate), "ms", ms(r.Deliveries.P99))
	return nil
}

func ms(d verify.Millis) float64 { return float64(d) / float64(time.Millisecond) }

// connected measures the rate of accepted pushes and their CPU cost while every user
// is connected and acknowledges. The CPU time is that of the pushing: without tokens,
// connecting and the look at the result.
func (st *stage) connected(ctx context.Context, f *figures) error {
	at := make(map[string]map[string]time.Duration) // by phase and role
	r, err := st.verifyAt(ctx, st.s.users, 1e6, callers, func(_ context.Context, phase string) error {
		at[phase] = st.cpu()
		return nil
	})
	if err != nil {
		return err
	}
	const name = "kept pushes, users connected"
	n := float64(r.Pushes.Accepted)
	f.add(name+", 64 callers", "a second", n/time.Duration(r.Pushed).Seconds())
	f.add(name+": push to receipt p50", "ms", ms(r.Deliveries.P50))
	f.add(name+": push to receipt p99", "ms", ms(r.Deliveries.P99))
	f.addCPU(name, at[verify.PhasePushing], at[verify.PhaseArriving], n)
	return nil
}

// away measures the same while no user is connected.
func (st *stage) away(ctx context.Context, f *figures, p *pusher) error {
	before, was, began := st.cpu(), p.accepted.Load(), time.Now()
	if err := p.push(ctx, func() bool { return time.Since(began) > measureTime }); err != nil {
		return err
	}
	const name = "kept pushes, users away"
	n := float64(p.accepted.Load() - was)
	f.add(name+", 64 callers", "a second", n/time.Since(began).Seconds())
	f.addCPU(name, before, st.cpu(), n)
	return nil
}

// cpu returns the CPU time that the nodes of each role have used.
func (st *stage) cpu() map[string]time.Duration {
	all := make(map[string]time.Duration)
	for _, n := range st.c.nodes {
		all[n.role] += n.cpu()
	}
	return all
}

// addCPU adds the CPU time of each role for one of n messages, from before to after.
func (f *figures) addCPU(name string, before, after map[string]time.Duration, n float64) {
	for _, role := range roleNames {
		f.add(name+": CPU of "+role, "ms a message", float64((after[role]-before[role]).Microseconds())/1000/n)
	}
}

// rebuild measures how long a single router with an empty disk needs to rebuild its
// state. The time runs from its start until the owner of every partition answers.
func (st *stage) rebuild(ctx context.Context, f *figures, p *pusher) error {
	routers := st.c.of("router")
	for _, n := range routers {
		if err := n.Stop(); err != nil {
			return err
		}
		if err := n.wipe(); err != nil {
			return err
		}
	}
	began := time.Now()
	if err := routers[0].StartReady(ctx); err != nil {
		return err
	}
	ready := time.Since(began)
	if err := p.answered(ctx); err != nil {
		return err
	}
	const name = "one router, empty disk"
	f.add(name+": ready", "s", ready.Seconds())
	f.add(fmt.Sprintf("%s: %d messages read back, all partitions answer", name, p.accepted.Load()), "s", time.Since(began).Seconds())
	f.add(name+": CPU", "s", routers[0].cpu().Seconds())
	for _, n := range routers[1:] {
		if err := n.StartReady(ctx); err != nil {
			return err
		}
	}
	return p.answered(ctx)
}

// pusher pushes kept messages to users that are offline.
type pusher struct {
	api      *pushapi.Client
	accepted atomic.Int64
	n        atomic.Int64
}

// awayUsers is the number of offline users that receive messages. In the end a mailbox
// has about a hundred messages.
const awayUsers = 10_000

// push pushes from all callers until enough returns true.
func (p *pusher) push(ctx context.Context, enough func() bool) error {
	all, ctx := errgroup.WithContext(ctx)
	for range callers {
		all.Go(func() error {
			for ctx.Err() == nil && !enough() {
				if err := p.pushOne(ctx, fmt.Sprintf("away-%d", p.n.Add(1)%awayUsers), ""); err != nil {
					return err
				}
				p.accepted.Add(1)
			}
			return ctx.Err()
		})
	}
	return all.Wait()
}

func (p *pusher) pushOne(ctx context.Context, user, key string) error {
	if _, err := p.api.PushTo(ctx, p.api.Next(), &pushapi.Push{User: user, Body: body, IdempotencyKey: key}); err != nil {
		return fmt.Errorf("push: %w", err)
	}
	return nil
}

// answered waits until the owner of every partition answers. A push with an
// idempotency key is accepted only by a partition whose owner answers.
func (p *pusher) answered(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	round := p.n.Add(1)
	var all errgroup.Group
	for i := range allPartitionUsers {
		all.Go(func() error {
			user := fmt.Sprintf("everywhere-%d", i)
			for {
				err := p.pushOne(ctx, user, fmt.Sprintf("%d-%s", round, user))
				if err == nil || wait.Sleep(ctx, 20*time.Millisecond) != nil {
					return err
				}
			}
		})
	}
	if err := all.Wait(); err != nil {
		return fmt.Errorf("wait until every partition answers: %w", err)
	}
	return nil
}
