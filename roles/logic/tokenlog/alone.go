package tokenlog

import (
	"context"
	"math"
	"sync"

	"github.com/rs/zerolog"

	"imgo/store"
)

// alone writes the changes of a node that runs alone to its store.
type alone struct {
	sync.Mutex
	tokens *store.Tokens
	log    zerolog.Logger
}

// put makes all changes in one transaction if they fit into one. The new token is in the last one, so it is not
// there after an error.
func (a *alone) put(ctx context.Context, made store.TokenEntry, more func(offset int64) ([]store.TokenEntry, error)) error {
	if err := a.tokens.Accepts(); err != nil {
		return err
	}
	entries, err := more(math.MaxInt64)
	if err != nil {
		return err
	}
	return a.append(ctx, append(entries, made), 1)
}

func (a *alone) append(ctx context.Context, entries []store.TokenEntry, _ int) error {
	next, _, err := a.tokens.Position()
	if err != nil {
		return err
	}
	for i := range entries {
		entries[i].Offset = next
		next++
	}
	return a.tokens.Apply(ctx, entries, next)
}

func (a *alone) sync(context.Context) error { return nil }

func (a *alone) ready() error { return nil }

func (a *alone) failed(err error, message string) { a.log.Warn().Err(err).Msg(message) }

func (a *alone) run(context.Context) {}
