package bus_test

import (
	"bytes"
	"runtime"
	"testing"
	"weak"

	"imgo/cluster/bus"
)

// TestClosedLogIsFreed checks that what is closed goes from memory while the bus is open: a growth closes logs and
// groups and opens others.
func TestClosedLogIsFreed(t *testing.T) {
	b := open(t, options(fake(t).Brokers(), prefix()))
	freed := func(what string, isFreed func() bool) {
		t.Helper()
		eventually(t, what+" is freed", func() bool { runtime.GC(); return isFreed() })
	}
	l := kept(t, b)
	if _, err := l.Append(testContext(t), 0, bytes.Repeat([]byte{1}, 1000)); err != nil {
		t.Fatal(err)
	}
	entries, err := l.Read(testContext(t), 0, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	value := weak.Make(&entries[0].Value[0])
	g, err := b.Group(t.Context(), bus.GroupOptions{Name: "job", Logs: []*bus.Log{l}})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	freed("an entry of a closed log", func() bool { return value.Value() == nil })
	closedLog, closedGroup := weak.Make(l), weak.Make(g)
	freed("a closed log", func() bool { return closedLog.Value() == nil })
	freed("a closed group", func() bool { return closedGroup.Value() == nil })
	c, err := b.Compacted(testContext(t), "tokens")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	closed := weak.Make(c)
	freed("a closed topic", func() bool { return closed.Value() == nil })
	runtime.KeepAlive(b)
}
