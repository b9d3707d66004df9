package router

import (
	"context"
	"slices"
	"sync"
	"time"

	"imgo/envelope"
	"imgo/roles/router/mailbox"
	"imgo/store"
)

// account is one user in memory: the mailbox and the sessions. Its partition's
// mu guards it.
type account struct {
	mailbox.Mailbox
	sessions []*session
	due      accountDue
	extra    *accountExtra // nil: it has nothing of it
}

// accountExtra is what few accounts have.
type accountExtra struct {
	// replaced has the last sessions that newer ones pushed out.
	replaced []envelope.AddressKey
	standoff standoff
	// leaving are devices that a record under way forgets. Nobody may use them
	// before it is applied.
	leaving map[string]struct{}
}

// ownExtra returns the account's extra, which it makes if there is none.
func (a *account) ownExtra() *accountExtra {
	if a.extra == nil {
		a.extra = &accountExtra{leaving: make(map[string]struct{})}
	}
	return a.extra
}

// session returns the session with an address, or nil.
func (a *account) session(key envelope.AddressKey) *session {
	for _, s := range a.sessions {
		if s.id == key.Session && s.kind.comet == key.Comet {
			return s
		}
	}
	return nil
}

func (a *account) connected(device string) bool {
	return slices.ContainsFunc(a.sessions, func(s *session) bool { return s.device == device })
}

const (
	minStandoff = 10 * time.Second
	maxStandoff = time.Hour
)

// standoff keeps old clients of a user from pushing each other out for ever: they
// come back whatever they are told. After one of them has had the oldest session
// closed, no other one may for a pause that doubles each time.
type standoff struct {
	until time.Time
	pause time.Duration
}

// mayReplace reports whether an old client of the user may have a session closed at
// the time now. If so, the next pause begins.
func (a *account) mayReplace(now time.Time) bool {
	s := &a.ownExtra().standoff
	switch {
	case now.After(s.until.Add(s.pause)): // it was quiet for as long
		s.pause = minStandoff
	case now.Before(s.until):
		return false
	default:
		s.pause = min(2*s.pause, maxStandoff)
	}
	s.until = now.Add(s.pause)
	return true
}

// markLeaving marks devices as leaving.
func (a *account) markLeaving(devices []string) {
	for _, d := range devices {
		a.ownExtra().leaving[d] = struct{}{}
	}
}

func (a *account) unmarkLeaving(devices []string) {
	for _, d := range devices {
		delete(a.ownExtra().leaving, d)
	}
}

func (a *account) isLeaving(device string) bool {
	if a.extra == nil {
		return false
	}
	_, leaving := a.extra.leaving[device]
	return leaving
}

// isReplaced reports whether a newer session pushed out the one with an address.
func (a *account) isReplaced(address envelope.AddressKey) bool {
	return a.extra != nil && slices.Contains(a.extra.replaced, address)
}

// longestOffline returns the device that is not connected and was not seen for the
// longest time. ok is false if all are connected, or make room already.
func (a *account) longestOffline() (device string, ok bool) {
	var oldest *store.MailboxDevice
	devices := a.Meta().Devices
	for i := range devices {
		d := &devices[i]
		if !a.connected(d.Name) && !a.isLeaving(d.Name) && (oldest == nil || d.SeenMS < oldest.SeenMS) {
			oldest = d
		}
	}
	if oldest == nil {
		return "", false
	}
	return oldest.Name, true
}

// maxReplaced is how many replaced sessions an account remembers.
const maxReplaced = 16

func (a *account) noteReplaced(key envelope.AddressKey) {
	x := a.ownExtra()
	if len(x.replaced) >= maxReplaced {
		x.replaced = slices.Delete(x.replaced, 0, 1)
	}
	x.replaced = append(x.replaced, key)
}

// unnoteReplaced takes noteReplaced back.
func (a *account) unnoteReplaced(key envelope.AddressKey) {
	x := a.ownExtra()
	x.replaced = slices.DeleteFunc(x.replaced, func(k envelope.AddressKey) bool { return k == key })
}

// loading is one read of an account from the store. err is set once done is closed.
type loading struct {
	done chan struct{} // nil: no other goroutine waits
	err  error
}

// accountTable has the accounts of a partition that are in memory. The
// partition's mu guards it.
type accountTable struct {
	p      *partition
	byUser map[string]*account
	// loading has the accounts that are being read from the store. loads
	// counts these reads.
	loading map[string]*loading
	loads   sync.WaitGroup
	// watched has the accounts that have a session and a message.
	watched map[*account]struct{}
	// reminders has the accounts whose sessions may not know the user's memberships.
	reminders map[*account]*roomReminder
}

// openAndLock locks mu and returns the account of a user. If it returns an error, mu
// is not locked.
func (t *accountTable) openAndLock(ctx context.Context, user string) (*account, error) {
	t.p.mu.Lock()
	a, err := t.openLocked(ctx, user)
	if err != nil {
		t.p.mu.Unlock()
	}
	return a, err
}

// openLocked returns a user's account, which it reads from the store if it is
// not in memory. mu is not held meanwhile, so that a slow disk keeps back only
// the callers that want this user. At most one goroutine reads a user.
//
// The state that was read is the newest one. A goroutine that applies a record to
// the user, or writes the user to the store, needs the account in memory, and so waits.
func (t *accountTable) openLocked(ctx context.Context, user string) (*account, error) {
	p := t.p
	for {
		if err := p.hereLocked(); err != nil {
			return nil, err
		}
		if a := t.byUser[user]; a != nil {
			return a, nil
		}
		if p.rebuild.unread(user) {
			return t.addLocked(mailbox.New(user)), nil
		}
		l := t.loading[user]
		if l == nil {
			return t.loadLocked(user)
		}
		if l.done == nil {
			l.done = make(chan struct{})
		}
		err := p.unlocked(func() error {
			select {
			case <-l.done:
				return l.err
			case <-ctx.Done():
				return envelope.Errorf(envelope.CodeNotReady, "the mailbox of user %q is being read: %v", user, ctx.Err())
			}
		})
		if err != nil {
			return nil, err
		}
	}
}

// loadLocked reads a user's account from the store, and wakes the goroutines
// that wait for it.
func (t *accountTable) loadLocked(user string) (*account, error) {
	l := &loading{}
	t.loading[user] = l
	t.loads.Add(1)
	defer t.loads.Done()
	var box mailbox.Mailbox
	here := t.p.unlocked(func() error {
		meta, entries, err := t.p.store.Load(t.p.index, user)
		box, l.err = mailbox.Load(user, meta, entries), err
		return nil
	})
	delete(t.loading, user)
	if l.done != nil {
		defer close(l.done)
	}
	switch {
	case l.err != nil:
		return nil, l.err
	case here != nil:
		return nil, here
	}
	return t.addLocked(box), nil
}

func (t *accountTable) addLocked(box mailbox.Mailbox) *account {
	a := &account{Mailbox: box}
	t.byUser[box.User()] = a
	t.p.rebuild.restoreDevices(a)
	t.expireLocked(a)
	t.p.dues.scheduleAllLocked(a)
	t.p.presence.loadedLocked(a)
	return a
}

// bound is the bound of every mailbox.
func (res *resources) bound() mailbox.Bound {
	return mailbox.Bound{Length: res.cfg.MailboxLength, Policy: res.cfg.MailboxPolicy}
}

// overflowLocked returns how many messages of an account have to go when it gets
// another one, and whether it is the new one that goes. Expired ones go first.
func (t *accountTable) overflowLocked(a *account) (n int, refused bool) {
	if n, refused = t.p.bound().Overflow(&a.Messages); n > 0 {
		t.p.metrics.expired.Add(float64(t.expireLocked(a)))
		n, refused = t.p.bound().Overflow(&a.Messages)
	}
	return n, refused
}

// expireLocked drops what has expired from an account. It returns the number of
// messages.
func (t *accountTable) expireLocked(a *account) (messages int) {
	messages, expired := a.Expire(t.p.clock.Now(), t.p.deviceExpiryLocked(), a.connected)
	t.p.dues.setExpiredLocked(a.User(), expired)
	t.touchLocked(a, 0)
	return messages
}

// touchLocked puts an account where its state says that it belongs, after a
// change of about size bytes.
func (t *accountTable) touchLocked(a *account, size int) {
	if a.Dirty() {
		t.p.writes.addLocked(a, size)
	}
	if len(a.sessions) > 0 && len(a.Messages.All()) > 0 {
		t.watched[a] = struct{}{}
	}
	if a.Messages.Wasteful() {
		t.p.cache.release(a)
	}
}

// evictLocked drops accounts without sessions from memory, while there are
// more than IdleMailboxes.
func (t *accountTable) evictLocked() {
	p := t.p
	over := len(t.byUser) - p.sessions.online - p.cfg.IdleMailboxes
	if over <= 0 || !p.isUp() && len(t.byUser) < rebuildAccounts && p.rebuild.pushed < rebuildPushes {
		return
	}
	p.rebuild.pushed = 0
	for _, a := range t.byUser {
		if over <= 0 {
			return
		}
		if t.dropLocked(a) {
			over--
		}
	}
}

// dropLocked drops an account from memory, unless it is needed there. It reports whether it did.
func (t *accountTable) dropLocked(a *account) bool {
	p, user := t.p, a.User()
	leaving := a.extra != nil && len(a.extra.leaving) > 0 || len(p.dues.expired[user]) > 0
	if len(a.sessions) > 0 || leaving || a.Dirty() || p.writes.hasLocked(a) || p.presence.hasLocked(a) || p.dues.hasStepLocked(a) {
		return false
	}
	p.cache.release(a)
	p.dues.unscheduleLocked(a)
	delete(t.byUser, user)
	delete(t.watched, a)
	delete(t.reminders, a)
	p.rebuild.noteStored(user)
	return true
}
