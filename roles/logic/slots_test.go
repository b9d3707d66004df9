package logic_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"imgo/envelope"
	"imgo/roles/logic"
)

// TestLargePushesTakeTurns pushes to 100,000 users three times at once. The routers need 4 s for the
// questions of each push, one after another, and the timeout of a call is 5 s. All three must be
// accepted, and no two be under way together.
func TestLargePushesTakeTurns(t *testing.T) { synctest.Test(t, testLargePushesTakeTurns) }

func testLargePushesTakeTurns(t *testing.T) {
	w := newWorld(t, func(cfg *logic.Config, _ *world) { cfg.CallTimeout = 5 * time.Second })
	router := make(chan struct{}, 1)
	var mu sync.Mutex
	asking := map[string]int{} // questions under way, by idempotency key
	together := 0
	for _, r := range w.routers.routers {
		r.lookup = func(ctx context.Context, req *envelope.LookupRequest) (*envelope.LookupReply, error) {
			mu.Lock()
			asking[req.IdempotencyKey]++
			together = max(together, len(asking))
			mu.Unlock()
			defer func() {
				mu.Lock()
				defer mu.Unlock()
				if asking[req.IdempotencyKey]--; asking[req.IdempotencyKey] == 0 {
					delete(asking, req.IdempotencyKey)
				}
			}()
			select {
			case router <- struct{}{}:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			time.Sleep(time.Duration(len(req.Users)) * 40 * time.Microsecond)
			<-router
			return r.table(req), nil
		}
	}
	all := users(100_000)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	results := make(chan error)
	for _, key := range []string{"a", "b", "c"} {
		go func() {
			result, err := w.Push(ctx, &logic.PushCommand{Op: 5, Users: all, Kept: true, Body: []byte("x"), IdempotencyKey: key})
			if err == nil && (len(result.Users) != len(all) || result.Users[99_999].ID == 0) {
				err = errors.New("the result is not whole")
			}
			results <- err
		}()
	}
	for range 3 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if together != 1 {
		t.Errorf("%d large pushes were under way together", together)
	}
}

// TestLargePushesThatWaitAreBounded blocks a large push and sends many more. Those over the bound
// are refused at once, those that wait within their deadline, and small pushes go on.
func TestLargePushesThatWaitAreBounded(t *testing.T) {
	synctest.Test(t, testLargePushesThatWaitAreBounded)
}

func testLargePushesThatWaitAreBounded(t *testing.T) {
	w := newWorld(t)
	for _, r := range w.routers.routers {
		r.lookup = func(ctx context.Context, req *envelope.LookupRequest) (*envelope.LookupReply, error) {
			if len(req.Users) > 10 {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return r.table(req), nil
		}
	}
	all := users(100_000)
	push := func(ctx context.Context, users []string) error {
		_, err := w.Push(ctx, &logic.PushCommand{Op: 5, Users: users, Kept: true, IdempotencyKey: "k"})
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	results := make(chan error, 18)
	for range 17 { // one is under way, 16 wait
		go func() { results <- push(ctx, all) }()
		synctest.Wait()
	}
	if err := push(ctx, all); !errors.Is(err, envelope.ErrUnavailable) || !strings.Contains(err.Error(), "wait already") {
		t.Errorf("one more: %v", err)
	}
	if err := push(ctx, []string{"ann"}); err != nil {
		t.Errorf("a small push: %v", err)
	}
	for range 17 {
		if err := <-results; !errors.Is(err, envelope.ErrUnavailable) {
			t.Errorf("a large push: %v", err)
		}
	}
}
