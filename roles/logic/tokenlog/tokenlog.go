// Package tokenlog keeps the opaque tokens of a cluster: every logic follows
// the tokens topic into a view of its own on disk, so that a check is local,
// and a token that was made or revoked on one logic is so on every other as
// soon as that one has read it.
//
// It guarantees that what Put and the Revokes report as done is in the topic
// and true of this node; that two nodes which have read as far say the same of
// every token; that a node resumes where it was, reads all again when its disk
// is lost or the topic was made anew, and until then (Ready) does not say of a
// token that it is unknown, but that it cannot tell; and that the topic does
// not grow with tokens that are long dead.
//
// It does not hold a check up while it is behind: that answers from what is
// known. It closes no sessions (logic does) and does not keep the log itself
// (cluster/bus does).
package tokenlog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"imgo/envelope"
	"imgo/store"
)

// Topic is the tokens topic: one partition, compacted by key. Safe for
// concurrent use.
type Topic interface {
	// Put appends an entry and returns its offset once it is durable. A nil
	// value lets compaction forget the key.
	Put(ctx context.Context, key, value []byte) (offset int64, err error)
	// Follow calls fn, from one goroutine and in order, for the entries that
	// are there from an offset on (0: from the oldest) and for those that come,
	// until ctx is done, fn fails or the topic cannot be read.
	// envelope.ErrOutOfRange: there is no such offset.
	Follow(ctx context.Context, from int64, fn func(offset int64, key, value []byte) error) error
	// End is the offset that the next entry gets.
	End(ctx context.Context) (int64, error)
}

// Config is what the operator, or a test, sets. A zero field has the default
// that its comment names.
type Config struct {
	// Timeout bounds every call and every question to the topic; 10 s.
	Timeout time.Duration
	// Check is how often the topic is asked for its end, for the metric and to
	// see that it was made anew; 1 s.
	Check time.Duration
	// Housekeep is how often, about, dead tokens are removed from the topic,
	// a day after their death; 1 h.
	Housekeep time.Duration
	// MinBackoff and MaxBackoff bound the wait before the topic is followed
	// again after it failed; 50 ms and 5 s.
	MinBackoff, MaxBackoff time.Duration
}

func (c Config) withDefaults() Config {
	for _, d := range []struct {
		value *time.Duration
		def   time.Duration
	}{
		{&c.Timeout, 10 * time.Second}, {&c.Check, time.Second}, {&c.Housekeep, time.Hour},
		{&c.MinBackoff, 50 * time.Millisecond}, {&c.MaxBackoff, 5 * time.Second},
	} {
		if *d.value <= 0 {
			*d.value = d.def
		}
	}
	return c
}

// Tokens is a logic.TokenStore on a topic. All methods may be called from many
// goroutines at once; those that write wait, within their context and
// Config.Timeout, for Run to read what they wrote.
type Tokens struct {
	cfg   Config
	topic Topic
	view  *store.SharedTokens
	log   zerolog.Logger
	// warn bounds what a topic that cannot be read writes to the log.
	warn   *rate.Limiter
	errors prometheus.Counter

	mu       sync.Mutex
	position int64         // the first offset that is not in the view
	end      int64         // of the topic, as of the last question
	target   int64         // the topic's end as it was at the start; -1: not known yet
	caughtUp bool          // the target was reached
	moved    chan struct{} // closed when position moves, or at the end
	restart  func()        // ends the following that is under way; nil: none is
	anew     bool          // the topic was made anew: forget the view
	stopped  bool
}

// New is the tokens of a topic, seen through a view in this node's data folder.
func New(cfg Config, topic Topic, view *store.SharedTokens, log zerolog.Logger, reg prometheus.Registerer) (*Tokens, error) {
	if topic == nil || view == nil {
		return nil, errors.New("follow the tokens topic: the topic and the view must not be nil")
	}
	t := &Tokens{
		cfg: cfg.withDefaults(), topic: topic, view: view, log: log.With().Str("role", "logic").Logger(),
		warn: rate.NewLimiter(rate.Every(10*time.Second), 1), target: -1, moved: make(chan struct{}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "imgo_logic_tokens_errors_total", Help: "How often following the tokens topic, or asking for its end, failed."}),
	}
	lag := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "imgo_logic_tokens_lag_records", Help: "Entries of the tokens topic that this node has not applied yet.",
	}, func() float64 {
		t.mu.Lock()
		defer t.mu.Unlock()
		return float64(max(0, t.end-t.position))
	})
	if reg != nil {
		if err := errors.Join(reg.Register(t.errors), reg.Register(lag)); err != nil {
			return nil, fmt.Errorf("register the metrics of the tokens topic: %w", err)
		}
	}
	return t, nil
}

// Ready says why lookups cannot be trusted to know every token; nil when all
// that was in the topic at the start was read. A node that falls behind later
// stays ready.
func (t *Tokens) Ready() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.stopped:
		return envelope.Errorf(envelope.CodeUnavailable, "the tokens topic is no longer read: the node is stopping")
	case t.anew:
		return envelope.Errorf(envelope.CodeNotReady, "the tokens topic was made anew and is about to be read from its beginning")
	case t.target < 0:
		return envelope.Errorf(envelope.CodeNotReady, "the tokens topic was not reached yet")
	case !t.caughtUp:
		return envelope.Errorf(envelope.CodeNotReady, "the tokens topic is read up to %d of %d", t.position, t.target)
	}
	return nil
}

// Lookup is whose token has the hash and until when it is good (Unix
// milliseconds; 0: for ever), by what this node has read. The error is
// envelope.ErrUnauthorized for one that is not known, envelope.ErrExpired and
// envelope.ErrRevoked for one that was good within the last day, and
// envelope.ErrNotReady for one that is not known while the node has not read
// all that was there when it started.
func (t *Tokens) Lookup(ctx context.Context, hash [32]byte) (user string, expiresMS int64, err error) {
	// Asked first: what is read between the two questions must not count.
	ready := t.Ready()
	token, err := t.view.Token(ctx, hash)
	if ready == nil {
		ready = t.Ready() // the view may have been cleared meanwhile
	}
	switch {
	case err != nil:
		return "", 0, err
	case token == nil && errors.Is(ready, envelope.ErrNotReady):
		return "", 0, ready
	case token == nil:
		return "", 0, envelope.Errorf(envelope.CodeUnauthorized, "the token is not known")
	case token.Revoked:
		return "", 0, envelope.Errorf(envelope.CodeRevoked, "the token was revoked")
	case !token.Good(time.Now()):
		return "", 0, envelope.Errorf(envelope.CodeExpired, "the token has expired")
	}
	return token.User, token.ExpiresMS, nil
}

// Put makes the token with a hash good for user until expiresMS (Unix
// milliseconds; 0: for ever). A token that is there already is replaced, also
// when it was another user's or revoked. single revokes all other tokens of the
// user that were made before this one; when that fails the new token is there
// all the same, and Put is to be repeated. After an error of the topic the
// token may become good later, so its caller must give it to nobody. The error is envelope.ErrInvalid for
// a bad user name and envelope.ErrTooMany past store.MaxTokensPerUser.
func (t *Tokens) Put(ctx context.Context, hash [32]byte, user string, expiresMS, createdMS int64, single bool) error {
	if err := envelope.CheckName("user", user); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	if !single {
		others, err := t.othersOf(ctx, user, hash)
		if err != nil {
			return err
		}
		if len(others) >= store.MaxTokensPerUser {
			return envelope.Errorf(envelope.CodeTooMany, "user %q has %d tokens, the most that are allowed; revoke some", user, len(others))
		}
	}
	key := store.TokenKey{Hash: hash, ID: store.TokenID(envelope.NewRecordID())}
	offset, err := t.append(ctx, key, &envelope.TokenChange{
		Id: key.ID[:], Hash: hash[:], User: user, ExpiresMs: expiresMS, CreatedMs: createdMS,
	})
	if err != nil {
		return fmt.Errorf("put a token into the topic: %w", err)
	}
	if err := t.wait(ctx, offset); err != nil {
		return fmt.Errorf("wait for a token to come back from the topic: %w", err)
	}
	if !single {
		return nil
	}
	others, err := t.othersOf(ctx, user, hash)
	if err != nil {
		return err
	}
	before := others[:0]
	for _, other := range others {
		// Of two calls at a time the later one in the topic wins.
		if other.Offset < offset {
			before = append(before, other)
		}
	}
	return t.revoke(ctx, before)
}

// othersOf is the good tokens of a user beside one.
func (t *Tokens) othersOf(ctx context.Context, user string, but [32]byte) ([]store.SharedToken, error) {
	tokens, err := t.view.OfUser(ctx, user)
	others := tokens[:0]
	for _, token := range tokens {
		if token.Key.Hash != but {
			others = append(others, token)
		}
	}
	return others, err
}

// Revoke takes a token back. The error is envelope.ErrNotFound when there is
// none anywhere; revoking twice is no error.
func (t *Tokens) Revoke(ctx context.Context, hash [32]byte) error {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	token, err := t.view.Token(ctx, hash)
	if err == nil && (token == nil || !token.Good(time.Now())) {
		// It may have been made, or made again, on another node a moment ago.
		if err := t.sync(ctx); err != nil {
			return err
		}
		token, err = t.view.Token(ctx, hash)
	}
	switch {
	case err != nil:
		return err
	case token == nil:
		return envelope.Errorf(envelope.CodeNotFound, "there is no such token")
	case !token.Good(time.Now()):
		return nil
	}
	return t.revoke(ctx, []store.SharedToken{*token})
}

// RevokeUser takes back all tokens of a user, those too that another node made
// before the call, and says how many were good. After an error some may be
// revoked.
func (t *Tokens) RevokeUser(ctx context.Context, user string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	if err := t.sync(ctx); err != nil {
		return 0, err
	}
	tokens, err := t.view.OfUser(ctx, user)
	if err != nil {
		return 0, err
	}
	if err := t.revoke(ctx, tokens); err != nil {
		return 0, err
	}
	return len(tokens), nil
}

// revokers is how many entries one call appends at a time.
const revokers = 32

// revoke takes tokens back and waits until this node knows.
func (t *Tokens) revoke(ctx context.Context, tokens []store.SharedToken) error {
	offsets := make([]int64, len(tokens))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(revokers)
	for i := range tokens {
		group.Go(func() (err error) {
			token := &tokens[i]
			offsets[i], err = t.append(groupCtx, token.Key, &envelope.TokenChange{
				Id: token.Key.ID[:], Hash: token.Key.Hash[:], User: token.User,
				ExpiresMs: token.ExpiresMS, CreatedMs: token.CreatedMS, Revoked: true,
			})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("put a revocation into the tokens topic: %w", err)
	}
	last := int64(-1)
	for _, offset := range offsets {
		last = max(last, offset)
	}
	if err := t.wait(ctx, last); err != nil {
		return fmt.Errorf("wait for a revocation to come back from the tokens topic: %w", err)
	}
	return nil
}

// append writes one entry; a nil change forgets the key.
func (t *Tokens) append(ctx context.Context, key store.TokenKey, change *envelope.TokenChange) (int64, error) {
	var value []byte
	if change != nil {
		var err error
		if value, err = change.MarshalVT(); err != nil {
			return 0, fmt.Errorf("encode a token: %w", err)
		}
	}
	return t.topic.Put(ctx, append(key.Hash[:], key.ID[:]...), value)
}

// sync waits until the view has all that is in the topic now.
func (t *Tokens) sync(ctx context.Context) error {
	end, err := t.topic.End(ctx)
	if err != nil {
		return fmt.Errorf("ask for the end of the tokens topic: %w", err)
	}
	if err := t.wait(ctx, end-1); err != nil {
		return fmt.Errorf("read the tokens topic to its end: %w", err)
	}
	return nil
}

// wait returns once an offset is in the view.
func (t *Tokens) wait(ctx context.Context, offset int64) error {
	for {
		t.mu.Lock()
		there, stopped, moved := t.position > offset, t.stopped, t.moved
		t.mu.Unlock()
		switch {
		case there:
			return nil
		case stopped:
			return envelope.Errorf(envelope.CodeUnavailable, "the node is stopping")
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return envelope.Errorf(envelope.CodeUnavailable, "the tokens topic is not read up to %d yet: %v", offset, ctx.Err())
		}
	}
}
