package hooks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/internal/wait"
	"imgo/internal/webhook"
	"imgo/roles/job"
)

// Hooks posts events to all hooks, and shows them.
type Hooks struct {
	Admin
	posting []*hook // none with Deps.ShowOnly
}

// hook is one hook in this process.
type hook struct {
	cfg     Config
	deps    Deps
	mirror  *mirror
	caller  *webhook.Caller
	health  *health
	metrics *metrics
	log     zerolog.Logger
	sampled zerolog.Logger // for what may repeat with every event
}

// New makes the hooks. It returns an error for an address or a secret that cannot be used.
func New(cfgs []Config, deps Deps) (*Hooks, error) {
	h := &Hooks{Admin: Admin{deps: deps, mirror: newMirror(deps.Table), hooks: cfgs}}
	if deps.ShowOnly {
		return h, nil
	}
	m := newMetrics(deps.Metrics)
	for _, cfg := range cfgs {
		caller, err := webhook.New(webhook.Config{
			URL: cfg.URL, Secrets: cfg.Secrets, Timeout: cfg.Timeout, InFlight: maxInFlight, MaxAnswer: 1 << 20, Faults: deps.Faults,
			Observe: func(outcome string, took time.Duration) {
				m.calls.WithLabelValues(cfg.Name, outcome).Inc()
				m.seconds.WithLabelValues(cfg.Name).Observe(took.Seconds())
			},
		})
		if err != nil {
			return nil, fmt.Errorf("hook %q: %w", cfg.Name, err)
		}
		log := deps.Log.With().Str("hook", cfg.Name).Logger()
		h.posting = append(h.posting, &hook{
			cfg: cfg, deps: deps, mirror: h.mirror, caller: caller, health: newHealth(), metrics: m, log: log,
			sampled: log.Sample(&zerolog.BurstSampler{Burst: 1, Period: time.Second}),
		})
	}
	return h, nil
}

// Run follows the state of the hooks, and posts, until ctx is done. It then cancels the calls under way and stores the
// positions. The events of a cancelled call are posted again.
func (h *Hooks) Run(ctx context.Context) error {
	var running sync.WaitGroup
	running.Go(func() { h.mirror.run(ctx, h.deps.Log) })
	for _, each := range h.posting {
		running.Go(func() { each.run(ctx) })
	}
	running.Wait()
	return nil
}

// run posts one generation of the topic after the other.
func (h *hook) run(ctx context.Context) {
	defer h.caller.Close()
	backoff := wait.Backoff{Min: minRetry / 2, Max: maxRetry / 10}
	for ctx.Err() == nil {
		err := h.mirror.sync(ctx)
		if err == nil {
			err = h.post(ctx, h.oldest())
		}
		if err == nil {
			backoff.Reset()
			continue
		}
		if ctx.Err() == nil {
			h.sampled.Warn().Err(err).Msg("no events were assigned to the hook yet; asking again")
		}
		_ = backoff.Sleep(ctx)
	}
}

// oldest returns the oldest generation of which the hook has not posted all events, or which has yet to take up
// a replay. Growth of the kept log begins a generation. Nothing is appended to the one before then.
func (h *hook) oldest() uint16 {
	oldest := h.deps.Topics.Current()
	control, _ := h.control()
	h.mirror.states(h.cfg.Name, func(at place, s State) {
		if !s.Ended || s.Replayed < control.Replay {
			oldest = min(oldest, at.generation)
		}
	})
	return oldest
}

// hasState reports whether the hook has a state of a generation.
func (h *hook) hasState(generation uint16) (known bool) {
	h.mirror.states(h.cfg.Name, func(at place, _ State) { known = known || at.generation == generation })
	return known
}

// post posts the events of a generation until ctx is done, or until awaitEnd ends it.
func (h *hook) post(ctx context.Context, generation uint16) error {
	log, err := h.deps.Topics.Open(ctx, generation)
	if errors.Is(err, envelope.ErrNotFound) {
		return h.endMissing(ctx, generation)
	}
	if err != nil {
		return fmt.Errorf("open the events of generation %d: %w", generation, err)
	}
	group, err := h.join(ctx, log)
	if err != nil {
		return fmt.Errorf("join the group of the hook: %w", err)
	}
	defer func() {
		if err := group.Close(); err != nil {
			h.log.Warn().Err(err).Msg("the group of the hook was not left")
		}
	}()
	posting, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() { h.awaitEnd(posting, log, cancel) })
	for posting.Err() == nil {
		a, err := group.Next(posting)
		if err == nil {
			h.serve(posting, log, a)
		} else if posting.Err() == nil {
			return fmt.Errorf("ask for partitions: %w", err)
		}
	}
	return nil
}

// join joins the group of the hook for a generation of the topic.
func (h *hook) join(ctx context.Context, log envelope.Log) (Group, error) {
	if h.deps.Group == nil {
		return newLoneGroup(log.Partitions()), nil
	}
	return h.deps.Group(ctx, h.cfg.Name, log.Generation())
}

// awaitEnd calls ended in three cases. All events of a generation are posted and there is a newer one. An older
// generation is to be replayed. Growth has closed the log, because it was that of the former core. The caller then
// opens the generation again.
func (h *hook) awaitEnd(ctx context.Context, log envelope.Log, ended func()) {
	looked, replay := false, uint64(0) // the last replay that was looked at: the states are many
	for wait.Sleep(ctx, saveInterval) == nil {
		if control, _ := h.control(); !looked || control.Replay != replay {
			if looked, replay = true, control.Replay; h.oldest() < log.Generation() {
				ended()
				return
			}
		}
		if h.deps.Topics.Current() == log.Generation() {
			continue
		}
		switch done, err := h.endGeneration(ctx, log); {
		case done, errors.Is(err, envelope.ErrClosed):
			ended()
			return
		case err != nil:
			h.sampled.Warn().Err(err).Msg("it is not known whether all events of an older generation are posted; asking again")
		}
	}
}

// endGeneration reports whether all events of an older generation are posted. It marks its states then.
func (h *hook) endGeneration(ctx context.Context, log envelope.Log) (done bool, err error) {
	control, _ := h.control()
	posted := make(map[string]State)
	for partition := range log.Partitions() {
		_, end, err := log.Bounds(ctx, partition)
		if err != nil {
			return false, fmt.Errorf("find the end of the events of partition %d: %w", partition, err)
		}
		key := stateKey(h.cfg.Name, place{log.Generation(), partition})
		s, stored, err := load[State](h.mirror, key)
		if !stored || err != nil || s.Position < end || len(s.Open) > 0 || s.Replayed < control.Replay {
			return false, nil
		}
		posted[key] = s
	}
	for key, s := range posted {
		if s.Ended {
			continue
		}
		s.Ended = true
		if err := h.put(ctx, key, encode(s)); err != nil {
			return false, err
		}
	}
	return true, nil
}

// endMissing ends an older generation whose topic was deleted. Its events that wait for another try become dead
// letters.
func (h *hook) endMissing(ctx context.Context, generation uint16) error {
	control, _ := h.control()
	missing := make(map[string]State)
	h.mirror.states(h.cfg.Name, func(at place, s State) {
		if at.generation == generation {
			missing[stateKey(h.cfg.Name, at)] = s
		}
	})
	for key, s := range missing {
		for _, l := range s.Open {
			s.addDead(l, whyGone, h.now())
		}
		s.Open, s.Ended, s.Replayed = nil, true, control.Replay
		if err := h.put(ctx, key, encode(s)); err != nil {
			return err
		}
	}
	h.log.Warn().Uint16("generation", generation).
		Msg("the events topic of an older generation was deleted: the hook goes on with the next one")
	return nil
}

// serve carries one assignment until it or ctx ends.
func (h *hook) serve(ctx context.Context, log envelope.Log, a job.Assignment) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var carrying sync.WaitGroup
	for _, part := range a.Parts() {
		carrying.Go(func() { h.carry(ctx, log, a, part) })
	}
	select {
	case <-a.Done():
	case <-ctx.Done():
	}
	cancel()
	carrying.Wait()
}

// beyondEndTries is how often a topic that ends before the position of a hook is asked again. Right after a change of
// leaders Kafka may say less than it has.
const beyondEndTries = 9

// carry posts the events of one partition until ctx is done. After an error it goes on at the stored
// state.
func (h *hook) carry(ctx context.Context, log envelope.Log, a job.Assignment, part job.Part) {
	commit := func(ctx context.Context, next int64) error {
		at := part
		at.Next = next
		if err := a.Commit(ctx, []job.Part{at}); err != nil {
			return fmt.Errorf("store the position: %w", err)
		}
		part = at
		return nil
	}
	defer h.metrics.forget(h.cfg.Name, part.Partition)
	backoff := wait.Backoff{Min: minRetry / 2, Max: maxRetry / 10}
	beyond := 0 // times in a row
	for ctx.Err() == nil {
		// The job that carried the partition before may have stored a state in the last moment.
		err := h.mirror.sync(ctx)
		var c *carrier
		if err == nil {
			c, err = h.restore(log, part.Partition, commit)
		}
		if err == nil {
			switch err = c.run(ctx, part.Next); {
			case errors.Is(err, errReplay):
				backoff.Reset()
				if h.oldest() < log.Generation() { // its events come first: awaitEnd ends this generation
					<-ctx.Done()
					return
				}
				err = h.replay(ctx, c)
			case !errors.Is(err, errBeyondEnd), c.reader != nil: // it began well
				beyond = 0
			case beyond >= beyondEndTries:
				beyond, err = 0, h.startOver(ctx, c)
			default:
				beyond++
				backoff.Reset() // so that all tries take some seconds
			}
		}
		if err != nil && ctx.Err() == nil {
			h.sampled.Warn().Err(err).Int32("partition", part.Partition).Msg("events are not posted; trying again")
			_ = backoff.Sleep(ctx)
		}
	}
}

// startOver prepares the stored state of a partition that ends before the position of its carrier. The topic was made
// again, or has lost events. The next carrier begins with the oldest event. Events that waited for another try become
// dead letters, because their offsets may be those of other events now.
func (h *hook) startOver(ctx context.Context, c *carrier) error {
	begin, end, err := c.log.Bounds(ctx, c.partition)
	if err != nil {
		return fmt.Errorf("find the begin of the events of partition %d: %w", c.partition, err)
	}
	state := c.state
	if c.entry != nil && state.Position <= end {
		return nil
	}
	state.Dead = slices.Clone(state.Dead)
	for _, l := range state.Open {
		state.addDead(l, whyGone, h.now())
	}
	for i := range state.Dead {
		state.Dead[i].Offset = gone
	}
	state.Open, state.Position, state.Ended = nil, begin, false
	if err := h.put(ctx, c.key(), encode(state)); err != nil {
		return err
	}
	h.log.Error().Int32("partition", c.partition).Int64("begin", begin).Int64("end", end).
		Msg("the events topic ends before the position of the hook: it was made again, or has lost events. The hook begins with its oldest event")
	return nil
}

// restore returns a carrier with the stored state of a partition.
func (h *hook) restore(log envelope.Log, partition int32, commit func(context.Context, int64) error) (*carrier, error) {
	c := newCarrier(h, log, partition, commit)
	c.entry = h.mirror.get(c.key())
	var err error
	c.state, _, err = decode[State](c.key(), c.entry)
	return c, err
}

// control returns what callers of the API want of the hook, and a channel that is closed when that may
// have changed.
func (h *hook) control() (c Control, changed <-chan struct{}) {
	changed = h.mirror.changes()
	c, _ = loadControl(h.mirror, h.cfg.Name) // one that cannot be read wants nothing
	return c, changed
}

// pauses reports whether nothing is to be posted to an address.
func (p Pause) pauses(url string) bool { return p.Paused != "" && p.URL == url }

// pause stops the hook until a caller of the API, or another address, lets it go on.
func (h *hook) pause(now time.Time) {
	c, _ := h.control()
	if c.pauses(h.cfg.URL) {
		return
	}
	pause := Pause{"the address answered 410", now.UnixMilli(), h.cfg.URL}
	ctx, cancel := context.WithTimeout(context.Background(), saveTimeout)
	defer cancel()
	if err := h.put(ctx, pausePrefix+h.cfg.Name, encode(pause)); err != nil {
		h.sampled.Warn().Err(err).Msg("the pause of a hook was not stored; trying again with the next call")
		return
	}
	h.log.Error().Msg("the address answered 410, so it wants no more events: the hook is paused. imgo hooks resume lets it go on")
}

// put stores an entry, and waits until this process sees it.
func (h *hook) put(ctx context.Context, key string, value []byte) error {
	offset, err := h.deps.Table.Put(ctx, []byte(key), value)
	if err != nil {
		return fmt.Errorf("store %s: %w", key, err)
	}
	h.mirror.set(offset, key, value)
	return nil
}

func (h *hook) now() time.Time { return h.deps.Now() }
