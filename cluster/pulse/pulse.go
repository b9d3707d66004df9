// Package pulse asks a log of the cluster whether it answers, and tells the other nodes when it does not.
//
// A node that is cut off is known as such after ten seconds, and as one that can read the log a second after the log answers.
// The package does not decide who does the work of a node: each node reads that from gossip.
package pulse

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"imgo/cluster/bus"
	"imgo/envelope"
	"imgo/internal/wait"
)

const (
	// interval is how often a node asks a log for an answer.
	interval = time.Second
	// timeout bounds one question.
	timeout = 2 * time.Second
	// cutAfter is the time without an answer after which other nodes do the work of this one.
	cutAfter = bus.UnreadableAfter
)

// Config is what a Pulse asks and tells.
type Config struct {
	// Ask asks the log for an answer. try counts the questions.
	Ask func(ctx context.Context, try int32) error
	// Announce says in gossip whether this node is cut off from the log.
	Announce func(cut bool) error
	// Replaced reports whether other nodes do the work of this one.
	Replaced func() bool
	// Unreadable returns why a part of the log cannot be read, or nil.
	Unreadable func() error
	Texts      Texts
	Log        zerolog.Logger
}

// Texts are what a Pulse says when the log does not answer, when it answers again, and why the node is not ready. The
// last one has a %s for the time without an answer.
type Texts struct{ Silent, Answers, NotReady string }

// Pulse asks a log whether it answers, and says in gossip when it does not, so that other nodes do the work of this one.
// If no node can read the log, the log itself is away, and all nodes keep their work.
type Pulse struct {
	cfg Config
	cut atomic.Bool
	// missing is why a part cannot be read although the log answers, or nil.
	missing atomic.Pointer[error]
}

// New returns a Pulse that does nothing until Run.
func New(cfg Config) *Pulse { return &Pulse{cfg: cfg} }

// Run asks until ctx is done.
func (p *Pulse) Run(ctx context.Context) error {
	answered, back := time.Now(), time.Time{}
	announced := true // the other nodes know cut
	for try := int32(0); ctx.Err() == nil; try++ {
		qctx, cancel := context.WithTimeout(ctx, timeout)
		err := p.cfg.Ask(qctx, try)
		cancel()
		if err == nil {
			answered = time.Now()
		}
		cut := time.Since(answered) > cutAfter
		if (cut != p.cut.Load() || !announced) && ctx.Err() == nil {
			announced = p.change(cut, err)
			back = time.Now()
		}
		switch why := p.cfg.Unreadable(); {
		case why == nil, cut, time.Since(back) < cutAfter: // after an outage of all, each broker has time to come back
			p.missing.Store(nil)
		case err == nil: // another broker answers
			p.missing.Store(&why)
		}
		if wait.Sleep(ctx, interval) != nil {
			return nil
		}
	}
	return nil
}

// change announces that the log answers, or does not answer. It reports whether the other nodes were told. If not, they
// may know of it or not, so the next round announces again, whatever is true then.
func (p *Pulse) change(cut bool, err error) (announced bool) {
	p.cut.Store(cut)
	if terr := p.cfg.Announce(cut); terr != nil {
		p.cfg.Log.Warn().Err(terr).Msg("the other nodes were not told whether this node can read a log; trying again")
		return false
	}
	if cut {
		p.cfg.Log.Error().Err(err).Dur("since", cutAfter).Msg(p.cfg.Texts.Silent)
	} else {
		p.cfg.Log.Info().Msg(p.cfg.Texts.Answers)
	}
	return true
}

// Ready returns an error while other nodes do the work of this one, or a part of the log cannot be read.
func (p *Pulse) Ready() error {
	if missing := p.missing.Load(); missing != nil {
		return envelope.Errorf(envelope.CodeUnavailable, "%v", *missing)
	}
	if p.cut.Load() && p.cfg.Replaced() {
		return envelope.Errorf(envelope.CodeUnavailable, p.cfg.Texts.NotReady, cutAfter)
	}
	return nil
}
