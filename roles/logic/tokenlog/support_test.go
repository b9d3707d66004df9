package tokenlog_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"imgo/envelope"
	"imgo/roles/logic"
	"imgo/roles/logic/tokenlog"
	"imgo/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ logic.TokenStore = (*tokenlog.Tokens)(nil)

// maxWait bounds every wait of a test.
const maxWait = 30 * time.Second

// day is how long a dead token is remembered.
const day = 24 * time.Hour

var errTopic = errors.New("the broker is on fire")

func hashOf(token string) [32]byte { return sha256.Sum256([]byte(token)) }

// record is an entry of a topic.
type record struct {
	key, value []byte
	gone       bool // compacted away
}

// topic is a tokens topic in memory.
type topic struct {
	mu      sync.Mutex
	first   int64 // the oldest offset
	records []record
	changed chan struct{} // closed at each change
	follows []int64       // where each Follow began

	putErr, followErr, endErr error
	paused                    bool // nothing is read
	twice                     bool // every entry is given twice, and the one before it again
	breakAfter                int  // a Follow fails after so many entries; 0: never
}

func newTopic() *topic { return &topic{changed: make(chan struct{})} }

// change changes the topic or its faults.
func (p *topic) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *topic) Put(ctx context.Context, key, value []byte) (offset int64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	p.change(func() {
		if err = p.putErr; err == nil {
			p.records = append(p.records, record{key: key, value: value})
			offset = int64(len(p.records)) - 1
		}
	})
	return offset, err
}

func (p *topic) End(context.Context) (int64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return int64(len(p.records)), p.endErr
}

func (p *topic) Follow(ctx context.Context, from int64, fn func(offset int64, key, value []byte) error) error {
	p.mu.Lock()
	p.follows = append(p.follows, from)
	if from == 0 {
		from = p.first
	}
	p.mu.Unlock()
	give := func(at int64, r record) error {
		if r.gone {
			return nil
		}
		return fn(at, r.key, r.value)
	}
	for given := 0; ctx.Err() == nil; {
		p.mu.Lock()
		changed, err, end := p.changed, p.followErr, int64(len(p.records))
		var r, before record
		there := !p.paused && from < end
		if there {
			r = p.records[from]
			before = r
			if from > p.first {
				before = p.records[from-1]
			}
		}
		switch {
		case err != nil:
		case from < p.first || from > end:
			err = envelope.ErrOutOfRange
		case p.breakAfter > 0 && given >= p.breakAfter:
			err = errTopic
		}
		twice := p.twice
		p.mu.Unlock()
		if err != nil {
			return err
		}
		if !there {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		if err := give(from, r); err != nil {
			return err
		}
		if twice && from > 0 {
			if err := errors.Join(give(from-1, before), give(from, r)); err != nil {
				return err
			}
		}
		from++
		given++
	}
	return ctx.Err()
}

// compact drops entries that a later entry of the same key replaces and, with
// removals, entries without a value.
func (p *topic) compact(removals bool) {
	p.change(func() {
		last := map[string]int{}
		for i, r := range p.records {
			last[string(r.key)] = i
		}
		for i := range p.records {
			r := &p.records[i]
			r.gone = r.gone || last[string(r.key)] != i || removals && r.value == nil
		}
	})
}

// removed returns the keys that were removed, in order.
func (p *topic) removed() (keys []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.records {
		if r.value == nil {
			keys = append(keys, string(r.key))
		}
	}
	return keys
}

// keys returns the topic's keys of a token, in the order of their first entry.
func (p *topic) keys(token string) (keys []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	hash, seen := hashOf(token), map[string]bool{}
	for _, r := range p.records {
		if k := string(r.key); len(k) == 44 && [32]byte(r.key[:32]) == hash && !seen[k] {
			seen[k] = true
			keys = append(keys, k)
		}
	}
	return keys
}

// newestOf returns the newest entry of a token.
func (p *topic) newestOf(token string) record {
	p.mu.Lock()
	defer p.mu.Unlock()
	hash := hashOf(token)
	for _, r := range slices.Backward(p.records) {
		if len(r.key) == 44 && [32]byte(r.key[:32]) == hash {
			return r
		}
	}
	return record{}
}

// began returns the offsets from which each Follow began.
func (p *topic) began() []int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]int64(nil), p.follows...)
}

// node is a running Tokens.
type node struct {
	*tokenlog.Tokens
	stop func()
}

// fast returns settings for tests.
func fast() tokenlog.Config {
	cfg := tokenlog.DefaultConfig()
	cfg.Timeout, cfg.Check, cfg.MinBackoff, cfg.MaxBackoff = maxWait, 5*time.Millisecond, time.Millisecond, 5*time.Millisecond
	return cfg
}

func openDB(t *testing.T, o store.Options) *store.DB {
	t.Helper()
	db, err := store.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// start runs a node on a topic; nil: alone. db is its data folder; nil: an empty one.
func start(t *testing.T, cfg tokenlog.Config, p *topic, db *store.DB) *node {
	t.Helper()
	if db == nil {
		db = openDB(t, store.Options{Dir: t.TempDir()})
	}
	n := &node{Tokens: tokenlog.NewAlone(cfg, store.NewTokens(db), zerolog.Nop())}
	if p != nil {
		var err error
		if n.Tokens, err = tokenlog.New(cfg, p, store.NewTokenView(db), zerolog.Nop(), nil); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(maxWait):
			t.Error("Run does not end")
		}
	})
	t.Cleanup(n.stop)
	return n
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for began := time.Now(); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Since(began) > maxWait {
			t.Fatalf("not: %s", what)
		}
	}
}

func (n *node) ready(t *testing.T) {
	t.Helper()
	until(t, "ready", func() bool { return n.Ready() == nil })
}

func (n *node) put(t *testing.T, token, user string, expiresMS int64, single bool) {
	t.Helper()
	made := envelope.Token{User: user, ExpiresMS: expiresMS, CreatedMS: time.Now().UnixMilli()}
	if err := n.Put(t.Context(), hashOf(token), made, single); err != nil {
		t.Fatalf("Put %s: %v", token, err)
	}
}

// says returns what a node says of a token: its user, or the error's code.
func (n *node) says(token string) string {
	got, err := n.Lookup(context.Background(), hashOf(token))
	if err != nil {
		return "! " + string(envelope.CodeOf(err))
	}
	return got.User
}

const (
	unknown  = "! " + string(envelope.CodeUnauthorized)
	revoked  = "! " + string(envelope.CodeRevoked)
	expired  = "! " + string(envelope.CodeExpired)
	notReady = "! " + string(envelope.CodeNotReady)
)

// is fails unless the node says so now.
func (n *node) is(t *testing.T, token, want string) {
	t.Helper()
	if got := n.says(token); got != want {
		t.Fatalf("%s is %q, want %q", token, got, want)
	}
}

// becomes waits until the node says so.
func (n *node) becomes(t *testing.T, token, want string) {
	t.Helper()
	until(t, token+" is "+want, func() bool { return n.says(token) == want })
}

// revoke revokes a token, whoever its user is.
func revoke(ctx context.Context, s *tokenlog.Tokens, token string) error {
	_, err := s.Revoke(ctx, hashOf(token), func(string) error { return nil })
	return err
}
