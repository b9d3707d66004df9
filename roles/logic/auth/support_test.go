package auth_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"imgo/envelope"
	"imgo/internal/settings"
	"imgo/internal/wait/waittest"
	"imgo/roles/logic/auth"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tokenStore is a token store in memory.
type tokenStore struct {
	users   map[[32]byte]string
	lookups int
}

func (s *tokenStore) Lookup(_ context.Context, hash [32]byte) (envelope.Token, error) {
	s.lookups++
	user, ok := s.users[hash]
	if !ok {
		return envelope.Token{}, envelope.ErrNotFound
	}
	return envelope.Token{User: user}, nil
}

// clock is a wall clock that only the test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// harness is a JWT authenticator with its token store, clock and metrics.
type harness struct {
	*auth.JWT
	t        testing.TB
	tokens   *tokenStore
	clock    *clock
	registry *prometheus.Registry
}

func newHarness(t testing.TB, change func(*auth.Config)) *harness {
	t.Helper()
	cfg := settings.Default[auth.Config]()
	cfg.RequireExpiry = false // few tests are about the end of a token
	change(&cfg)
	h := &harness{
		t: t, tokens: &tokenStore{users: make(map[[32]byte]string)},
		clock: &clock{now: time.UnixMilli(1_800_000_000_000)}, registry: prometheus.NewRegistry(),
	}
	j, err := auth.NewJWT(cfg, auth.NewOpaque(h.tokens, h.clock.Now), zerolog.Nop(), h.registry)
	if err != nil {
		t.Fatal(err)
	}
	h.JWT = j
	return h
}

// reloads returns the count of key reloads with an outcome.
func (h *harness) reloads(outcome string) float64 {
	families, err := h.registry.Gather()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == outcome {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// at returns a time relative to the harness's clock, in Unix seconds.
func at(h *harness, d time.Duration) int64 { return h.clock.Now().Add(d).Unix() }

func wantUser(t *testing.T, h *harness, token, user string) auth.Identity {
	t.Helper()
	id, err := h.Authenticate(t.Context(), token, "")
	if err != nil || id.User != user {
		t.Errorf("%v, %v, want user %s", id, err, user)
	}
	return id
}

// wantRefused checks a refusal twice, because the second answer may come from
// what was remembered of the first.
func wantRefused(t *testing.T, h *harness, token string, want error) {
	t.Helper()
	for range 2 {
		_, err := h.Authenticate(t.Context(), token, "")
		if !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
		for part := range strings.SplitSeq(token, ".") {
			if err != nil && part != "" && strings.Contains(err.Error(), part) {
				t.Errorf("the error has a part of the token in it: %v", err)
			}
		}
	}
}

func write(t testing.TB, path string, data []byte) string {
	t.Helper()
	if path == "" {
		path = filepath.Join(t.TempDir(), "keys")
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

var eventually = waittest.Eventually
