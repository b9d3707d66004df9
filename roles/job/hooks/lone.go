package hooks

import (
	"context"
	"encoding/binary"
	"fmt"
)

// loneGroup is the group of a process that has all partitions. Its positions are in the table. It is the one
// assignment as well.
type loneGroup struct {
	h        *hook
	parts    []Part
	assigned bool
}

func newLoneGroup(h *hook, partitions int32) *loneGroup {
	g := &loneGroup{h: h, parts: make([]Part, partitions)}
	for i := range g.parts {
		g.parts[i] = Part{int32(i), -1}
		if value, _ := h.mirror.get(g.key(int32(i))); len(value) == 8 {
			g.parts[i].Next = int64(binary.BigEndian.Uint64(value))
		}
	}
	return g
}

func (g *loneGroup) key(partition int32) string {
	return fmt.Sprintf("position/%s/%d", g.h.cfg.Name, partition)
}

// Next returns the assignment once, and then waits until ctx is done.
func (g *loneGroup) Next(ctx context.Context) (Assignment, error) {
	if g.assigned {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	g.assigned = true
	return g, nil
}

func (g *loneGroup) Close() error          { return nil }
func (g *loneGroup) Parts() []Part         { return g.parts }
func (g *loneGroup) Done() <-chan struct{} { return nil }

func (g *loneGroup) Commit(ctx context.Context, at []Part) error {
	for _, p := range at {
		if err := g.h.put(ctx, g.key(p.Partition), binary.BigEndian.AppendUint64(nil, uint64(p.Next))); err != nil {
			return err
		}
	}
	return nil
}
