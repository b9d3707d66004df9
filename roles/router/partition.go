package router

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"imgo/envelope"
	"imgo/store"
)

// readBytes is how much of the log is read and applied at a time.
const readBytes = 1 << 20

// recent is how many record ids a partition remembers at least; it holds up
// to twice as many.
const recent = 1 << 14

// partition is the materialised view of one partition of the kept log, from
// when the router gains the partition until it has lost it.
type partition struct {
	r     *Router
	index int32
	// owned: it is not when the partition was lost a moment ago.
	owned atomic.Bool
	// gain is its part of the epoch.
	gain atomic.Uint64
	// stop ends live; after is closed when others are done with the store.
	stop  context.CancelFunc
	after <-chan struct{}
	// up is closed when the partition has caught up, left when it is no longer
	// here, done when it has written what it had.
	up, left, done chan struct{}

	mu sync.Mutex
	// begun: it is known where to go on. Not before then may anything be read
	// from the store: what was here before may still be writing.
	begun, gone bool
	// first and target are where the log was when the partition was gained:
	// the first record to apply, and the end.
	first, target int64
	// next is the offset of the first record that was not applied yet.
	next int64
	// fence is the offset of the first fence, behind which records are void;
	// -1: none was met. The stored position stays before it, so that a restart
	// meets it again.
	fence int64
	// applied is closed and replaced when next grew.
	applied chan struct{}
	users   map[string]*mailbox
	dirty   map[*mailbox]struct{}
	// watching are the mailboxes that have a session and a message.
	watching map[*mailbox]struct{}
	comets   comets
	keys     map[string][]*mailbox // key that a client chose → mailboxes with such a session
	// known and before are the record ids that were applied lately.
	known, before map[[12]byte]int64
	// claims are idempotency keys of claims that the store does not have yet.
	claims map[string]store.MailboxClaim
	// flushing are the claims that are being written.
	flushing map[string]store.MailboxClaim
	// rebuild is what helps to read the log back; empty once it was.
	rebuild rebuild
	cache   cache
	// scratch is for one window, while mu is held.
	scratch []*entry
	// online counts the mailboxes that have a session.
	online int
	// dirtyBytes is about how much the next flush writes.
	dirtyBytes int
	// err is why the partition does not go on, nil while it does.
	err error

	// flushMu makes one flush at a time; it is taken before mu.
	flushMu sync.Mutex
	// seenNext is next as the last flush saw it: what is older may be written.
	seenNext int64
	// storedNext is next as the store has it.
	storedNext int64
}

func newPartition(r *Router, index int32, gain uint64, after <-chan struct{}) *partition {
	p := &partition{
		r: r, index: index, after: after,
		up: make(chan struct{}), left: make(chan struct{}), done: make(chan struct{}),
		applied:  make(chan struct{}),
		fence:    -1,
		users:    make(map[string]*mailbox),
		dirty:    make(map[*mailbox]struct{}),
		watching: make(map[*mailbox]struct{}),
		comets:   make(comets),
		keys:     make(map[string][]*mailbox),
		known:    make(map[[12]byte]int64),
		before:   make(map[[12]byte]int64),
		claims:   make(map[string]store.MailboxClaim),
	}
	p.gain.Store(gain)
	p.owned.Store(true)
	return p
}

// isUp says whether the partition was applied up to its target once.
func (p *partition) isUp() bool { return isClosed(p.up) }

// here is nil while the partition can be worked with. The caller holds mu.
func (p *partition) here() error {
	switch {
	case p.gone:
		return notOwned(p.index)
	case !p.begun:
		return envelope.Errorf(envelope.CodeNotReady, "partition %d is finding its place in the log", p.index)
	}
	return nil
}

// progress says how far the partition is, for a person.
func (p *partition) progress() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.err != nil:
		return fmt.Sprintf("partition %d: %v", p.index, p.err)
	case !p.begun:
		return fmt.Sprintf("partition %d: finding its place in the log", p.index)
	}
	return fmt.Sprintf("partition %d: %d of %d records", p.index, p.next-p.first, p.target-p.first)
}

// appliedID is the id of the last record that was applied; 0: none. The
// caller holds mu.
func (p *partition) appliedID() uint64 {
	if p.next == 0 {
		return before(p.r.kept.Generation())
	}
	return envelope.ID(p.r.kept.Generation(), p.next-1)
}

// before is an id that those of a generation are above, and those of earlier
// ones not; 0: there is no earlier one.
func before(generation uint16) uint64 {
	if generation <= 1 {
		return 0
	}
	return envelope.ID(generation, 0) - 1
}

// wait blocks until the record with an id was applied. What an earlier
// generation of the log had was, as far as it concerns this one.
func (p *partition) wait(ctx context.Context, id uint64) error {
	if of, _ := envelope.SplitID(id); of > p.r.kept.Generation() {
		return envelope.Errorf(envelope.CodeUnavailable, "record %d is of a later generation of the log than this router", id)
	}
	for helped := false; ; {
		p.mu.Lock()
		done, next, ch, err, gone := p.appliedID() >= id, p.next, p.applied, p.err, p.gone
		p.mu.Unlock()
		switch {
		case gone:
			return notOwned(p.index)
		case done:
			return nil
		case err != nil:
			return envelope.Errorf(envelope.CodeUnavailable, "partition %d does not go on: %v", p.index, err)
		}
		if !helped {
			helped = true
			p.help(next)
			continue
		}
		select {
		case <-ch:
		case <-p.left:
		case <-ctx.Done():
			return envelope.Errorf(envelope.CodeNotReady, "partition %d has not applied record %d yet: %v", p.index, id, ctx.Err())
		}
	}
}

// help applies what the log has in memory from next on, in place of whoever
// follows the log: who waits for a record goes on at once then, and the
// delivery of a kept push with it, where it would have to wait for another
// goroutine to have its turn, and a processor.
func (p *partition) help(next int64) {
	if p.r.recent == nil || !p.isUp() {
		return
	}
	// What fails here fails for whoever follows the log, too, and is its to say.
	_ = p.apply(p.r.recent.Recent(p.index, next, readBytes))
}

// catchUp applies what the log has in memory, without waiting.
func (p *partition) catchUp() {
	p.mu.Lock()
	next := p.next
	p.mu.Unlock()
	p.help(next)
}

// live is the partition's whole life: it follows the log until ctx is done,
// writes what it has and is gone.
func (p *partition) live(ctx context.Context) error {
	defer close(p.done)
	if p.after != nil {
		<-p.after
	}
	err := p.follow(ctx)
	if err == nil {
		<-ctx.Done()
	}
	p.vanish()
	if ferr := p.flush(true); ferr != nil {
		p.r.log.Error().Err(ferr).Msg("the last changes were not written: they are read from the log again")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	// Whoever still holds the partition must not hold its mailboxes.
	p.users, p.dirty, p.rebuild = nil, nil, rebuild{}
	p.owe(-p.dirtyBytes)
	p.cache = cache{}
	p.known, p.before, p.claims, p.flushing = nil, nil, nil, nil
	if err != nil {
		return fmt.Errorf("router: %w", err)
	}
	return nil
}

// vanish makes every call from now on fail, and forgets the sessions.
func (p *partition) vanish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = true
	close(p.left)
	for _, m := range p.users {
		p.r.metrics.sessions.Sub(float64(len(m.sessions)))
		m.sessions = nil
	}
	p.online, p.comets, p.keys, p.watching = 0, nil, nil, nil
}

// The pauses between tries of what the log or the store failed at.
const firstPause, lastPause = 10 * time.Millisecond, time.Second

// follow finds where to go on and follows the log until ctx is done or the log
// is closed. Its error is one that trying again does not mend.
func (p *partition) follow(ctx context.Context) error {
	release, err := p.slot(ctx)
	if err != nil {
		return nil
	}
	defer release()
	pause := firstPause
	wait := func(err error) {
		release() // others need not wait for this one's trouble
		p.fail(err)
		p.r.log.Error().Err(err).Int32("partition", p.index).Msg("the partition does not go on; trying again")
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, lastPause)
	}
	for tries := 1; ; tries++ {
		err := p.start(ctx)
		var past *pastEndError
		switch {
		case err == nil:
		case ctx.Err() != nil, errors.Is(err, envelope.ErrClosed):
			return nil
		case !errors.As(err, new(logError)) && (!errors.As(err, &past) || tries >= pastEndTries):
			return err
		default:
			wait(err)
			continue
		}
		break
	}
	pause = firstPause
	begin, told := time.Now(), time.Now()
	for ctx.Err() == nil {
		if p.caughtUp(begin) {
			release()
		} else if time.Since(told) > tellEvery {
			told = time.Now()
			p.r.log.Info().Dur("since", time.Since(begin)).Msg("reading the log back, " + p.progress())
		}
		p.mu.Lock()
		next := p.next
		p.mu.Unlock()
		entries, err := p.read(ctx, next)
		if err == nil {
			err = p.apply(entries)
		}
		switch {
		case err == nil:
			pause = firstPause
			p.fail(nil)
			if err := p.ease(); err != nil {
				wait(err)
			}
			continue
		case ctx.Err() != nil, errors.Is(err, envelope.ErrClosed):
			return nil
		case errors.Is(err, envelope.ErrOutOfRange):
			if p.skipGap(ctx, next) {
				continue
			}
		}
		wait(err)
	}
	return nil
}

// logError is an error of the log's, which may be mended by trying again.
type logError struct{ error }

func (e logError) Unwrap() error { return e.error }

// pastEndError says that the store is ahead of the log.
type pastEndError struct {
	partition int32
	next, end int64
}

// pastEndTries is how often it is looked whether a log that ended too early
// still does: right after a change of leaders Kafka may say less than it has.
const pastEndTries = 9

func (e *pastEndError) Error() string {
	return fmt.Sprintf("partition %d: the stored position %d is past the end of the log %d: the log lost records or is another one; "+
		"restore it, or move the data directory away to rebuild the mailboxes from the log", e.partition, e.next, e.end)
}

// start finds where to go on.
func (p *partition) start(ctx context.Context) error {
	begin, end, err := p.r.kept.Bounds(ctx, p.index)
	if err != nil {
		return logError{fmt.Errorf("find the bounds of partition %d: %w", p.index, err)}
	}
	id, ok, err := p.r.store.Position(p.index)
	if err != nil {
		return err
	}
	blank := false
	if !ok {
		if blank, err = p.r.store.Empty(p.index); err != nil {
			return err
		}
	}
	next, again := begin, !ok
	if ok {
		_, offset := envelope.SplitID(id)
		next = offset + 1
		if next < begin {
			p.r.log.Warn().Int32("partition", p.index).Int64("position", next).Int64("begin", begin).
				Msg("the log no longer has the records after the stored position: going on from its beginning")
			next, again = begin, true
		}
		if next > end {
			return &pastEndError{p.index, next, end}
		}
	}
	if warm := max(begin, next-int64(p.r.cfg.DedupeWarm)); warm < next {
		if err := p.warm(ctx, warm, next); err != nil {
			return err
		}
	}
	var elders map[string][]elder
	if again && begin > 0 {
		if elders, err = p.findElders(ctx, begin, end); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.first, p.target = next, end
	p.next, p.seenNext, p.storedNext = next, next, next
	p.rebuild = rebuild{blank: blank, elders: elders}
	if blank {
		p.rebuild.stored = make(map[string]struct{})
	}
	p.begun, p.err = true, nil
	return nil
}

// warm reads the ids of records that were applied before the start.
func (p *partition) warm(ctx context.Context, from, to int64) error {
	for from < to {
		entries, err := p.read(ctx, from)
		if err != nil {
			return logError{fmt.Errorf("read partition %d back from %d: %w", p.index, from, err)}
		}
		for _, e := range entries {
			if e.Offset >= to {
				return nil
			}
			var rec envelope.Record
			if rec.UnmarshalVT(e.Value) == nil {
				p.void(rec.Id, e.Offset)
			}
			from = e.Offset + 1
		}
	}
	return nil
}

// skipGap goes on from the log's beginning when retention overtook a reader.
func (p *partition) skipGap(ctx context.Context, next int64) bool {
	begin, _, err := p.r.kept.Bounds(ctx, p.index)
	if err != nil || begin <= next {
		return false
	}
	p.r.metrics.skipped.Add(float64(begin - next))
	p.r.log.Error().Int32("partition", p.index).Int64("from", next).Int64("to", begin).
		Msg("records left the log before they were applied: retention is too short for this reader")
	p.mu.Lock()
	p.next = begin
	p.mu.Unlock()
	return true
}

func (p *partition) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}
