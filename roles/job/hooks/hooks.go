package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"imgo/internal/wait"
	"imgo/internal/webhook"
)

// Hooks posts events to all hooks.
type Hooks struct {
	deps   Deps
	mirror *mirror
	hooks  []*hook
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
	if deps.Now == nil {
		deps.Now = time.Now
	}
	h := &Hooks{deps: deps, mirror: newMirror(deps.Table)}
	m := newMetrics(deps.Metrics)
	for _, cfg := range cfgs {
		cfg = cfg.withDefaults()
		caller, err := webhook.New(webhook.Config{
			URL: cfg.URL, Secrets: cfg.Secrets, Timeout: cfg.Timeout, InFlight: cfg.InFlight, MaxAnswer: 1 << 20, Transport: deps.Transport,
			Observe: func(outcome string, took time.Duration) {
				m.calls.WithLabelValues(cfg.Name, outcome).Inc()
				m.seconds.WithLabelValues(cfg.Name).Observe(took.Seconds())
			},
		})
		if err != nil {
			return nil, fmt.Errorf("hook %q: %w", cfg.Name, err)
		}
		log := deps.Log.With().Str("hook", cfg.Name).Logger()
		h.hooks = append(h.hooks, &hook{
			cfg: cfg, deps: deps, mirror: h.mirror, caller: caller, health: newHealth(), metrics: m, log: log,
			sampled: log.Sample(&zerolog.BurstSampler{Burst: 1, Period: time.Second}),
		})
	}
	return h, nil
}

// Run posts until ctx is done. It then waits for the calls under way and stores the positions.
func (h *Hooks) Run(ctx context.Context) error {
	var running sync.WaitGroup
	running.Go(func() { h.mirror.run(ctx, h.deps.Log) })
	for _, each := range h.hooks {
		running.Go(func() { each.run(ctx) })
	}
	running.Wait()
	return nil
}

// run carries one assignment after the other.
func (h *hook) run(ctx context.Context) {
	defer h.caller.Close()
	backoff := wait.Backoff{Min: minRetry / 2, Max: maxRetry / 10}
	var group Group
	for ctx.Err() == nil {
		err := h.mirror.sync(ctx)
		if err == nil && group == nil {
			group, err = h.deps.Group(ctx, h.cfg.Name)
		}
		var a Assignment
		if err == nil {
			a, err = group.Next(ctx)
		}
		if err == nil {
			backoff.Reset()
			h.serve(ctx, a)
			continue
		}
		if ctx.Err() == nil {
			h.sampled.Warn().Err(err).Msg("no events were assigned to the hook yet; asking again")
		}
		_ = backoff.Sleep(ctx)
	}
}

// serve carries one assignment until it or ctx ends.
func (h *hook) serve(ctx context.Context, a Assignment) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var carrying sync.WaitGroup
	for _, part := range a.Parts() {
		carrying.Go(func() { h.carry(ctx, a, part) })
	}
	select {
	case <-a.Done():
	case <-ctx.Done():
	}
	cancel()
	carrying.Wait()
}

// carry posts the events of one partition until ctx is done. After an error it goes on at the stored
// position.
func (h *hook) carry(ctx context.Context, a Assignment, part Part) {
	commit := func(ctx context.Context, at Part) error {
		if err := a.Commit(ctx, []Part{at}); err != nil {
			return fmt.Errorf("store the position: %w", err)
		}
		part.Next = at.Next
		return nil
	}
	defer h.metrics.forget(h.cfg.Name, part.Partition)
	backoff := wait.Backoff{Min: minRetry / 2, Max: maxRetry / 10}
	for ctx.Err() == nil {
		// The part before may have stored a state in the last moment.
		err := h.mirror.sync(ctx)
		var c *carrier
		if err == nil {
			c, err = h.restore(part.Partition, commit)
		}
		if err == nil {
			if err = c.run(ctx, part.Next); errors.Is(err, errReplay) {
				backoff.Reset()
				err = h.replay(ctx, c, commit)
			}
		}
		if err != nil && ctx.Err() == nil {
			h.sampled.Warn().Err(err).Int32("partition", part.Partition).Msg("events are not posted; trying again")
			_ = backoff.Sleep(ctx)
		}
	}
}

// restore returns a carrier with the stored state of a partition.
func (h *hook) restore(partition int32, commit func(context.Context, Part) error) (*carrier, error) {
	var state State
	if value, _ := h.mirror.get(stateKey(h.cfg.Name, partition)); value != nil {
		if err := json.Unmarshal(value, &state); err != nil {
			return nil, fmt.Errorf("stored state of hook %q, partition %d: %w", h.cfg.Name, partition, err)
		}
	}
	return newCarrier(h, partition, state, commit), nil
}

// control returns what callers of the API want of the hook, and a channel that is closed when that may
// have changed.
func (h *hook) control() (c Control, changed <-chan struct{}) {
	value, changed := h.mirror.get(ControlKey(h.cfg.Name))
	if value != nil && json.Unmarshal(value, &c) != nil {
		return Control{}, changed
	}
	return c, changed
}

// pauses reports whether nothing is to be posted to an address.
func (c Control) pauses(url string) bool { return c.Paused != "" && c.URL == url }

// pause stops the hook until a caller of the API, or another address, lets it go on.
func (h *hook) pause(now time.Time) {
	c, _ := h.control()
	if c.pauses(h.cfg.URL) {
		return
	}
	c.Paused, c.PausedMS, c.URL = "the address answered 410", now.UnixMilli(), h.cfg.URL
	ctx, cancel := context.WithTimeout(context.Background(), saveTimeout)
	defer cancel()
	if err := h.put(ctx, ControlKey(h.cfg.Name), encode(c)); err != nil {
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
	h.mirror.set(offset+1, key, value)
	return nil
}

func (h *hook) now() time.Time { return h.deps.Now() }
