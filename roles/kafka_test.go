package roles

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// TestAwaitKafkaPauses checks that errors that come at once are not met by tries without a pause.
func TestAwaitKafkaPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		tries := 0
		_, err := awaitKafka(ctx, &kafka{process: &process{log: zerolog.Nop()}}, func(context.Context) (int, error) {
			if tries++; tries > 1000 {
				t.Fatal("there is no pause")
			}
			return 0, errors.New("not yet")
		})
		if !errors.Is(err, context.DeadlineExceeded) || tries < 10 || tries > 40 {
			t.Errorf("%d tries in 10 s, then %v", tries, err)
		}
	})
}
