// Package tokenlog keeps the opaque tokens of clients. In a cluster every logic follows
// the tokens topic into a view of its own on disk, so that a token is checked
// without a call to another node. A token that one logic makes or revokes counts on another
// logic once that one has read the entry. A node that runs alone
// writes the same changes to its store.
//
// It guarantees that what Put, Revoke and RevokeUser report as done is in the topic and
// true of this node. Two nodes that have read the same entries say the same of every
// token. A node resumes where it was. It reads everything again if its disk was lost, the
// topic was recreated, or the node was away for a day. Until it has done so it is not
// Ready, and of an unknown token it says that it cannot tell. Neither the topic nor the
// store grows with tokens that have been dead for a day.
//
// A lookup does not wait for a node that is behind: it answers from what is
// known. The package closes no sessions (logic does) and does not keep the log
// itself (cluster/bus does).
package tokenlog

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/internal/settings"
	"imgo/internal/wait"
	"imgo/store"
)

// Config is the settings. Start from DefaultConfig.
type Config struct {
	// Timeout bounds every call and every question to the topic.
	Timeout time.Duration `default:"10s"`
	// Check is how often the topic is asked for its end, for the metric and to
	// see whether it was recreated.
	Check time.Duration `default:"1s"`
	// Housekeep is about how often tokens are removed that have been dead for a day, and
	// those are revoked again of which a late copy came.
	Housekeep time.Duration `default:"1h"`
	// MinBackoff and MaxBackoff bound the wait before the topic is followed
	// again after it failed.
	MinBackoff time.Duration `default:"50ms"`
	MaxBackoff time.Duration `default:"5s"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config { return settings.Default[Config]() }

// Tokens is a logic.TokenStore. Safe for concurrent use. Methods that write wait,
// within their context and Config.Timeout, until this node knows what they wrote.
type Tokens struct {
	cfg     Config
	tokens  *store.Tokens
	changes changes
}

// changes is where changes of tokens are written: the topic, or the store of a node that
// runs alone.
type changes interface {
	// Locker is held by each call that reads, decides and writes.
	sync.Locker
	// put appends the entry of a new token, and then the entries that more returns of the
	// tokens before the new one's offset. It returns once the store has them all.
	put(ctx context.Context, made store.TokenEntry, more func(offset int64) ([]store.TokenEntry, error)) error
	// append appends entries in order, parallel of them at a time. It returns once the
	// store has them all.
	append(ctx context.Context, entries []store.TokenEntry, parallel int) error
	// sync waits until the store has all that was appended before.
	sync(ctx context.Context) error
	ready() error
	// failed reports an error of background work.
	failed(err error, message string)
	// run does the background work until ctx is done; there may be none.
	run(ctx context.Context)
}

// New returns the tokens of a topic. view is in this node's data folder.
func New(cfg Config, topic Topic, view *store.Tokens, log zerolog.Logger, reg prometheus.Registerer) (*Tokens, error) {
	f, err := newFollower(cfg, topic, view, log, reg)
	if err != nil {
		return nil, err
	}
	return &Tokens{cfg, view, f}, nil
}

// NewAlone returns the tokens of a node that runs alone.
func NewAlone(cfg Config, tokens *store.Tokens, log zerolog.Logger) *Tokens {
	return &Tokens{cfg, tokens, &alone{tokens: tokens, log: log}}
}

// Run does the work in the background until ctx is done. It runs once.
func (t *Tokens) Run(ctx context.Context) error {
	var background sync.WaitGroup
	background.Go(func() { t.housekeep(ctx) })
	t.changes.run(ctx)
	background.Wait()
	return nil
}

// Ready returns an error until all that was in the topic at the start was read:
// before that, lookups do not know every token. A node that falls behind later
// stays ready.
func (t *Tokens) Ready() error { return t.changes.ready() }

// Sync returns once this node knows all that is in the topic now. It returns an error if that cannot be read.
func (t *Tokens) Sync(ctx context.Context) error { return t.changes.sync(ctx) }

// errUnknown is made once, because each client with another kind of token costs a Lookup that fails.
var errUnknown = envelope.Errorf(envelope.CodeUnauthorized, "the token is not known")

// Lookup returns the token with a hash, by what this node has read. The error is
// envelope.ErrUnauthorized for an unknown token, and envelope.ErrExpired or
// envelope.ErrRevoked for one that was good within the last day. It is
// envelope.ErrNotReady for an unknown token while the node is not Ready.
func (t *Tokens) Lookup(ctx context.Context, hash [32]byte) (envelope.Token, error) {
	// Ready is asked first: what is read between the two questions must not
	// count.
	ready := t.Ready()
	token, err := t.tokens.Token(ctx, hash)
	if ready == nil {
		ready = t.Ready() // the view may have been cleared meanwhile
	}
	switch {
	case err != nil:
		return envelope.Token{}, err
	case token == nil && errors.Is(ready, envelope.ErrNotReady):
		return envelope.Token{}, ready
	case token == nil:
		return envelope.Token{}, errUnknown
	case token.Revoked:
		return envelope.Token{}, envelope.Errorf(envelope.CodeRevoked, "the token was revoked")
	case !token.Good(time.Now()):
		return envelope.Token{}, envelope.Errorf(envelope.CodeExpired, "the token has expired")
	}
	return token.Token, nil
}

// Put makes the token with a hash good for made.User until made.ExpiresMS. A token
// that is there already is replaced, also if it was another user's or revoked. single
// revokes all other tokens of the user that were made before this one. If that fails
// in a cluster, the new token is there all the same, and Put must be repeated.
//
// The error is envelope.ErrInvalid for a bad user name and envelope.ErrTooMany
// past store.MaxTokensPerUser. It is envelope.ErrDiskFull on a node that runs alone
// while less than the reserve of the disk is free. It is envelope.ErrUnavailable if
// another logic, whose clock is ahead, has made the token at the same time. After an
// error of the topic the token may become good later, so the caller must give it to
// nobody.
func (t *Tokens) Put(ctx context.Context, hash [32]byte, made envelope.Token, single bool) error {
	user := made.User
	if err := envelope.CheckName("user", user); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	t.changes.Lock()
	defer t.changes.Unlock()
	if !single {
		others, err := t.othersOf(ctx, user, hash)
		if err != nil {
			return err
		}
		if len(others) >= store.MaxTokensPerUser {
			return envelope.Errorf(envelope.CodeTooMany, "user %q has %d tokens, the most that are allowed; revoke some", user, len(others))
		}
	}
	stored, err := t.tokens.Token(ctx, hash)
	if err != nil {
		return err
	}
	if stored != nil { // its maker's clock may be ahead, and a late copy of its entries must not count
		made.CreatedMS = max(made.CreatedMS, stored.CreatedMS+1)
	}
	key := store.TokenKey{Hash: hash, ID: store.TokenID(envelope.NewRecordID())}
	return t.changes.put(ctx, entryOf(key, &made, false), func(offset int64) ([]store.TokenEntry, error) {
		if !single {
			return nil, nil
		}
		others, err := t.othersOf(ctx, user, hash)
		// Of two calls at the same time the one that is later in the topic wins.
		return revocations(slices.DeleteFunc(others, func(other store.Token) bool { return other.Offset >= offset })), err
	})
}

// othersOf returns the good tokens of a user, but for one.
func (t *Tokens) othersOf(ctx context.Context, user string, but [32]byte) ([]store.Token, error) {
	tokens, err := t.tokens.OfUser(ctx, user)
	return slices.DeleteFunc(tokens, func(token store.Token) bool { return token.Key.Hash == but }), err
}

// Revoke revokes a token, if check returns no error for its user, and returns the user. The error is
// envelope.ErrNotFound if no node has made the token. Revoking a token twice is no error.
func (t *Tokens) Revoke(ctx context.Context, hash [32]byte, check func(user string) error) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	t.changes.Lock()
	defer t.changes.Unlock()
	for current := false; ; current = true {
		token, err := t.tokens.Token(ctx, hash)
		if err == nil && !current && (token == nil || !token.Good(time.Now())) {
			// Another node may have made it, or made it again, a moment ago.
			if err := t.changes.sync(ctx); err != nil {
				return "", err
			}
			token, err = t.tokens.Token(ctx, hash)
		}
		if err != nil {
			return "", err
		}
		if token == nil {
			return "", envelope.Errorf(envelope.CodeNotFound, "there is no such token")
		}
		if err := check(token.User); err != nil || !token.Good(time.Now()) {
			return token.User, err
		}
		// The token is still good after that if another node has made it again before.
		if err := t.revoke(ctx, []store.Token{*token}); err != nil {
			return token.User, err
		}
	}
}

// RevokeUser revokes all tokens of a user, including those that another node
// made before the call, and returns how many were good. After an error some may
// be revoked.
func (t *Tokens) RevokeUser(ctx context.Context, user string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	t.changes.Lock()
	defer t.changes.Unlock()
	if err := t.changes.sync(ctx); err != nil {
		return 0, err
	}
	tokens, err := t.tokens.OfUser(ctx, user)
	if err != nil {
		return 0, err
	}
	if err := t.revoke(ctx, tokens); err != nil {
		return 0, err
	}
	return len(tokens), nil
}

// List returns the good tokens of a user, oldest first, including those that another
// node made before the call.
func (t *Tokens) List(ctx context.Context, user string) ([]envelope.TokenInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	if err := t.changes.sync(ctx); err != nil {
		return nil, err
	}
	tokens, err := t.tokens.OfUser(ctx, user)
	if err != nil {
		return nil, err
	}
	list := make([]envelope.TokenInfo, len(tokens))
	for i := range tokens {
		list[i] = envelope.TokenInfo{CreatedMS: tokens[i].CreatedMS, ExpiresMS: tokens[i].ExpiresMS}
	}
	slices.SortFunc(list, func(a, b envelope.TokenInfo) int { return cmp.Compare(a.CreatedMS, b.CreatedMS) })
	return list, nil
}

// parallelPuts is how many entries one call appends at a time.
const parallelPuts = 32

func (t *Tokens) revoke(ctx context.Context, tokens []store.Token) error {
	if len(tokens) == 0 {
		return nil
	}
	return t.changes.append(ctx, revocations(tokens), parallelPuts)
}

// revocations returns the entries that revoke tokens.
func revocations(tokens []store.Token) []store.TokenEntry {
	entries := make([]store.TokenEntry, len(tokens))
	for i := range tokens {
		entries[i] = entryOf(tokens[i].Key, &tokens[i].Token, true)
	}
	return entries
}

func entryOf(key store.TokenKey, token *envelope.Token, revoked bool) store.TokenEntry {
	return store.TokenEntry{Key: key, Change: &envelope.TokenChange{
		Id: key.ID[:], Hash: key.Hash[:], User: token.User, Rooms: token.Rooms,
		ExpiresMs: token.ExpiresMS, CreatedMs: token.CreatedMS, Revoked: revoked,
	}}
}

// maxDue is how many tokens removeDue deals with at a time.
const maxDue = 500

// housekeep removes what has been dead for a day, and revokes again what a late copy
// of an entry would make valid for a node that reads the whole topic. Every node does
// so, at random times. A node has nothing to do if another one has done it.
func (t *Tokens) housekeep(ctx context.Context) {
	for wait.Sleep(ctx, rand.N(2*t.cfg.Housekeep)) == nil {
		if t.Ready() != nil {
			continue
		}
		for n := maxDue; n == maxDue; {
			var err error
			if n, err = t.removeDue(ctx); err != nil && ctx.Err() == nil {
				t.changes.failed(err, "dead tokens are kept for now")
			}
		}
	}
}

// removeDue removes keys, or revokes their tokens again, one after the other: Due gives
// them in the order in which that must be done. It returns how many there were.
func (t *Tokens) removeDue(ctx context.Context) (int, error) {
	t.changes.Lock()
	defer t.changes.Unlock()
	due, err := t.tokens.Due(time.Now(), maxDue)
	if err != nil || len(due) == 0 {
		return 0, err
	}
	entries := make([]store.TokenEntry, len(due))
	for i := range due {
		entries[i].Key = due[i].Key
		if due[i].Revoked {
			entries[i] = entryOf(due[i].Key, &due[i].Token, true)
		}
	}
	if err := t.changes.append(ctx, entries, 1); err != nil {
		return 0, err
	}
	return len(due), nil
}
