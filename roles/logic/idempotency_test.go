package logic_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/roles/logic"
)

func TestKeptIdempotencyAgain(t *testing.T) {
	w := newWorld(t)
	w.connect("ann", "", "c1", 1)
	c := logic.PushCommand{Users: []string{"ann", "bob"}, Kept: true, IdempotencyKey: "api/k1"}
	first := w.push(c)
	second := w.push(c)
	if first.Duplicate || first.Sessions != 1 || !second.Duplicate || second.Sessions != 0 {
		t.Errorf("first %+v, second %+v", first, second)
	}
	for i, u := range second.Users {
		if !u.Duplicate || u.ID != first.Users[i].ID || u.ID == 0 {
			t.Errorf("second for %s: %+v, first %+v", u.User, u, first.Users[i])
		}
	}
	appended := len(w.records())
	// Only users that were not reached yet are appended.
	third := w.push(logic.PushCommand{Users: []string{"ann", "carl"}, Kept: true, IdempotencyKey: "api/k1"})
	if third.Duplicate || !third.Users[0].Duplicate || third.Users[1].Duplicate || third.Users[1].ID == 0 {
		t.Errorf("third %+v", third)
	}
	records := w.records()[appended:]
	if len(records) != 1 || !slices.Equal(records[0].Push.Users, []string{"carl"}) || records[0].Push.IdempotencyKey != "api/k1" {
		t.Errorf("third appended %v", records)
	}
	// Another key is another message.
	c.IdempotencyKey = "api/k2"
	if other := w.push(c); other.Duplicate || other.Users[0].ID == first.Users[0].ID {
		t.Errorf("another key: %+v", other)
	}
}

// A push that has reached some users before, and cannot reach the others, is no error. One that reaches nobody is.
func TestKeptIdempotencyOfAFullMailbox(t *testing.T) {
	w := newWorld(t)
	for _, r := range w.routers.routers {
		r.lookup = func(_ context.Context, req *envelope.LookupRequest) (*envelope.LookupReply, error) {
			reply := r.table(req)
			for _, u := range reply.Users {
				u.Refused = u.User != "ann"
			}
			return reply, nil
		}
	}
	c := logic.PushCommand{Users: []string{"ann", "bob"}, Kept: true, Op: 5, Body: []byte("1"), IdempotencyKey: "k"}
	first := w.push(c)
	second := w.push(c)
	if r := second.Users; !r[0].Duplicate || r[0].ID != first.Users[0].ID || !r[1].Refused || second.Duplicate {
		t.Errorf("first %+v, second %+v", first, second)
	}
	for _, users := range [][]string{{"bob"}, {"bob", "carl"}} {
		c.Users = users
		if _, err := w.Push(t.Context(), &c); !errors.Is(err, envelope.ErrMailboxFull) {
			t.Errorf("to %v: %v", users, err)
		}
	}
}

// Pushes with one key at the same time are all appended, but every answer has the
// id of the one that the owner did not void.
func TestKeptIdempotencySideBySide(t *testing.T) {
	w := newWorld(t)
	const callers = 16
	var wg sync.WaitGroup
	results := make([]*logic.PushResult, callers)
	for i := range callers {
		wg.Go(func() {
			results[i] = w.push(logic.PushCommand{Users: []string{"ann"}, Kept: true, IdempotencyKey: "k"})
		})
	}
	wg.Wait()
	firsts := 0
	for _, r := range results {
		if !r.Duplicate {
			firsts++
		}
		if r.Users[0].ID != results[0].Users[0].ID {
			t.Errorf("two ids: %+v and %+v", r.Users[0], results[0].Users[0])
		}
	}
	if firsts != 1 {
		t.Errorf("%d pushes were first", firsts)
	}
}

// The answer waits for an owner that applies the record after the log has answered.
func TestKeptIdempotencyWaitsForTheOwner(t *testing.T) {
	w := newWorld(t)
	var asked atomic.Int32
	owner := w.owner("ann")
	owner.lookup = func(_ context.Context, r *envelope.LookupRequest) (*envelope.LookupReply, error) {
		reply := owner.table(r)
		if asked.Add(1) < 4 {
			reply.Users[0].AppliedId = 0
		}
		return reply, nil
	}
	got := w.push(logic.PushCommand{Users: []string{"ann"}, Kept: true, IdempotencyKey: "k"})
	if asked.Load() != 4 || got.Duplicate || got.Users[0].ID == 0 {
		t.Errorf("asked %d times: %+v", asked.Load(), got)
	}
}

// When the owner does not say in time which message a key made, the answer must
// name none: an earlier try of the caller may be in the log.
func TestKeptIdempotencyOwnerDoesNotAnswer(t *testing.T) {
	w := newWorld(t)
	owner := w.owner("ann")
	owner.lookup = func(_ context.Context, r *envelope.LookupRequest) (*envelope.LookupReply, error) {
		reply := owner.table(r)
		reply.Users[0].AppliedId = 0
		return reply, nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	got, err := w.Push(ctx, &logic.PushCommand{Op: 5, Users: []string{"ann"}, Kept: true, IdempotencyKey: "k"})
	if !errors.Is(err, envelope.ErrUnavailable) {
		t.Fatalf("%+v, %v; want unavailable", got, err)
	}
	// Repeated when the owner knows, it is the same message.
	owner.lookup = nil
	again := w.push(logic.PushCommand{Users: []string{"ann"}, Kept: true, IdempotencyKey: "k"})
	if n := len(w.records()); n != 1 || !again.Duplicate || again.Users[0].ID == 0 {
		t.Errorf("repeated: %+v, %d records", again, n)
	}
}

func TestLiveIdempotency(t *testing.T) {
	for name, c := range map[string]logic.PushCommand{
		"users": {Users: []string{"ann", "nobody"}},
		"keys":  {Keys: []string{"c1~0000000000000001"}},
		"room":  {Room: "r"},
		"all":   {All: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.connect("ann", "", "c1", 1)
			c.IdempotencyKey = "api/k"
			first, second := w.push(c), w.push(c)
			if first.Duplicate || !second.Duplicate || second.Sessions != 0 {
				t.Errorf("first %+v, second %+v", first, second)
			}
			for _, u := range second.Users {
				if !u.Duplicate {
					t.Errorf("second: %+v", u)
				}
			}
			if n := len(w.envelopes()); n != 1 {
				t.Errorf("%d envelopes", n)
			}
			if n := w.records(); len(n) != 2 || n[0].Claim.Key != "api/k" || len(n[0].Id) != 12 {
				t.Errorf("claims %v", n)
			}
			if p := w.kept.all()[0].Partition; p != envelope.Partition("api/k", 8) {
				t.Errorf("the claim is in partition %d", p)
			}
		})
	}
}

func TestLiveIdempotencySideBySide(t *testing.T) {
	w := newWorld(t)
	var wg sync.WaitGroup
	var won atomic.Int32
	for range 32 {
		wg.Go(func() {
			if !w.push(logic.PushCommand{All: true, IdempotencyKey: "k"}).Duplicate {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || len(w.envelopes()) != 1 {
		t.Errorf("%d claims won, %d envelopes", won.Load(), len(w.envelopes()))
	}
}

// A push that won its key and then failed is not a duplicate of itself.
func TestLiveIdempotencyAfterAFailure(t *testing.T) {
	w := newWorld(t, func(c *logic.Config, _ *world) { c.CallTimeout = 100 * time.Millisecond })
	c := logic.PushCommand{Op: 5, All: true, IdempotencyKey: "k"}
	broken := errors.New("broken")
	w.live.fail = func(bool) error { return broken }
	if _, err := w.Push(t.Context(), &c); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	w.live.fail = nil
	if got := w.push(c); got.Duplicate {
		t.Error("the repetition is a duplicate of a push that was not published")
	}
	if got := w.push(c); !got.Duplicate {
		t.Error("the second repetition is not a duplicate")
	}

	// The same holds when the owner did not say in time which claim won.
	c.IdempotencyKey = "k2"
	for _, r := range w.routers.routers {
		r.claim = func(context.Context, *envelope.ClaimRequest) (*envelope.ClaimReply, error) {
			return nil, envelope.ErrNotReady
		}
	}
	if _, err := w.Push(t.Context(), &c); !errors.Is(err, envelope.ErrNotReady) {
		t.Fatalf("got %v", err)
	}
	for _, r := range w.routers.routers {
		r.claim = nil
	}
	if got := w.push(c); got.Duplicate {
		t.Error("the repetition lost against its own claim")
	}
	if n := len(w.envelopes()); n != 2 {
		t.Errorf("%d envelopes for 2 keys", n)
	}
}

// When a claim's append fails although the log has the record, the repetition of
// the push appends the same record.
func TestLiveIdempotencyAfterALostAppend(t *testing.T) {
	w := newWorld(t)
	c := logic.PushCommand{Op: 5, All: true, IdempotencyKey: "k"}
	w.kept.after = func() error { return envelope.ErrUnavailable }
	if _, err := w.Push(t.Context(), &c); !errors.Is(err, envelope.ErrUnavailable) {
		t.Fatalf("got %v", err)
	}
	w.kept.after = nil
	var asked []byte
	for _, r := range w.routers.routers {
		r.claim = func(_ context.Context, req *envelope.ClaimRequest) (*envelope.ClaimReply, error) {
			asked = req.RecordId
			return &envelope.ClaimReply{Won: true}, nil
		}
	}
	if got := w.push(c); got.Duplicate {
		t.Error("the repetition is a duplicate")
	}
	records := w.records()
	if len(records) != 2 || string(records[0].Id) != string(records[1].Id) || string(asked) != string(records[0].Id) {
		t.Errorf("records %v, asked for %x", records, asked)
	}
}
