package router

import (
	"context"
	"time"

	"github.com/cespare/xxhash/v2"

	"imgo/envelope"
	"imgo/store"
)

const (
	// sweepsPerRetention is how often, within the log's retention, it is
	// looked for devices whose record is about to leave the log; sweepEvery
	// is the longest time between: a restart begins to count anew.
	sweepsPerRetention = 32
	sweepEvery         = 15 * time.Minute
	// sweepUsers is how many users are read from the store at a time.
	sweepUsers = 256
	// notePause is the least time between two device records: 200 a second.
	notePause = 5 * time.Millisecond
)

// remember puts every device that has not expired into the log again before
// its last record leaves it, so that whoever rebuilds the mailboxes from the
// log alone knows all devices. It returns when ctx is done.
func (r *Router) remember(ctx context.Context) error {
	if r.cfg.Retention <= 0 {
		return nil
	}
	tick := time.NewTicker(max(min(r.cfg.Retention/sweepsPerRetention, sweepEvery), time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, p := range r.serving() {
			n, err := p.remember(ctx)
			r.metrics.remembered.Add(float64(n))
			if err != nil && ctx.Err() == nil {
				r.log.Warn().Err(err).Int32("partition", p.index).Msg("devices were not put into the log again; trying again")
			}
		}
	}
}

// remember goes through all users of the partition once. It says how many
// devices it put into the log.
func (p *partition) remember(ctx context.Context) (n int, err error) {
	for after := ""; ; {
		users, err := p.r.store.Users(p.index, after, sweepUsers)
		if err != nil || len(users) == 0 {
			return n, err
		}
		for i := range users {
			for _, d := range p.fading(&users[i]) {
				if _, err := p.appendDevice(ctx, d); err != nil {
					return n, err
				}
				n++
				select {
				case <-time.After(notePause):
				case <-p.left:
					return n, nil
				case <-ctx.Done():
					return n, nil
				}
			}
		}
		if !p.owned.Load() || ctx.Err() != nil {
			return n, nil
		}
		after = users[len(users)-1].Name
	}
}

// fading are the devices of a user whose last record is about half the
// retention old. What is in memory is newer than what was stored.
func (p *partition) fading(stored *store.MailboxUser) (list []*envelope.Device) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fenced() {
		return nil // the next generation's topic has them
	}
	meta := &stored.Meta
	if m := p.users[stored.Name]; m != nil {
		meta = &m.meta
	}
	now, retention := p.r.now(), p.r.cfg.Retention
	// Between 3/8 and 1/2: those that came at once do not all go at once.
	jitter := time.Duration(xxhash.Sum64String(stored.Name) % uint64(retention/8+1))
	due := now.Add(jitter - retention/2).UnixMilli()
	expired := now.Add(-p.r.cfg.DeviceExpiry).UnixMilli()
	for _, d := range meta.Devices {
		if d.NotedMS < due && d.SeenMS >= expired {
			list = append(list, &envelope.Device{User: stored.Name, Device: d.Name, SeenMs: d.SeenMS, Since: d.Since})
		}
	}
	return list
}
