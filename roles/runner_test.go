package roles

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// TestStopCancelsAllStages checks that a stage that does not stop in time keeps no other stage running.
func TestStopCancelsAllStages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRunner(zerolog.Nop())
		release := make(chan struct{})
		var firstEnded bool
		err := r.start(t.Context(),
			stage{name: "first", run: func(ctx context.Context) error {
				<-ctx.Done()
				firstEnded = true
				return nil
			}},
			stage{name: "hung", run: func(ctx context.Context) error {
				<-release
				return ctx.Err()
			}})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.stop(nil, time.Minute); err == nil || err.Error() != "hung did not stop within shutdown.timeout (1m0s)" {
			t.Errorf("stop returned %v", err)
		}
		synctest.Wait()
		if !firstEnded {
			t.Error("the first stage runs on")
			r.cancel()
		}
		close(release)
	})
}
