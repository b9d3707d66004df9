package logic

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/rs/zerolog"

	"imgo/envelope"
)

// The algorithms that a JWT may have.
const (
	algHS256 = "HS256"
	algRS256 = "RS256"
	algES256 = "ES256"
	algEdDSA = "EdDSA"
)

var (
	errUnknownKey = errors.New("no such key")
	errNoKeysYet  = errors.New("no keys yet")
)

// verifier checks JWTs. What one bad token costs is bounded: at most
// protocol.MaxTokenBytes are decoded, the key is found by algorithm and name before a
// signature is computed, at most maxStaticKeys signatures are, and the same
// bad token again costs one hash for a while. Safe for concurrent use.
type verifier struct {
	cfg    JWTConfig
	keys   *keySource
	parser *jwt.Parser
	now    func() time.Time
	bad    *badTokens
}

func newVerifier(cfg JWTConfig, now func() time.Time, log zerolog.Logger, m *metrics) (*verifier, error) {
	keys, err := newKeySource(cfg, log, m)
	if err != nil {
		return nil, err
	}
	options := []jwt.ParserOption{
		jwt.WithValidMethods([]string{algHS256, algRS256, algES256, algEdDSA}),
		jwt.WithJSONNumber(),
		jwt.WithLeeway(cfg.Leeway),
		jwt.WithTimeFunc(now),
		jwt.WithStrictDecoding(),
	}
	if cfg.Issuer != "" {
		options = append(options, jwt.WithIssuer(cfg.Issuer))
	}
	if len(cfg.Audience) > 0 {
		options = append(options, jwt.WithAudience(cfg.Audience...))
	}
	if cfg.RequireExpiry {
		options = append(options, jwt.WithExpirationRequired())
	}
	return &verifier{cfg: cfg, keys: keys, parser: jwt.NewParser(options...), now: now, bad: newBadTokens()}, nil
}

// verify checks a token of at most protocol.MaxTokenBytes.
func (v *verifier) verify(ctx context.Context, token string) (identity, error) {
	hash := sha256.Sum256([]byte(token))
	version := v.keys.set().version
	if err := v.bad.find(hash, version, v.now()); err != nil {
		return identity{}, err
	}
	claims := jwt.MapClaims{}
	_, err := v.parser.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		// An extension that must be understood, and is not: RFC 7515, 4.1.11.
		if _, critical := t.Header["crit"]; critical {
			return nil, errors.New("crit is not supported")
		}
		kid, isText := t.Header["kid"].(string)
		if _, named := t.Header["kid"]; named && !isText {
			return nil, errUnknownKey
		}
		return v.keys.find(ctx, t.Method.Alg(), kid)
	})
	if err != nil {
		refusal, lasting := refuseJWT(err)
		if lasting {
			v.bad.add(hash, version, v.now(), refusal)
		}
		return identity{}, refusal
	}
	id, err := v.identity(claims)
	if err != nil {
		return identity{}, err
	}
	return id, nil
}

// refuseJWT is what a client is told. lasting: the same token will be refused
// with the same keys a moment later, too.
func refuseJWT(err error) (refusal *envelope.Error, lasting bool) {
	unauthorized := func(why string) *envelope.Error { return envelope.Errorf(envelope.CodeUnauthorized, "%s", why) }
	switch {
	case errors.Is(err, errNoKeysYet):
		return envelope.Errorf(envelope.CodeUnavailable, "the keys for tokens are not there yet"), false
	case errors.Is(err, errUnknownKey):
		// The key may come with the next refresh.
		return unauthorized("the token names a key that is not known"), false
	case errors.Is(err, jwt.ErrTokenSignatureInvalid), errors.Is(err, jwt.ErrTokenUnverifiable):
		return unauthorized("the token's signature or algorithm is wrong"), true
	case errors.Is(err, jwt.ErrTokenInvalidIssuer):
		return unauthorized("the token is of another issuer"), true
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return unauthorized("the token is for another audience"), true
	case errors.Is(err, jwt.ErrTokenExpired):
		return errTokenExpired, true
	case errors.Is(err, jwt.ErrTokenNotValidYet), errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return unauthorized("the token is not valid yet"), false
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return unauthorized("the token lacks a claim that is required"), true
	}
	return unauthorized("the token is malformed"), true
}

// identity reads who it is out of claims that are to be trusted.
func (v *verifier) identity(claims jwt.MapClaims) (identity, error) {
	var id identity
	var err error
	if id.user, err = nameClaim(claims, v.cfg.UserClaim); err != nil {
		return identity{}, err
	}
	if v.cfg.DeviceClaim != "" {
		if _, has := claims[v.cfg.DeviceClaim]; has {
			if id.device, err = nameClaim(claims, v.cfg.DeviceClaim); err != nil {
				return identity{}, err
			}
		}
	}
	exp, err := claims.GetExpirationTime()
	if err != nil {
		return identity{}, envelope.Errorf(envelope.CodeUnauthorized, "the token's exp is not a time")
	}
	if exp != nil {
		// With the leeway, or a session that it let in would end at once.
		id.expiresMS = exp.Add(v.cfg.Leeway).UnixMilli()
	}
	return id, nil
}

// nameClaim is a claim that is a name: a string, or an integer in decimal.
func nameClaim(claims jwt.MapClaims, claim string) (string, error) {
	var name string
	switch value := claims[claim].(type) {
	case nil:
		return "", envelope.Errorf(envelope.CodeUnauthorized, "the token lacks the claim %q", claim)
	case string:
		name = value
	case json.Number:
		n, err := strconv.ParseInt(value.String(), 10, 64)
		if err != nil {
			return "", envelope.Errorf(envelope.CodeUnauthorized, "the token's claim %q is neither text nor an integer", claim)
		}
		name = strconv.FormatInt(n, 10)
	default:
		return "", envelope.Errorf(envelope.CodeUnauthorized, "the token's claim %q is neither text nor an integer", claim)
	}
	if err := envelope.CheckName("the token's claim "+strconv.Quote(claim), name); err != nil {
		return "", envelope.Errorf(envelope.CodeUnauthorized, "%s", err)
	}
	return name, nil
}

const (
	// badSlots bounds what is remembered of bad tokens (about 300 KB).
	badSlots = 4096
	// badFor is how long it is remembered.
	badFor = time.Minute
)

// badTokens remembers the hashes of JWTs that were refused for good, so that a
// client that tries the same one in a loop costs no signature each time. A
// token has one slot; another one may take it. What is remembered is void once
// the keys change. Safe for concurrent use.
type badTokens struct {
	mu    sync.Mutex
	slots []badSlot
}

type badSlot struct {
	hash    [sha256.Size]byte
	version uint64
	until   time.Time
	refusal *envelope.Error
}

func newBadTokens() *badTokens { return &badTokens{slots: make([]badSlot, badSlots)} }

func (b *badTokens) slot(hash [sha256.Size]byte) *badSlot {
	return &b.slots[(int(hash[0])<<8|int(hash[1]))%badSlots]
}

// find is why the token was refused, or nil.
func (b *badTokens) find(hash [sha256.Size]byte, version uint64, now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.slot(hash)
	if s.refusal == nil || s.hash != hash || s.version != version || now.After(s.until) {
		return nil
	}
	return s.refusal
}

func (b *badTokens) add(hash [sha256.Size]byte, version uint64, now time.Time, refusal *envelope.Error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	*b.slot(hash) = badSlot{hash: hash, version: version, until: now.Add(badFor), refusal: refusal}
}
