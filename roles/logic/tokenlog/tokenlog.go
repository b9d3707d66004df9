// Package tokenlog keeps the opaque tokens of a cluster. Every logic follows the
// tokens topic into a view of its own on disk, so that a token is checked
// without a call to another node. A token that was made or revoked by one logic
// is so on every other as soon as that one has read of it.
//
// It guarantees that what Put, Revoke and RevokeUser report as done is in the
// topic and true of this node, and that two nodes that have read the same
// entries say the same of every token. A node resumes where it was. It reads
// everything again when its disk was lost or the topic was recreated; until then
// it is not Ready, and of an unknown token it says that it cannot tell. The topic
// does not grow with tokens that have been dead for a day.
//
// A lookup does not wait for a node that is behind: it answers from what is
// known. The package closes no sessions (logic does) and does not keep the log
// itself (cluster/bus does).
package tokenlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"imgo/envelope"
	"imgo/internal/collectors"
	"imgo/internal/settings"
	"imgo/store"
)

// Topic is the tokens topic: one partition, compacted by key. Safe for
// concurrent use.
type Topic interface {
	// Put appends an entry and returns its offset once it is durable. A nil
	// value lets compaction forget the key.
	Put(ctx context.Context, key, value []byte) (offset int64, err error)
	// Follow calls fn, from one goroutine and in order, for the entries from an
	// offset on (0: from the oldest) and for those that come, until ctx is done,
	// fn fails or the topic cannot be read. It returns envelope.ErrOutOfRange if
	// there is no such offset.
	Follow(ctx context.Context, from int64, fn func(offset int64, key, value []byte) error) error
	// End is the offset that the next entry gets.
	End(ctx context.Context) (int64, error)
}

// Config is the settings. Start from DefaultConfig.
type Config struct {
	// Timeout bounds every call and every question to the topic.
	Timeout time.Duration `default:"10s"`
	// Check is how often the topic is asked for its end, for the metric and to
	// see whether it was recreated.
	Check time.Duration `default:"1s"`
	// Housekeep is about how often tokens are removed from the topic that have
	// been dead for a day.
	Housekeep time.Duration `default:"1h"`
	// MinBackoff and MaxBackoff bound the wait before the topic is followed
	// again after it failed.
	MinBackoff time.Duration `default:"50ms"`
	MaxBackoff time.Duration `default:"5s"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config { return settings.Default[Config]() }

// Tokens is a logic.TokenStore on a topic. Safe for concurrent use. Methods that
// write wait, within their context and Config.Timeout, until Run has read what
// they wrote.
type Tokens struct {
	cfg   Config
	topic Topic
	view  *store.SharedTokens
	log   zerolog.Logger
	// warn bounds the log lines about a topic that cannot be read.
	warn   *rate.Limiter
	errors prometheus.Counter

	progress *progress
}

// New returns the tokens of a topic. view is in this node's data folder.
func New(cfg Config, topic Topic, view *store.SharedTokens, log zerolog.Logger, reg prometheus.Registerer) (*Tokens, error) {
	if topic == nil || view == nil {
		return nil, errors.New("follow the tokens topic: the topic and the view must not be nil")
	}
	t := &Tokens{
		cfg: cfg, topic: topic, view: view, log: log.With().Str("role", "logic").Logger(),
		warn: rate.NewLimiter(rate.Every(10*time.Second), 1), progress: newProgress(),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "imgo_logic_tokens_errors_total", Help: "How often following the tokens topic, or asking for its end, failed."}),
	}
	lag := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "imgo_logic_tokens_lag_records", Help: "Entries of the tokens topic that this node has not applied yet.",
	}, func() float64 { return float64(t.progress.lag()) })
	if _, err := collectors.Register(reg, t.errors, lag); err != nil {
		return nil, fmt.Errorf("register the metrics of the tokens topic: %w", err)
	}
	return t, nil
}

// Ready returns an error until all that was in the topic at the start was read:
// before that, lookups do not know every token. A node that falls behind later
// stays ready.
func (t *Tokens) Ready() error { return t.progress.ready() }

// Lookup returns the token with a hash, by what this node has read. The error is
// envelope.ErrUnauthorized for an unknown token, and envelope.ErrExpired or
// envelope.ErrRevoked for one that was good within the last day. It is
// envelope.ErrNotReady for an unknown token while the node is not Ready.
func (t *Tokens) Lookup(ctx context.Context, hash [32]byte) (envelope.Token, error) {
	// Ready is asked first: what is read between the two questions must not
	// count.
	ready := t.Ready()
	token, err := t.view.Token(ctx, hash)
	if ready == nil {
		ready = t.Ready() // the view may have been cleared meanwhile
	}
	switch {
	case err != nil:
		return envelope.Token{}, err
	case token == nil && errors.Is(ready, envelope.ErrNotReady):
		return envelope.Token{}, ready
	case token == nil:
		return envelope.Token{}, envelope.Errorf(envelope.CodeUnauthorized, "the token is not known")
	case token.Revoked:
		return envelope.Token{}, envelope.Errorf(envelope.CodeRevoked, "the token was revoked")
	case !token.Good(time.Now()):
		return envelope.Token{}, envelope.Errorf(envelope.CodeExpired, "the token has expired")
	}
	return token.Token, nil
}

// Put makes the token with a hash good for made.User until made.ExpiresMS. A token that is there already is replaced, also
// if it was another user's or revoked. single revokes all other tokens of the
// user that were made before this one. If that fails the new token is there all
// the same, and Put must be repeated.
//
// The error is envelope.ErrInvalid for a bad user name and envelope.ErrTooMany
// past store.MaxTokensPerUser. After an error of the topic the token may become
// good later, so the caller must give it to nobody.
func (t *Tokens) Put(ctx context.Context, hash [32]byte, made envelope.Token, single bool) error {
	user := made.User
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
	offset, err := t.append(ctx, key, &made, false)
	if err != nil {
		return fmt.Errorf("put a token into the topic: %w", err)
	}
	if err := t.progress.wait(ctx, offset); err != nil {
		return fmt.Errorf("wait for a token to come back from the topic: %w", err)
	}
	if !single {
		return nil
	}
	others, err := t.othersOf(ctx, user, hash)
	if err != nil {
		return err
	}
	// Of two calls at the same time the one that is later in the topic wins.
	before := slices.DeleteFunc(others, func(other store.SharedToken) bool { return other.Offset >= offset })
	return t.revoke(ctx, before)
}

// othersOf returns the good tokens of a user, but for one.
func (t *Tokens) othersOf(ctx context.Context, user string, but [32]byte) ([]store.SharedToken, error) {
	tokens, err := t.view.OfUser(ctx, user)
	return slices.DeleteFunc(tokens, func(token store.SharedToken) bool { return token.Key.Hash == but }), err
}

// Revoke revokes a token. The error is envelope.ErrNotFound if no node has made
// it. Revoking a token twice is no error.
func (t *Tokens) Revoke(ctx context.Context, hash [32]byte) error {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	token, err := t.view.Token(ctx, hash)
	if err == nil && (token == nil || !token.Good(time.Now())) {
		// Another node may have made it, or made it again, a moment ago.
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

// RevokeUser revokes all tokens of a user, including those that another node
// made before the call, and returns how many were good. After an error some may
// be revoked.
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

// parallelPuts is how many entries one call appends at a time.
const parallelPuts = 32

// revoke revokes tokens and waits until this node has read that.
func (t *Tokens) revoke(ctx context.Context, tokens []store.SharedToken) error {
	offsets := make([]int64, len(tokens))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallelPuts)
	for i := range tokens {
		group.Go(func() (err error) {
			token := &tokens[i]
			offsets[i], err = t.append(groupCtx, token.Key, &token.Token, true)
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
	if err := t.progress.wait(ctx, last); err != nil {
		return fmt.Errorf("wait for a revocation to come back from the tokens topic: %w", err)
	}
	return nil
}

// append appends one entry. A nil token lets compaction forget the key.
func (t *Tokens) append(ctx context.Context, key store.TokenKey, token *envelope.Token, revoked bool) (int64, error) {
	var value []byte
	if token != nil {
		change := envelope.TokenChange{
			Id: key.ID[:], Hash: key.Hash[:], User: token.User, Rooms: token.Rooms,
			ExpiresMs: token.ExpiresMS, CreatedMs: token.CreatedMS, Revoked: revoked,
		}
		var err error
		if value, err = change.MarshalVT(); err != nil {
			return 0, fmt.Errorf("encode a token: %w", err)
		}
	}
	return t.topic.Put(ctx, append(key.Hash[:], key.ID[:]...), value)
}

// sync waits until the view has everything that is in the topic now.
func (t *Tokens) sync(ctx context.Context) error {
	end, err := t.topic.End(ctx)
	if err != nil {
		return fmt.Errorf("ask for the end of the tokens topic: %w", err)
	}
	if err := t.progress.wait(ctx, end-1); err != nil {
		return fmt.Errorf("read the tokens topic to its end: %w", err)
	}
	return nil
}
