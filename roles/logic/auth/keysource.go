package auth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/internal/collectors"
	"imgo/internal/wait"
)

const (
	// maxKeyFile bounds a key file and a fetched set, in bytes.
	maxKeyFile = 1 << 20
	// fileInterval is how often key files are read again, and minFileInterval
	// how often at most when tokens name unknown keys.
	fileInterval    = 2 * time.Second
	minFileInterval = 250 * time.Millisecond
	// refreshInterval is how often the URL is fetched. minRefresh is how often at most when tokens name unknown keys.
	refreshInterval = 5 * time.Minute
	minRefresh      = 10 * time.Second
	// fetchTimeout bounds one fetch.
	fetchTimeout = 3 * time.Second
	// maxWaiting and maxWait bound the tokens that wait while another one has the keys
	// read. Anybody can make up the name of a key, and each waiting client takes a place
	// that another client could have.
	maxWaiting = 16
	maxWait    = time.Second
)

var (
	errUnknownKey = errors.New("no such key")
	errNotRenewed = errors.New("the keys are being read")
)

// keySource holds the keys and keeps them fresh. It reads the files again and fetches the
// URL now and then, and sooner when a token names an unknown key. However many such
// tokens come, it does so no more often than the bounds above allow. An origin that
// cannot be read leaves the keys as they are. It is counted, and logged once. Safe for
// concurrent use.
type keySource struct {
	cfg     Config
	log     zerolog.Logger
	reloads *prometheus.CounterVec
	current atomic.Pointer[keySet]
	// missing is why the URL's keys are not there yet. It is nil if they are.
	missing atomic.Pointer[string]
	// stale reports whether an origin could not be read the last time.
	stale atomic.Bool

	// refreshing is a lock that can be waited for within a context. It guards
	// the origins and version.
	refreshing chan struct{}
	waiting    atomic.Int32 // goroutines in renew
	origins    []*keyOrigin
	version    uint64 // of current
}

// keyOrigin is a file or a URL with keys, and what was read from it last.
type keyOrigin struct {
	name  string
	read  func(ctx context.Context) ([]byte, error)
	parse parser
	// interval is how often it is read, and minInterval how often at most.
	interval, minInterval time.Duration

	readAt    time.Time // when it was tried last
	data      []byte    // what keys was parsed from. It is nil if it was never read
	keys      []key
	lastError string // what was logged last, so that it is logged once
}

func newKeySource(cfg Config, log zerolog.Logger, reg prometheus.Registerer) (*keySource, error) {
	s := &keySource{cfg: cfg, log: log, refreshing: make(chan struct{}, 1)}
	secret, err := newKeySet(cfg, 0, nil) // the keys of files and the URL are added to it
	if err != nil {
		return nil, fmt.Errorf("collect the keys for tokens: %w", err)
	}
	s.current.Store(secret)
	if cfg.PublicKeyFile != "" {
		s.origins = append(s.origins, newKeyFile(cfg.PublicKeyFile, parsePEM))
	}
	if cfg.JWKSFile != "" {
		s.origins = append(s.origins, newKeyFile(cfg.JWKSFile, parseJWKS(true)))
	}
	for _, file := range s.origins {
		if _, err := s.update(context.Background(), file); err != nil {
			return nil, fmt.Errorf("read keys for tokens from %s: %w", file.name, err)
		}
	}
	if cfg.JWKSURL != "" {
		s.origins = append(s.origins, &keyOrigin{name: "jwks_url", read: fetcher(cfg.JWKSURL), parse: parseJWKS(false),
			interval: refreshInterval, minInterval: minRefresh, lastError: "the JWKS was not fetched yet"})
	}
	s.reloads = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "imgo_logic_key_reloads_total", Help: "Readings of keys for JWTs that brought new ones (changed) or failed.",
	}, []string{"outcome"})
	if _, err := collectors.Register(reg, s.reloads); err != nil {
		return nil, fmt.Errorf("register the metric of key reloads: %w", err)
	}
	s.noteMissing()
	return s, nil
}

// set returns the keys of the moment.
func (s *keySource) set() *keySet { return s.current.Load() }

// ready returns an error while the URL's keys are missing.
func (s *keySource) ready() error {
	if why := s.missing.Load(); why != nil {
		return envelope.Errorf(envelope.CodeNotReady, "the keys for tokens are missing: %s", *why)
	}
	return nil
}

// renew reads the keys again if it is time to. It returns an error if another
// goroutine reads them for longer than a token may wait.
func (s *keySource) renew(ctx context.Context) error {
	select {
	case s.refreshing <- struct{}{}:
	default:
		defer s.waiting.Add(-1)
		if s.waiting.Add(1) > maxWaiting {
			return errNotRenewed
		}
		ctx, cancel := context.WithTimeout(ctx, maxWait)
		defer cancel()
		select {
		case s.refreshing <- struct{}{}:
		case <-ctx.Done():
			return errNotRenewed
		}
	}
	defer func() { <-s.refreshing }()
	// A fetch serves every client, so it does not end with the client whose token
	// started it.
	s.refreshLocked(context.WithoutCancel(ctx), true)
	return nil
}

// run refreshes until ctx is done.
func (s *keySource) run(ctx context.Context) {
	for ; ctx.Err() == nil; _ = wait.Sleep(ctx, fileInterval) {
		select {
		case s.refreshing <- struct{}{}:
			s.refreshLocked(ctx, false)
			<-s.refreshing
		case <-ctx.Done():
		}
	}
}

// refreshLocked reads the origins whose interval has passed, or, with soon, whose
// minInterval has. The caller has the lock refreshing.
func (s *keySource) refreshLocked(ctx context.Context, soon bool) {
	for _, o := range s.origins {
		age := o.interval
		if soon || o.data == nil {
			age = o.minInterval
		}
		if time.Since(o.readAt) >= age {
			s.reload(ctx, o)
		}
	}
	s.noteMissing()
}

func (s *keySource) noteMissing() {
	var missing *string
	failing := false
	for _, o := range s.origins {
		failing = failing || o.lastError != ""
		if o.data == nil {
			why := o.lastError
			missing = &why
		}
	}
	s.missing.Store(missing)
	s.stale.Store(failing)
}

// reload updates an origin, and counts and logs what came of it.
func (s *keySource) reload(ctx context.Context, o *keyOrigin) {
	changed, err := s.update(ctx, o)
	if err != nil {
		s.reloads.WithLabelValues("failed").Inc()
		if o.lastError != err.Error() {
			s.log.Warn().Err(err).Str("from", o.name).Msg("cannot read the keys for tokens: the old ones stay")
		}
		o.lastError = err.Error()
		return
	}
	o.lastError = ""
	if changed {
		s.reloads.WithLabelValues("changed").Inc()
		s.log.Info().Str("from", o.name).Int("keys", len(o.keys)).Msg("read new keys for tokens")
	}
}

// update reads an origin and reports whether there is something new in it. The keys
// of the moment have it then. After an error the origin keeps the keys that it had.
func (s *keySource) update(ctx context.Context, o *keyOrigin) (changed bool, err error) {
	data, err := o.read(ctx)
	o.readAt = time.Now()
	if err != nil || o.data != nil && bytes.Equal(data, o.data) {
		return false, err
	}
	keys, skipped, err := o.parse(data)
	if err != nil {
		return false, err
	}
	if len(skipped) > 0 {
		s.log.Warn().Err(errors.Join(skipped...)).Str("from", o.name).Msg("left out keys for tokens")
	}
	set, err := newKeySet(s.cfg, s.version+1, s.keysWith(o, keys))
	if err != nil {
		return false, fmt.Errorf("collect the keys for tokens: %w", err)
	}
	o.data, o.keys = data, keys
	s.version++
	s.current.Store(set)
	return true, nil
}

// keysWith returns the keys of all origins, with other keys for one of them.
func (s *keySource) keysWith(of *keyOrigin, keys []key) (all []key) {
	for _, o := range s.origins {
		if o == of {
			all = append(all, keys...)
		} else {
			all = append(all, o.keys...)
		}
	}
	return all
}

// newKeyFile returns a file that was not read yet.
func newKeyFile(path string, parse parser) *keyOrigin {
	read := func(context.Context) ([]byte, error) {
		file, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("open the file: %w", err)
		}
		defer file.Close()
		return readBounded(file)
	}
	// Half of the interval is less than run sleeps, so that it reads the file each time.
	return &keyOrigin{name: path, read: read, parse: parse, interval: fileInterval / 2, minInterval: minFileInterval}
}

// fetcher returns a function that fetches a key set. It follows no redirect:
// the operator named the one address that is trusted.
func fetcher(address string) func(context.Context) ([]byte, error) {
	client := &http.Client{
		Timeout: fetchTimeout,
		// Fetches are minutes apart, so no connection is kept for the next one.
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("it redirects: give the address that has the keys")
		},
	}
	return func(ctx context.Context) ([]byte, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return nil, fmt.Errorf("fetch the JWKS: %w", err)
		}
		request.Header.Set("Accept", "application/jwk-set+json, application/json")
		reply, err := client.Do(request)
		if err != nil {
			var of *url.Error // it has the address with its query; readiness shows the error to anybody
			if errors.As(err, &of) {
				err = of.Err
			}
			return nil, fmt.Errorf("fetch the JWKS: %w", err)
		}
		defer reply.Body.Close()
		if reply.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("fetch the JWKS from %s: status %s", request.URL.Host, reply.Status)
		}
		return readBounded(reply.Body)
	}
}

func readBounded(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxKeyFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the keys: %w", err)
	case len(data) > maxKeyFile:
		return nil, fmt.Errorf("it has more than %d bytes", maxKeyFile)
	}
	return data, nil
}
