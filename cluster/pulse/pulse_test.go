package pulse_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"imgo/cluster/bus"
	"imgo/cluster/pulse"
)

// A router is not ready while it cannot read a partition of one broker. While no broker answers it is ready, and also until
// its reads succeed again after that: no other router could serve in its place.
func TestPulse(t *testing.T) {
	for _, test := range []struct {
		name   string
		silent func(try int32) bool // the questions without an answer from the 100th to the 200th second
		ready  bool                 // meanwhile
	}{
		{"one of three brokers does not answer", func(try int32) bool { return try%3 == 0 }, false},
		{"no broker answers", func(int32) bool { return true }, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			during := func(first, last int) bool {
				now := time.Since(began)
				return now >= time.Duration(first)*time.Second && now <= time.Duration(last)*time.Second
			}
			p := pulse.New(pulse.Config{
				Ask: func(ctx context.Context, try int32) error {
					if !during(100, 200) || !test.silent(try) {
						return nil
					}
					<-ctx.Done()
					return ctx.Err()
				},
				Announce: func(bool) error { return nil },
				Replaced: func() bool { return false },
				Unreadable: func() error {
					if during(108, 205) {
						return errors.New("partition 3 was not read")
					}
					return nil
				},
				Log: zerolog.Nop(),
			})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- p.Run(ctx) }()
			for range 300 {
				time.Sleep(time.Second)
				synctest.Wait()
				switch err := p.Ready(); {
				case err != nil && (test.ready || !during(108, 210)):
					t.Errorf("%s: not ready after %s: %v", test.name, time.Since(began), err)
				case err == nil && !test.ready && during(115, 200):
					t.Errorf("%s: ready after %s", test.name, time.Since(began))
				}
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestPulseAnnouncesAgain expects that a failed announcement does not stay in gossip when Kafka answers again before the
// next round.
func TestPulseAnnouncesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away, inGossip, failed := true, false, false
		p := pulse.New(pulse.Config{
			Ask: func(context.Context, int32) error {
				if away {
					return errors.New("no answer")
				}
				return nil
			},
			Announce: func(cut bool) error {
				inGossip = cut
				if !failed {
					away, failed = false, true
					return errors.New("nobody confirms the news")
				}
				return nil
			},
			Replaced:   func() bool { return inGossip },
			Unreadable: func() error { return nil },
			Log:        zerolog.Nop(),
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		time.Sleep(2 * bus.UnreadableAfter)
		synctest.Wait()
		if err := p.Ready(); !failed || inGossip || err != nil {
			t.Errorf("an announcement has failed: %t; cut in gossip: %t; ready: %v", failed, inGossip, err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
