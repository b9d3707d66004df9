package comet

import (
	"slices"
	"sync"
	"sync/atomic"

	"imgo/protocol"
	"imgo/transport"
)

// maxWindowBytes bounds the bytes of one window's broadcasts for all rooms
// together. Past it, and past half of a session's own bound for one room, the
// window ends early. The Push that finds it so waits for that.
const maxWindowBytes = 64 << 20

// flushWindow is what a comet with Config.FlushInterval holds back. A broadcast
// touches no session: it is queued here once. When the window ends each session
// gets what was queued for it, in one write. The frames that all sessions of a wire
// form get are put together once, so that a message costs each of them little more
// than its bytes.
//
// Sequence numbers keep the order. A session first gets the broadcasts that were queued
// for it so far (enqueueForLocked). That is so before it is sent anything of its own,
// before it leaves or joins a room, and before it changes what it accepts.
//
// Its lock comes after a session's. Safe for concurrent use.
type flushWindow struct {
	comet *Comet

	mu     sync.RWMutex
	seq    uint64 // of the newest broadcast
	open   *broadcasts
	ending *broadcasts // is being given to the sessions. It is nil if nothing is

	endMu sync.Mutex // held while a window ends
}

// broadcasts are the messages of one window.
type broadcasts struct {
	first uint64 // sequence number before the first
	all   broadcastList
	rooms map[string]*broadcastList
	bytes int
}

// broadcastList are the messages for one room, or for all, in order. It is not
// changed any more once its window has ended.
type broadcastList struct {
	list  []broadcast
	bytes int
	plain bool // every session accepts all of them

	joinMu sync.Mutex
	joined [transport.NumForms]atomic.Pointer[[]byte]
}

type broadcast struct {
	seq  uint64
	m    *transport.Message
	room bool
}

func newFlushWindow(c *Comet) *flushWindow {
	return &flushWindow{comet: c, open: newBroadcasts(0)}
}

func newBroadcasts(first uint64) *broadcasts {
	return &broadcasts{first: first, rooms: map[string]*broadcastList{}}
}

// enqueue queues a message for a room, or for all sessions if room is empty.
func (w *flushWindow) enqueue(room string, m *transport.Message) {
	w.mu.Lock()
	w.seq++
	l := &w.open.all
	if room != "" {
		if l = w.open.rooms[room]; l == nil {
			l = &broadcastList{}
			w.open.rooms[room] = l
		}
	}
	l.plain = (l.plain || len(l.list) == 0) && m.Op() == protocol.OpMessage
	l.list = append(l.list, broadcast{w.seq, m, room != ""})
	size := len(m.Body()) + protocol.HeaderV2
	l.bytes += size
	w.open.bytes += size
	full := l.bytes > w.comet.cfg.PendingBytes/2 || w.open.bytes > maxWindowBytes
	w.mu.Unlock()
	if full {
		w.flush()
	}
}

// newest returns the sequence number of the newest broadcast.
func (w *flushWindow) newest() uint64 {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.seq
}

// flush ends the window. Every session gets its broadcasts and the frames that it
// held. All sessions get theirs at once, because the kernel and the clients' machines
// then do more for each wake-up.
func (w *flushWindow) flush() {
	w.endMu.Lock()
	defer w.endMu.Unlock()
	c := w.comet
	w.mu.Lock()
	ending := w.open
	w.open, w.ending = newBroadcasts(w.seq), ending
	w.mu.Unlock()

	l := c.lists.get()
	c.table.collectWindowed(l)
	if len(ending.all.list) > 0 {
		c.table.all(l)
	} else {
		for room := range ending.rooms {
			c.table.members(room, l.add)
		}
	}
	f := c.newFanout(false)
	f.each(len(l.sessions), func(i int, f *fanoutWorker) { w.flushTo(l.sessions[i], ending, f) })
	c.lists.put(l)
	c.metrics.add(&f.tally)

	w.mu.Lock()
	w.ending = nil
	w.mu.Unlock()
}

// flushTo gives a session what the ending window has for it.
func (w *flushWindow) flushTo(s *session, ending *broadcasts, f *fanoutWorker) {
	f.Lock(&s.out)
	defer f.Unlock(&s.out)
	s.windowed = false
	if l := ending.onlyForLocked(s); l != nil {
		frames := l.frames(s.form)
		if s.out.FitsLocked(len(frames)) {
			s.broadcastSeq = l.list[len(l.list)-1].seq
			f.EnqueueLocked(s, frames, 0)
			f.tally[kindLive][outWritten] += uint32(len(l.list))
			return
		}
	}
	w.enqueueForLocked(s, &f.tally)
	s.out.FlushLocked(s)
}

// onlyForLocked returns the list of broadcasts for the session, if all of that
// list and nothing else is to be written to it: nil otherwise. The session then has
// all of the window that is for it: the window's other broadcasts are for rooms that
// it is not in. So its broadcastSeq may become the number of the list's last message,
// though the window has higher ones. Those of the next window are all higher.
func (b *broadcasts) onlyForLocked(s *session) (only *broadcastList) {
	if !s.out.ReadyLocked() || s.state != stateLive || s.broadcastSeq > b.first {
		return nil
	}
	if len(b.all.list) > 0 {
		only = &b.all
	}
	for _, room := range s.rooms.in {
		if l := b.rooms[room]; l != nil {
			if only != nil {
				return nil // the two are to be merged
			}
			only = l
		}
	}
	if only == nil || !only.plain {
		return nil
	}
	return only
}

// enqueueBroadcastsLocked queues the broadcasts so far for the session.
func (s *session) enqueueBroadcastsLocked() {
	if s.comet.window == nil {
		return
	}
	var t tally
	s.comet.window.enqueueForLocked(s, &t)
	s.comet.metrics.add(&t)
}

// enqueueForLocked queues the broadcasts for a session since it was last asked for. The
// session holds them until the window ends.
func (w *flushWindow) enqueueForLocked(s *session, t *tally) {
	w.mu.RLock()
	if s.broadcastSeq == w.seq {
		w.mu.RUnlock()
		return
	}
	var found []broadcast
	for _, b := range []*broadcasts{w.ending, w.open} {
		if b == nil {
			continue
		}
		found = b.all.mergeSince(s.broadcastSeq, found)
		for _, room := range s.rooms.in {
			found = b.rooms[room].mergeSince(s.broadcastSeq, found)
		}
	}
	s.broadcastSeq = w.seq
	w.mu.RUnlock()
	for _, b := range found {
		frame := b.m.Frame(s.form)
		switch {
		case s.state > stateLive:
			t[kindLive][outGone]++
		case !s.wantsLocked(b.m.Op(), b.room):
			t[kindLive][outFiltered]++
		case !s.out.MakeRoomLocked(s, len(frame)):
			t[kindLive][outDropped]++
		default:
			w.addLocked(s)
			s.out.EnqueueLocked(s, frame, 0)
			t[kindLive][outWritten]++
		}
	}
}

// addLocked makes a session keep what it is given until the window ends.
func (w *flushWindow) addLocked(s *session) {
	s.out.HoldLocked()
	if s.windowed {
		return
	}
	s.windowed = true
	sh := w.comet.table.shard(s.id)
	sh.windowMu.Lock()
	sh.window = append(sh.window, s)
	sh.windowMu.Unlock()
}

// frames returns the frames of all messages in a form, one after the other: the
// same bytes for every session. All workers ask for them once a session, so that
// usually takes no lock.
func (l *broadcastList) frames(form transport.Form) []byte {
	if b := l.joined[form].Load(); b != nil {
		return *b
	}
	l.joinMu.Lock()
	defer l.joinMu.Unlock()
	if b := l.joined[form].Load(); b != nil {
		return *b
	}
	b := l.list[0].m.Frame(form)
	if len(l.list) > 1 {
		b = slices.Clone(b)
		for _, next := range l.list[1:] {
			b = append(b, next.m.Frame(form)...)
		}
	}
	l.joined[form].Store(&b)
	return b
}

// mergeSince merges the broadcasts after seq into found, which is in order. A nil
// list has none.
func (l *broadcastList) mergeSince(seq uint64, found []broadcast) []broadcast {
	if l == nil {
		return found
	}
	list := l.list
	for len(list) > 0 && list[0].seq <= seq {
		list = list[1:]
	}
	if len(found) == 0 || len(list) == 0 || found[len(found)-1].seq < list[0].seq {
		return append(found, list...)
	}
	merged := make([]broadcast, 0, len(found)+len(list))
	for len(found) > 0 && len(list) > 0 {
		if found[0].seq < list[0].seq {
			merged, found = append(merged, found[0]), found[1:]
		} else {
			merged, list = append(merged, list[0]), list[1:]
		}
	}
	return append(append(merged, found...), list...)
}
