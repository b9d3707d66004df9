package history

import "slices"

// liveFactor times keep is the number of pushes that are not kept and that the history remembers,
// over all users.
const liveFactor = 100

// Forget bounds the memory of the history. Call it before any other method.
//
// For each user the history then remembers the last keep to 2·keep pushes. It also remembers older
// pushes that have no answer or have not reached every device. For each session and each device it
// remembers up to 2·keep receptions. It remembers the last 100·keep pushes that are not kept.
//
// The verdict stays exact, with two exceptions. If a forgotten push comes again in a later session,
// the history trusts that its number and its id belong together. If an id repeats in one session
// after it was forgotten, the violation is called KindOrder instead of KindAgain.
func (h *History) Forget(keep int) { h.keep = keep }

// forgetLocked drops the oldest finished pushes once order is long enough.
func (u *user) forgetLocked() {
	keep := u.h.keep
	if keep == 0 || len(u.order) < max(2*keep, u.forgetAt) {
		return
	}
	old := len(u.order) - keep
	order := make([]*push, 0, 2*keep)
	// before[i] is the number of dropped pushes among the first i.
	before := make([]int, old+1)
	gone := make(map[uint64]bool, old)
	for i, p := range u.order[:old] {
		before[i+1] = before[i]
		if !u.finishedLocked(i, p) {
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

// finishedLocked reports whether nothing more can come of the i-th push: it was refused, or every
// covered device has received it.
func (u *user) finishedLocked(i int, p *push) bool {
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
