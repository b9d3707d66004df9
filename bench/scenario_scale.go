//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"imgo/bench/load"
	"imgo/internal/freeport"
	"imgo/internal/process"
)

const (
	// scaleBroadcasts is the number of broadcasts at each size, with scalePause between
	// them.
	scaleBroadcasts = 5
	scalePause      = 200 * time.Millisecond
	// scaleTimeout is how long a broadcast to many clients may make no progress.
	scaleTimeout = 20 * time.Second
	// scaleLook is the first interval at which the clients are asked for their counts.
	// Later the interval is a twentieth of the time since the broadcast began, at most
	// half a second. Asking some hundred processes takes CPU time from the measured
	// cluster.
	scaleLook = 5 * time.Millisecond
	// scaleWindow is the number of simultaneous connection attempts of the clients of one
	// comet.
	scaleWindow = 256
)

// scale runs a cluster of real processes on a Kafka that already runs. The cluster has
// a router, a job, a logic and several comets, each at its own address of 127.0.0.0/8.
// scale fills one comet after another. At each size it measures the cost of a
// connection and of a delivery, and the time of a broadcast to everyone. Finally all
// clients disconnect at once and come back at once.
func scale(ctx context.Context, t *trial) (err error) {
	if t.kafka == "" {
		return usageError{errors.New("the scenario scale needs --kafka: the address of a Kafka (make scale starts one)")}
	}
	c := &scaled{trial: t, prefix: fmt.Sprintf("bench-%d", time.Now().UnixNano())}
	defer func() {
		if err != nil {
			c.logTails()
		}
		err = errors.Join(err, c.stop())
	}()
	for _, role := range []string{"router", "job", "logic"} {
		if _, err := c.start(ctx, role); err != nil {
			return err
		}
	}
	api := c.nodes[2].server
	for range t.comets {
		s, err := c.start(ctx, "comet")
		if err != nil {
			return err
		}
		c.comets = append(c.comets, s)
	}
	for _, s := range c.nodes {
		if err := s.Ready(ctx); err != nil {
			return err
		}
	}
	base, err := c.memory(ctx)
	if err != nil {
		return err
	}
	tcp, slab := kernelMemory()
	var at, user, kernel, cpu, reach []float64
	for _, size := range sizesUpTo(t.comets) {
		if err := c.fill(size); err != nil {
			return err
		}
		n := float64(len(c.clients) * t.perComet)
		m, err := c.memory(ctx)
		if err != nil {
			return err
		}
		tcpNow, slabNow := kernelMemory()
		cost, took, err := c.broadcastAll(ctx, api)
		if err != nil {
			return err
		}
		at = append(at, n)
		user, kernel = append(user, (m-base)/n), append(kernel, float64(tcpNow-tcp+slabNow-slab)/n)
		cpu, reach = append(cpu, cost), append(reach, ms(took))
		name := fmt.Sprintf("%d comets, %s connections, ", size, grouped(int64(n)))
		t.add(name+"resident memory of all nodes, a connection", "bytes", user[len(user)-1])
		t.add(name+"kernel memory, both ends, a connection", "bytes", kernel[len(kernel)-1])
		t.add(name+"CPU of all nodes, a delivery", "µs", cost)
		t.add(name+"one broadcast reaches everyone, p50", "ms", ms(took))
		t.say("%s%s bytes a connection, %s µs a delivery, everyone within %s ms",
			name, digits(user[len(user)-1]), digits(cost), digits(ms(took)))
	}
	t.line("resident bytes a connection", "connections", "bytes", at, user)
	t.line("kernel bytes a connection, both ends", "connections", "bytes", at, kernel)
	t.lineIn("cpu", "CPU a delivery, all nodes", "connections", "µs", at, cpu)
	t.lineIn("reach", "one broadcast reaches everyone, p50", "connections", "ms", at, reach)
	return c.reconnectAll(ctx)
}

// sizesUpTo returns the numbers of comets at which the scenario measures.
func sizesUpTo(most int) (sizes []int) {
	for _, n := range []int{1, 2, 4, 7, 10, 20, 50} {
		if n < most {
			sizes = append(sizes, n)
		}
	}
	return append(sizes, most)
}

// scaled is the cluster of the scenario.
type scaled struct {
	*trial
	prefix  string
	nodes   []member
	comets  []*server
	clients []*clients // of each comet that has clients
	join    string
}

// member is a node with one role.
type member struct {
	*server
	role string
}

// start starts a node with the role.
func (c *scaled) start(ctx context.Context, role string) (*server, error) {
	// Each node has its own address, from which no outgoing connection starts. So no
	// connection takes a port before the node does, and each comet can have 20,000
	// clients.
	host := fmt.Sprintf("127.1.0.%d", 1+len(c.nodes))
	ports, err := freeport.Find(host, 5)
	if err != nil {
		return nil, err
	}
	if c.join == "" {
		c.join = ports[0]
	}
	o := serverOptions{host: host, ports: ports[2:], env: []string{
		"IMGO_ROLES=" + role, "IMGO_NODE_ID=" + fmt.Sprintf("%s-%d", role, len(c.nodes)), "IMGO_JOIN=" + c.join, "IMGO_KAFKA=" + c.kafka,
		"IMGO_KAFKA_PREFIX=" + c.prefix, "IMGO_GOSSIP=" + ports[0], "IMGO_RPC=" + ports[1],
		// With dozens of processes a core, heartbeats between nodes are often late.
		"IMGO_CLUSTER_DEAD_AFTER=30s",
	}}
	s, err := c.exec(o)
	if err != nil {
		return nil, err
	}
	c.nodes = append(c.nodes, member{s, role})
	if len(c.nodes) == 1 {
		return s, s.Ready(ctx) // the other nodes join through it
	}
	return s, nil
}

// logTails logs the last log lines of the nodes, which show why the scenario failed.
func (c *scaled) logTails() {
	for _, s := range c.nodes {
		if text := s.Tail(400); text != "" {
			c.say("%s: …%s", s.role, text)
		}
	}
}

func (c *scaled) stop() error {
	var errs []error
	for _, h := range c.clients {
		errs = append(errs, h.stop())
	}
	for i := range c.nodes {
		errs = append(errs, c.nodes[len(c.nodes)-1-i].stop())
	}
	return errors.Join(errs...)
}

// memory returns the resident memory of all nodes after a garbage collection, in
// bytes.
func (c *scaled) memory(ctx context.Context) (sum float64, err error) {
	for _, s := range c.nodes {
		if err := errors.Join(s.collect(ctx), s.collect(ctx)); err != nil {
			return 0, err
		}
	}
	load.Sleep(ctx, 2*restStep)
	for _, s := range c.nodes {
		rss, err := rssOf(s.pid())
		if err != nil {
			return 0, err
		}
		sum += float64(rss)
	}
	return sum, nil
}

// connect connects the clients of the i-th comet from source addresses of their own.
func (c *scaled) connect(i, window int) (*clients, error) {
	sources := []string{fmt.Sprintf("127.2.%d.1", i), fmt.Sprintf("127.2.%d.2", i)}
	// There are already more comets than cores. So one process holds all clients of a
	// comet if the limit of open files allows it.
	return c.connectIn(load.HoldRequest{
		Addr: c.comets[i].tcp, Kind: load.TCP, First: i * c.perComet, Count: c.perComet, Sources: sources,
		Window: window, Within: returnWithin,
	}, mostFiles())
}

// fill connects clients until size comets have their clients.
func (c *scaled) fill(size int) error {
	for i := len(c.clients); i < size; i++ {
		h, err := c.connect(i, scaleWindow)
		if err != nil {
			return fmt.Errorf("comet %d: %w", i+1, err)
		}
		c.clients = append(c.clients, h)
		c.say("%s clients are in", grouped(int64((i+1)*c.perComet)))
	}
	return nil
}

// packets returns the number of messages that all clients have received.
func (c *scaled) packets() (sum int64, err error) {
	for _, h := range c.clients {
		s, err := h.stats()
		if err != nil {
			return 0, err
		}
		sum += s.Packets
	}
	return sum, nil
}

// cpu returns the CPU time that all nodes have used.
func (c *scaled) cpu() (sum time.Duration, err error) {
	roles, err := c.cpuByRole()
	for _, d := range roles {
		sum += d
	}
	return sum, err
}

func (c *scaled) cpuByRole() (map[string]time.Duration, error) {
	sum := make(map[string]time.Duration)
	for _, s := range c.nodes {
		d, err := process.CPU(s.pid())
		if err != nil {
			return nil, err
		}
		sum[s.role] += d
	}
	return sum, nil
}

// broadcastAll pushes to everyone several times, each time after the previous broadcast
// has reached all clients. cost is the CPU time of all nodes for each delivery, in µs:
// from each push to its last receipt, without the pauses between them.
func (c *scaled) broadcastAll(ctx context.Context, api *server) (cost float64, took time.Duration, err error) {
	n := int64(len(c.clients) * c.perComet)
	caller, err := load.DialCaller(ctx, api.HTTP)
	if err != nil {
		return 0, 0, err
	}
	defer caller.Close()
	before, err := c.packets()
	if err != nil {
		return 0, 0, err
	}
	var all load.Histogram
	var used time.Duration
	call := load.AllCall()
	for i := range int64(scaleBroadcasts) {
		cpu, err := c.cpu()
		if err != nil {
			return 0, 0, err
		}
		begun := time.Now()
		if ok, why, err := caller.Do(&call); err != nil {
			return 0, 0, err
		} else if !ok {
			return 0, 0, errors.New(why)
		}
		if err := c.awaitPackets(before+(i+1)*n, begun); err != nil {
			return 0, 0, fmt.Errorf("broadcast %d of %d, %d deliveries each: %w", i+1, scaleBroadcasts, n, err)
		}
		all.Add(time.Since(begun))
		after, err := c.cpu()
		if err != nil {
			return 0, 0, err
		}
		used += after - cpu
		load.Sleep(ctx, min(scalePause, c.duration))
	}
	if got, err := c.packets(); err == nil && got-before > scaleBroadcasts*n {
		c.note("%d deliveries came twice", got-before-scaleBroadcasts*n)
	}
	return us(used) / float64(scaleBroadcasts*n), all.Quantile(0.5), nil
}

// awaitPackets waits until the clients have received so many messages. The last push
// began at begun.
func (c *scaled) awaitPackets(want int64, begun time.Time) error {
	for last, since := int64(-1), begun; ; time.Sleep(min(max(scaleLook, time.Since(begun)/20), 100*scaleLook)) {
		now, err := c.packets()
		if err != nil || now >= want {
			return err
		}
		if now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) > scaleTimeout {
			return fmt.Errorf("%d deliveries did not come", want-now)
		}
	}
}

// lineIn records a line for a separate plot.
func (r *recorder) lineIn(plot, name, xUnit, yUnit string, x, y []float64) {
	other := *r
	other.scenario = strings.TrimSuffix(r.scenario+"/"+plot, "/")
	other.line(name, xUnit, yUnit, x, y)
}
