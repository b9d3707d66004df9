package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"imgo/protocol"
	"imgo/roles"
)

// copyData copies a data directory that no node uses.
func copyData(t *testing.T, from string) (to string) {
	t.Helper()
	to = filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestRestoredDirectory puts an older copy of the data directory back. A client knows ids that were given out after the
// copy was made, and drops messages that have these. So new messages must have higher ids.
func TestRestoredDirectory(t *testing.T) {
	cfg := settings(t)
	cfg.DataDir = filepath.Join(t.TempDir(), "data")
	n := startWith(t, cfg, roles.RunOptions{})
	n.push(t, "ann", "before 1")
	waiting := n.push(t, "ann", "before 2")
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	older := cfg
	older.DataDir = copyData(t, cfg.DataDir)

	n = startWith(t, cfg, roles.RunOptions{})
	c := n.tcp(t)
	c.login("v2", "ann", `,"ack":true,"device":"phone"`)
	var handled uint64
	for i := range 5 {
		handled = n.push(t, "ann", fmt.Sprintf("lost %d", i))
	}
	for c.receive().ID < handled {
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}

	n = startWith(t, older, roles.RunOptions{})
	if s := n.user(t, "ann"); s.Pending != 2 {
		t.Errorf("the copy has %+v, want 2 messages that wait", s)
	}
	after := n.push(t, "ann", "after")
	if after <= handled {
		t.Errorf("the message after the restore has id %d, which is not above %d", after, handled)
	}
	c = n.tcp(t)
	c.login("v2", "ann", `,"ack":true,"device":"phone"`)
	c.expect(protocol.OpMessage, "before 1")
	if p := c.expect(protocol.OpMessage, "before 2"); p.ID != waiting {
		t.Errorf("a message of the copy has id %d, and had %d", p.ID, waiting)
	}
	if p := c.expect(protocol.OpMessage, "after"); p.ID != after {
		t.Errorf("the message after the restore came with id %d, want %d", p.ID, after)
	}
	c.ack(waiting)
	c.ack(after)
	eventually(t, "the messages are acknowledged", func() bool { return n.user(t, "ann").Pending <= 1 })

	n = n.restart(t)
	c = n.tcp(t)
	c.login("v2", "ann", `,"ack":true,"device":"phone"`)
	c.expect(protocol.OpMessage, "before 1")
	next := n.push(t, "ann", "restarted")
	if next <= after {
		t.Errorf("the message after a restart has id %d, which is not above %d", next, after)
	}
	if p := c.expect(protocol.OpMessage, "restarted"); p.ID != next {
		t.Errorf("the message after a restart came with id %d, want %d", p.ID, next)
	}
}

// TestRestoredDirectoryOfKilledProcess does so with processes that are killed, so that the logs have records that the
// mailboxes lack.
func TestRestoredDirectoryOfKilledProcess(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	var highest uint64
	pushAndKill := func(data string, pushes, pending int) {
		t.Helper()
		p := serve(t, dir, freePorts("--data-dir", data)...)
		for i := range pushes {
			id := p.node.push(t, "ann", fmt.Sprint(i))
			if id <= highest {
				t.Errorf("a message has id %d, which is not above %d", id, highest)
			}
			highest = id
		}
		if s := p.node.user(t, "ann"); s.Pending != pending {
			t.Errorf("%d messages wait, want %d", s.Pending, pending)
		}
		p.signal(syscall.SIGKILL)
		p.exit()
	}
	pushAndKill(data, 3, 3)
	older := copyData(t, data)
	pushAndKill(data, 10, 13)
	pushAndKill(older, 2, 5)
	pushAndKill(older, 1, 6)
}
