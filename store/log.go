package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/semaphore"

	"imgo/envelope"
)

// Defaults of LogOptions.
const (
	DefaultLogPartitions = 16
	DefaultQueueBytes    = 16 << 20
	DefaultTailBytes     = 256 << 10
	defaultTrim          = time.Minute
)

// MaxRecordBytes is the largest value that the kept log takes.
const MaxRecordBytes = maxLogRecord

// LogOptions are a Log's.
type LogOptions struct {
	// Partitions is how many the log has; 0: as many as it was made with, 16
	// for a new one. An existing log with another number is refused.
	Partitions int32
	// Generation is the upper part of the log's ids; 0: the one it was made
	// with, 1 for a new one. An existing log with another one is refused.
	Generation uint16
	// Retention is how long entries are kept; 0: for ever. It must be longer
	// than the longest ttl of a message.
	Retention time.Duration
	// TrimInterval is how often Run looks for entries older than that; 0:
	// every minute.
	TrimInterval time.Duration
	// QueueBytes bounds what waits to be committed: records and 64 bytes for
	// each. Appends over it wait. 0: 16 MiB.
	QueueBytes int64
	// TailBytes bounds what each partition keeps in memory for the readers at
	// its end. 0: 256 KiB.
	TailBytes int
	// Now is the clock that entries are stamped and trimmed by; nil: time.Now.
	Now func() time.Time
}

// Log is the kept log of a node without Kafka: partitions of records with
// contiguous offsets, in Badger. Whatever waits to be appended shares the next
// synced transaction, so that one sync serves many callers.
//
// A record that a call reported as appended is there after a power loss. One
// whose call failed, or was given up on, may have been appended all the same;
// records carry an id so that readers can void the second of two.
//
// All methods may be called by many goroutines at once. Appends are answered
// while Run runs.
type Log struct {
	db    *DB
	opt   LogOptions
	log   zerolog.Logger
	parts []tail
	meter *meter
	watch *logMetrics

	generation uint16

	// room bounds the queue, in bytes. mu guards queue and closed.
	room   *semaphore.Weighted
	mu     sync.Mutex
	queue  []*request
	closed error         // why appends are refused; nil: they are not
	queued chan struct{} // has one when the queue may have something
	pool   sync.Pool     // of *request that nobody has

	// follower is told of lone records; nil: nobody is.
	follower atomic.Pointer[func(partition int32)]

	running atomic.Bool
	stop    chan struct{} // closed by Close; ends Run
	stopped chan struct{} // closed when Run has drained the queue

	commits atomic.Uint64 // transactions that were committed
	// batch is the committer's alone, as is commit, which tests replace.
	batch  *batch
	commit func(*batch) error

	// deleted is, for each partition, up to where its entries are deleted; the
	// trimmer's alone.
	deleted []int64
	trimMu  sync.Mutex
}

// request is one call's entries on their way through the queue.
type request struct {
	entries []envelope.Entry
	one     [1]envelope.Entry
	cost    int64
	left    int // entries that are not dealt with yet; the committer's
	err     error
	done    chan struct{} // has one when the request is dealt with
}

// OpenLog opens the kept log in db, or makes it; it can be open once at a time.
// It checks that the ends of
// every partition are there and whole; entries between them are checked as
// they are read.
func OpenLog(db *DB, opt LogOptions) (*Log, error) {
	if opt.Partitions < 0 || opt.Partitions > 1<<15 {
		return nil, fmt.Errorf("open the kept log: %d partitions: must be 1 to %d", opt.Partitions, 1<<15)
	}
	if opt.TrimInterval <= 0 {
		opt.TrimInterval = defaultTrim
	}
	if opt.QueueBytes <= 0 {
		opt.QueueBytes = DefaultQueueBytes
	}
	if opt.TailBytes <= 0 {
		opt.TailBytes = DefaultTailBytes
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	l := &Log{
		db: db, opt: opt, log: db.log,
		room:    semaphore.NewWeighted(opt.QueueBytes),
		queued:  make(chan struct{}, 1),
		pool:    sync.Pool{New: func() any { return &request{done: make(chan struct{}, 1)} }},
		stop:    make(chan struct{}),
		stopped: make(chan struct{}),
	}
	if !db.logOpen.CompareAndSwap(false, true) {
		return nil, fmt.Errorf("open the kept log in %s: it is open already", db.dir)
	}
	if err := l.open(); err != nil {
		db.logOpen.Store(false)
		return nil, fmt.Errorf("open the kept log in %s: %w", db.dir, err)
	}
	return l, nil
}

func (l *Log) open() (err error) {
	if err := l.load(); err != nil {
		return err
	}
	l.batch = newBatch(l.db, l.parts)
	l.commit = l.write
	l.watch = newLogMetrics(l)
	l.meter, err = newMeter(l.db.opt.Metrics, l.watch.collectors()...)
	return err
}

// Partitions is how many there are.
func (l *Log) Partitions() int32 { return int32(len(l.parts)) }

// Generation is the upper part of the ids of this log's records, from 1.
func (l *Log) Generation() uint16 { return l.generation }

// Append blocks until the record is durable and returns its offset. It waits
// while the queue is full. When ctx is done first it returns ctx's error,
// although the record may still be appended. It is refused with
// envelope.ErrDiskFull while less than the reserve of the disk is free, with
// envelope.ErrClosed after Close, with envelope.ErrTooLarge over
// MaxRecordBytes. Nobody may change value once it was given to Append.
func (l *Log) Append(ctx context.Context, partition int32, value []byte) (int64, error) {
	if err := l.db.disk.ok(); err != nil {
		return 0, err
	}
	return l.appendOne(ctx, partition, value)
}

// AppendEssential is Append for what makes room or keeps the truth while
// pushes are refused (acknowledgements, devices): it is refused only when less
// than a quarter of the reserve is free.
func (l *Log) AppendEssential(ctx context.Context, partition int32, value []byte) (int64, error) {
	if err := l.db.disk.essential(); err != nil {
		return 0, err
	}
	return l.appendOne(ctx, partition, value)
}

func (l *Log) appendOne(ctx context.Context, partition int32, value []byte) (int64, error) {
	r := l.pool.Get().(*request)
	r.one[0] = envelope.Entry{Partition: partition, Value: value}
	r.entries = r.one[:]
	if err := l.do(ctx, r); err != nil {
		return 0, err
	}
	offset := r.one[0].Offset
	l.recycle(r)
	return offset, nil
}

// AppendMany appends all entries, in order, and fills in their offsets. It
// errs as Append does, for the whole call; some of the entries may have been
// appended then.
func (l *Log) AppendMany(ctx context.Context, entries []envelope.Entry) error {
	if err := l.db.disk.ok(); err != nil {
		return err
	}
	if len(entries) == 0 {
		return ctx.Err()
	}
	r := l.pool.Get().(*request)
	// A copy: the caller may be gone by the time offsets are assigned.
	r.entries = append([]envelope.Entry(nil), entries...)
	if err := l.do(ctx, r); err != nil {
		return err
	}
	for i := range entries {
		entries[i].Offset = r.entries[i].Offset
	}
	l.recycle(r)
	return nil
}

// recycle gives back a request that the committer is done with.
func (l *Log) recycle(r *request) {
	r.entries, r.one[0], r.err = nil, envelope.Entry{}, nil
	l.pool.Put(r)
}

// do takes a request through the queue and waits for it.
func (l *Log) do(ctx context.Context, r *request) error {
	started := time.Now()
	r.cost, r.left = 0, len(r.entries)
	for i := range r.entries {
		e := &r.entries[i]
		if err := checkPartition(e.Partition, len(l.parts)); err != nil {
			return err
		}
		if len(e.Value) > MaxRecordBytes {
			return envelope.Errorf(envelope.CodeTooLarge, "a record of %d bytes: the kept log takes at most %d", len(e.Value), MaxRecordBytes)
		}
		r.cost += int64(len(e.Value)) + entryOverhead
	}
	// A call that is larger than the queue has it for itself.
	r.cost = min(r.cost, l.opt.QueueBytes)
	if err := l.room.Acquire(ctx, r.cost); err != nil {
		return fmt.Errorf("append to the kept log: wait for room in its queue: %w", err)
	}
	if err := l.enqueue(r); err != nil {
		l.room.Release(r.cost)
		return err
	}
	select {
	case <-r.done:
		l.watch.appendSeconds.Observe(time.Since(started).Seconds())
		return r.err
	case <-ctx.Done():
		return fmt.Errorf("append to the kept log (it may still happen): %w", ctx.Err())
	}
}

func (l *Log) enqueue(r *request) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed != nil {
		return l.closed
	}
	l.queue = append(l.queue, r)
	select {
	case l.queued <- struct{}{}:
	default: // the committer has been told and has not looked yet
	}
	return nil
}

// take empties the queue.
func (l *Log) take(spare []*request) []*request {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.queue
	l.queue = spare[:0]
	return all
}

// errRunning refuses a second Run.
var errRunning = errors.New("run the kept log: it runs already")

// Run commits what is appended and trims what is old until ctx is done or
// Close is called; it then takes no more, commits what is queued and returns
// nil. It returns early, with an error, when the disk failed to make a commit
// durable: what it did to the files is not known then, so nothing may be
// acknowledged until the directory was closed and opened again.
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
	var trimmer sync.WaitGroup
	trimmer.Go(func() { l.trimLoop(ctx) })
	defer trimmer.Wait()
	defer cancel()

	var spare []*request
	for {
		var last bool
		select {
		case <-l.queued:
		case <-ctx.Done():
			last = true
		case <-l.stop:
			last = true
		}
		if last {
			l.refuse(errLogClosed())
		}
		reqs := l.take(spare)
		err := l.commitAll(reqs)
		clear(reqs)
		spare = reqs
		if err != nil {
			err = fmt.Errorf("commit to the kept log in %s: %w; restart imgo", l.db.dir, err)
			l.refuse(err)
			l.fail(err)
			return err
		}
		if last {
			return nil
		}
	}
}

func errLogClosed() error { return envelope.Errorf(envelope.CodeClosed, "the kept log was closed") }

// refuse ends reads and refuses appends with why from now on; the first call
// counts.
func (l *Log) refuse(why error) {
	l.mu.Lock()
	if l.closed == nil {
		l.closed = why
	}
	l.mu.Unlock()
	for i := range l.parts {
		l.parts[i].close(why)
	}
}

// fail answers all that is queued with err.
func (l *Log) fail(err error) {
	for _, r := range l.take(nil) {
		r.err = err
		l.finish(r)
	}
}

// Close refuses further appends, ends blocked reads (both envelope.ErrClosed)
// and waits until Run has committed what was queued; without Run what was
// queued fails. A second call does nothing. The DB stays open.
func (l *Log) Close() error {
	l.mu.Lock()
	select {
	case <-l.stop:
		l.mu.Unlock()
		return nil
	default:
		close(l.stop)
	}
	l.mu.Unlock()
	l.refuse(errLogClosed())
	if !l.running.CompareAndSwap(false, true) {
		<-l.stopped
	}
	l.fail(errLogClosed())
	err := l.meter.close()
	l.db.logOpen.Store(false)
	return err
}
