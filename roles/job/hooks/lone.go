package hooks

import (
	"context"
	"encoding/binary"
	"fmt"
)

// loneGroup is the group of a process that has all partitions. Its positions are in the table. It is the one
// assignment as well.
type loneGroup struct {
	table    Table
	hook     string
	parts    []Part
	assigned bool
}

// NewLoneGroup returns the group of a process that has all partitions of a generation. The positions are in
// the table.
func NewLoneGroup(ctx context.Context, table Table, hook string, partitions int32) (Group, error) {
	g := &loneGroup{table: table, hook: hook, parts: make([]Part, partitions)}
	for i := range g.parts {
		g.parts[i] = Part{int32(i), -1}
	}
	end, err := table.End(ctx)
	if err != nil {
		return nil, fmt.Errorf("find the end of the positions: %w", err)
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	if end == 0 {
		return g, nil
	}
	err = table.Follow(reading, 0, func(offset int64, key, value []byte) error {
		for i := range g.parts {
			if string(key) == g.key(int32(i)) && len(value) == 8 {
				g.parts[i].Next = int64(binary.BigEndian.Uint64(value))
			}
		}
		if offset == end-1 {
			stop()
		}
		return nil
	})
	if ctx.Err() != nil {
		return nil, fmt.Errorf("read the positions: %w", err)
	}
	return g, nil
}

func (g *loneGroup) key(partition int32) string {
	return fmt.Sprintf("position/%s/%d", g.hook, partition)
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
		if _, err := g.table.Put(ctx, []byte(g.key(p.Partition)), binary.BigEndian.AppendUint64(nil, uint64(p.Next))); err != nil {
			return err
		}
	}
	return nil
}
