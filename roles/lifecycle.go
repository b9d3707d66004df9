package roles

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"imgo/config"
	"imgo/envelope"
	"imgo/internal/sparememory"
	"imgo/internal/wait"
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

// firstError returns the first error of a function of stages, with the name of its stage. The function may be nil.
func firstError(stages []stage, of func(*stage) func() error) error {
	for _, s := range stages {
		check := of(&s)
		if check == nil {
			continue
		}
		if err := check(); err != nil && s.name != coreStage {
			return fmt.Errorf("%s: %w", s.name, err)
		} else if err != nil {
			return err // The error names the role.
		}
	}
	return nil
}

// coreStage is the name of the stage that runs the core.
const coreStage = "roles"

// stages returns the parts of a node in the order in which they start. They stop in the reverse order,
// one after another. So comet closes its clients while logic still accepts their last
// acknowledgements, and the log closes when no part appends any more.
func (n *Node) stages() []stage {
	all := []stage{{name: "memory", run: sparememory.Return}}
	if n.stores.db != nil {
		all = append(all, stage{name: "data folder", run: n.stores.db.Run, ready: n.stores.db.WritesOK})
	}
	all = append(all, stage{name: "live log", run: n.stores.live.Run})
	if n.cluster != nil {
		all = append(all, n.cluster.stages()...)
		all = append(all, stage{name: "version of records", run: n.records.watch})
	} else {
		all = append(all, stage{name: "tokens", run: n.stores.tokens.Run})
	}
	all = append(all, stage{name: coreStage, run: n.cores.run, ready: n.cores.ready, started: n.cores.started})
	if n.hooks != nil {
		all = append(all, stage{name: "hooks", run: n.hooks.Run})
	}
	all = append(all, stage{name: "http", run: n.http.serve})
	if n.cluster != nil {
		all = append(all, stage{name: "clocks", run: n.cluster.status.compareClocks})
	}
	if n.cluster != nil && n.cfg.Runs(config.RoleRouter) {
		all = append(all, stage{name: "kept log", run: n.cluster.pulse.Run, ready: n.cluster.pulse.Ready})
	}
	if n.cluster != nil && n.cfg.Runs(config.RoleLogic) {
		all = append(all, stage{name: "known tokens", run: n.cluster.tokens.Run, ready: n.cluster.tokens.Ready})
	}
	if n.http.admin != nil {
		all = append(all, stage{name: "admin", run: n.http.serveAdmin})
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
		}
	}
	n.serving.Store(false)
	switch {
	case n.opts.Faults.crash():
		n.crash()
		r.cancel()
	case n.cluster != nil:
		n.cluster.leaving()
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = nil
	}
	if err = r.stop(err, n.cfg.Shutdown.Timeout); err == nil {
		n.log.Info().Msg("stopped")
	}
	return err
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

// stop stops the stages in the reverse order. It returns err, or the first error of a stage. If a stage is not done
// in time, stop cancels the rest, does not wait for them, and names that stage.
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
			r.cancel()
			return errors.Join(err, fmt.Errorf("%s did not stop within shutdown.timeout (%s)", s.name, timeout))
		}
	}
	return err
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

// startWarnInterval is how often the log says what a stage that starts waits for.
const startWarnInterval = 10 * time.Second

// waitStarted waits until a stage has started or has failed, or until ctx is done. It has no limit of
// its own: what is missing may come at any time, and health and readiness are answered meanwhile.
func (r *runner) waitStarted(ctx context.Context, s *runningStage) error {
	started := s.waitFor()
	if started == nil {
		return nil
	}
	pause := wait.Backoff{Min: time.Millisecond, Max: 100 * time.Millisecond}
	warn := time.NewTicker(startWarnInterval)
	defer warn.Stop()
	for {
		why := started()
		if why == nil {
			return nil
		}
		select {
		case err := <-r.failed:
			return err
		case <-warn.C:
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
	return firstError(n.stages(), func(s *stage) func() error { return s.ready })
}
