package events

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"imgo/envelope"
	"imgo/internal/wait"
)

// Topics are the events topics of all generations of the kept log.
type Topics interface {
	// Current returns the newest generation.
	Current() uint16
	// Open returns the topic of a generation, up to the newest one. The error is envelope.ErrNotFound if an older topic
	// was deleted.
	Open(ctx context.Context, generation uint16) (envelope.Log, error)
}

// Query asks for events.
type Query struct {
	// After is the place behind which they are. With Now it is the end of the topic.
	After Cursor
	Now   bool
	// Types are types and patterns of them, empty: all. User limits the events to those of a user;
	// empty: all.
	Types []string
	User  string
	// Limit is how many events there may be, at least 1.
	Limit int
	// Wait is how long to wait for an event if there is none.
	Wait time.Duration
}

// Page answers a Query.
type Page struct {
	Records []Record
	// Next is where the next page begins. More reports whether there may be events already.
	Next Cursor
	More bool
	// Skipped counts entries that left the topic before they were read.
	Skipped int64
}

const (
	// maxScan bounds the events that one page looks at, whether they match or not.
	maxScan = 20_000
	// maxPageBytes bounds the events of a page. One event always fits.
	maxPageBytes = 4 << 20
	// boundsAtOnce is how many partitions are asked for their ends side by side.
	boundsAtOnce = 16
	// tailsAtOnce is how many tails of partitions all calls together read side by side.
	tailsAtOnce = 16
)

// otherServer says why a cursor is refused.
const otherServer = "is a cursor of another server, or of one that has been reset"

// Feed reads pages of the topic. Safe for concurrent use.
type Feed struct {
	topics Topics
	// tails has a place for each tail that is being read.
	tails chan struct{}
}

// NewFeed returns a feed of the topics.
func NewFeed(topics Topics) *Feed {
	return &Feed{topics, make(chan struct{}, tailsAtOnce)}
}

// Read returns the events that a query asks for. It waits for the first one, for Query.Wait.
func (f *Feed) Read(ctx context.Context, q Query) (*Page, error) {
	waiting, cancel := context.WithTimeout(ctx, q.Wait)
	defer cancel()
	r := &pageReader{Feed: f, q: q, at: Cursor{Generation: q.After.Generation, Turn: q.After.Turn, At: maps.Clone(q.After.At)}}
	if r.at.At == nil {
		r.at.At = make(map[int32]Position)
	}
	for {
		err := r.read(ctx)
		if err != nil && !errors.Is(err, envelope.ErrClosed) {
			return nil, err
		}
		if len(r.page.Records) > 0 || r.page.More || waiting.Err() != nil {
			r.page.Next = r.at
			return &r.page, ctx.Err()
		}
		if err == nil {
			err = r.wait(waiting)
		}
		// The topic of a generation is closed when another one follows.
		if err != nil && !errors.Is(err, envelope.ErrClosed) {
			return nil, err
		}
		if err != nil {
			_ = wait.Sleep(waiting, 100*time.Millisecond) // the loop checks the context
		}
	}
}

// pageReader makes one page.
type pageReader struct {
	*Feed
	q       Query
	log     envelope.Log
	at      Cursor
	page    Page
	scanned int
	bytes   int // of the page's events
}

// read reads what there is, up to the limit. It goes on with the next generation when this one is over and
// was read.
func (r *pageReader) read(ctx context.Context) (err error) {
	for {
		if r.at.Generation == 0 {
			r.at.Generation = r.topics.Current()
		}
		if current := r.topics.Current(); r.at.Generation > current {
			return envelope.Invalid("after", otherServer)
		}
		r.log, err = r.topics.Open(ctx, r.at.Generation)
		if errors.Is(err, envelope.ErrNotFound) {
			r.at = Cursor{Generation: r.at.Generation + 1, At: make(map[int32]Position)}
			continue
		}
		if err != nil {
			return err
		}
		if r.q.Now {
			return r.toEnd(ctx)
		}
		over := r.at.Generation < r.topics.Current()
		if err := r.partitions(ctx); err != nil {
			return err
		}
		if r.page.More || !over {
			return nil
		}
		r.at = Cursor{Generation: r.at.Generation + 1, At: make(map[int32]Position)}
	}
}

// own returns the partitions that the query reads, in their turn.
func (r *pageReader) own() (list []int32) {
	n := r.log.Partitions()
	if r.q.User != "" {
		return []int32{envelope.Partition(r.q.User, int(n))}
	}
	for i := range n {
		list = append(list, (r.at.Turn+i)%n)
	}
	return list
}

// bounds returns the begins and the ends of partitions.
func (r *pageReader) bounds(ctx context.Context, partitions []int32) (begins, ends []int64, err error) {
	begins, ends = make([]int64, len(partitions)), make([]int64, len(partitions))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(boundsAtOnce)
	for i, p := range partitions {
		g.Go(func() (err error) {
			begins[i], ends[i], err = r.log.Bounds(gctx, p)
			return err
		})
	}
	return begins, ends, g.Wait()
}

// toEnd puts the cursor at the end of the topic.
func (r *pageReader) toEnd(ctx context.Context) error {
	partitions := r.own()
	ends := make([]Position, len(partitions))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(tailsAtOnce)
	for i, p := range partitions {
		g.Go(func() (err error) {
			select {
			case r.tails <- struct{}{}:
				defer func() { <-r.tails }()
			case <-gctx.Done():
				return gctx.Err()
			}
			ends[i], err = lastPosition(gctx, r.log, p, math.MaxInt64)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, p := range partitions {
		r.at.At[p] = ends[i]
	}
	r.q.Now = false
	return nil
}

// partitions reads all partitions up to their present ends.
func (r *pageReader) partitions(ctx context.Context) error {
	partitions := r.own()
	begins, ends, err := r.bounds(ctx, partitions)
	if err != nil {
		return err
	}
	for i, p := range partitions {
		if _, known := r.at.At[p]; !known {
			r.at.At[p] = Position{Offset: begins[i]} // nothing is skipped
		}
	}
	for i, p := range partitions {
		switch at := r.at.At[p].Offset; {
		case at > ends[i]:
			return envelope.Invalid("after", fmt.Sprintf("%s: partition %d ends before it", otherServer, p))
		case at < FirstOffset(r.log):
			return envelope.Invalid("after", fmt.Sprintf("%s: partition %d has begun after it", otherServer, p))
		}
		if err := r.partition(ctx, p, ends[i]); err != nil {
			return err
		}
		if r.page.More {
			r.at.Turn = p // the others come first next time
			if len(partitions) > 1 {
				r.at.Turn = (p + 1) % int32(len(partitions))
			}
			return nil
		}
	}
	return nil
}

// partition reads one partition up to an offset, or until the page is full.
func (r *pageReader) partition(ctx context.Context, p int32, end int64) error {
	reader := NewReader(r.log, p, r.at.At[p])
	defer func() { r.page.Skipped += reader.Skipped() }()
	for reader.at.Offset < end {
		entries, err := reader.read(ctx)
		if err != nil {
			return err
		}
		r.at.At[p] = reader.at
		for i := range entries {
			if len(r.page.Records) >= r.q.Limit || r.scanned >= maxScan || r.bytes >= maxPageBytes {
				r.page.More = true
				return nil
			}
			r.scanned++
			for _, rec := range reader.decode(entries[i : i+1]) {
				if Matches(r.q.Types, rec.Type) && (r.q.User == "" || rec.User == r.q.User) {
					r.page.Records = append(r.page.Records, rec)
					r.bytes += len(rec.Value)
				}
			}
			r.at.At[p] = reader.at
		}
	}
	return nil
}

// wait blocks until one of the partitions has another entry, or ctx is done. The end of ctx is no error.
func (r *pageReader) wait(ctx context.Context) error {
	wctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var g sync.WaitGroup
	partitions := r.own()
	woken := make(chan error, len(partitions))
	for _, p := range partitions {
		from := r.at.At[p].Offset
		g.Go(func() {
			_, err := r.log.Read(wctx, p, from, 1)
			if errors.Is(err, envelope.ErrOutOfRange) {
				err = nil // retention has overtaken it: there are other entries
			}
			woken <- err
			cancel()
		})
	}
	err := <-woken
	cancel()
	g.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}
