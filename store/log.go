package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/internal/collectors"
)

// Defaults of LogOptions.
const (
	defaultQueueBytes   = 16 << 20
	defaultTailBytes    = 256 << 10
	defaultTrimInterval = time.Minute
)

// LogOptions are the options of a Log.
type LogOptions struct {
	// Partitions is the number of partitions. 0 means as many as the log was made with. An
	// existing log with another number is refused, and a new one without a number.
	Partitions int32
	// Generation is the upper part of the log's ids. 0 means the one it was made with, 1 for
	// a new log. An existing log with another one is refused.
	Generation uint16
	// First is the offset of the first record of each partition of a new log. A new log that takes the place of a lost one
	// must not give out its ids again: clients drop messages whose ids they have handled. So First is to be
	// larger than the offsets of every earlier log, such as the time in Unix milliseconds.
	First int64
	// AppendFrom is the least offset of a record that is appended while the log is open. Offsets between the end of
	// an existing log and AppendFrom are left out. The directory may be an older copy, and the log may have
	// given out ids behind its end. AppendFrom is to be larger than their offsets, as First is.
	AppendFrom int64
	// Retention is how long entries are kept. 0 means for ever. It must be longer than the
	// longest ttl of a message.
	Retention time.Duration
	// TrimInterval is how often Run deletes entries older than that. 0 means every minute.
	TrimInterval time.Duration
	// QueueBytes bounds the records that wait to be committed, with 64 bytes for each.
	// Further appends wait. 0 means 16 MiB.
	QueueBytes int64
	// TailBytes bounds the newest entries that each partition keeps in memory, for the
	// readers at its end. 0 means 256 KiB.
	TailBytes int
	// Events opens the log of events in place of the kept log. Its appends are essential: an event
	// that is not appended holds back what frees the disk. See Log.AppendEssential.
	Events bool
	// Now is the clock by which entries are stamped and trimmed. If it is nil, time.Now is used.
	Now func() time.Time
}

func (opt *LogOptions) setDefaults() {
	opt.TrimInterval = cmp.Or(opt.TrimInterval, defaultTrimInterval)
	opt.QueueBytes = cmp.Or(opt.QueueBytes, defaultQueueBytes)
	opt.TailBytes = cmp.Or(opt.TailBytes, defaultTailBytes)
	if opt.Now == nil {
		opt.Now = time.Now
	}
}

// Log is the kept log of a node without Kafka, or its log of events: partitions of records with
// growing offsets, in Badger. The offsets are contiguous, apart from those that LogOptions.AppendFrom leaves out.
// No record has one of these, and a read from there goes on behind them. All appends that wait share the next synced transaction, so that
// one sync of the disk serves many callers.
//
// A record is there after a power loss once a call has reported it as appended. A record
// whose call failed, or was given up, may have been appended as well. Records carry an id
// by which readers recognise the second of two.
//
// All methods are safe for concurrent use. Appends are answered while Run runs.
type Log struct {
	db         *DB
	log        zerolog.Logger
	tails      // one for each partition
	generation uint16
	first      int64

	records   logRecords
	queue     appendQueue
	committer committer
	trimmer   trimmer
	metrics   *logMetrics
	registry  *collectors.Set

	running atomic.Bool
	closing sync.Once
	stop    chan struct{} // closed by Close; ends Run
	stopped chan struct{} // closed when Run has drained the queue
}

// OpenLog opens the kept log in db, or the log of events, or makes it. A log can be open once at a time.
// OpenLog checks the first and the last entry of every partition; the entries between
// them are checked when they are read.
func OpenLog(db *DB, opt LogOptions) (*Log, error) {
	if opt.Partitions < 0 || opt.Partitions > 1<<15 {
		return nil, fmt.Errorf("open the log: %d partitions: must be 1 to %d", opt.Partitions, 1<<15)
	}
	if opt.First < 0 || opt.First > envelope.MaxOffset/2 {
		return nil, fmt.Errorf("open the log: the first offset is %d: must be 0 to %d", opt.First, envelope.MaxOffset/2)
	}
	if opt.AppendFrom < 0 || opt.AppendFrom > envelope.MaxOffset/2 {
		return nil, fmt.Errorf("open the log: the least offset is %d: must be 0 to %d", opt.AppendFrom, envelope.MaxOffset/2)
	}
	opt.setDefaults()
	space := spaceKept
	if opt.Events {
		space = spaceEvents
	}
	if !db.openFlag(space).CompareAndSwap(false, true) {
		return nil, fmt.Errorf("open the %s in %s: it is open already", space, db.dir)
	}
	l := &Log{db: db, log: db.log, records: logRecords{db, space}, stop: make(chan struct{}), stopped: make(chan struct{})}
	if err := l.open(opt); err != nil {
		db.openFlag(space).Store(false)
		return nil, fmt.Errorf("open the %s in %s: %w", space, db.dir, err)
	}
	return l, nil
}

func (l *Log) open(opt LogOptions) error {
	shape, err := l.records.openShape(logShape{opt.Partitions, opt.Generation, opt.First})
	if err != nil {
		return err
	}
	bounds, err := l.records.bounds(shape.partitions)
	if err != nil {
		return err
	}
	l.generation, l.first = shape.generation, shape.first
	l.tails = make(tails, shape.partitions)
	deleted := make([]int64, shape.partitions)
	for p := range l.tails {
		t := &l.tails[p]
		t.logBounds, t.limit, deleted[p] = bounds[p], opt.TailBytes, bounds[p].begin
	}
	l.metrics = newLogMetrics(l)
	l.queue.init(l.records.space, opt.QueueBytes)
	l.committer.init(l, opt)
	l.trimmer = trimmer{
		records: l.records, tails: l.tails, log: l.log, now: opt.Now,
		retention: opt.Retention, interval: opt.TrimInterval, deleted: deleted,
	}
	if l.registry, err = collectors.Register(l.db.opt.Metrics, l.metrics.appendSeconds, l.metrics.commitRecords, l.metrics); err != nil {
		return fmt.Errorf("register the store's metrics: %w", err)
	}
	return nil
}

// First returns the offset of the first record that each partition had. If a partition begins later, records
// have been trimmed.
func (l *Log) First() int64 { return l.first }

// Generation returns the upper part of the ids of this log's records, from 1.
func (l *Log) Generation() uint16 { return l.generation }

// Append waits until the record is durable and returns its offset. It also waits while
// the queue is full. If ctx ends first, Append returns ctx's error, although the record
// may still be appended. The other errors are envelope.ErrDiskFull while less than the
// reserve of the disk is free, envelope.ErrClosed after Close, envelope.ErrTooLarge for a
// record that is larger than about 1 MiB, and those of a partition that does not exist and
// of a commit that failed. Nobody may change value after the call.
func (l *Log) Append(ctx context.Context, partition int32, value []byte) (int64, error) {
	if err := l.writable(); err != nil {
		return 0, err
	}
	return l.appendOne(ctx, partition, value)
}

// AppendEssential is Append for records that make room or keep the truth while pushes are
// refused: acknowledgements and devices. It is refused only while less than a quarter of
// the reserve is free.
func (l *Log) AppendEssential(ctx context.Context, partition int32, value []byte) (int64, error) {
	if err := l.db.disk.essential(); err != nil {
		return 0, err
	}
	return l.appendOne(ctx, partition, value)
}

// writable returns an error if the disk has too little room for an append.
func (l *Log) writable() error {
	if l.records.space == spaceEvents {
		return l.db.disk.essential()
	}
	return l.db.disk.ok()
}

func (l *Log) appendOne(ctx context.Context, partition int32, value []byte) (int64, error) {
	r := l.queue.newRequest()
	r.one[0] = envelope.Entry{Partition: partition, Value: value}
	r.entries = r.one[:]
	if err := l.append(ctx, r); err != nil {
		return 0, err
	}
	offset := r.one[0].Offset
	l.queue.recycle(r)
	return offset, nil
}

// AppendMany appends all entries, in order, and fills in their offsets. Its errors are
// those of Append, for the whole call; some of the entries may have been appended then.
func (l *Log) AppendMany(ctx context.Context, entries []envelope.Entry) error {
	if err := l.writable(); err != nil {
		return err
	}
	if len(entries) == 0 {
		return ctx.Err()
	}
	r := l.queue.newRequest()
	// A copy: the caller may have given up by the time that offsets are assigned.
	r.entries = append([]envelope.Entry(nil), entries...)
	if err := l.append(ctx, r); err != nil {
		return err
	}
	for i := range entries {
		entries[i].Offset = r.entries[i].Offset
	}
	l.queue.recycle(r)
	return nil
}

// append checks a request, queues it, and waits for its answer.
func (l *Log) append(ctx context.Context, r *request) error {
	started := time.Now()
	for i := range r.entries {
		e := &r.entries[i]
		if err := l.tails.check(e.Partition); err != nil {
			return err
		}
		if len(e.Value) > maxRecordBytes {
			return envelope.Errorf(envelope.CodeTooLarge, "a record of %d bytes: the %s takes at most %d",
				len(e.Value), l.records.space, maxRecordBytes)
		}
	}
	if err := l.queue.enqueue(ctx, r); err != nil {
		return err
	}
	select {
	case <-r.done:
		l.metrics.appendSeconds.Observe(time.Since(started).Seconds())
		return r.err
	case <-ctx.Done():
		return fmt.Errorf("append to the %s (it may still happen): %w", l.records.space, ctx.Err())
	}
}

// Read waits until the partition has an entry at or after from, or ctx ends (ctx's
// error). It returns entries in order, at least one and about maxBytes of values at most.
// At the end of a partition they come from memory.
//
// The error is envelope.ErrOutOfRange if from was trimmed or is past the end, and
// envelope.ErrClosed after Close. It wraps ErrCorrupt and names partition and offset if an
// entry is missing or broken. Entries before that one are returned first, and none is
// ever left out.
func (l *Log) Read(ctx context.Context, partition int32, from int64, maxBytes int) ([]envelope.Entry, error) {
	if err := l.tails.check(partition); err != nil {
		return nil, err
	}
	t := &l.tails[partition]
	entries, until, err := t.await(ctx, partition, from, maxBytes)
	if err != nil || len(entries) > 0 {
		return entries, err
	}
	entries, err = l.records.read(partition, from, until, maxBytes)
	if len(entries) > 0 {
		return entries, nil // the next read meets an error after them again
	}
	// The entries may have been trimmed since await returned.
	if begin, end, cerr := t.bounds(); err != nil && cerr == nil && from < begin {
		return nil, outOfRange(partition, from, begin, end)
	}
	if err != nil {
		return nil, fmt.Errorf("read the %s in %s: %w", l.records.space, l.db.dir, err)
	}
	return entries, nil
}

// Recent is Read from memory. It never waits, and returns no entries if from is not in
// memory.
func (l *Log) Recent(partition int32, from int64, maxBytes int) []envelope.Entry {
	if l.tails.check(partition) != nil {
		return nil
	}
	return l.tails[partition].recent(partition, from, maxBytes)
}

// Follow calls fn with the partition of each record that was committed by itself, with
// nothing queued behind it. fn runs on the commit goroutine, when Recent returns the
// record, and before readers are woken and the call to Append returns. fn delays both,
// and the next commit of every partition, so it must not wait for anything, and must not
// append. Other records are not reported, so a follower must read as well.
//
// There is one follower; a later call replaces an earlier one. stop ends it, but fn may
// still be running when stop returns.
func (l *Log) Follow(fn func(partition int32)) (stop func()) {
	l.committer.follower.Store(&fn)
	return func() { l.committer.follower.CompareAndSwap(&fn, nil) }
}

// errRunning refuses a second Run.
var errRunning = errors.New("run the log: it runs already")

// Run commits appends and trims old entries until ctx ends or Close is called. It then
// refuses further appends, commits those that are queued, and returns nil. It returns
// early, with an error, if the disk failed to make a commit durable: the state of the
// files is not known then, so nothing may be acknowledged until the directory was closed
// and opened again.
func (l *Log) Run(ctx context.Context) error {
	if !l.running.CompareAndSwap(false, true) {
		select {
		case <-l.stop:
			return nil // closed before it began
		default:
			return errRunning
		}
	}
	defer close(l.stopped)

	ctx, cancel := context.WithCancel(ctx)
	var trimming sync.WaitGroup
	trimming.Go(func() { l.trimmer.run(ctx) })
	defer trimming.Wait()
	defer cancel()

	var spare []*request
	for {
		var last bool
		select {
		case <-l.queue.filled:
		case <-ctx.Done():
			last = true
		case <-l.stop:
			last = true
		}
		if last {
			l.refuse(l.errClosed())
		}
		requests := l.queue.dequeueAll(spare)
		err := l.committer.commitAll(requests)
		clear(requests)
		spare = requests
		if err != nil {
			err = fmt.Errorf("commit to the %s in %s: %w; restart imgo", l.records.space, l.db.dir, err)
			l.refuse(err)
			l.queue.fail(err)
			return err
		}
		if last {
			return nil
		}
	}
}

func (l *Log) errClosed() error {
	return envelope.Errorf(envelope.CodeClosed, "the %s was closed", l.records.space)
}

// refuse ends reads and refuses appends with an error from now on. Only the first call
// counts.
func (l *Log) refuse(why error) {
	l.queue.close(why)
	l.tails.close(why)
}

// Close refuses further appends, ends waiting reads (both envelope.ErrClosed), and waits
// until Run has committed the queue. If Run never ran, queued appends fail. A second call
// returns at once. The DB stays open.
func (l *Log) Close() error {
	l.closing.Do(func() {
		close(l.stop)
		l.refuse(l.errClosed())
		if !l.running.CompareAndSwap(false, true) {
			<-l.stopped
		}
		l.queue.fail(l.errClosed())
		l.registry.Unregister()
		l.db.openFlag(l.records.space).Store(false)
	})
	return nil
}
