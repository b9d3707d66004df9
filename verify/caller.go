package verify

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"imgo/clients/go/pushapi"
	"imgo/internal/wait"
)

// push is one push of the run.
type push struct {
	number uint64
	body   *pushapi.Push
	users  []string // the users of a kept push; nil if the push is not kept
	again  bool     // send it again after it was accepted, to test the idempotency key
}

// caller makes the pushes of a run from the seed, and sends them. One goroutine makes them. The methods that send are
// safe for concurrent use.
type caller struct {
	v    *Verifier
	dice *rand.Rand
	n    uint64
}

func newCaller(v *Verifier) *caller { return &caller{v: v, dice: rand.New(rand.NewPCG(v.cfg.Seed, 1))} }

const (
	// One push in severalOf goes to several users. One push in againOf with an idempotency key is
	// sent again after it was accepted, after up to againDelay.
	severalOf  = 20
	againOf    = 50
	againDelay = 3 * time.Second
	// roomShare is the share of the pushes that are not kept that go to a room, if there are rooms.
	roomShare = 0.4
	// One kept push in slowOf goes to a user with a slow device, with slowBody bytes more.
	slowOf   = 10
	slowBody = 4 << 10
	// largeBody is the number of bytes that a large message has more, for Config.Large.
	largeBody = 8 << 10
)

func (c *caller) next() *push {
	c.n++
	cfg := c.v.cfg
	p := &push{number: c.n, body: &pushapi.Push{}}
	pad := 0
	if cfg.Body > 0 {
		pad = cfg.Body/2 + c.dice.IntN(cfg.Body)
	}
	if c.hit(cfg.Large) {
		pad += largeBody
	}
	first := c.dice.IntN(cfg.Users)
	if c.hit(cfg.NotKept) {
		p.body.Body = c.message(pad)
		p.body.Kept = new(bool)
		c.v.h.TriedLive(p.number, c.notKept(p.body, first)...)
		return p
	}
	if cfg.Slow > 0 && c.dice.IntN(slowOf) == 0 {
		first = c.dice.IntN(cfg.Slow)
		pad += slowBody
	}
	p.body.Body = c.message(pad)
	to := []int{first}
	if c.dice.IntN(severalOf) == 0 {
		for range min(4, cfg.Users-1) {
			if another := c.dice.IntN(cfg.Users); !slices.Contains(to, another) {
				to = append(to, another)
			}
		}
	}
	for _, i := range to {
		p.users = append(p.users, c.v.users[i].name)
	}
	if p.body.User = p.users[0]; len(to) > 1 {
		p.body.User, p.body.Users = "", p.users
	}
	if !c.hit(cfg.Keyless) {
		p.body.IdempotencyKey = fmt.Sprintf("%s%d", c.v.prefix, c.n)
		p.again = c.dice.IntN(againOf) == 0
	}
	c.v.h.Tried(p.number, p.users...)
	c.ask(p)
	c.v.ledger.begin(p.number, to, cfg.Devices)
	return p
}

// hit reports true for a share of all calls.
func (c *caller) hit(share float64) bool { return c.dice.Float64() < share }

func (c *caller) message(pad int) message {
	return message{Run: c.v.prefix, N: c.n, Pad: strings.Repeat("x", pad)}
}

// notKept chooses the receivers of a push that is not kept: a room, everybody, or the user first. It
// returns the names of the users, or none for everybody.
func (c *caller) notKept(p *pushapi.Push, first int) (users []string) {
	switch rooms := c.v.rooms; {
	case c.hit(c.v.cfg.Broadcast):
		p.All, p.Kept = true, nil
		return nil
	case len(rooms) > 0 && c.hit(roomShare):
		r := rooms[c.dice.IntN(len(rooms))]
		p.Room, p.Kept = r.name, nil
		return r.users
	}
	p.User = c.v.users[first].name
	return []string{p.User}
}

// run starts pushes at the configured rate until ctx is done. The returned function waits for the
// pushes in flight, for at most Config.ArrivalTimeout. After that it cancels them.
func (c *caller) run(ctx, work context.Context) (wait func()) {
	cfg := c.v.cfg
	// The burst is a twentieth of a second's worth of pushes. Pushes that could not start in time
	// are not made up for beyond that.
	limiter := rate.NewLimiter(rate.Limit(cfg.Rate), max(1, int(cfg.Rate/20)))
	slots := make(chan struct{}, cfg.Callers)
	calls, cancel := context.WithCancel(work)
	var inFlight sync.WaitGroup
	for limiter.Wait(ctx) == nil {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			continue
		}
		p := c.next()
		inFlight.Go(func() {
			accepted := c.send(calls, p)
			<-slots
			if accepted && p.again {
				c.repeat(calls, p)
			}
		})
	}
	return func() {
		limit := time.AfterFunc(cfg.ArrivalTimeout, cancel)
		inFlight.Wait()
		limit.Stop()
		cancel()
	}
}

// send sends a push until it is accepted or Config.GiveUp is over, at one address after another. It
// repeats an attempt only if the push has an idempotency key, or if the server cannot have executed
// it.
func (c *caller) send(ctx context.Context, p *push) (accepted bool) {
	v := c.v
	kept, until := p.users != nil, v.now()+v.cfg.GiveUp
	base, pause := v.api.Next(), wait.Backoff{Min: 15 * time.Millisecond, Max: 750 * time.Millisecond}
	for try := 1; ; try++ {
		if kept {
			v.ledger.attempt(p.number)
		}
		results, err := v.api.PushTo(ctx, base, p.body)
		if err == nil {
			return c.accepted(p, base, results)
		}
		v.ledger.count(&v.ledger.sent.Refusals)
		var answer *pushapi.Error
		refused := errors.As(err, &answer)
		switch {
		case refused && answer.Final():
			v.problem("push %d is refused for good: %v", p.number, answer)
			if kept {
				v.h.Refused(p.number, p.users...)
				v.events.judge.Refused(p.number)
				v.ledger.end(p.number, false)
			}
			return false
		case p.body.IdempotencyKey == "" && !pushapi.NotSent(err) && (!refused || answer.Status != http.StatusTooManyRequests):
			c.ended(p, false) // without a key the push may have been executed and must not be repeated
			return false
		case ctx.Err() != nil || v.now() > until:
			c.ended(p, true)
			return false
		}
		base = v.api.After(base)
		if try%len(v.api.Servers()) == 0 {
			_ = pause.Sleep(ctx) // the next attempt checks ctx
		}
	}
}

func (c *caller) ended(p *push, abandoned bool) {
	ledger := c.v.ledger
	if p.users == nil {
		ledger.count(&ledger.sent.NotKept)
		return
	}
	ledger.end(p.number, abandoned)
}

// accepted records an accepted answer. It reports whether the push is kept and the answer is right.
func (c *caller) accepted(p *push, base string, results []pushapi.Result) bool {
	ledger := c.v.ledger
	if p.users == nil {
		ledger.count(&ledger.sent.NotKept, &ledger.sent.NotKeptAccepted)
		return false
	}
	ledger.accept(p.number, base)
	return c.judge(p, base, results)
}

// repeat sends an accepted push again after a while, or at once if the pushing ends. Whichever address
// gets it must know the push and answer with the same id, even if the server was restarted meanwhile.
func (c *caller) repeat(ctx context.Context, p *push) {
	if c.v.pauseWhilePushing(ctx, rand.N(againDelay)) != nil {
		return
	}
	base := c.v.api.Next()
	results, err := c.v.api.PushTo(ctx, base, p.body)
	if err != nil || !c.judge(p, base, results) {
		return
	}
	for _, r := range results {
		if !r.Duplicate {
			c.v.problem("push %d was accepted before for %s, and %s does not say duplicate", p.number, r.User, base)
		}
	}
}

// judge passes the results of an answer to the history. It reports whether the results match the
// users of the push.
func (c *caller) judge(p *push, base string, results []pushapi.Result) bool {
	if len(results) != len(p.users) {
		c.v.problem("push %d to %d users was accepted by %s with %d results", p.number, len(p.users), base, len(results))
		return false
	}
	for i, r := range results {
		if r.User != p.users[i] {
			c.v.problem("push %d: result %d of %s is of %q, not %q", p.number, i, base, r.User, p.users[i])
			return false
		}
		c.v.h.Accepted(p.number, r.User, r.ID)
		c.v.events.judge.Accepted(p.number, r.User, r.ID)
	}
	return true
}
