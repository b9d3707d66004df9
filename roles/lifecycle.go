package roles

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"imgo/envelope"
)

// stage is one part of a node that runs until its context is done.
type stage struct {
	name string
	run  func(ctx context.Context) error
	// ready says why the next stage has to wait; nil: it has not.
	ready func() error
}

// stages are a node's parts in the order in which they start. They stop in
// the reverse order, each once the one after it is done: clients are sent
// away while there is still a logic to take their last acknowledgements, and
// the log closes when nobody appends any more.
func (n *Node) stages() []stage {
	var all []stage
	if n.db != nil {
		all = append(all, stage{name: "data folder", run: n.db.Run})
	}
	all = append(all, stage{name: "kept log", run: n.kept.Run}, stage{name: "live log", run: n.live.Run})
	if n.router != nil {
		all = append(all, stage{name: RoleRouter, run: n.router.Run, ready: n.router.Ready})
	}
	if n.job != nil {
		all = append(all, stage{name: RoleJob, run: n.job.Run, ready: n.job.Ready})
	}
	if n.logic != nil {
		all = append(all, stage{name: RoleLogic, run: n.logic.Run, ready: n.logic.Ready})
	}
	all = append(all, stage{name: "http", run: n.serveHTTP})
	if n.comet != nil {
		all = append(all, stage{name: RoleComet, run: n.comet.Run, ready: n.comet.Ready})
	}
	return all
}

// startTimeout bounds how long a stage may take to be ready.
const startTimeout = 5 * time.Minute

// Run serves until ctx is done or a part fails, then stops everything in
// order, within shutdown.timeout. The node is used up after it.
func (n *Node) Run(ctx context.Context) error {
	defer n.closeStore()
	failed := make(chan error, len(n.stages()))
	var running []*runningStage
	var err error
	for _, s := range n.stages() {
		r := start(s, failed)
		running = append(running, r)
		if err = r.waitReady(ctx, failed); err != nil {
			break
		}
	}
	if err == nil {
		n.serving.Store(true)
		n.announceStart()
		select {
		case <-ctx.Done():
			n.log.Info().Msg("stopping: clients are told to come back, work under way is finished")
		case err = <-failed:
			n.log.Error().Err(err).Msg("a part of the node failed: stopping")
		}
	}
	n.serving.Store(false)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = nil
	}
	deadline := time.NewTimer(n.cfg.Shutdown.Timeout.Duration)
	defer deadline.Stop()
	for i := len(running) - 1; i >= 0; i-- {
		running[i].cancel()
		select {
		case <-running[i].done:
			if running[i].err != nil && err == nil {
				err = running[i].err
			}
		case <-deadline.C:
			return errors.Join(err, fmt.Errorf("%s did not stop within shutdown.timeout (%s)", running[i].name, n.cfg.Shutdown.Timeout))
		}
	}
	if err == nil {
		n.log.Info().Msg("stopped")
	}
	return err
}

type runningStage struct {
	stage
	cancel context.CancelFunc
	done   chan struct{}
	err    error // valid once done is closed
}

// start runs a stage of its own context: stopping goes in order, not all at
// once.
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

// waitReady waits until a stage is ready, has failed, or is not wanted.
func (r *runningStage) waitReady(ctx context.Context, failed <-chan error) error {
	if r.ready == nil {
		return nil
	}
	limit := time.NewTimer(startTimeout)
	defer limit.Stop()
	pause := time.Millisecond
	for {
		why := r.ready()
		if why == nil {
			return nil
		}
		select {
		case err := <-failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-limit.C:
			return fmt.Errorf("%s was not ready within %s: %w", r.name, startTimeout, why)
		case <-time.After(pause):
			pause = min(2*pause, 100*time.Millisecond)
		}
	}
}

// ready says why the node cannot serve; nil: it can.
func (n *Node) ready() error {
	if !n.serving.Load() {
		return envelope.Errorf(envelope.CodeUnavailable, "the node is starting or stopping")
	}
	for _, s := range n.stages() {
		if s.ready != nil {
			if err := s.ready(); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	return nil
}

// serveHTTP serves the API until ctx is done, then lets requests under way
// end.
func (n *Node) serveHTTP(ctx context.Context) error {
	fresh := newUntouched()
	n.server.ConnState = fresh.note
	done := make(chan error, 1)
	go func() { done <- n.server.Serve(n.listener) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve the HTTP API: %w", err)
	case <-ctx.Done():
	}
	fresh.end()
	grace, cancel := context.WithTimeout(context.Background(), n.cfg.Shutdown.Timeout.Duration/4)
	defer cancel()
	if err := n.server.Shutdown(grace); err != nil {
		// Somebody reads slowly or sends slowly: the end of them.
		_ = n.server.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
