package wait_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"imgo/internal/wait"
)

func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		if err := wait.Sleep(t.Context(), time.Minute); err != nil || time.Since(start) != time.Minute {
			t.Errorf("slept %v, %v", time.Since(start), err)
		}
		start = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := wait.Sleep(ctx, time.Minute); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("a context that ends: slept %v, %v", time.Since(start), err)
		}
		if err := wait.Sleep(ctx, 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("no time and a context that has ended: %v", err)
		}
	})
}

func TestEvery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond)
		defer cancel()
		start, calls := time.Now(), 0
		wait.Every(ctx, time.Second, func() { calls++ })
		if calls != 3 || time.Since(start) != 3500*time.Millisecond {
			t.Errorf("%d calls in %v", calls, time.Since(start))
		}
	})
}

func TestBackoff(t *testing.T) {
	b := wait.Backoff{Min: 100 * time.Millisecond, Max: 500 * time.Millisecond}
	different := false
	for range 50 {
		var first time.Duration
		for i, most := range []time.Duration{100, 200, 400, 500, 500} {
			most *= time.Millisecond
			d := b.Next()
			if d < most/2 || d > most {
				t.Fatalf("pause %d is %v, not between %v and %v", i, d, most/2, most)
			}
			if i == 0 {
				first = d
			}
		}
		b.Reset()
		different = different || b.Next() != first
		b.Reset()
	}
	if !different {
		t.Error("the pauses have no jitter")
	}
}

func TestBackoffSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := wait.Backoff{Min: time.Second, Max: time.Minute}
		start := time.Now()
		for range 3 {
			if err := b.Sleep(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(start); d < 3500*time.Millisecond || d > 7*time.Second {
			t.Errorf("three pauses took %v", d)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := b.Sleep(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled context: %v", err)
		}
	})
}

func TestSignal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := wait.NewSignal()
		s.Set()
		s.Set()
		<-s
		select {
		case <-s:
			t.Error("two signals that nobody had taken did not count as one")
		default:
		}
		go func() { time.Sleep(time.Second); s.Set() }()
		<-s
	})
}
