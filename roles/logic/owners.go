package logic

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"imgo/envelope"
)

const (
	// lookupChunk bounds the users of one Lookup, so that neither question nor
	// answer outgrows a gRPC message.
	lookupChunk = 5000
	// parallelCalls bounds the calls that one operation has under way.
	parallelCalls = 8
	// firstPause and maxPause are how long a call that found no owner, or one
	// that is not ready, waits before it is tried again.
	firstPause = 5 * time.Millisecond
	maxPause   = 200 * time.Millisecond
)

// askOwner calls the owner of a partition, and calls again, whoever owns it by
// then, while the answer is that it cannot say yet. ctx bounds all of it.
func (l *Logic) askOwner(ctx context.Context, partition int32, what string, call func(Router) error) error {
	return attempted(what, repeat(ctx, func() error {
		r, err := l.routers.Owner(partition)
		if err != nil {
			return err
		}
		return call(r)
	}))
}

// repeat calls until there is an answer, or an error that will not pass, or
// ctx is done.
func repeat(ctx context.Context, call func() error) error {
	for wait := firstPause; ; wait = min(2*wait, maxPause) {
		if err := call(); !passing(err) || !pause(ctx, wait) {
			return err
		}
	}
}

// passing says whether an error may be gone a moment later.
func passing(err error) bool {
	return errors.Is(err, envelope.ErrUnavailable) || errors.Is(err, envelope.ErrNotReady)
}

// pause waits; false: ctx was done first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// attempted wraps err with what was attempted, as answered has it.
func attempted(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, answered(err))
}

// answered turns a deadline that passed into envelope.ErrUnavailable: to the
// caller it is a role that did not answer. It returns other errors as they are.
func answered(err error) error {
	if errors.Is(err, context.DeadlineExceeded) && !coded(err) {
		return fmt.Errorf("%w (%w)", envelope.Errorf(envelope.CodeUnavailable, "no answer in time"), err)
	}
	return err
}

func coded(err error) bool {
	var e *envelope.Error
	return errors.As(err, &e)
}

// sharing is what one router is asked about: some of the users that it owns.
type sharing struct {
	router Router
	users  []string
}

// share groups users by owner, at most lookupChunk in one. Users whose
// partition has no owner are left over, with the reason.
func (l *Logic) share(users []string) (shares []sharing, left []string, reason error) {
	if len(users) == 1 { // the most frequent question needs no grouping
		r, err := l.routers.Owner(l.partition(users[0]))
		if err != nil {
			return nil, users, err
		}
		return []sharing{{router: r, users: users}}, nil, nil
	}
	type owner struct {
		router Router
		err    error
	}
	owners := make(map[int32]owner)
	open := make(map[Router]int) // the share of a router that has room
	for _, user := range users {
		p := l.partition(user)
		o, known := owners[p]
		if !known {
			o.router, o.err = l.routers.Owner(p)
			owners[p] = o
		}
		if o.err != nil {
			left, reason = append(left, user), o.err
			continue
		}
		i, has := open[o.router]
		if !has || len(shares[i].users) == lookupChunk {
			i = len(shares)
			shares = append(shares, sharing{router: o.router})
			open[o.router] = i
		}
		shares[i].users = append(shares[i].users, user)
	}
	return shares, left, reason
}

// lookup asks the owners about users: one call an owner (and lookupChunk). It
// asks again for those whose owner cannot say yet, until ctx is done. With an
// error the answers are those that came; a user without an answer has none.
func (l *Logic) lookup(ctx context.Context, users []string, key string, full bool) (map[string]*envelope.UserSessions, error) {
	answers := make(map[string]*envelope.UserSessions, len(users))
	for wait := firstPause; ; wait = min(2*wait, maxPause) {
		left, err := l.lookupOnce(ctx, users, key, full, answers)
		if err == nil {
			return answers, nil
		}
		if !passing(err) || !pause(ctx, wait) {
			return answers, attempted("look up users", err)
		}
		users = left
	}
}

// lookupOnce is one round of lookup; left are the users to ask for again. An
// error that will not pass wins over one that may.
func (l *Logic) lookupOnce(ctx context.Context, users []string, key string, full bool, answers map[string]*envelope.UserSessions) (left []string, reason error) {
	shares, left, reason := l.share(users)
	if len(shares) == 1 {
		reply, err := shares[0].ask(ctx, key, full)
		return shares[0].settle(reply, err, answers, left, reason)
	}
	return askAll(ctx, shares, key, full, answers, left, reason)
}

// askAll asks several routers at once; its arguments and results are as of
// settle.
func askAll(ctx context.Context, shares []sharing, key string, full bool, answers map[string]*envelope.UserSessions, left []string, reason error) ([]string, error) {
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(parallelCalls)
	for _, s := range shares {
		g.Go(func() error {
			reply, err := s.ask(ctx, key, full)
			mu.Lock()
			defer mu.Unlock()
			left, reason = s.settle(reply, err, answers, left, reason)
			return nil
		})
	}
	_ = g.Wait() // the errors are in reason
	return left, reason
}

func (s *sharing) ask(ctx context.Context, key string, full bool) (*envelope.LookupReply, error) {
	return s.router.Lookup(ctx, &envelope.LookupRequest{Users: s.users, IdempotencyKey: key, Full: full})
}

// settle puts a router's answer into answers; what it says of left and reason
// replaces them.
func (s *sharing) settle(reply *envelope.LookupReply, err error, answers map[string]*envelope.UserSessions, left []string, reason error) ([]string, error) {
	if err != nil {
		if reason == nil || passing(reason) {
			reason = err
		}
		return append(left, s.users...), reason
	}
	for _, u := range reply.GetUsers() {
		answers[u.GetUser()] = u
	}
	for _, user := range s.users {
		if answers[user] == nil { // left out: nothing is known of the user
			answers[user] = &envelope.UserSessions{User: user}
		}
	}
	return left, reason
}

// everyRouter calls all routers at once and returns their errors joined.
// call must be safe for concurrent use.
func (l *Logic) everyRouter(what string, call func(Router) error) error {
	all := l.routers.All()
	if len(all) == 0 {
		return fmt.Errorf("%s: %w", what, envelope.Errorf(envelope.CodeUnavailable, "there is no router"))
	}
	return callRouters(what, all, call)
}

// callRouters calls some routers at once and returns their errors joined.
func callRouters(what string, routers []Router, call func(Router) error) error {
	errs := make([]error, len(routers))
	var g errgroup.Group
	g.SetLimit(parallelCalls)
	for i, r := range routers {
		g.Go(func() error {
			errs[i] = call(r)
			return nil
		})
	}
	_ = g.Wait() // the errors are in errs
	return attempted(what, errors.Join(errs...))
}

// throw appends envelopes to the live topic. Those for a comet, a room or all
// go by the partition of that name, so they keep their order.
func (l *Logic) throw(ctx context.Context, what string, all ...thrown) error {
	if len(all) == 0 {
		return nil
	}
	entries := make([]envelope.Entry, 0, len(all))
	now := l.nowMS()
	for _, t := range all {
		t.envelope.TimeMs = now
		value, err := t.envelope.MarshalVT()
		if err != nil {
			return fmt.Errorf("%s: encode the envelope: %w", what, err)
		}
		entries = append(entries, envelope.Entry{
			Partition: envelope.Partition(t.by, int(l.live.Partitions())), Value: value,
		})
	}
	return attempted(what, l.live.AppendMany(ctx, entries))
}

// thrown is an envelope and the name that its partition goes by.
type thrown struct {
	by       string
	envelope *envelope.Envelope
}

// addressChunk bounds the addresses of one envelope.
const addressChunk = 1000

// addressed makes the envelopes for addresses: those of one comet together,
// each session once, at most addressChunk in one. fill puts in what is sent.
func addressed(to []*envelope.Address, fill func([]*envelope.Address) *envelope.Envelope) []thrown {
	if len(to) == 1 { // most pushes
		return []thrown{{by: to[0].GetComet(), envelope: fill(to)}}
	}
	byComet := make(map[string][]*envelope.Address)
	var comets []string
	seen := make(map[envelope.AddressKey]struct{}, len(to))
	for _, a := range to {
		s := a.AsKey()
		if _, again := seen[s]; again {
			continue
		}
		seen[s] = struct{}{}
		if _, known := byComet[s.Comet]; !known {
			comets = append(comets, s.Comet)
		}
		byComet[s.Comet] = append(byComet[s.Comet], a)
	}
	var out []thrown
	for _, comet := range comets {
		for chunk := range slices.Chunk(byComet[comet], addressChunk) {
			out = append(out, thrown{by: comet, envelope: fill(chunk)})
		}
	}
	return out
}
