package hooks

import (
	"slices"
	"time"
)

// lane has the open events of one user, oldest first. One call at a time has events of a lane.
type lane struct {
	user  string
	items []*item
	// single is set if the events are posted one by one, because a call with several has failed.
	single bool
	// answered is set if the receiver has taken an event of the user since the lane was made.
	answered bool
}

// likelihood says how likely the first event of the lane is to be taken. A higher number is likelier.
func (l *lane) likelihood() int {
	switch {
	case l.answered && l.items[0].Tries == 0:
		return 2
	case l.items[0].Tries == 0:
		return 1
	}
	return 0
}

// lanes has the open events of a partition by user. It is for one goroutine.
type lanes struct {
	byUser map[string]*lane
	// ready has lanes whose first event may be posted now, in the order in which that came true. waiting
	// has lanes whose first event waits for another try.
	ready   []*lane
	waiting []*lane
	open    int
}

// add puts an event behind those of its user.
func (l *lanes) add(it *item, now time.Time) {
	u := l.byUser[it.User]
	if u == nil {
		u = &lane{user: it.User}
		l.byUser[it.User] = u
	}
	u.items = append(u.items, it)
	l.open++
	if len(u.items) == 1 {
		l.file(u, now)
	}
}

// file puts a lane of which no event is in a call where it belongs.
func (l *lanes) file(u *lane, now time.Time) {
	if len(u.items) == 0 {
		delete(l.byUser, u.user)
		return
	}
	u.items[0].correct(now)
	switch {
	case u.items[0].DueMS > now.UnixMilli():
		l.waiting = append(l.waiting, u)
	default:
		l.ready = append(l.ready, u)
	}
}

// pop removes the first n events of a lane.
func (l *lanes) pop(u *lane, n int) {
	clear(u.items[:n])
	u.items = u.items[n:]
	l.open -= n
}

// wake moves the lanes that are due to the ready ones. It returns when the next one is due. The time is zero if none waits.
func (l *lanes) wake(now time.Time) (next time.Time) {
	l.waiting = slices.DeleteFunc(l.waiting, func(u *lane) bool {
		u.items[0].correct(now)
		due := time.UnixMilli(u.items[0].DueMS)
		if !due.After(now) {
			l.ready = append(l.ready, u)
			return true
		}
		if next.IsZero() || due.Before(next) {
			next = due
		}
		return false
	})
	return next
}

// dequeue removes ready lanes and returns them with their next events: at most n of them.
func (l *lanes) dequeue(n int) (taken []*lane, items []*item) {
	for len(l.ready) > 0 && len(items) < n {
		u := l.ready[0]
		alone := u.single || u.items[0].Tries > 0
		if alone && len(items) > 0 {
			break
		}
		l.ready = l.ready[1:]
		count := 1
		for !alone && count < len(u.items) && len(items)+count < n && u.items[count].Tries == 0 {
			count++
		}
		taken, items = append(taken, u), append(items, u.items[:count]...)
		if alone {
			break
		}
	}
	return taken, items
}

// preferLikeliest puts the lane that is most likely to succeed first among the ready ones. A call that finds
// out whether the address is back must not be spent on an event that fails anyway.
func (l *lanes) preferLikeliest() {
	best := 0
	for i, u := range l.ready {
		if u.likelihood() > l.ready[best].likelihood() {
			best = i
		}
	}
	l.ready[0], l.ready[best] = l.ready[best], l.ready[0]
}

// unfile takes a lane out of the ready and the waiting ones.
func (l *lanes) unfile(u *lane) {
	is := func(other *lane) bool { return other == u }
	l.ready, l.waiting = slices.DeleteFunc(l.ready, is), slices.DeleteFunc(l.waiting, is)
}

// stuck returns how many events are behind the first one of their user, which has failed, or are that one.
func (l *lanes) stuck() (n int) {
	for _, u := range l.byUser {
		if u.items[0].Tries > 0 {
			n += len(u.items)
		}
	}
	return n
}

// all calls fn for each open event, in no order.
func (l *lanes) all(fn func(*item)) {
	for _, u := range l.byUser {
		for _, it := range u.items {
			fn(it)
		}
	}
}
