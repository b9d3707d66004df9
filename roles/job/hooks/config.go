package hooks

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/internal/events"
	"imgo/internal/webhook"
	"imgo/roles/job"
)

// Config is one hook.
type Config struct {
	Name     string        `toml:"name" example:"\"orders\"" doc:"The hook's name in commands, metrics and Kafka's group of consumers: 1 to 64 of a-z A-Z 0-9 . _ -"`
	URL      string        `toml:"url" example:"\"https://backend.example.com/imgo\"" doc:"The address that gets the events."`
	Secrets  []string      `toml:"secrets" secret:"true" example:"[\"whsec_…\"]" doc:"What signs the calls by Standard Webhooks, as of: echo whsec_$(openssl rand -base64 32). Two while one is replaced."`
	Types    []string      `toml:"types" example:"[\"message.*\"]" doc:"The types of events that it gets. Empty: all."`
	Timeout  time.Duration `toml:"timeout" default:"10s" unit:"duration" min:"100ms" max:"5m" example:"\"10s\"" doc:"The longest time that one call may take."`
	Batch    int           `toml:"batch" default:"1" unit:"events" min:"1" max:"1000" example:"1" doc:"Events in one call. With 1 the body is one event, with more it is a list."`
	RetryFor time.Duration `toml:"retry_for" default:"24h" unit:"duration" min:"1m" example:"\"24h\"" doc:"How long an event that fails while others succeed is tried again. It becomes a dead letter then."`
}

// maxInFlight bounds the calls of one hook that are under way in this process.
const maxInFlight = 16

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
	// longestPause bounds the pause itself, which the receiver may ask for.
	longestPause = max(maxRetry, webhook.MaxRetryAfter)
	// downAfter is how many failures in a row, at any events, mean that the address is down. Then one
	// call at a time finds out whether it is back.
	downAfter = 5
	// maxProbe bounds the span of the pause between two of those calls.
	maxProbe = 30 * time.Second
	// saveInterval is how often the state is stored while it changes.
	saveInterval = time.Second
	// saveTimeout bounds one attempt to store it.
	saveTimeout = 5 * time.Second
)

// Group distributes the partitions of one generation of the events topic among the jobs, for one hook.
type Group interface {
	job.Group
	// Close leaves the group.
	Close() error
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

// Deps are the parts of the system that Hooks and Admin work with.
type Deps struct {
	Topics events.Topics
	// ShowOnly makes Hooks that post nothing: those of a node without job.
	ShowOnly bool
	// Group joins the group of a hook for a generation of the topic. Nil: this process has all partitions.
	Group   func(ctx context.Context, hook string, generation uint16) (Group, error)
	Table   Table
	Log     zerolog.Logger
	Metrics prometheus.Registerer
	// Retention is how long the topics keep events at least. Only Admin needs it.
	Retention time.Duration
	// Now is the wall clock.
	Now func() time.Time
	// Faults are for tests.
	Faults webhook.Faults
}
