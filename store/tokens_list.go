package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"

	"imgo/envelope"
)

// List returns the valid tokens of a user, oldest first.
func (s *Tokens) List(ctx context.Context, user string) ([]envelope.TokenInfo, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	list := []envelope.TokenInfo{}
	err := s.db.view(func(txn *badger.Txn) error {
		hashes, err := tokensOf(txn, prefixTokenUser, user)
		if err != nil {
			return err
		}
		now := time.Now()
		for _, hash := range hashes {
			t, err := tokenAt(txn, hash)
			if err != nil {
				return err
			}
			if !t.revoked && !t.expired(now) {
				list = append(list, envelope.TokenInfo{CreatedMS: t.CreatedMS, ExpiresMS: t.ExpiresMS})
			}
		}
		return nil
	})
	if err != nil {
		return nil, wrapToken(fmt.Sprintf("list the tokens of user %q", user), err)
	}
	slices.SortStableFunc(list, func(a, b envelope.TokenInfo) int { return int(a.CreatedMS - b.CreatedMS) })
	return list, nil
}

// List returns the valid tokens of a user, oldest first.
func (s *SharedTokens) List(ctx context.Context, user string) ([]envelope.TokenInfo, error) {
	tokens, err := s.OfUser(ctx, user)
	if err != nil {
		return nil, err
	}
	list := make([]envelope.TokenInfo, 0, len(tokens))
	now := time.Now()
	for i := range tokens {
		if tokens[i].Good(now) {
			list = append(list, envelope.TokenInfo{CreatedMS: tokens[i].CreatedMS, ExpiresMS: tokens[i].ExpiresMS})
		}
	}
	slices.SortFunc(list, func(a, b envelope.TokenInfo) int { return int(a.CreatedMS - b.CreatedMS) })
	return list, nil
}
