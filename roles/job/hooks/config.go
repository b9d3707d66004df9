package hooks

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/internal/events"
)

// Config is one hook.
type Config struct {
	// Name is in paths of the API, metrics and the name of the consumer group.
	Name string
	URL  string
	// Secrets sign each call; two while one is replaced.
	Secrets []string
	// Types are the types of events that are posted, such as message.*; empty: all.
	Types []string
	// Timeout bounds one call. Default: 10 s.
	Timeout time.Duration
	// Batch is how many events one call may have; 1: each call has one, as an object and no list.
	Batch int
	// RetryFor is how long an event that fails while others succeed is tried again. Default: 24 h.
	RetryFor time.Duration
	// InFlight bounds the calls under way in this process. Default: 16.
	InFlight int
}

func (c Config) withDefaults() Config {
	if c.Timeout <= 0 {
		c.Timeout = 10 * time.Second
	}
	if c.Batch <= 0 {
		c.Batch = 1
	}
	if c.RetryFor <= 0 {
		c.RetryFor = 24 * time.Hour
	}
	if c.InFlight <= 0 {
		c.InFlight = 16
	}
	return c
}

// The bounds of one partition of a hook.
const (
	// maxOpen bounds the events that were read and not answered yet. At the bound, reading stops; see
	// carrier.makeRoom for the events that fail while others succeed.
	maxOpen = 1000
	// maxCanaries is how many events may be opened beyond maxOpen to find out whether others succeed.
	maxCanaries = 100
	// maxOpenBytes bounds their bodies in memory. Those of events that wait for another try are read
	// again.
	maxOpenBytes = 4 << 20
	// maxDead bounds the dead letters of one partition of a hook. The oldest go first.
	maxDead = 1000
	// maxCalls bounds the calls of one partition that are under way.
	maxCalls = 4
	// minRetry and maxRetry bound the span of the pause between two tries.
	minRetry, maxRetry = time.Second, 5 * time.Minute
	// downAfter is how many failures in a row, at any events, mean that the address is away. Then one
	// call at a time finds out whether it is back.
	downAfter = 5
	// maxProbe bounds the span of the pause between two of those calls.
	maxProbe = 30 * time.Second
	// saveInterval is how often the state is stored while it changes.
	saveInterval = time.Second
	// saveTimeout bounds one attempt to store it.
	saveTimeout = 5 * time.Second
)

// Part is a partition of the events topic, and the offset of the first event that was not posted; -1:
// no position is stored.
type Part struct {
	Partition int32
	Next      int64
}

// Group distributes the partitions of one generation of the events topic among the jobs, for one hook.
type Group interface {
	// Next waits for the next assignment, until ctx is done. The caller has finished the one before.
	Next(ctx context.Context) (Assignment, error)
	// Close leaves the group.
	Close() error
}

// Assignment is the set of partitions that a job carries until the group changes.
type Assignment interface {
	Parts() []Part
	// Done returns a channel that is closed when the assignment ends; nil: it ends with the job.
	Done() <-chan struct{}
	// Commit stores positions of some of the partitions.
	Commit(ctx context.Context, at []Part) error
}

// Table is a small durable map that all nodes read. *bus.Compacted and *store.Table are tables.
type Table interface {
	// Put stores an entry and returns its offset once it is durable.
	Put(ctx context.Context, key, value []byte) (offset int64, err error)
	// End returns the offset that the next entry gets.
	End(ctx context.Context) (int64, error)
	// Follow calls fn for the entries from an offset on, and for those that come, until ctx is done.
	Follow(ctx context.Context, from int64, fn func(offset int64, key, value []byte) error) error
}

// Deps are the parts of the system that hooks work with.
type Deps struct {
	Topics events.Topics
	// Group joins the group of a hook for a generation of the topic.
	Group   func(ctx context.Context, hook string, generation uint16) (Group, error)
	Table   Table
	Log     zerolog.Logger
	Metrics prometheus.Registerer
	// Now is the wall clock; nil: time.Now.
	Now func() time.Time
	// Transport replaces the network in tests.
	Transport http.RoundTripper
}
