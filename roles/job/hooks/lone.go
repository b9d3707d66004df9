package hooks

import (
	"context"
	"encoding/binary"
	"fmt"

	"imgo/roles/job"
)

// loneGroup is the group of a process that has all partitions.
type loneGroup struct{ job.SoleGroup }

// newLoneGroup returns a group whose positions are in the table.
func newLoneGroup(h *hook, partitions int32) *loneGroup {
	key := func(partition int32) string { return fmt.Sprintf("position/%s/%d", h.cfg.Name, partition) }
	g := &loneGroup{}
	for i := range partitions {
		part := job.Part{Partition: i, Next: -1}
		if value := h.mirror.get(key(i)); len(value) == 8 {
			part.Next = int64(binary.BigEndian.Uint64(value))
		}
		g.All = append(g.All, part)
	}
	g.Store = func(ctx context.Context, at job.Part) error {
		return h.put(ctx, key(at.Partition), binary.BigEndian.AppendUint64(nil, uint64(at.Next)))
	}
	return g
}

// Close does nothing.
func (*loneGroup) Close() error { return nil }
