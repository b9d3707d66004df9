package logic

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/rs/zerolog"

	"imgo/envelope"
)

const (
	// maxKeyFile bounds a key file and a fetched set, in bytes.
	maxKeyFile = 1 << 20
	// fileInterval is how often key files are looked at; fileSoonest is how
	// often at most when tokens name keys that are not known.
	fileInterval = 2 * time.Second
	fileSoonest  = 250 * time.Millisecond
	// minRefresh is how often a set is fetched at most.
	minRefresh = 10 * time.Second
	// fetchTimeout bounds one fetch.
	fetchTimeout = 3 * time.Second
)

// keySource holds the keys and keeps them fresh: files are compared with what
// was read last, a URL is fetched now and then, and both sooner when a token
// names a key that is not there, but no oftener than the bounds above however
// many such tokens come. What cannot be read leaves the keys as they are, is
// counted and logged once. Safe for concurrent use.
type keySource struct {
	cfg     JWTConfig
	log     zerolog.Logger
	metrics *metrics
	client  *http.Client
	current atomic.Pointer[keySet]

	// turn is held by the one goroutine that refreshes; it guards all below.
	turn    chan struct{}
	files   []*keyFile
	version uint64
	// fetched are the URL's keys, read from fetchedData.
	fetched     parsedKeys
	fetchedData []byte
	// looked and asked are when the files and the URL were last tried.
	looked, asked time.Time
	// lastTrouble is what was logged last of the URL, to log it once.
	lastTrouble string

	mu     sync.Mutex
	absent error // why the URL's keys are not there yet; nil: they are
}

// keyFile is a file with keys and what was read from it.
type keyFile struct {
	path        string
	set         bool // a JWKS, else PEM
	data        []byte
	keys        parsedKeys
	lastTrouble string
}

func newKeySource(cfg JWTConfig, log zerolog.Logger, m *metrics) (*keySource, error) {
	s := &keySource{cfg: cfg, log: log, metrics: m, turn: make(chan struct{}, 1)}
	for _, path := range cfg.PublicKeyFiles {
		s.files = append(s.files, &keyFile{path: path})
	}
	if cfg.JWKSFile != "" {
		s.files = append(s.files, &keyFile{path: cfg.JWKSFile, set: true})
	}
	for _, f := range s.files {
		if _, err := s.read(f); err != nil {
			return nil, fmt.Errorf("read keys for tokens from %s: %w", f.path, err)
		}
	}
	s.looked = time.Now()
	if cfg.JWKSURL != "" {
		s.absent = errors.New("the JWKS was not fetched yet")
		s.client = &http.Client{
			Timeout: fetchTimeout,
			// No connection outlives its fetch: one in minutes needs none.
			Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, ForceAttemptHTTP2: true},
			CheckRedirect: func(r *http.Request, via []*http.Request) error {
				if len(via) > 3 || !trustworthy(r.URL) {
					return errors.New("too many redirects, or one to an address that is not https")
				}
				return nil
			},
		}
	}
	return s, s.publish()
}

// set are the keys of the moment.
func (s *keySource) set() *keySet { return s.current.Load() }

// ready says why keys are missing.
func (s *keySource) ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.absent != nil {
		return envelope.Errorf(envelope.CodeNotReady, "the keys for tokens are missing: %s", s.absent)
	}
	return nil
}

// find are the keys that a token with this algorithm and key name may be
// signed with. One that is not known makes it look whether there are new keys.
func (s *keySource) find(ctx context.Context, alg, kid string) (any, error) {
	keys := s.set().find(alg, kid)
	if len(keys) == 0 && s.cfg.usesJWKS() {
		// A fetch is for everybody: it does not end with the client whose token
		// set it off, only with its own timeout.
		s.refresh(ctx, context.WithoutCancel(ctx), fileSoonest, minRefresh)
		keys = s.set().find(alg, kid)
	}
	switch {
	case len(keys) > 0:
		return jwt.VerificationKeySet{Keys: keys}, nil
	case s.ready() != nil:
		return nil, errNoKeysYet
	}
	return nil, errUnknownKey
}

// run refreshes until ctx is done.
func (s *keySource) run(ctx context.Context) {
	tick := time.NewTicker(fileInterval)
	defer tick.Stop()
	for {
		every := s.cfg.RefreshInterval
		if s.ready() != nil {
			every = minRefresh // until there are any, as often as allowed
		}
		s.refresh(ctx, ctx, fileInterval/2, every)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// refresh reads the files if that is fileAge ago and fetches the URL if that
// is fetchAge ago. While another refresh is under way it waits for that one
// (at most fetchTimeout, and ctx) and is content with what it brought. fetchCtx
// bounds the fetch itself.
func (s *keySource) refresh(ctx, fetchCtx context.Context, fileAge, fetchAge time.Duration) {
	wait, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-wait.Done():
		return
	}
	changed := false
	if time.Since(s.looked) >= fileAge {
		for _, f := range s.files {
			changed = s.reread(f) || changed
		}
		s.looked = time.Now()
	}
	if s.cfg.JWKSURL != "" && (s.asked.IsZero() || time.Since(s.asked) >= fetchAge) {
		changed = s.fetch(fetchCtx) || changed
		s.asked = time.Now()
	}
	if changed {
		if err := s.publish(); err != nil {
			s.log.Warn().Err(err).Msg("the new keys for tokens cannot be used: the old ones stay")
		}
	}
}

// publish makes the keys that were read those of the moment.
func (s *keySource) publish() error {
	var pems, sets []parsedKeys
	for _, f := range s.files {
		if f.set {
			sets = append(sets, f.keys)
		} else {
			pems = append(pems, f.keys)
		}
	}
	set, err := newKeySet(s.cfg, pems, append(sets, s.fetched))
	if err != nil {
		return fmt.Errorf("collect the keys for tokens: %w", err)
	}
	s.version++
	set.version = s.version
	s.current.Store(set)
	return nil
}

// reread reads a file again and says whether it brought other keys. What is
// wrong with it is logged once.
func (s *keySource) reread(f *keyFile) bool {
	changed, err := s.read(f)
	switch {
	case err == nil && changed:
		s.metrics.keyReloads.WithLabelValues("changed").Inc()
		s.log.Info().Str("file", f.path).Int("keys", len(f.keys)).Msg("read new keys for tokens")
	case err != nil:
		s.metrics.keyReloads.WithLabelValues("failed").Inc()
		if f.lastTrouble != err.Error() {
			s.log.Warn().Err(err).Str("file", f.path).Msg("cannot read the keys for tokens: the old ones stay")
		}
		f.lastTrouble = err.Error()
		return false
	}
	f.lastTrouble = ""
	return changed
}

func (s *keySource) read(f *keyFile) (changed bool, err error) {
	file, err := os.Open(f.path)
	if err != nil {
		return false, fmt.Errorf("open the file: %w", err)
	}
	defer func() { _ = file.Close() }() // it was only read
	data, err := readBounded(file)
	if err != nil {
		return false, err
	}
	if f.data != nil && bytes.Equal(data, f.data) {
		return false, nil
	}
	var keys parsedKeys
	var skipped []error
	if f.set {
		keys, skipped, err = parseJWKS(data, true)
	} else {
		keys, err = parsePEM(data)
	}
	if err != nil {
		return false, err
	}
	s.saySkipped(f.path, skipped)
	f.data, f.keys = data, keys
	return true, nil
}

// fetch asks the URL and says whether it brought other keys.
func (s *keySource) fetch(ctx context.Context) bool {
	data, keys, skipped, err := s.ask(ctx)
	s.mu.Lock()
	if err == nil || s.absent != nil {
		s.absent = err
	}
	s.mu.Unlock()
	if err != nil {
		s.metrics.keyReloads.WithLabelValues("failed").Inc()
		if s.lastTrouble != err.Error() {
			s.log.Warn().Err(err).Msg("cannot fetch the keys for tokens: the old ones stay")
		}
		s.lastTrouble = err.Error()
		return false
	}
	s.lastTrouble = ""
	if bytes.Equal(data, s.fetchedData) {
		return false
	}
	s.fetched, s.fetchedData = keys, data
	s.metrics.keyReloads.WithLabelValues("changed").Inc()
	s.log.Info().Int("keys", len(keys)).Msg("fetched new keys for tokens")
	s.saySkipped("jwks_url", skipped)
	return true
}

func (s *keySource) ask(ctx context.Context) (data []byte, keys parsedKeys, skipped []error, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.cfg.JWKSURL, nil)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("fetch the JWKS: %w", err)
	}
	r.Header.Set("Accept", "application/jwk-set+json, application/json")
	reply, err := s.client.Do(r)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("fetch the JWKS: %w", err)
	}
	defer func() { _ = reply.Body.Close() }() // it was only read
	if reply.StatusCode != http.StatusOK {
		return nil, nil, nil, fmt.Errorf("fetch the JWKS from %s: status %s", r.URL.Redacted(), reply.Status)
	}
	if data, err = readBounded(reply.Body); err != nil {
		return nil, nil, nil, fmt.Errorf("fetch the JWKS from %s: %w", r.URL.Redacted(), err)
	}
	keys, skipped, err = parseJWKS(data, false)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("fetch the JWKS from %s: %w", r.URL.Redacted(), err)
	}
	return data, keys, skipped, nil
}

func (s *keySource) saySkipped(from string, skipped []error) {
	if len(skipped) > 0 {
		s.log.Warn().Err(errors.Join(skipped...)).Str("from", from).Msg("left out keys for tokens")
	}
}

func readBounded(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxKeyFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read: %w", err)
	case len(data) > maxKeyFile:
		return nil, fmt.Errorf("it has more than %d bytes", maxKeyFile)
	}
	return data, nil
}
