package soak

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"imgo/clients/go/pushapi"
	"imgo/internal/wait"
)

// caller is a simulated business system. It sends one push after another.
type caller struct {
	r   *run
	rng *rand.Rand
	// last is an accepted push with an idempotency key, which the caller may repeat.
	last *push
}

// push is one push with its number and its receivers.
type push struct {
	number uint64
	body   *pushapi.Push
	users  []string // of a kept push
}

// run pushes until stop is closed. It repeats a push with a key until the server
// accepts it, even across restarts of the server. If ctx ends, run stops at once.
func (c *caller) run(ctx context.Context, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(c.rng.Int64N(int64(c.r.cfg.Pace)))):
		}
		if c.last != nil && c.rng.IntN(30) == 0 {
			c.repeatAccepted(ctx)
			continue
		}
		c.push(ctx, stop, c.next())
	}
}

// next returns a randomly chosen push.
func (c *caller) next() *push {
	p := &push{number: c.r.count.pushes.Add(1), body: &pushapi.Push{}}
	body := message{N: p.number, Pad: strings.Repeat("x", c.rng.IntN(200))}
	if c.rng.IntN(50) == 0 {
		body.Pad = strings.Repeat("x", 8<<10)
	}
	if c.rng.IntN(100) < 40 {
		p.body.IdempotencyKey = fmt.Sprintf("key-%d", p.number)
	}
	no := false
	switch dice := c.rng.IntN(1000); {
	case dice < 1:
		p.body.All = true
		c.r.h.TriedLive(p.number)
	case dice < 40:
		room := c.r.rooms[c.rng.IntN(len(c.r.rooms))]
		p.body.Room = room.name
		c.r.h.TriedLive(p.number, room.users...)
	case dice < 100:
		p.body.User, p.body.Kept = c.user(), &no
		c.r.h.TriedLive(p.number, p.body.User)
	case dice < 180:
		for len(p.users) < 2+c.rng.IntN(4) {
			if u := c.user(); !slices.Contains(p.users, u) {
				p.users = append(p.users, u)
			}
		}
		p.body.Users = p.users
	case dice < 280 && c.r.cfg.Slow > 0: // for devices that read slowly
		p.users = []string{c.r.users[c.rng.IntN(c.r.cfg.Slow)].name}
		p.body.User = p.users[0]
		body.Pad = strings.Repeat("x", 4<<10)
	default:
		p.users = []string{c.user()}
		p.body.User = p.users[0]
	}
	p.body.Body = body
	c.r.h.Tried(p.number, p.users...)
	return p
}

func (c *caller) user() string { return c.r.users[c.rng.IntN(len(c.r.users))].name }

// push sends a push until there is an answer. It repeats a push with a key, and sends
// any other push once. A refused connection is no answer, because nothing was sent;
// push then tries again.
func (c *caller) push(ctx context.Context, stop <-chan struct{}, p *push) {
	count := &c.r.count
	pause := wait.Backoff{Min: 10 * time.Millisecond, Max: 200 * time.Millisecond}
	for {
		began := time.Now()
		results, err := c.r.api.Push(ctx, c.r.api.Next(), p.body)
		if err == nil {
			count.accepted.Add(1)
			c.r.acceptedAt(began)
			c.accept(p, results)
			return
		}
		var answer *pushapi.Error
		switch {
		case ctx.Err() != nil:
			return
		case pushapi.NotSent(err):
			select {
			case <-stop:
				if p.body.IdempotencyKey == "" {
					return
				}
			default:
			}
		case errors.As(err, &answer) && answer.Final():
			c.r.h.Refused(p.number, p.users...)
			c.r.problem("push %d was refused: %v", p.number, err)
			return
		case errors.As(err, &answer):
			count.refused.Add(1)
		default:
			count.unanswered.Add(1)
		}
		if p.body.IdempotencyKey == "" && !pushapi.NotSent(err) {
			return
		}
		if !pushapi.NotSent(err) {
			count.repeated.Add(1)
		}
		if pause.Sleep(ctx) != nil {
			return
		}
	}
}

// accept records the answer to an accepted push.
func (c *caller) accept(p *push, results []pushapi.Result) {
	if len(p.users) == 0 {
		return
	}
	if len(results) != len(p.users) {
		c.r.problem("push %d to %v was accepted with %d results", p.number, p.users, len(results))
		return
	}
	for i, result := range results {
		if result.User != p.users[i] {
			c.r.problem("push %d to %v: result %d is of %q", p.number, p.users, i, result.User)
			return
		}
		c.r.h.Accepted(p.number, result.User, result.ID)
	}
	if p.body.IdempotencyKey != "" {
		c.last = p
	}
}

// repeatAccepted repeats an accepted push. The server must recognize it as a duplicate and
// return the same ids.
func (c *caller) repeatAccepted(ctx context.Context) {
	p := c.last
	c.last = nil
	results, err := c.r.api.Push(ctx, c.r.api.Next(), p.body)
	if err != nil {
		return
	}
	c.r.count.again.Add(1)
	for _, result := range results {
		c.r.h.Accepted(p.number, result.User, result.ID)
		if !result.Duplicate {
			c.r.problem("push %d with key %s was accepted twice for %s: the second answer does not say duplicate", p.number, p.body.IdempotencyKey,
				result.User)
		}
	}
}
