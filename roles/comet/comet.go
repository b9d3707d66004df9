// Package comet is the role that holds client connections, over TCP and
// WebSocket, and writes to them.
//
// It owns each connection from accept to close: the handshake, the protocol
// of every generation of client, heartbeats, rooms, limits, the queue of what
// waits to be written, and comet's rule of the delivery design (deliver.go):
// a session sees each kept message once and in order, whatever happens between
// the log and here, and asks for what it misses. It knows only logic, which it
// asks who a client is and tells what arrived and who left.
//
// It guarantees that a client, however slow or hostile, costs a bounded amount
// of memory and nobody else's time, and that a client that is closed is told
// why where that can be sent. It stores nothing: what a comet that dies held
// is in its users' mailboxes.
//
// A connection that epoll waits for (transport.Pollable) costs its session
// struct and no goroutine while it idles; one that has something to read borrows
// a worker (package admission), and what it is sent is written by whoever sends
// it, without waiting (package outbox). Any other connection, TLS above all, has a
// goroutine that reads, and one that writes while there is something to write.
package comet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/roles/comet/admission"
	"imgo/roles/comet/outbox"
	"imgo/transport"
	"imgo/transport/batch"
)

// Logic is what comet calls. Every call has a deadline; errors carry an
// envelope.Code. Safe for concurrent use.
type Logic interface {
	// Connect says who a client is, and what the first window is of what is
	// pending for it. (One that is not in the reply comes through Push.)
	Connect(context.Context, *envelope.ConnectRequest) (*envelope.ConnectReply, error)
	// CatchUp asks for what is pending for a session; the answer is a Backlog
	// that comes through Push.
	CatchUp(context.Context, *envelope.CatchUpRequest) error
	// Ack returns when the acknowledgements are durable.
	Ack(context.Context, *envelope.AckRequest) error
	Detach(context.Context, *envelope.DetachRequest) error
	Announce(context.Context, *envelope.AnnounceRequest) (*envelope.AnnounceReply, error)
	// RoomOpened returns when the live log has it.
	RoomOpened(context.Context, *envelope.RoomOpened) error
}

// phase is where a Comet is in its life.
type phase uint8

const (
	phaseNew phase = iota
	phaseRunning
	phaseStopping
	phaseStopped
)

// Comet holds clients. Its methods are safe for concurrent use.
type Comet struct {
	cfg       Config
	logic     Logic
	log       zerolog.Logger
	metrics   *metrics
	table     *table
	batches   *batch.Pool // nil: each frame is written by itself
	outboxes  *outbox.Shared
	lists     sessionLists
	window    *flushWindow       // nil: nothing is held back
	workers   *admission.Workers // run what may wait
	admission *admission.Controller
	catchUps  *catchUpQueue
	announcer *announcer
	opener    *opener
	recent    recent
	acks      *batcher[*envelope.Ack]
	detaches  *batcher[*envelope.Detached]
	listeners []transport.Listener

	// What sessions share that have nothing of it. Never written.
	noExtras  extras
	noCatchUp catchUp

	epoch       time.Time // start of comet's clock, which no step of the wall clock moves
	incarnation uint64    // of this start
	nextID      atomic.Uint64

	// calls is the context of calls to logic but for the last acks and
	// detachments, which outlive it a little.
	calls     context.Context
	stopCalls context.CancelFunc

	mu    sync.Mutex
	phase phase
}

// New makes a Comet and binds its listeners; clients are let in by Run. reg
// may be nil.
func New(cfg Config, logic Logic, log zerolog.Logger, reg prometheus.Registerer) (*Comet, error) {
	if err := envelope.CheckName("comet name", cfg.Name); err != nil {
		return nil, fmt.Errorf("comet's configuration: %w", err)
	}
	// A window over the session's bound could only be written in part.
	cfg.CatchUpBytes = min(cfg.CatchUpBytes, cfg.PendingBytes)
	c := &Comet{
		cfg: cfg, logic: logic, log: log, table: newTable(),
		epoch: time.Now(), workers: admission.NewWorkers(),
	}
	// Session ids are unique over restarts: the high half is this start's.
	c.incarnation = uint64(rand.Uint32N(1<<32-1)) + 1
	c.nextID.Store(c.incarnation << 32)
	c.calls, c.stopCalls = context.WithCancel(context.Background())
	if cfg.FlushInterval > 0 {
		c.window = newFlushWindow(c)
	}
	if cfg.Epoll && cfg.IOUring {
		var err error
		if c.batches, err = batch.NewPool(outbox.BatchesPerProcessor * runtime.GOMAXPROCS(0)); err != nil {
			log.Info().Err(err).Msg("a message for many clients takes a system call each")
		}
	}
	c.outboxes = outbox.NewShared(outbox.Config{
		PendingBytes: cfg.PendingBytes, WriteTimeout: cfg.SlowTimeout, Batches: c.batches,
	})
	c.catchUps = &catchUpQueue{comet: c}
	c.announcer = &announcer{comet: c, told: map[uint32]uint64{}}
	c.opener = newOpener(c)
	c.acks = c.newAcks()
	c.detaches = c.newDetaches()
	var err error
	if c.metrics, err = newMetrics(reg, c.outboxes, c.acks.queued, c.detaches.queued); err != nil {
		return nil, err
	}
	limiter := admission.NewAcceptLimiter(cfg.Connections, cfg.ConnectionsPerAddress)
	c.admission = admission.New(admission.Config{
		Admit: c.admit, Context: c.calls, CallTimeout: cfg.CallTimeout,
		HandshakeTimeout: cfg.HandshakeTimeout, MaxWait: cfg.ConnectWait, Rate: cfg.ConnectRate, Burst: cfg.ConnectBurst,
		Metrics: c.metrics.admission(), Log: log,
	}, limiter, c.workers)
	if err := c.listen(limiter); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// listen binds the configured listeners.
func (c *Comet) listen(limiter *admission.AcceptLimiter) error {
	for _, listen := range c.cfg.Listen {
		l, err := listen(transport.ListenConfig{
			MaxBody: c.cfg.MaxBody, Admit: limiter.Accept, Released: limiter.Closed,
			Refused:          func(reason string) { c.metrics.refused.WithLabelValues(refusedListener + reason).Inc() },
			HandshakeTimeout: c.cfg.HandshakeTimeout, WriteBuffer: c.cfg.SendBuffer,
			// A connection may take this long from the end of Run's context to its own end.
			Grace:  c.cfg.DrainTimeout + c.cfg.CloseTimeout,
			Inline: true, Goroutines: !c.cfg.Epoll, Log: c.log,
		})
		if err != nil {
			return fmt.Errorf("bind a listener for clients: %w", err)
		}
		c.listeners = append(c.listeners, l)
		c.metrics.connections.WithLabelValues(l.Scheme()) // so that 0 is exported
	}
	return nil
}

func (c *Comet) newAcks() *batcher[*envelope.Ack] {
	return newBatcher(&batcher[*envelope.Ack]{
		name: "ack", interval: c.cfg.AckInterval, timeout: c.cfg.CallTimeout,
		batch: c.cfg.AckBatch, bound: c.cfg.AckQueue, log: c.log,
		weight: func(a *envelope.Ack) int { return len(a.Ids) },
		send: func(ctx context.Context, acks []*envelope.Ack) error {
			return c.logic.Ack(ctx, &envelope.AckRequest{Acks: mergeAcks(acks)})
		},
		failed: func() { c.metrics.callErrors.WithLabelValues("ack").Inc() },
		lost:   func(n int) { c.metrics.lost.WithLabelValues("ack").Add(float64(n)) },
	})
}

func (c *Comet) newDetaches() *batcher[*envelope.Detached] {
	return newBatcher(&batcher[*envelope.Detached]{
		name: "detach", interval: c.cfg.AckInterval, timeout: c.cfg.CallTimeout,
		batch: c.cfg.AckBatch, bound: c.cfg.AckQueue, log: c.log,
		weight: func(*envelope.Detached) int { return 1 },
		send: func(ctx context.Context, sessions []*envelope.Detached) error {
			return c.logic.Detach(ctx, &envelope.DetachRequest{Sessions: sessions})
		},
		failed: func() { c.metrics.callErrors.WithLabelValues("detach").Inc() },
		lost:   func(n int) { c.metrics.lost.WithLabelValues("detach").Add(float64(n)) },
	})
}

// mergeAcks puts the ids of each user's device together, in order.
func mergeAcks(acks []*envelope.Ack) []*envelope.Ack {
	type owner struct{ user, device string }
	merged := make([]*envelope.Ack, 0, len(acks))
	at := make(map[owner]int, len(acks))
	for _, a := range acks {
		o := owner{a.User, a.Device}
		i, ok := at[o]
		if !ok {
			at[o] = len(merged)
			merged = append(merged, &envelope.Ack{User: a.User, Device: a.Device, Ids: a.Ids})
			continue
		}
		// A new slice: the batch is sent again as it was if this call fails.
		ids := merged[i].Ids
		merged[i].Ids = append(ids[:len(ids):len(ids)], a.Ids...)
	}
	return merged
}

// Addr returns the address of the listener with this scheme, or nil.
func (c *Comet) Addr(scheme string) net.Addr {
	for _, l := range c.listeners {
		if l.Scheme() == scheme {
			return l.Addr()
		}
	}
	return nil
}

// Sessions counts the authenticated sessions.
func (c *Comet) Sessions() int { return int(c.table.live.Load()) }

// Ready says why clients are not being let in; nil: they are.
func (c *Comet) Ready() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.phase {
	case phaseRunning:
		return nil
	case phaseNew:
		return envelope.Errorf(envelope.CodeUnavailable, "comet is starting")
	}
	return envelope.Errorf(envelope.CodeUnavailable, "comet is stopping")
}

// Close gives the ports back; only for a Comet whose Run is never called.
func (c *Comet) Close() {
	c.mu.Lock()
	c.phase = phaseStopped
	c.mu.Unlock()
	c.stopCalls()
	for _, l := range c.listeners {
		_ = l.Close()
	}
	c.batches.Close()
}

// now is comet's clock: the time since it was made.
func (c *Comet) now() time.Duration { return time.Since(c.epoch) }

// Run lets clients in until ctx is done, or a port fails, and then drains:
// no new clients, op 6 {3001} to every session at the drain rate, what arrived
// and who left told to logic. It returns when all of that is done and no
// goroutine of this comet is left; a Comet runs once.
func (c *Comet) Run(ctx context.Context) error {
	c.mu.Lock()
	if c.phase != phaseNew {
		c.mu.Unlock()
		return errors.New("comet was run before")
	}
	c.phase = phaseRunning
	c.mu.Unlock()

	listening, stopListening := context.WithCancel(ctx)
	defer stopListening()
	var listeners sync.WaitGroup
	failed := make(chan error, len(c.listeners))
	for _, l := range c.listeners {
		listeners.Go(func() {
			if err := l.Run(listening, c.admission.Handle); err != nil {
				failed <- err
			}
		})
	}

	stop := make(chan struct{})
	var background sync.WaitGroup
	background.Go(func() { c.sweep(stop) })
	if c.window != nil {
		background.Go(func() { c.window.run(stop) })
	}
	background.Go(func() { c.announcer.run(stop) })
	background.Go(func() { c.opener.run(stop) })
	// Acks and detachments are sent to the very end, by a context of their own.
	last, stopLast := context.WithCancel(context.Background())
	defer stopLast()
	stopBatches := make(chan struct{})
	var batches sync.WaitGroup
	batches.Go(func() { c.acks.run(last, stopBatches) })
	batches.Go(func() { c.detaches.run(last, stopBatches) })

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	// The order: no new connections; those that are here leave, while catch-ups
	// and heartbeats go on; nobody is here, so nothing is left to sweep, ask or
	// announce; what they acknowledged and that they left.
	stopListening()
	c.drain()
	listeners.Wait()
	close(stop)
	c.stopCalls()
	c.workers.Stop()
	c.catchUps.stop()
	background.Wait()
	timer := time.AfterFunc(c.cfg.CallTimeout, stopLast)
	defer timer.Stop()
	close(stopBatches)
	batches.Wait()
	c.batches.Close()
	return err
}
