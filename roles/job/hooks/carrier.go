package hooks

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/internal/wait"
	"imgo/internal/webhook"
)

// carrier posts the events of one partition to one hook, for one assignment. Its methods are for the
// goroutine of run, except post and read.
//
// An event is unread, then open until it is answered or set aside. The stored state says where the next carrier
// begins to read, and which events before that place are open or dead letters. All of it is one entry of the table,
// so an event that was not answered is always in the topic behind the state's position, or in the state. That holds
// for each state that was ever stored. If a carrier of an earlier assignment stores its state late, the next one
// repeats events, and loses none.
type carrier struct {
	h         *hook
	log       envelope.Log
	partition int32
	commit    func(ctx context.Context, next int64) error

	reader  *events.Reader
	unread  []events.Record // read from the topic and not open yet
	next    int64           // the offset behind what was read
	skipped int64           // entries that left the topic before they were read
	lanes   lanes
	bytes   int // of the open events that are in memory
	calls   int
	state   State
	entry   []byte // the stored state: that of the carrier before, until this one has stored its own. Nil means none
	changed bool   // the state has changed since it was stored
	// known has the offsets of the events in the state at the beginning. They are not opened again when they are read.
	known      map[int64]struct{}
	committed  int64 // the group's position that was stored last. It is -1 if this carrier has stored none
	storedAt   time.Time
	fullSince  time.Time // zero: fewer events are open than the bound
	recoveries int

	more    chan struct{} // asks the reading goroutine for more
	asked   bool
	reads   chan readResult
	results chan callResult
}

type readResult struct {
	records []events.Record
	next    int64
	skipped int64 // since the beginning: entries that left the topic before they were read
	err     error
}

type callResult struct {
	lanes  []*lane
	items  []*item
	answer webhook.Answer
	sent   bool // a call was made
	probe  bool // see health.enter
	err    error
}

func newCarrier(h *hook, log envelope.Log, partition int32, commit func(context.Context, int64) error) *carrier {
	return &carrier{
		h: h, log: log, partition: partition, commit: commit, lanes: lanes{byUser: make(map[string]*lane)},
		known: make(map[int64]struct{}), recoveries: h.health.view().recoveries,
		more: make(chan struct{}, 1), reads: make(chan readResult), results: make(chan callResult, maxCalls),
	}
}

var (
	// errReplay ends a carrier whose hook is to be replayed.
	errReplay = errors.New("the hook is replayed")
	// errBeyondEnd ends a carrier whose position is beyond the end of its partition.
	errBeyondEnd = errors.New("the topic ends before the hook's position")
)

// run posts events until ctx is done, from the position of the stored state on. Without a state it begins at the
// group's position. If that is -1, the hook is new in this partition. It then begins at the end, or at the
// beginning if the hook has posted events of an earlier generation. run returns errReplay if a caller of the API
// wants a replay, and errBeyondEnd if the topic was made again, or has lost events.
func (c *carrier) run(ctx context.Context, from int64) error {
	if err := c.begin(ctx, from); err != nil {
		return err
	}
	working, stop := context.WithCancel(ctx)
	var workers sync.WaitGroup
	workers.Go(func() { c.read(working) })
	err := c.loop(working, &workers)
	stop()
	workers.Wait()
	for c.calls > 0 {
		c.finish(<-c.results)
	}
	// The next carrier posts again what was answered behind the position of the stored state.
	c.changed = c.changed || c.position() != c.state.Position
	c.save(context.WithoutCancel(ctx))
	return err
}

// begin finds where to read on, and opens the events that wait for another try.
func (c *carrier) begin(ctx context.Context, from int64) error {
	begin, end, err := c.log.Bounds(ctx, c.partition)
	if err != nil {
		return fmt.Errorf("find the end of the events of partition %d: %w", c.partition, err)
	}
	fresh := c.entry == nil
	switch {
	case !fresh:
		from = c.state.Position
	case from >= 0: // the hooks topic was lost
	case c.h.hasState(c.log.Generation() - 1):
		from = begin
	default:
		from = end
	}
	if from > end {
		return errBeyondEnd
	}
	reader, err := events.ResumeReader(ctx, c.log, c.partition, from)
	if err != nil {
		return err
	}
	c.reader, c.next, c.committed = reader, from, -1
	now := c.h.now()
	for _, l := range c.state.Open {
		c.lanes.add(&item{heldEvent: l}, now)
	}
	for _, l := range slices.Concat(c.state.Open, c.state.Dead) {
		c.known[l.Offset] = struct{}{}
	}
	if fresh {
		// At once, so that no later job begins at a later end.
		c.changed = true
		if c.save(ctx); c.entry == nil {
			return errors.New("the first state was not stored")
		}
	}
	return nil
}

// read reads events when it is asked to.
func (c *carrier) read(ctx context.Context) {
	for {
		select {
		case <-c.more:
		case <-ctx.Done():
			return
		}
		records, err := c.reader.Next(ctx)
		select {
		case c.reads <- readResult{records, c.reader.Position().Offset, c.reader.Skipped(), err}:
		case <-ctx.Done():
			return
		}
	}
}

func (c *carrier) loop(ctx context.Context, workers *sync.WaitGroup) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	tick := time.NewTicker(saveInterval)
	defer tick.Stop()
	for {
		control, controlChanged := c.h.control()
		if control.Replay > c.state.Replayed {
			return errReplay
		}
		health := c.h.health.view()
		c.recovered(health)
		paused := control.pauses(c.h.cfg.URL)
		c.open()
		wake := c.start(ctx, workers, paused)
		if !paused && !c.asked && len(c.unread) == 0 && c.capacity() > 0 {
			c.asked = true
			c.more <- struct{}{}
		}
		if !wake.IsZero() {
			timer.Reset(max(wake.Sub(c.h.now()), time.Millisecond))
		}
		select {
		case r := <-c.reads:
			if errors.Is(r.err, envelope.ErrOutOfRange) {
				return errBeyondEnd
			}
			c.accept(ctx, r)
		case r := <-c.results:
			c.finish(r)
		case <-tick.C:
			c.makeRoom(health)
			c.save(ctx)
			c.measure()
		case <-timer.C:
		case <-health.changed:
		case <-controlChanged:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// accept takes what was read.
func (c *carrier) accept(ctx context.Context, r readResult) {
	c.asked = false
	if r.err != nil {
		if ctx.Err() == nil {
			c.h.sampled.Warn().Err(r.err).Int32("partition", c.partition).Msg("events are not read; trying again")
			_ = wait.Sleep(ctx, minRetry)
		}
		return
	}
	c.unread, c.next = r.records, r.next
	if n := r.skipped - c.skipped; n > 0 {
		c.skipped = r.skipped
		c.h.metrics.events.WithLabelValues(c.h.cfg.Name, "skipped").Add(float64(n))
		c.h.log.Error().Int32("partition", c.partition).Int64("events", n).
			Msg("events left the topic before the hook could post them: its receiver was down for longer than events.retention")
	}
}

// open opens events that were read, within the bounds.
func (c *carrier) open() {
	now := c.h.now()
	for len(c.unread) > 0 && c.capacity() > 0 {
		r := c.unread[0]
		c.unread = c.unread[1:]
		if _, known := c.known[r.Offset]; known || len(c.h.cfg.Types) > 0 && !events.Matches(c.h.cfg.Types, r.Type) {
			continue
		}
		c.bytes += len(r.Value)
		c.lanes.add(&item{heldEvent{Offset: r.Offset, ID: events.TextID(c.partition, r.ID), User: r.User}, r.Value}, now)
	}
	if len(c.unread) == 0 {
		c.unread = nil
	}
}

// start begins the calls that may be made now. It returns when to look again. Zero means after the next change.
func (c *carrier) start(ctx context.Context, workers *sync.WaitGroup, paused bool) (wake time.Time) {
	wake = c.lanes.wake(c.h.now())
	for !paused && c.calls < maxCalls && len(c.lanes.ready) > 0 {
		ok, probe, until := c.h.health.enter(c.h.now())
		if !ok {
			if wake.IsZero() || !until.IsZero() && until.Before(wake) {
				wake = until
			}
			return wake
		}
		if c.h.health.view().down {
			c.lanes.preferLikeliest()
		}
		taken, items := c.lanes.dequeue(c.h.cfg.Batch)
		c.calls++
		workers.Go(func() {
			r := c.post(ctx, taken, items)
			r.probe = probe
			c.results <- r
		})
	}
	return wake
}

// post makes one call. It reads the events that are not in memory.
func (c *carrier) post(ctx context.Context, taken []*lane, items []*item) callResult {
	r := callResult{lanes: taken, items: items}
	values := make([][]byte, len(items))
	for i, it := range items {
		if values[i] = it.value; values[i] == nil {
			if values[i], r.err = c.readAgain(ctx, it); r.err != nil {
				return r
			}
		}
	}
	document := webhook.Document{ID: items[0].ID, Type: "application/cloudevents+json", Body: values[0]}
	if c.h.cfg.Batch > 1 {
		document.ID += "+" + fmt.Sprint(len(items)-1)
		document.Type = "application/cloudevents-batch+json"
		document.Body = slices.Concat([]byte{'['}, bytes.Join(values, []byte{','}), []byte{']'})
	}
	r.sent = true
	r.answer, r.err = c.h.caller.Send(ctx, document)
	return r
}

// whyGone is why an event is a dead letter that was not taken in time.
const whyGone = "it left the events topic before it was taken"

// errGone means that an event has left the topic.
var errGone = errors.New("the event has left the topic")

func (c *carrier) readAgain(ctx context.Context, it *item) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.h.cfg.Timeout)
	defer cancel()
	entries, err := c.log.Read(ctx, c.partition, it.Offset, 1)
	switch {
	case errors.Is(err, envelope.ErrOutOfRange), err == nil && (len(entries) == 0 || entries[0].Offset != it.Offset):
		return nil, errGone
	case err != nil:
		return nil, fmt.Errorf("read the event at %d again: %w", it.Offset, err)
	}
	return entries[0].Value, nil
}

// finish takes the result of a call.
func (c *carrier) finish(r callResult) {
	c.calls--
	now := c.h.now()
	cancelled := errors.Is(r.err, context.Canceled)
	retry := r.err != nil || r.answer.Retry()
	c.h.health.leave(now, !retry, cancelled || !r.sent, r.probe)
	switch {
	case cancelled:
	case errors.Is(r.err, errGone):
		c.setAside(r, whyGone, now)
	case !r.sent:
		c.failing(r, now)
		r.items[0].DueMS = now.Add(pause(0, maxRetry)).UnixMilli()
	case r.err == nil && r.answer.OK():
		c.answered(r, now)
	case r.err == nil && r.answer.Status == http.StatusGone:
		c.h.pause(now)
	case len(r.items) > 1: // one of them may be the reason
		for _, u := range r.lanes {
			u.single = true
		}
		c.failing(r, now)
	case !retry:
		c.failing(r, now)
		c.setAside(r, c.state.Failing, now)
	default:
		c.failing(r, now)
		c.again(r, now)
	}
	for _, u := range r.lanes {
		c.lanes.file(u, now)
	}
}

// failing notes why a call failed, for people.
func (c *carrier) failing(r callResult, now time.Time) {
	why := fmt.Sprintf("the address answered %d", r.answer.Status)
	if r.err != nil {
		why = r.err.Error()
	}
	c.state.Failing, c.state.FailingMS = why, now.UnixMilli()
	c.changed = true
	c.h.sampled.Warn().Int32("partition", c.partition).Str("why", why).Msg("an event was not taken")
}

// answered removes the events of a call that succeeded.
func (c *carrier) answered(r callResult, now time.Time) {
	c.state.Failing, c.state.FailingMS = "", 0
	c.h.metrics.events.WithLabelValues(c.h.cfg.Name, "posted").Add(float64(len(r.items)))
	c.remove(r)
	for _, u := range r.lanes {
		u.single, u.answered = false, true
		if len(u.items) > 0 && u.items[0].Tries > 0 {
			u.items[0].DueMS = now.UnixMilli()
		}
	}
}

// remove removes the events of a call from their lanes.
func (c *carrier) remove(r callResult) {
	at := 0
	for _, u := range r.lanes {
		n := 0
		for at+n < len(r.items) && n < len(u.items) && r.items[at+n] == u.items[n] {
			c.forget(u.items[n])
			n++
		}
		c.lanes.pop(u, n)
		at += n
	}
}

// forget takes an event out of the books. If it was tried, it is in the state, which changes.
func (c *carrier) forget(it *item) {
	c.bytes -= len(it.value)
	c.changed = c.changed || it.Tries > 0
}

// setAside makes the one event of a call a dead letter.
func (c *carrier) setAside(r callResult, why string, now time.Time) {
	it := r.items[0]
	c.remove(callResult{lanes: r.lanes[:1], items: r.items[:1]})
	c.addDeadLetter(it, why, now)
}

func (c *carrier) addDeadLetter(it *item, why string, now time.Time) {
	l := it.heldEvent
	c.state.addDead(l, why, now)
	c.changed = true
	c.h.metrics.events.WithLabelValues(c.h.cfg.Name, "dead").Inc()
	c.h.log.Error().Int32("partition", c.partition).Str("event", l.ID).Str("user", l.User).Int("tries", l.Tries).Str("why", why).
		Msg("an event was set aside as a dead letter: fix the receiver, then replay the dead letters")
}

// again lets the one event of a call wait for another try, or sets it aside.
func (c *carrier) again(r callResult, now time.Time) {
	it := r.items[0]
	it.Tries++
	if it.FirstMS == 0 || it.FirstMS > now.UnixMilli() { // a clock was ahead at the first call
		it.FirstMS = now.UnixMilli()
	}
	r.lanes[0].single = true
	first := time.UnixMilli(it.FirstMS)
	if v := c.h.health.view(); !v.down && now.Sub(first) >= c.h.cfg.RetryFor && v.lastSuccess.After(first) {
		c.setAside(r, fmt.Sprintf("it failed for %s while others succeeded: %s", c.h.cfg.RetryFor, c.state.Failing), now)
		return
	}
	it.DueMS = now.Add(max(pause(it.Tries-1, maxRetry), r.answer.RetryAfter)).UnixMilli()
	c.bytes -= len(it.value)
	it.value = nil
	c.changed = true
}

// recovered lets the events that failed while the address was down be tried again soon. That they failed
// was not their fault.
func (c *carrier) recovered(v view) {
	if v.recoveries == c.recoveries {
		return
	}
	c.recoveries = v.recoveries
	now := c.h.now()
	for _, u := range c.lanes.waiting {
		u.items[0].DueMS = now.Add(pause(0, maxRetry)).UnixMilli()
	}
	c.lanes.all(func(it *item) {
		if it.FirstMS != 0 {
			it.FirstMS = now.UnixMilli()
		}
	})
}

// capacity returns how many more events may be opened. At the bound, if nearly all wait for events that have
// failed, that is one more at a time: it finds out whether other events succeed.
func (c *carrier) capacity() int {
	switch {
	case c.bytes >= maxOpenBytes:
		return 0
	case c.lanes.open < maxOpen:
		c.fullSince = time.Time{}
		return maxOpen - c.lanes.open
	case c.fullSince.IsZero():
		c.fullSince = c.h.now()
	}
	if c.lanes.open < maxOpen+maxCanaries && c.stuck() {
		return 1
	}
	return 0
}

// stuck reports whether nearly all open events wait for events that have failed.
func (c *carrier) stuck() bool { return c.lanes.stuck() >= maxOpen-maxCanaries }

// makeRoom sets the oldest events that fail aside if the bound is reached and other events succeed, so
// that many users whose events fail hold up nobody else.
func (c *carrier) makeRoom(v view) {
	if c.capacity(); c.fullSince.IsZero() || !v.lastSuccess.After(c.fullSince) || !c.stuck() {
		return
	}
	now := c.h.now()
	failed := slices.DeleteFunc(slices.Concat(c.lanes.waiting, c.lanes.ready), func(u *lane) bool { return u.items[0].Tries == 0 })
	slices.SortFunc(failed, func(a, b *lane) int { return cmp.Compare(a.items[0].Offset, b.items[0].Offset) })
	for _, u := range failed[:min(len(failed), maxOpen/10)] {
		it := u.items[0]
		c.lanes.unfile(u)
		c.forget(it)
		c.lanes.pop(u, 1)
		c.addDeadLetter(it, fmt.Sprintf("%d events waited while others succeeded: %s", maxOpen, c.state.Failing), now)
		c.lanes.file(u, now)
	}
	c.fullSince = time.Time{}
}

// position returns up to where everything was answered, tried or set aside.
func (c *carrier) position() int64 {
	at := c.next
	if len(c.unread) > 0 {
		at = c.unread[0].Offset
	}
	c.lanes.all(func(it *item) {
		if it.Tries == 0 {
			at = min(at, it.Offset)
		}
	})
	return at
}

// showInterval is how often the state is stored while nothing but its position changes. The events that a job has
// posted in that time come again if it is killed.
const showInterval = 10 * time.Second

// save stores the state if it has changed or is not the newest entry, and then the group's position. Both are tried
// again after the next interval.
func (c *carrier) save(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	at := c.position()
	show := at != c.state.Position && c.h.now().Sub(c.storedAt) > showInterval
	if c.changed || show || c.replaced() {
		if err := c.store(ctx); err != nil {
			c.h.sampled.Warn().Err(err).Int32("partition", c.partition).Msg("the state of a hook was not stored; trying again")
			return
		}
	}
	if at == c.committed {
		return
	}
	if err := c.commit(ctx, at); err != nil {
		c.h.sampled.Warn().Err(err).Int32("partition", c.partition).Msg("the position of a hook was not stored; trying again")
		return
	}
	c.committed = at
}

// replaced reports whether the newest entry is not the stored state: a carrier of an earlier assignment has stored
// its own late. The stored state with the mark of endGeneration counts as the same.
func (c *carrier) replaced() bool {
	newest := c.h.mirror.get(c.key())
	if bytes.Equal(newest, c.entry) {
		return false
	}
	var s State
	if err := json.Unmarshal(newest, &s); err != nil || !s.Ended {
		return true
	}
	s.Ended = false
	return !bytes.Equal(encode(s), c.entry)
}

// key returns the key of the partition's state.
func (c *carrier) key() string { return stateKey(c.h.cfg.Name, place{c.log.Generation(), c.partition}) }

// store stores the state with the events that were tried.
func (c *carrier) store(ctx context.Context) error {
	c.changed = true // until the state is stored
	c.state.Open, c.state.Position = nil, c.position()
	c.lanes.all(func(it *item) {
		if it.Tries > 0 {
			c.state.Open = append(c.state.Open, it.heldEvent)
		}
	})
	slices.SortFunc(c.state.Open, func(a, b heldEvent) int { return cmp.Compare(a.Offset, b.Offset) })
	entry := encode(c.state)
	if err := c.h.put(ctx, c.key(), entry); err != nil {
		return err
	}
	c.entry, c.storedAt, c.changed = entry, c.h.now(), false
	return nil
}

// measure sets the metrics of the partition.
func (c *carrier) measure() {
	ends, ok := c.log.(interface{ End(partition int32) int64 })
	lag := int64(0)
	if ok {
		lag = max(ends.End(c.partition)-c.position(), 0)
	}
	c.h.metrics.set(c.h.cfg.Name, c.partition, lag, c.lanes.open, len(c.state.Dead))
	paused := 0.0
	if control, _ := c.h.control(); control.pauses(c.h.cfg.URL) {
		paused = 1
	}
	c.h.metrics.paused.WithLabelValues(c.h.cfg.Name).Set(paused)
}
