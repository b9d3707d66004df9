package store

import (
	"context"
	"slices"
	"time"

	"imgo/envelope"
)

// List returns the valid tokens of a user, oldest first.
func (s *Tokens) List(ctx context.Context, user string) ([]envelope.TokenInfo, error) {
	found, err := s.listByUser(ctx, user)
	if err != nil {
		return nil, err
	}
	list := make([]envelope.TokenInfo, len(found))
	for i, t := range found {
		list[i] = envelope.TokenInfo{CreatedMS: t.CreatedMS, ExpiresMS: t.ExpiresMS}
	}
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
