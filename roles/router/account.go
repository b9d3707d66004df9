package router

import (
	"container/list"
	"context"
	"slices"
	"time"

	"imgo/envelope"
	"imgo/roles/router/mailbox"
)

// account is one user in memory: the mailbox and the sessions. Its partition's
// mu guards it.
type account struct {
	mailbox.Mailbox
	sessions []*session
	// replaced has the last sessions that newer ones pushed out.
	replaced []envelope.AddressKey
	// cached is its place in the partition's cache; nil: it holds no bodies.
	cached *list.Element
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

// maxReplaced is how many replaced sessions an account remembers.
const maxReplaced = 16

func (a *account) noteReplaced(key envelope.AddressKey) {
	if len(a.replaced) >= maxReplaced {
		a.replaced = slices.Delete(a.replaced, 0, 1)
	}
	a.replaced = append(a.replaced, key)
}

// loading is one read of an account from the store. Its fields are true once
// done is closed.
type loading struct {
	done chan struct{}
	err  error
}

// open returns a user's account with mu held, for the caller to unlock. Without
// an error: with one, mu is not held.
func (p *partition) open(ctx context.Context, user string) (*account, error) {
	p.mu.Lock()
	a, err := p.openLocked(ctx, user)
	if err != nil {
		p.mu.Unlock()
	}
	return a, err
}

// openLocked returns a user's account, which it reads from the store if it is
// not in memory. mu is not held meanwhile, so that a slow disk keeps back only
// those who want this user. At most one goroutine reads a user.
//
// What was read is the newest state: whatever applies a record to the user, or
// writes the user to the store, needs the account in memory, and so waits.
func (p *partition) openLocked(ctx context.Context, user string) (*account, error) {
	for {
		if err := p.hereLocked(); err != nil {
			return nil, err
		}
		if a := p.accounts[user]; a != nil {
			return a, nil
		}
		if p.rebuild.unread(user) {
			return p.addAccountLocked(mailbox.New(user)), nil
		}
		l := p.loading[user]
		if l == nil {
			return p.loadLocked(user)
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

// loadLocked reads a user's account from the store, and tells those who wait
// for it.
func (p *partition) loadLocked(user string) (*account, error) {
	l := &loading{done: make(chan struct{})}
	defer close(l.done)
	p.loading[user] = l
	p.loads.Add(1)
	defer p.loads.Done()
	var box mailbox.Mailbox
	here := p.unlocked(func() error {
		meta, entries, err := p.store.Load(p.index, user)
		box, l.err = mailbox.Load(user, meta, entries), err
		return nil
	})
	delete(p.loading, user)
	switch {
	case l.err != nil:
		return nil, l.err
	case here != nil:
		return nil, here
	}
	return p.addAccountLocked(box), nil
}

func (p *partition) addAccountLocked(box mailbox.Mailbox) *account {
	a := &account{Mailbox: box}
	p.accounts[box.User()] = a
	p.rebuild.restoreDevices(a)
	a.Expire(p.now(), p.deviceExpiry(), a.connected)
	p.touchLocked(a, 0)
	return a
}

// deviceExpiry is for how long a device is remembered. That is for ever while
// the log is read back: a later record may say that the device was seen again.
func (p *partition) deviceExpiry() time.Duration {
	if !p.isUp() {
		return mailbox.NoExpiry
	}
	return p.cfg.DeviceExpiry
}

// touchLocked puts an account where its state says that it belongs, after a
// change of about size bytes.
func (p *partition) touchLocked(a *account, size int) {
	if a.Dirty() {
		p.writes.add(a, size)
	}
	if len(a.sessions) > 0 && len(a.Entries()) > 0 {
		p.watching[a] = struct{}{}
	}
	if a.Wasteful() {
		p.cache.release(a)
	}
}

// evictLocked drops accounts without sessions from memory, while there are
// more than IdleMailboxes.
func (p *partition) evictLocked() {
	over := len(p.accounts) - p.sessions.online - p.cfg.IdleMailboxes
	if over <= 0 || !p.isUp() && len(p.accounts) < rebuildAccounts && p.rebuild.pushed < rebuildPushes {
		return
	}
	p.rebuild.pushed = 0
	for user, a := range p.accounts {
		if over <= 0 {
			return
		}
		if len(a.sessions) > 0 || a.Dirty() || p.writes.has(a) {
			continue
		}
		p.cache.release(a)
		delete(p.accounts, user)
		delete(p.watching, a)
		p.rebuild.noteStored(user)
		over--
	}
}
