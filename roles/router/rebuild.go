package router

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"imgo/envelope"
	"imgo/internal/wait"
)

const (
	// readBytes is how much of the log is read and applied at a time.
	readBytes = 1 << 20
	// While a partition is read back it holds so many accounts, or pushes,
	// before it drops any. The next record may be for any user, and to read a
	// mailbox from the store costs more than to apply a record.
	rebuildAccounts, rebuildPushes = 1 << 17, 1 << 20
	// progressEvery is how often the log says how far a partition is.
	progressEvery = 5 * time.Second
	// readTimeout is how long a partition that has records to apply waits for
	// them.
	readTimeout = 15 * time.Second
	// pastEndTries is how often a log that ended too early is asked again:
	// right after a change of leaders Kafka may say less than it has.
	pastEndTries = 9
)

// retryPauses returns the pauses between tries of what the log or the store
// failed at.
func retryPauses() wait.Backoff { return wait.Backoff{Min: 10 * time.Millisecond, Max: time.Second} }

// rebuild is what a partition knows while it is read back from the log. The
// partition's mu guards it.
type rebuild struct {
	// blank is set if the store had nothing of the partition when it began. Only
	// the users in stored may be there.
	blank  bool
	stored map[string]struct{}
	// claimsStored is set if some claims were written.
	claimsStored bool
	// pushed counts the messages that came since accounts were evicted.
	pushed int
	// devices were known before the log begins, by user.
	devices map[string][]earlyDevice
}

// earlyDevice is a device that was known before the log begins: it covers
// every message of the log, though the record that says so comes later.
type earlyDevice struct {
	name   string
	since  uint64
	seenMS int64
	// published is envelope.Device.Published.
	published uint64
}

// unread reports whether the store certainly has nothing of a user.
func (b *rebuild) unread(user string) bool {
	if !b.blank {
		return false
	}
	_, stored := b.stored[user]
	return !stored
}

// noteStored notes that the store may have something of a user.
func (b *rebuild) noteStored(user string) {
	if b.blank {
		b.stored[user] = struct{}{}
	}
}

// noStoredClaims reports whether the store certainly has no claims.
func (b *rebuild) noStoredClaims() bool { return b.blank && !b.claimsStored }

// restoreDevices makes the devices of an account known that were so before the
// log begins.
func (b *rebuild) restoreDevices(a *account) {
	devices, ok := b.devices[a.User()]
	if !ok {
		return
	}
	delete(b.devices, a.User())
	for _, d := range devices {
		a.Devices().Restore(d.name, d.since, d.seenMS, 0)
		a.Devices().NotePublished(d.name, d.since, d.published, 0)
	}
}

// follower follows the log for a partition, on one goroutine.
type follower struct{ *partition }

// errOvertaken says that retention removed records that the partition has not applied.
var errOvertaken = errors.New("records left the log before they were applied")

// run finds where to go on and follows the log until ctx is done or the log is
// closed. It returns errOvertaken, or an error that trying again does not fix.
func (f follower) run(ctx context.Context) error {
	release, err := f.readSlot(ctx)
	if err != nil {
		return nil
	}
	defer release()
	pauses := retryPauses()
	pause := func(err error) {
		release() // others need not wait for this one's trouble
		f.setErr(err)
		f.log.Error().Err(err).Int32("partition", f.index).Msg("the partition does not go on; trying again")
		_ = pauses.Sleep(ctx) // the loops look at ctx
	}
	if done, err := f.findStart(ctx, pause); done || err != nil {
		return err
	}
	pauses.Reset()
	begin, told := time.Now(), time.Now()
	for ctx.Err() == nil {
		if f.caughtUp(begin) {
			release()
		} else if time.Since(told) > progressEvery {
			told = time.Now()
			f.log.Info().Dur("since", time.Since(begin)).Msg("reading the log back, " + f.progress())
		}
		next := f.next()
		entries, err := f.read(ctx, next)
		if err == nil {
			err = f.applier.apply(entries)
		}
		switch {
		case err == nil:
			pauses.Reset()
			for err = f.writes.backpressure(); err != nil && ctx.Err() == nil; err = f.writes.backpressure() {
				pause(err)
			}
			f.setErr(nil)
			continue
		case ctx.Err() != nil, errors.Is(err, envelope.ErrClosed):
			return nil
		case errors.Is(err, envelope.ErrOutOfRange) && f.overtaken(ctx, next):
			return errOvertaken
		}
		pause(err)
	}
	return nil
}

// findStart calls start until it succeeds. done is true if ctx is done or the
// log is closed.
func (f follower) findStart(ctx context.Context, pause func(error)) (done bool, err error) {
	for tries := 1; ; tries++ {
		err := f.start(ctx)
		var past *pastEndError
		switch {
		case err == nil:
			return false, nil
		case ctx.Err() != nil, errors.Is(err, envelope.ErrClosed):
			return true, nil
		case !errors.As(err, new(logError)) && (!errors.As(err, &past) || tries >= pastEndTries):
			return false, err
		}
		pause(err)
	}
}

// logError is an error of the log's; another try may succeed.
type logError struct{ error }

func (e logError) Unwrap() error { return e.error }

// pastEndError says that the store is ahead of the log.
type pastEndError struct {
	partition int32
	next, end int64
}

func (e *pastEndError) Error() string {
	return fmt.Sprintf("partition %d: the stored position %d is past the end of the log %d: the log lost records or is another one; "+
		"restore it, or move the data directory away to rebuild the mailboxes from the log", e.partition, e.next, e.end)
}

// readSlot waits until few enough other partitions are being read back. The
// function that it returns gives the place to the next one, and may be called twice.
func (f follower) readSlot(ctx context.Context) (release func(), err error) {
	select {
	case f.readSlots <- struct{}{}:
		return sync.OnceFunc(func() { <-f.readSlots }), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// start finds where to go on.
func (f follower) start(ctx context.Context) error {
	begin, end, err := f.kept.Bounds(ctx, f.index)
	if err != nil {
		return logError{fmt.Errorf("find the bounds of partition %d: %w", f.index, err)}
	}
	id, ok, err := f.storedPosition(ctx, begin)
	if err != nil {
		return err
	}
	next, again, skipped := begin, !ok, int64(0)
	if ok {
		_, offset := envelope.SplitID(id)
		next = offset + 1
		if next < begin {
			skipped, again = begin-next, true
			next = begin
		}
		if next > end {
			return &pastEndError{f.index, next, end}
		}
	}
	if f.cfg.Repeats > 0 && begin < next {
		from, err := f.repeatedFrom(ctx, begin, next)
		if err == nil {
			err = f.readRecordIDs(ctx, from, next)
		}
		if err != nil {
			return err
		}
	}
	if end > begin {
		f.readClock(ctx, end-1)
	}
	var devices map[string][]earlyDevice
	if again && begin > 0 {
		if devices, err = f.findEarlyDevices(ctx, begin, end); err != nil {
			return err
		}
	}
	if skipped > 0 {
		f.skipped(begin-skipped, begin)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.position.first, f.position.target, f.position.next = next, end, next
	f.writes.seenNext, f.writes.storedNext = next, next
	f.rebuild = rebuild{blank: !ok, devices: devices}
	if !ok {
		f.rebuild.stored = make(map[string]struct{})
	}
	f.begun, f.err = true, nil
	return nil
}

// storedPosition returns the id of the last record that the stored mailboxes have. ok is
// false if there are none. The partition is then read from the beginning of the log.
//
// It deletes mailboxes that must not be resumed. A router that could not read all records in use has
// skipped some. Other mailboxes lack records that the log does not have any more. Such mailboxes would
// bring back what a missing record took away: an erased user, a membership or a device. The log knows what
// is missing then: every owner repeats what it is about to forget (see repeatDevices).
func (f follower) storedPosition(ctx context.Context, begin int64) (id uint64, ok bool, err error) {
	id, version, ok, err := f.store.Position(f.index)
	if err != nil {
		return 0, false, err
	}
	_, offset := envelope.SplitID(id)
	switch {
	case !ok: // an interrupted deletion may have left something
		return 0, false, f.store.DropPartition(ctx, f.index)
	case version < f.records:
		f.metrics.rederived.Inc()
		f.log.Warn().Int32("partition", f.index).Uint32("derived_by", version).Uint32("in_use", f.records).
			Msg("the stored mailboxes are of an older version of imgo, which skips records that are in use now: they are read from the log again")
	case offset+1 < begin && f.cfg.Retention > 0:
		f.skipped(offset+1, begin)
		f.log.Warn().Int32("partition", f.index).
			Msg("the stored mailboxes are from before the log's beginning: they are read from the log again")
	default:
		return id, true, nil
	}
	return 0, false, f.store.DropPartition(ctx, f.index)
}

// clockTimeout bounds the reading of a record for its time only.
const clockTimeout = 5 * time.Second

// readClock compares the clocks by the last record of the log: mailboxes may be asked for before
// another one comes. If that fails, the next record will do.
func (f follower) readClock(ctx context.Context, last int64) {
	ctx, cancel := context.WithTimeout(ctx, clockTimeout)
	defer cancel()
	if entries, err := f.read(ctx, last); err == nil && len(entries) > 0 {
		f.clock.saw(entries[0].TimeMS)
	}
}

// leastRepeated is how many records repeatedFrom goes back at first.
const leastRepeated = 1 << 10

// repeatedFrom returns an offset before which no record can be repeated at or after next. It goes back in
// steps that double, at most as many records as have room in recordIDs.
func (f follower) repeatedFrom(ctx context.Context, begin, next int64) (int64, error) {
	newest, err := f.appendedMS(ctx, next-1)
	for back := int64(leastRepeated); err == nil; back *= 2 {
		from := max(begin, next-back)
		if from == begin || back >= recordIDsMost {
			return from, nil
		}
		var ms int64
		if ms, err = f.appendedMS(ctx, from); err == nil && newest-ms >= f.cfg.Repeats.Milliseconds() {
			return from, nil
		}
	}
	return 0, err
}

// appendedMS returns when a record was appended, Unix milliseconds.
func (f follower) appendedMS(ctx context.Context, offset int64) (int64, error) {
	entries, err := f.read(ctx, offset)
	if err != nil {
		return 0, logError{fmt.Errorf("read the time of record %d of partition %d: %w", offset, f.index, err)}
	}
	return entries[0].TimeMS, nil
}

// readRecordIDs reads the ids of records that were applied before the start.
func (f follower) readRecordIDs(ctx context.Context, from, to int64) error {
	for from < to {
		entries, err := f.read(ctx, from)
		if err != nil {
			return logError{fmt.Errorf("read partition %d back from %d: %w", f.index, from, err)}
		}
		for _, e := range entries {
			if e.Offset >= to {
				return nil
			}
			var rec envelope.Record
			if e.Record(&rec) == nil {
				f.applier.ids.repeated(rec.Id, e.Offset, rec.TimeMs)
			}
			from = e.Offset + 1
		}
	}
	return nil
}

// read reads records from the log, which are there already while the partition
// has not caught up.
func (f follower) read(ctx context.Context, from int64) ([]envelope.Entry, error) {
	if f.isUp() {
		return f.kept.Read(ctx, f.index, from, readBytes)
	}
	rctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	entries, err := f.kept.Read(rctx, f.index, from, readBytes)
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("the log did not give record %d within %v: %w", from, readTimeout, err)
	}
	return entries, err
}

// overtaken reports whether the log begins after a record that was not applied.
func (f follower) overtaken(ctx context.Context, next int64) bool {
	begin, _, err := f.kept.Bounds(ctx, f.index)
	return err == nil && begin > next
}

// skipped notes that records left the log before they were applied, because the
// router was away or behind for longer than the log keeps them.
func (f follower) skipped(from, to int64) {
	f.metrics.skipped.Add(float64(to - from))
	f.log.Error().Int32("partition", f.index).Int64("from", from).Int64("to", to).
		Msg("records left the log before they were applied: retention is too short for this reader")
	f.notice("records_skipped", "", 0, fmt.Sprintf("partition %d: the records from offset %d up to %d left the log before they were applied",
		f.index, from, to))
}

// caughtUp reports whether the partition was applied up to its target. It lets
// callers in when the partition has got there.
func (f follower) caughtUp(since time.Time) bool {
	if f.isUp() {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	at := &f.position
	if at.next < at.target {
		return false
	}
	f.rebuild = rebuild{}
	f.toldFrom = f.now()
	close(f.up)
	event := f.log.Debug()
	if at.next > at.first {
		event = f.log.Info()
	}
	event.Int32("partition", f.index).Int64("records", at.next-at.first).Float64("seconds", time.Since(since).Seconds()).
		Msg("partition has caught up with the log")
	return true
}

// findEarlyDevices reads the log for devices that became known before it begins. Without
// it a message that the device has yet to read would be gone once the others have read
// it. A message that it has read long ago would come again. The device's first record may
// lie anywhere in the log's first half (see repeatDevices).
func (f follower) findEarlyDevices(ctx context.Context, begin, end int64) (map[string][]earlyDevice, error) {
	devices := make(map[string][]earlyDevice)
	first := envelope.ID(f.position.generation, begin)
	for from := begin; from < end; {
		entries, err := f.read(ctx, from)
		if err != nil {
			return nil, logError{fmt.Errorf("read the devices of partition %d from %d: %w", f.index, from, err)}
		}
		for _, e := range entries {
			from = e.Offset + 1
			if e.Offset >= end || !hasDevice(e.Value) {
				continue
			}
			var rec envelope.Record
			if rec.UnmarshalVT(e.Value) != nil || rec.Device == nil || !storable(rec.Device.User) {
				continue
			}
			if d := rec.Device; d.Since > 0 && d.Since < first {
				devices[d.User] = append(devices[d.User], earlyDevice{d.Device, d.Since, d.SeenMs, d.Published})
			}
		}
	}
	return devices, nil
}

// deviceField is the number of Record.device.
const deviceField = 12

// hasDevice reports whether a record has a device, without decoding all of it.
func hasDevice(record []byte) bool {
	for len(record) > 0 {
		number, _, n := protowire.ConsumeField(record)
		if number == deviceField || n < 0 {
			return n > 0
		}
		record = record[n:]
	}
	return false
}
