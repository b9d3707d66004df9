package roles

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/net/netutil"

	"imgo/config"
	"imgo/envelope"
	"imgo/internal/wait"
	"imgo/roles/logic/httpapi"
)

// stage is one part of a node that runs until its context is done.
type stage struct {
	name string
	run  func(ctx context.Context) error
	// ready returns why the stage cannot do all of its work, or nil. If the function is nil, it always
	// can.
	ready func() error
	// started returns why the next stage has to wait, or nil. If the function is nil, the next stage
	// waits for ready. It differs from ready where something outside may be missing for long without
	// need for the rest to wait.
	started func() error
}

// waitFor returns what the next stage waits for. It returns nil if it need not wait.
func (s *stage) waitFor() func() error {
	if s.started != nil {
		return s.started
	}
	return s.ready
}

// coreStage is the name of the stage that runs the core.
const coreStage = "roles"

// stages returns the parts of a node in the order in which they start. They stop in the reverse order,
// one after another. So comet closes its clients while logic still accepts their last
// acknowledgements, and the log closes when no part appends any more.
func (n *Node) stages() []stage {
	all := []stage{{name: "memory", run: returnMemory}}
	if n.db != nil {
		all = append(all, stage{name: "data folder", run: n.db.Run, ready: n.db.WritesOK})
	}
	all = append(all, stage{name: "live log", run: n.live.Run})
	if n.cluster != nil {
		all = append(all, n.cluster.stages()...)
		all = append(all, stage{name: "version of records", run: n.watchRecords})
	}
	all = append(all, stage{name: coreStage, run: n.runCore, ready: n.coreReady, started: n.coreStarted})
	if n.hooks != nil {
		all = append(all, stage{name: "hooks", run: n.hooks.run})
	}
	all = append(all, stage{name: "http", run: n.serveHTTP})
	if n.cluster != nil {
		all = append(all, stage{name: "clocks", run: n.compareClocks})
	}
	if n.cluster != nil && n.cfg.Runs(config.RoleRouter) {
		all = append(all, stage{name: "kept log", run: n.cluster.pulse.run, ready: n.cluster.pulse.ready})
	}
	if n.adminListener != nil {
		all = append(all, stage{name: "admin", run: n.serveAdmin})
	}
	if n.comet != nil {
		all = append(all, stage{name: config.RoleComet, run: n.comet.Run, ready: n.comet.Ready})
	}
	return all
}

// Run serves until ctx is done or a part fails. Then it stops everything in order,
// within shutdown.timeout. A node runs once.
func (n *Node) Run(ctx context.Context) error {
	defer n.close()
	r := newRunner(n.log)
	err := r.start(ctx, n.stages()...)
	if err == nil {
		n.serving.Store(true)
		n.announceStart()
		select {
		case <-ctx.Done():
			n.log.Info().Msg("stopping: clients are told to come back, work under way is finished")
		case err = <-r.failed:
			n.log.Error().Err(err).Msg("a part of the node failed: stopping")
		case <-n.killed:
			err = errKilled
		}
	}
	n.serving.Store(false)
	switch {
	case errors.Is(err, errKilled):
		r.cancel()
	case n.cluster != nil:
		n.cluster.leaving(n.log)
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = nil
	}
	if err = r.stop(err, n.cfg.Shutdown.Timeout); err == nil {
		n.log.Info().Msg("stopped")
	}
	return err
}

// runCore runs the core, until ctx is done.
func (n *Node) runCore(ctx context.Context) error {
	replacer, r := coreReplacer{n}, newRunner(n.log)
	err := r.start(ctx, n.core.Load().stages()...)
	for err == nil && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case err = <-r.failed:
		case <-replacer.generationOver():
			r, err = replacer.replace(ctx, r)
		}
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil
	}
	// Run has its own limit, and its error names the part that does not stop.
	return r.stop(err, n.cfg.Shutdown.Timeout)
}

// coreReady returns why the core cannot serve, or nil.
func (n *Node) coreReady() error {
	for _, s := range n.core.Load().stages() {
		if s.ready != nil {
			if err := s.ready(); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	return nil
}

// coreStarted returns why the parts that use the core have to wait, or nil.
func (n *Node) coreStarted() error {
	for _, s := range n.core.Load().stages() {
		if wait := s.waitFor(); wait != nil {
			if err := wait(); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	return nil
}

// runner runs stages, and knows in which order to stop them.
type runner struct {
	log     zerolog.Logger
	running []*runningStage
	failed  chan error // the errors of stages that ended too early
}

// maxStages is a capacity that no runner reaches.
const maxStages = 32

func newRunner(log zerolog.Logger) *runner {
	return &runner{log: log, failed: make(chan error, maxStages)}
}

// start starts stages, each one when the one before it is ready.
func (r *runner) start(ctx context.Context, stages ...stage) error {
	for _, s := range stages {
		running := start(s, r.failed)
		r.running = append(r.running, running)
		if err := r.waitStarted(ctx, running); err != nil {
			return err
		}
	}
	return nil
}

// cancel stops all stages at once. stop waits for them.
func (r *runner) cancel() {
	for _, s := range r.running {
		s.cancel()
	}
}

// stop stops the stages in the reverse order. It returns err, or the first error of
// a stage, and names the stage that was not done in time.
func (r *runner) stop(err error, timeout time.Duration) error {
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	for _, s := range slices.Backward(r.running) {
		s.cancel()
		select {
		case <-s.done:
			if s.err != nil && err == nil {
				err = s.err
			}
		case <-deadline.C:
			return errors.Join(err, fmt.Errorf("%s did not stop within shutdown.timeout (%s)", s.name, timeout))
		}
	}
	return err
}

var errKilled = errors.New("the node was killed")

// Kill ends a cluster node like a crash, for tests. It cuts gossip, calls, Kafka and clients without a
// goodbye. Run returns soon after it with an error. Unlike a real crash, Kill may let pending writes
// reach the disk. It may be called once.
func (n *Node) Kill() {
	close(n.killed)
	n.cluster.close(n.log)
	if n.comet != nil {
		n.comet.Close()
	}
	_ = n.listener.Close() // Run closes it again and returns the error
}

type runningStage struct {
	stage
	cancel context.CancelFunc
	done   chan struct{}
	err    error // valid once done is closed
}

// start runs a stage with a context of its own, because stages stop one by one.
func start(s stage, failed chan<- error) *runningStage {
	ctx, cancel := context.WithCancel(context.Background())
	r := &runningStage{stage: s, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		if err := s.run(ctx); err != nil && !errors.Is(err, context.Canceled) {
			r.err = fmt.Errorf("%s: %w", s.name, err)
			failed <- r.err
		} else if ctx.Err() == nil {
			r.err = fmt.Errorf("%s ended by itself", s.name)
			failed <- r.err
		}
	}()
	return r
}

// startPatience is how long a stage may take before the log says what it waits for, and then how often.
const startPatience = 10 * time.Second

// waitStarted waits until a stage has started or has failed, or until ctx is done. It has no limit of
// its own: what is missing may come at any time, and health and readiness are answered meanwhile.
func (r *runner) waitStarted(ctx context.Context, s *runningStage) error {
	started := s.waitFor()
	if started == nil {
		return nil
	}
	pause := wait.Backoff{Min: time.Millisecond, Max: 100 * time.Millisecond}
	patience := time.NewTicker(startPatience)
	defer patience.Stop()
	for {
		why := started()
		if why == nil {
			return nil
		}
		select {
		case err := <-r.failed:
			return err
		case <-patience.C:
			r.log.Warn().Err(why).Str("part", s.name).Msg("a part of the node cannot start yet: waiting")
		default:
		}
		if err := pause.Sleep(ctx); err != nil {
			return err
		}
	}
}

// ready returns why the node cannot serve, or nil.
func (n *Node) ready() error {
	if !n.serving.Load() {
		return envelope.Errorf(envelope.CodeUnavailable, "the node is starting or stopping")
	}
	for _, s := range n.stages() {
		if s.ready != nil {
			if err := s.ready(); err != nil {
				if s.name == coreStage {
					return err // The error names the role.
				}
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	return nil
}

// serveAdmin serves the admin listener until ctx is done. Nobody waits for its requests.
func (n *Node) serveAdmin(ctx context.Context) error {
	server := httpapi.NewServer(admin{n}.localMux(), n.log)
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	// Its only callers are programs of this machine, but a fault of one must not use up the descriptors.
	if err := server.Serve(netutil.LimitListener(n.adminListener, maxAdminConns)); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the admin pages: %w", err)
	}
	return nil
}

// maxAdminConns bounds the connections of the admin listener.
const maxAdminConns = 64

// startHTTP begins to serve the HTTP port, at first health and readiness only.
func (n *Node) startHTTP() {
	n.httpDone = make(chan struct{})
	go func() {
		defer close(n.httpDone)
		n.httpErr = n.server.Serve(n.listener)
	}()
}

// serveHTTP lets callers of the API in until ctx is done. Then it waits for the requests in progress.
func (n *Node) serveHTTP(ctx context.Context) error {
	n.apiOpen.Store(true)
	select {
	case <-n.httpDone:
		return fmt.Errorf("serve the HTTP API: %w", n.httpErr)
	case <-ctx.Done():
	}
	n.httpConns.end()
	n.core.Load().endStreams()
	grace, cancel := context.WithTimeout(context.Background(), n.cfg.Shutdown.Timeout/4)
	defer cancel()
	if err := n.server.Shutdown(grace); err != nil {
		// A slow caller has used up its time.
		_ = n.server.Close()
	}
	<-n.httpDone
	if !errors.Is(n.httpErr, http.ErrServerClosed) {
		return n.httpErr
	}
	return nil
}
