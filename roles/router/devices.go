package router

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/proto"

	"imgo/envelope"
	"imgo/internal/wait"
	"imgo/roles/router/mailbox"
	"imgo/store"
)

const (
	// sweepsPerRetention is how often, within the log's retention, the sweep looks for
	// devices whose record is about to leave the log. sweepEvery is the longest time between
	// two sweeps, because a restart begins to count anew.
	sweepsPerRetention = 32
	sweepEvery         = 15 * time.Minute
	// expireEvery is how often it is looked for devices that have expired where nothing else is looked for.
	expireEvery = time.Hour
	// sweepUsers is how many users are read from the store at a time.
	sweepUsers = 256
	// notePause is the least time between two device records: 200 a second.
	notePause = 5 * time.Millisecond
	// noteEvery is the longest time between two looks for devices that stay connected.
	noteEvery = time.Minute
	// maxSeenEvery is the longest time after which a device that stays connected is noted as seen.
	maxSeenEvery = 24 * time.Hour
)

// deviceRecords keeps a partition's devices known in the log.
type deviceRecords struct{ *partition }

func (p *partition) devices() deviceRecords { return deviceRecords{p} }

// ensure makes a device known, through the log, and waits until it is.
// A device that is known but was not seen for long is noted as seen.
func (p deviceRecords) ensure(ctx context.Context, user, device string) error {
	now := p.clock.Now()
	a, err := p.accounts.openAndLock(ctx, user)
	if err != nil {
		return err
	}
	var since uint64
	var seenMS int64
	d := a.Devices().Find(device)
	known := d != nil
	if known {
		since, seenMS = d.Since, d.SeenMS
	}
	fenced := p.position.fenced()
	switch {
	case a.isLeaving(device):
		p.mu.Unlock()
		return envelope.Errorf(envelope.CodeNotReady, "device %q of user %q is being forgotten", device, user)
	case known && (fenced || seenMS > now.Add(-p.cfg.seenEvery()).UnixMilli()):
		p.mu.Unlock()
		return nil
	case fenced:
		p.mu.Unlock()
		return errFenced(p.index)
	}
	var replaced []string
	if !known {
		replaced, err = p.makeRoomLocked(a, device)
	}
	p.mu.Unlock()
	switch {
	case err != nil:
		return err
	case len(replaced) > 0:
		defer p.unmarkLeaving(a, replaced)
	case !known:
		defer p.unmarkComing(a, device)
	}
	id, err := p.appendDevice(ctx, p.index, &envelope.Device{
		User: user, Device: device, SeenMs: now.UnixMilli(), Since: since, Replaced: replaced,
	})
	if err != nil || known {
		return err
	}
	return p.wait(ctx, id)
}

// makeRoomLocked returns the device that has to go so that a user gets another one,
// if any has to. Until unmarkLeaving, nobody may use that device. If none has to go, the
// place is the new device's until unmarkComing.
func (p deviceRecords) makeRoomLocked(a *account, device string) (replaced []string, err error) {
	n := p.knownOrComingLocked(a, device)
	if n < p.cfg.DevicesPerUser {
		p.coming[accountDevice{a, device}]++
		return nil, nil
	}
	if p.cfg.DevicesPolicy == ReplaceDevice {
		if oldest, ok := a.longestOffline(); ok {
			replaced = []string{oldest}
			a.markLeaving(replaced)
			return replaced, nil
		}
	}
	return nil, envelope.Errorf(envelope.CodeTooManyDevices,
		"the user has %d devices, as many as are allowed; one of them has to be forgotten first", n)
}

// accountDevice names a device of an account.
type accountDevice struct {
	a    *account
	name string
}

// knownOrComingLocked counts the devices of an account that are known, and those but
// device that are coming.
func (p deviceRecords) knownOrComingLocked(a *account, device string) int {
	n := len(a.Meta().Devices)
	if n+len(p.coming) < p.cfg.DevicesPerUser {
		return n // there is room for all that are coming
	}
	for c := range p.coming {
		if c.a == a && c.name != device && a.Devices().Find(c.name) == nil {
			n++
		}
	}
	return n
}

func (p deviceRecords) unmarkComing(a *account, device string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := accountDevice{a, device}
	if p.coming[c]--; p.coming[c] == 0 {
		delete(p.coming, c)
	}
}

func (p deviceRecords) unmarkLeaving(a *account, devices []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a.unmarkLeaving(devices)
}

// noteLoop notes devices that stay connected as seen, until ctx is done. It waits for the kept log.
func (r *Router) noteLoop(ctx context.Context) error {
	wait.Every(ctx, max(min(noteEvery, r.cfg.seenEvery()), time.Millisecond), func() {
		for _, p := range r.parts.serving() {
			if err := p.devices().noteConnected(ctx); err != nil && ctx.Err() == nil {
				r.log.Warn().Err(err).Int32("partition", p.index).Msg("connected devices were not noted as seen; trying again")
			}
		}
	})
	return nil
}

// noteConnected notes the partition's devices that are connected for long as seen, in the log, so that
// every owner knows it.
func (p deviceRecords) noteConnected(ctx context.Context) error {
	for _, c := range p.longConnected() {
		d := p.seenNow(c)
		if d == nil {
			continue
		}
		if _, err := p.appendDevice(ctx, p.index, d); err != nil {
			return err
		}
	}
	return nil
}

// longConnected returns the connected devices that are to be noted as seen, each once.
func (p deviceRecords) longConnected() (list []accountDevice) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	for _, a := range p.accounts.byUser {
		var listed uint64
		for _, s := range a.sessions {
			if d := p.unnotedLocked(a, s.device, now); d != nil && listed&(1<<d.Bit) == 0 {
				listed |= 1 << d.Bit
				list = append(list, accountDevice{a, s.device})
			}
		}
	}
	return list
}

// seenNow returns the record that notes a device as seen now. It returns nil if there is nothing to note any more: the
// device may have been removed since longConnected, or have gone.
func (p deviceRecords) seenNow(c accountDevice) *envelope.Device {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	d := p.unnotedLocked(c.a, c.name, now)
	if d == nil {
		return nil
	}
	return &envelope.Device{User: c.a.User(), Device: c.name, SeenMs: now.UnixMilli(), Since: d.Since}
}

// unnotedLocked returns a device if it is connected and known, and was noted as seen longer than seenEvery before
// now. Otherwise, or if it is not this partition that has to note it, it returns nil.
func (p deviceRecords) unnotedLocked(a *account, name string, now time.Time) *store.MailboxDevice {
	d := a.Devices().Find(name)
	if d == nil || d.SeenMS >= now.Add(-p.cfg.seenEvery()).UnixMilli() || a.isLeaving(name) || !a.connected(name) {
		return nil
	}
	if !p.owned.Load() || p.position.fenced() {
		return nil // another owner notes it, or the log's next generation
	}
	return d
}

// repeatDevices puts every device that has not expired, and all memberships of a
// user, into the log again before their last record leaves it. So a router that
// rebuilds the mailboxes from the log alone knows all of them. It returns when ctx
// is done.
func (r *Router) repeatDevices(ctx context.Context) error {
	every := expireEvery // the log keeps its records for longer than the store its mailboxes
	if r.cfg.Retention > 0 {
		every = max(min(r.cfg.Retention/sweepsPerRetention, sweepEvery), time.Millisecond)
	}
	wait.Every(ctx, every, func() {
		for _, p := range r.parts.serving() {
			n, err := p.devices().repeat(ctx)
			r.metrics.repeated.Add(float64(n))
			if err != nil && ctx.Err() == nil && !isClosed(p.left) {
				r.log.Warn().Err(err).Int32("partition", p.index).Msg("devices were not put into the log again; trying again")
			}
		}
	})
	return nil
}

// repeat goes through all users of the partition once. It returns how
// many records it put into the log.
func (p deviceRecords) repeat(ctx context.Context) (n int, err error) {
	for after := ""; ; {
		users, err := p.store.Users(p.index, after, sweepUsers)
		if err != nil || len(users) == 0 {
			return n, err
		}
		for i := range users {
			list, expired := p.fading(&users[i])
			if expired {
				// The owner's next look for steps forgets the device if the account is in memory.
				if _, err := p.accounts.openAndLock(ctx, users[i].Name); err != nil {
					return n, err
				}
				p.mu.Unlock()
				if wait.Sleep(ctx, notePause) != nil {
					return n, nil
				}
			}
			for _, rec := range list {
				done, err := p.repeatRecord(ctx, users[i].Name, rec)
				if err != nil {
					return n, err
				}
				if done {
					n++
				}
				if wait.Sleep(ctx, notePause) != nil || isClosed(p.left) {
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

// repeatRecord puts a record of a user into the log, unless what it repeats has changed since it was made. The record of
// a device that was removed meanwhile would bring it back. done reports whether the log has the record.
func (p deviceRecords) repeatRecord(ctx context.Context, user string, rec *envelope.Record) (done bool, err error) {
	if rec.Device.GetPublished() > 0 {
		// A router that rebuilds the mailbox takes it for granted that the topic has these events.
		if err := p.events.waitSent(ctx); err != nil {
			return false, err
		}
	}
	a, err := p.accounts.openAndLock(ctx, user) // what was read of the store may be old
	if err != nil {
		return false, err
	}
	list, _ := p.fadingLocked(user, a.Meta(), a)
	p.mu.Unlock()
	if !slices.ContainsFunc(list, func(now *envelope.Record) bool { return proto.Equal(now, rec) }) {
		return false, nil
	}
	_, err = p.append(ctx, p.index, rec, fmt.Sprintf("what is known of user %q", user))
	return err == nil, err
}

// fading is fadingLocked for a user of the store. The state in memory is newer than the stored one.
func (p deviceRecords) fading(stored *store.MailboxUser) (list []*envelope.Record, expired bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	meta, a := stored.Meta, p.accounts.byUser[stored.Name]
	if a != nil {
		meta = a.Meta()
	}
	return p.fadingLocked(stored.Name, meta, a)
}

// fadingLocked returns records that repeat what is known of a user: devices and memberships whose last record is about
// half the retention old. a is nil if the user's account is not in memory. expired is set if a is nil and a device has
// expired that only a record may forget.
func (p deviceRecords) fadingLocked(user string, meta store.MailboxMeta, a *account) (list []*envelope.Record, expired bool) {
	if p.position.fenced() {
		return nil, false // the next generation's topic has them
	}
	now, retention := p.clock.Now(), p.cfg.Retention
	// Between 3/8 and 1/2: those that came at once do not all go at once.
	jitter := time.Duration(xxhash.Sum64String(user) % uint64(retention/8+1))
	due, limit := now.Add(jitter-retention/2).UnixMilli(), now.Add(-p.cfg.DeviceExpiry).UnixMilli()
	for _, d := range meta.Devices {
		old := d.NotedMS < due || d.Published > 0 && d.PublishedMS < due
		switch {
		case d.SeenMS < limit && d.Published > 0 && a == nil && p.deviceExpiryLocked() != mailbox.NoExpiry:
			expired = true
		case old && retention > 0 && d.SeenMS >= limit && (a == nil || !a.isLeaving(d.Name)):
			list = append(list, &envelope.Record{Device: &envelope.Device{
				User: user, Device: d.Name, SeenMs: d.SeenMS, Since: d.Since, Published: d.Published,
			}})
		}
	}
	if retention <= 0 {
		return list, expired
	}
	if pr := meta.Presence; pr != nil && pr.Online && pr.NotedMS < due && p.presence != nil {
		again := mailbox.PresenceRecord(pr)
		again.User = user
		list = append(list, &envelope.Record{Presences: &envelope.Presences{Presences: []*envelope.Presence{again}}})
	}
	if r := meta.Rooms; r != nil && r.NotedMS < due && len(r.Names) > 0 {
		list = append(list, &envelope.Record{UserRooms: &envelope.UserRooms{User: user, Rooms: mailbox.RoomsRecord(r)}})
	}
	return list, expired
}
