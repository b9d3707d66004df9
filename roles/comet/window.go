package comet

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"imgo/protocol"
	"imgo/transport"
)

// This file is the flush window (Config.FlushInterval). A broadcast touches no
// session: it is noted, and when the window ends each session is given what was
// noted for it, in one write. What every session of a wire form gets alike is
// put together once for all of them, so that a message costs each of them
// little more than its bytes.
//
// Order is kept by sequence numbers: before a session is sent anything of its
// own, leaves or joins a room, or changes what it accepts, it takes up what has
// been noted for it so far (catchUpNotes).

// maxNoted bounds the bytes that are noted for all rooms together. Past it, and
// past a session's own bound for one room, the window ends early, and the Push
// that finds it so waits for that.
const maxNoted = 64 << 20

// window is what a comet with a flush window has noted. Its lock comes after a
// session's.
type window struct {
	comet *Comet

	mu     sync.RWMutex
	seq    uint64 // of the newest note
	open   *notes
	ending *notes // is being given to the sessions; nil: nothing is

	endMu sync.Mutex // held while a window ends
}

// notes are the messages of one window.
type notes struct {
	first uint64 // sequence number before the first
	all   noted
	rooms map[string]*noted
	bytes int
}

// noted are the messages for one room, or for all, in order. Once its window
// has ended it is not changed any more.
type noted struct {
	list  []note
	bytes int
	plain bool // every session accepts all of them

	flatMu sync.Mutex
	flat   [transport.NumForms]atomic.Pointer[[]byte]
}

type note struct {
	seq  uint64
	m    *transport.Message
	room bool
}

func newWindow(c *Comet) *window { return &window{comet: c, open: newNotes(0)} }

func newNotes(first uint64) *notes { return &notes{first: first, rooms: map[string]*noted{}} }

// note notes a message for a room, or for all where room is empty.
func (w *window) note(room string, m *transport.Message) {
	w.mu.Lock()
	w.seq++
	n := &w.open.all
	if room != "" {
		if n = w.open.rooms[room]; n == nil {
			n = &noted{}
			w.open.rooms[room] = n
		}
	}
	n.plain = (n.plain || len(n.list) == 0) && m.Op() < protocol.FirstAcceptedOp
	n.list = append(n.list, note{w.seq, m, room != ""})
	size := len(m.Body()) + protocol.HeaderV2
	n.bytes += size
	w.open.bytes += size
	full := n.bytes > w.comet.cfg.PendingBytes/2 || w.open.bytes > maxNoted
	w.mu.Unlock()
	if full {
		w.end()
	}
}

// run ends windows until stop is closed.
func (w *window) run(stop <-chan struct{}) {
	ticker := time.NewTicker(w.comet.cfg.FlushInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			w.end()
		case <-stop:
			return
		}
	}
}

// end gives every session what was noted for it and what it held. All at once,
// since the kernel and the clients' machines then do most for one wake-up.
func (w *window) end() {
	w.endMu.Lock()
	defer w.endMu.Unlock()
	c := w.comet
	w.mu.Lock()
	ns := w.open
	w.open, w.ending = newNotes(w.seq), ns
	w.mu.Unlock()

	l := c.lists.take()
	c.table.endWindow(l)
	if len(ns.all.list) > 0 {
		c.table.all(l)
	} else {
		for room := range ns.rooms {
			c.table.members(room, l.add)
		}
	}
	f := &fan{comet: c}
	f.spread(len(l.sessions), func(i int, f *fan) { l.sessions[i].endWindow(ns, f) })
	c.lists.put(l)
	c.metrics.add(&f.tally)

	w.mu.Lock()
	w.ending = nil
	w.mu.Unlock()
}

// bytesFor is n's frames in form, one after the other: the same bytes for every
// session. All helpers ask for them once a session, so no lock is taken then.
func (n *noted) bytesFor(form transport.Form) []byte {
	if b := n.flat[form].Load(); b != nil {
		return *b
	}
	n.flatMu.Lock()
	defer n.flatMu.Unlock()
	if b := n.flat[form].Load(); b != nil {
		return *b
	}
	b := n.list[0].m.Frame(form)
	if len(n.list) > 1 {
		b = slices.Clone(b)
		for _, note := range n.list[1:] {
			b = append(b, note.m.Frame(form)...)
		}
	}
	n.flat[form].Store(&b)
	return b
}

// endWindow gives the session what the window that ends has for it.
func (s *session) endWindow(ns *notes, f *fan) {
	f.lock(s)
	defer f.unlock(s)
	s.windowed = false
	if n := s.only(ns); n != nil {
		b := n.bytesFor(s.form)
		if s.fits(len(b)) {
			s.noted = n.list[len(n.list)-1].seq
			f.write(s, b, 0)
			f.tally[kindLive][outWritten] += uint32(len(n.list))
			return
		}
	}
	s.takeNotes(&f.tally)
	s.uncork()
}

// only is what the window has for the session, where that is all that there is
// to write to it, and all of it is: nil otherwise. Holds mu.
func (s *session) only(ns *notes) (n *noted) {
	if !s.direct || s.queue != nil || s.state != stateLive || s.noted > ns.first {
		return nil
	}
	if len(ns.all.list) > 0 {
		n = &ns.all
	}
	for _, room := range s.rooms {
		if r := ns.rooms[room]; r != nil {
			if n != nil {
				return nil // to be merged
			}
			n = r
		}
	}
	if n == nil || !n.plain {
		return nil
	}
	return n
}

// catchUpNotes has the session take up what was noted for it so far. Holds mu.
func (s *session) catchUpNotes() {
	if s.comet.window == nil {
		return
	}
	var t tally
	s.takeNotes(&t)
	s.comet.metrics.add(&t)
}

// takeNotes queues what was noted since the session last looked. Holds mu.
func (s *session) takeNotes(t *tally) {
	w := s.comet.window
	w.mu.RLock()
	if s.noted == w.seq {
		w.mu.RUnlock()
		return
	}
	var found []note
	for _, ns := range []*notes{w.ending, w.open} {
		if ns == nil {
			continue
		}
		found = ns.all.since(s.noted, found)
		for _, room := range s.rooms {
			found = ns.rooms[room].since(s.noted, found)
		}
	}
	s.noted = w.seq
	w.mu.RUnlock()
	for _, n := range found {
		b := n.m.Frame(s.form)
		switch {
		case s.state > stateLive:
			t[kindLive][outGone]++
		case !s.wants(n.m.Op(), n.room):
			t[kindLive][outFiltered]++
		case !s.fits(len(b)):
			t[kindLive][outDropped]++
		default:
			s.corked = true
			s.waitForWindow()
			s.append(b, 0)
			t[kindLive][outWritten]++
		}
	}
}

// since merges n's notes after seq into found, which is in order. A nil n has
// none.
func (n *noted) since(seq uint64, found []note) []note {
	if n == nil {
		return found
	}
	list := n.list
	for len(list) > 0 && list[0].seq <= seq {
		list = list[1:]
	}
	if len(found) == 0 || len(list) == 0 || found[len(found)-1].seq < list[0].seq {
		return append(found, list...)
	}
	merged := make([]note, 0, len(found)+len(list))
	for len(found) > 0 && len(list) > 0 {
		if found[0].seq < list[0].seq {
			merged, found = append(merged, found[0]), found[1:]
		} else {
			merged, list = append(merged, list[0]), list[1:]
		}
	}
	return append(append(merged, found...), list...)
}

// waitForWindow has the end of the flush window end the session's wait. Holds mu.
func (s *session) waitForWindow() {
	if s.windowed {
		return
	}
	s.windowed = true
	sh := s.comet.table.shard(s.id)
	sh.windowMu.Lock()
	sh.window = append(sh.window, s)
	sh.windowMu.Unlock()
}
