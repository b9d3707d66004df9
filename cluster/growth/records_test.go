package growth_test

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/rs/zerolog"

	"imgo/cluster/growth"
)

// Every node learns which version of records is in use, at once or when it starts, and it never becomes lower.
func TestVersionOfRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		topic := newTopic()
		ctx, cancel := context.WithCancel(context.Background())
		follow := func() *growth.Growth {
			g := growth.New(growth.Config{}, topic.view(), zerolog.Nop())
			if err := g.Read(ctx); err != nil {
				t.Fatal(err)
			}
			g.Base(1, 4)
			go func() { _ = g.Run(ctx) }()
			return g
		}
		is := func(g *growth.Growth, want uint32) {
			t.Helper()
			synctest.Wait()
			if got, _ := g.Records(); got != want {
				t.Errorf("version %d of records is in use, want %d", got, want)
			}
		}
		a, b := follow(), follow()
		is(a, 1)
		for _, step := range []struct {
			by        *growth.Growth
			use, want uint32
		}{{a, 3, 3}, {b, 2, 3}, {b, 4, 4}, {a, 1, 4}} {
			if err := step.by.UseRecords(ctx, step.use); err != nil {
				t.Fatal(err)
			}
			is(a, step.want)
			is(b, step.want)
			topic.compact()
			is(follow(), step.want)
		}
		cancel()
		synctest.Wait()
	})
}
