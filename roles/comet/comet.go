// Package comet is the role that holds client connections, over TCP and
// WebSocket, and writes to them.
//
// It owns each connection from accept to close: the protocol of every kind
// of client, heartbeats, rooms, limits, and comet's rule of the delivery design
// (deliver.go). By that rule a session sees each kept message once and in order,
// whatever happens between the log and comet, and asks for what it misses. Package
// admission brings a connection to its session. Package outbox queues and writes
// what the session sends. Comet knows only logic: it asks logic who a client is, and
// tells logic what has arrived and which sessions have ended.
//
// It guarantees that a client, however slow or hostile, costs a bounded amount of
// memory and no time of other clients. It tells a client why it is closed, if that
// can be sent. It stores nothing: after a crash the messages are in their users'
// mailboxes.
//
// A connection that epoll waits for (transport.Pollable) costs its session struct
// and no goroutine while it is idle. When there is something to read it borrows a
// worker. The goroutine that has a message for it writes the message without
// waiting. Any other connection, above all one with TLS, has a goroutine that reads,
// and one that writes while there is something to write.
package comet

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/internal/upstream"
	"imgo/internal/wait"
	"imgo/roles/comet/admission"
	"imgo/roles/comet/outbox"
	"imgo/transport"
	"imgo/transport/batch"
)

// Logic is what comet calls. Every call has a deadline. Errors carry an
// envelope.Code. Safe for concurrent use.
type Logic interface {
	// Connect returns who a client is, and the first backlog of what is pending for
	// it. A backlog that is not in the reply comes through Push.
	Connect(context.Context, *envelope.ConnectRequest) (*envelope.ConnectReply, error)
	// CatchUp asks for what is pending for a session. The answer is a Backlog that
	// comes through Push.
	CatchUp(context.Context, *envelope.CatchUpRequest) error
	// Ack returns when the acknowledgements are durable, but for those of the partitions that the reply names.
	Ack(context.Context, *envelope.AckRequest) (*envelope.PartsReply, error)
	// Read returns when it is durable that a user has read messages.
	Read(context.Context, *envelope.ReadRequest) (*envelope.ReadReply, error)
	// Detach returns when the owners know which sessions are gone, but for those of the partitions that the reply names.
	Detach(context.Context, *envelope.DetachRequest) (*envelope.PartsReply, error)
	Announce(context.Context, *envelope.AnnounceRequest) (*envelope.AnnounceReply, error)
	// RoomOpened returns when the live log has the record.
	RoomOpened(context.Context, *envelope.RoomOpened) error
	// Join returns an error if a session may not join a room.
	Join(context.Context, *envelope.JoinRequest) (*envelope.JoinReply, error)
	// Refresh returns what a new token allows a session, or why the token is not
	// good for it.
	Refresh(context.Context, *envelope.RefreshRequest) (*envelope.RefreshReply, error)
	// Upstream takes a message of a client for the backend, and returns once it is durable,
	// or was answered or refused.
	Upstream(context.Context, *envelope.UpstreamRequest) (*envelope.UpstreamReply, error)
}

// Where a Comet is in its life.
const (
	phaseNew = iota
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
	opener    *roomOpener
	recent    recentIDs
	upstream  upstreamTable
	acks      *batcher[*envelope.Ack]
	detaches  *batcher[*envelope.Detached]
	listeners []transport.Listener

	noExtras extras      // the empty extras that sessions share; never written
	roomsEnd atomic.Bool // a session has had to leave a room at some time

	epoch       time.Time     // start of comet's clock, which no step of the wall clock moves
	incarnation uint64        // of this start
	sessionSeq  atomic.Uint64 // counts the session ids that were made

	// calls is the context of all calls of logic but Ack and Detach, which go on until
	// the end of Run.
	calls     context.Context
	stopCalls context.CancelFunc

	phase atomic.Int32
}

// New makes a Comet and binds its listeners. Run admits the clients. reg may be
// nil.
func New(cfg Config, logic Logic, log zerolog.Logger, reg prometheus.Registerer) (*Comet, error) {
	if err := envelope.CheckName("comet name", cfg.Name); err != nil {
		return nil, fmt.Errorf("comet's configuration: %w", err)
	}
	// A backlog over the bound of a session's queue could only be written in part.
	cfg.CatchUpBytes = min(cfg.CatchUpBytes, cfg.PendingBytes)
	c := &Comet{
		cfg: cfg, logic: logic, log: log, table: newTable(),
		epoch: time.Now(), workers: admission.NewWorkers(),
	}
	c.incarnation = rand.Uint64N(math.MaxUint64) + 1
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
	c.upstream.rules = upstream.NewTable(cfg.Upstream)
	c.catchUps = &catchUpQueue{comet: c, failing: make(map[uint32]nextTry)}
	c.announcer = newAnnouncer(c)
	c.opener = newRoomOpener(c)
	c.acks = c.newAcks()
	c.detaches = c.newDetaches()
	c.metrics = newMetrics(reg, c.outboxes, c.acks.queued, c.detaches.queued)
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
	unauthenticated := transport.NewInputBudget(c.cfg.HandshakeBytes)
	for _, listen := range c.cfg.Listen {
		l, err := listen(transport.ListenConfig{
			MaxBody: c.cfg.MaxBody, Admit: limiter.AddAccepted, Released: limiter.RemoveAccepted,
			Refused:          func(reason string) { c.metrics.refused.WithLabelValues(refusedListener + reason).Inc() },
			Unauthenticated:  unauthenticated,
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
	acks := newBatcher(c, "ack",
		func(a *envelope.Ack) int { return len(a.Ids) },
		func(a *envelope.Ack) string { return a.User },
		func(ctx context.Context, acks []*envelope.Ack) (*envelope.PartsReply, error) {
			return c.logic.Ack(ctx, &envelope.AckRequest{Acks: mergeAcks(acks)})
		})
	acks.shares = true
	return acks
}

func (c *Comet) newDetaches() *batcher[*envelope.Detached] {
	return newBatcher(c, "detach",
		func(*envelope.Detached) int { return 1 },
		func(d *envelope.Detached) string { return d.User },
		func(ctx context.Context, sessions []*envelope.Detached) (*envelope.PartsReply, error) {
			return c.logic.Detach(ctx, &envelope.DetachRequest{Sessions: sessions})
		})
}

// mergeAcks joins the ids of each device of a user, in order.
func mergeAcks(acks []*envelope.Ack) []*envelope.Ack {
	type owner struct {
		user, device string
		auto         bool
	}
	merged := make([]*envelope.Ack, 0, len(acks))
	at := make(map[owner]int, len(acks))
	for _, a := range acks {
		o := owner{a.User, a.Device, a.Auto}
		i, ok := at[o]
		if !ok {
			at[o] = len(merged)
			merged = append(merged, &envelope.Ack{User: a.User, Device: a.Device, Ids: a.Ids, Auto: a.Auto})
			continue
		}
		// The slice is a new one, because the batch is sent again if this call fails.
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

// Ready returns nil if clients are being admitted, else an error that says why not.
func (c *Comet) Ready() error {
	switch c.phase.Load() {
	case phaseRunning:
		return nil
	case phaseNew:
		return envelope.Errorf(envelope.CodeUnavailable, "comet is starting")
	}
	return envelope.Errorf(envelope.CodeUnavailable, "comet is stopping")
}

// Close frees the ports of a Comet whose Run is never called.
func (c *Comet) Close() {
	c.phase.Store(phaseStopped)
	c.stopCalls()
	for _, l := range c.listeners {
		_ = l.Close()
	}
	c.batches.Close()
}

// newSessionID returns the id of a new session. A session's name has it, and a caller
// that has the name can push to the session. So all bits are random but those that choose
// the shard, which are given in turn (see table.all). 58 random bits also make ids
// unique, over restarts too.
func (c *Comet) newSessionID() uint64 {
	var b [8]byte
	_, _ = crand.Read(b[:]) // it never fails: it ends the program instead
	return binary.BigEndian.Uint64(b[:])/shardCount*shardCount + c.sessionSeq.Add(1)%shardCount
}

// now returns the time on comet's clock: that since comet was made.
func (c *Comet) now() time.Duration { return time.Since(c.epoch) }

// Run admits clients until ctx is done, or until a listener fails, and then drains. It
// admits no new clients then, and closes every session at the drain rate (op 6 with
// 3001). It tells logic what has arrived and which sessions have ended. It returns when
// no goroutine of this comet is left. A Comet runs once.
func (c *Comet) Run(ctx context.Context) error {
	if !c.phase.CompareAndSwap(phaseNew, phaseRunning) {
		return errors.New("comet was run before")
	}
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

	busy, stop := context.WithCancel(context.Background())
	defer stop()
	var background sync.WaitGroup
	sweep := sweeper{comet: c}
	background.Go(func() { wait.Every(busy, sweep.tick(), sweep.sweep) })
	if c.window != nil {
		background.Go(func() { wait.Every(busy, c.cfg.FlushInterval, c.window.flush) })
	}
	background.Go(func() {
		c.announcer.announce()
		wait.Every(busy, c.cfg.AnnounceInterval, c.announcer.announce)
	})
	background.Go(func() { c.opener.run(busy) })
	// Acknowledgements and detachments are sent to the very end. They have a context
	// of their own.
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
	// First no new connections come. Then the sessions end, while catch-ups and
	// heartbeats go on. Then nothing is left to sweep, ask for or announce. At last
	// logic is told what was acknowledged and that the sessions have ended.
	stopListening()
	c.drain()
	listeners.Wait()
	c.upstream.stop()
	stop()
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
