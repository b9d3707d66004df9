package hooks

import "imgo/roles/job"

// loneGroup is the group of a process that has all partitions. Their positions are those of the stored states.
type loneGroup struct{ job.SoleGroup }

func newLoneGroup(partitions int32) *loneGroup {
	g := &loneGroup{}
	for i := range partitions {
		g.All = append(g.All, job.Part{Partition: i, Next: -1})
	}
	return g
}

// Close does nothing.
func (*loneGroup) Close() error { return nil }
