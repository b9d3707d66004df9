package history

import "slices"

// liveFor is how many times as many pushes that are not kept are remembered,
// of all users together.
const liveFor = 100

// Forget bounds what is remembered: of each user the last keep to 2·keep
// pushes and those older ones that are not everywhere yet or have no answer,
// of each session and device as many receptions, and of all pushes that are
// not kept the last 100·keep. It must be called before anything else.
//
// The verdict stays as exact, but that a push which somebody saw long ago and
// gets again in a later session is taken on trust to be that push; and that an
// id which a session had long ago and gets again is called out of order.
func (h *History) Forget(keep int) { h.keep = keep }

// forget forgets the oldest pushes once there are many. mu is held.
func (u *user) forget() {
	keep := u.h.keep
	if keep == 0 || len(u.order) < max(2*keep, u.forgetAt) {
		return
	}
	old := len(u.order) - keep
	order := make([]*push, 0, 2*keep)
	// before[i] is how many of the first i are forgotten.
	before := make([]int, old+1)
	gone := make(map[uint64]bool, old)
	for i, p := range u.order[:old] {
		before[i+1] = before[i]
		if !u.settled(i, p) {
			order = append(order, p)
			continue
		}
		before[i+1]++
		delete(u.pushes, p.number)
		if p.id != 0 {
			delete(u.numbers, p.id)
			gone[p.id] = true
			u.forgotten = max(u.forgotten, p.id)
		}
	}
	u.order = append(order, u.order[old:]...)
	u.forgetAt = len(u.order) + keep
	for _, d := range u.devices {
		d.from -= before[min(d.from, old)]
		d.ids = slices.Clone(slices.DeleteFunc(d.ids, func(id uint64) bool { return gone[id] }))
	}
}

// settled says that nothing more is to come of the i-th push. mu is held.
func (u *user) settled(i int, p *push) bool {
	if p.id == 0 {
		return p.refused
	}
	for _, d := range u.devices {
		if _, seen := slices.BinarySearch(d.ids, p.id); !seen && i >= d.from {
			return false
		}
	}
	return true
}
