package comet

import "slices"

// roomSet is the rooms of one session. The session's lock guards it.
type roomSet []string

func (r roomSet) has(room string) bool { return slices.Contains(r, room) }

func (r *roomSet) add(room string) { *r = append(*r, room) }

func (r *roomSet) remove(room string) {
	*r = slices.DeleteFunc(*r, func(have string) bool { return have == room })
}
