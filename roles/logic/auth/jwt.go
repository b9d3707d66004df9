package auth

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
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

// errKeysMissing tells a client to come back: its token may be good.
var errKeysMissing = envelope.Errorf(envelope.CodeAuthUnavailable, "the keys for tokens are not there yet")

// JWT is the authenticator that verifies signed tokens. It leaves tokens that
// do not look like JWTs to its Opaque.
//
// The cost of a bad token is bounded. At most protocol.MaxTokenBytes are decoded. The key
// is found by algorithm and name before a signature is computed. At most maxSameKeys
// signatures are computed. The same token again costs one hash for a minute. Safe for
// concurrent use.
type JWT struct {
	*Opaque
	cfg     Config
	keys    *keySource
	parser  *jwt.Parser
	refused *refusals
}

// NewJWT returns a JWT. It reads the key files, and returns an error for one
// that cannot be read or has no usable key; once it runs, that is only logged.
func NewJWT(cfg Config, opaque *Opaque, log zerolog.Logger, reg prometheus.Registerer) (*JWT, error) {
	keys, err := newKeySource(cfg, log, reg)
	if err != nil {
		return nil, err
	}
	options := []jwt.ParserOption{
		jwt.WithValidMethods([]string{algHS256, algRS256, algES256, algEdDSA}),
		jwt.WithJSONNumber(),
		jwt.WithLeeway(cfg.Leeway),
		jwt.WithTimeFunc(opaque.now),
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
	return &JWT{Opaque: opaque, cfg: cfg, keys: keys, parser: jwt.NewParser(options...), refused: newRefusals()}, nil
}

// Authenticate returns who a client with the token is. It does not believe mid.
func (j *JWT) Authenticate(ctx context.Context, token, mid string) (Identity, error) {
	if err := checkLength(token); err != nil {
		return Identity{}, err
	}
	if !j.Verifies(token) {
		return j.Opaque.Authenticate(ctx, token, mid)
	}
	return j.verify(ctx, token)
}

// Verifies reports whether a token looks like a JWT: three parts, the first of
// which is the base64url of a JSON object. Every text that begins with a brace
// begins with "ey" in base64url, or, with a line feed after the brace, "ew".
func (j *JWT) Verifies(token string) bool {
	return (strings.HasPrefix(token, "ey") || strings.HasPrefix(token, "ew")) && strings.Count(token, ".") == 2
}

// Ready returns an error if keys that must be fetched were not fetched yet.
func (j *JWT) Ready() error { return j.keys.ready() }

// Run keeps the keys fresh until ctx is done.
func (j *JWT) Run(ctx context.Context) { j.keys.run(ctx) }

func (j *JWT) verify(ctx context.Context, token string) (Identity, error) {
	hash := Hash(token)
	version := j.keys.set().version
	if err := j.refused.find(hash, version, j.now()); err != nil {
		return Identity{}, err
	}
	claims, known, err := j.parse(token)
	if err != nil && !known && j.cfg.usesJWKS() {
		// The set may have the key by now.
		if err := j.keys.renew(ctx); err != nil {
			return Identity{}, errKeysMissing
		}
		version = j.keys.set().version
		if claims, known, err = j.parse(token); err != nil && !known && j.keys.stale.Load() {
			return Identity{}, errKeysMissing
		}
	}
	if err != nil {
		refusal, lasting := refusalOf(err)
		if lasting && known { // the key that the token names may come
			j.refused.add(hash, version, j.now(), refusal)
		}
		return Identity{}, refusal
	}
	return j.identity(claims)
}

// parse verifies a token with the keys of the moment. known reports whether they
// have the key that the token names.
func (j *JWT) parse(token string) (claims jwt.MapClaims, known bool, err error) {
	known = true // of a token without a readable header
	claims = jwt.MapClaims{}
	_, err = j.parser.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		var keys any
		keys, known, err = j.key(t)
		return keys, err
	})
	return claims, known, err
}

// key returns the keys that a token may be signed with, by its header.
func (j *JWT) key(t *jwt.Token) (keys any, known bool, err error) {
	// A token may demand that its verifier understands an extension. No
	// extension is supported: RFC 7515, section 4.1.11.
	if _, critical := t.Header["crit"]; critical {
		return nil, true, errors.New("crit is not supported")
	}
	kid, isText := t.Header["kid"].(string)
	if _, named := t.Header["kid"]; named && !isText {
		return nil, true, errUnknownKey
	}
	found, known := j.keys.set().find(t.Method.Alg(), kid)
	if len(found) == 0 {
		return nil, known, errUnknownKey
	}
	return jwt.VerificationKeySet{Keys: found}, known, nil
}

// refusalOf returns what a client is told of a parser's error. lasting reports
// whether the same token will be refused again while the keys are the same.
func refusalOf(err error) (refusal *envelope.Error, lasting bool) {
	unauthorized := func(why string) *envelope.Error { return envelope.Errorf(envelope.CodeUnauthorized, "%s", why) }
	switch {
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

// identity reads who a client is out of verified claims.
func (j *JWT) identity(claims jwt.MapClaims) (Identity, error) {
	user, err := nameClaim(claims, j.cfg.UserClaim)
	if err != nil {
		return Identity{}, err
	}
	id := Identity{User: user}
	if _, bound := claims[j.cfg.DeviceClaim]; j.cfg.DeviceClaim != "" && (bound || j.cfg.RequireDevice) {
		if id.Device, err = nameClaim(claims, j.cfg.DeviceClaim); err != nil {
			return Identity{}, err
		}
	}
	if id.Rooms, err = j.rooms(claims); err != nil {
		return Identity{}, err
	}
	expires, err := claims.GetExpirationTime()
	if err != nil {
		return Identity{}, envelope.Errorf(envelope.CodeUnauthorized, "the token's exp is not a time")
	}
	if expires != nil {
		// The leeway counts here too: else a session that it admitted would end
		// at once.
		id.ExpiresMS = expires.Add(j.cfg.Leeway).UnixMilli()
	}
	return id, nil
}

// nameClaim returns a claim that is a name: a string, or an integer in decimal.
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
			return "", errClaimType(claim)
		}
		name = strconv.FormatInt(n, 10)
	default:
		return "", errClaimType(claim)
	}
	if err := envelope.CheckName("the token's claim "+strconv.Quote(claim), name); err != nil {
		return "", envelope.Errorf(envelope.CodeUnauthorized, "%s", err)
	}
	return name, nil
}

// rooms reads the rooms that a token allows to join.
func (j *JWT) rooms(claims jwt.MapClaims) ([]string, error) {
	value, has := claims[j.cfg.RoomsClaim]
	if !has || j.cfg.RoomsClaim == "" {
		return nil, nil
	}
	list, ok := value.([]any)
	rooms := make([]string, len(list))
	for i := range list {
		if rooms[i], ok = list[i].(string); !ok {
			break
		}
	}
	if !ok {
		return nil, envelope.Errorf(envelope.CodeUnauthorized, "the token's claim %q is not a list of rooms", j.cfg.RoomsClaim)
	}
	if err := CheckRooms("the token's claim "+strconv.Quote(j.cfg.RoomsClaim), rooms); err != nil {
		return nil, envelope.Errorf(envelope.CodeUnauthorized, "%s", err)
	}
	return rooms, nil
}

func errClaimType(claim string) error {
	return envelope.Errorf(envelope.CodeUnauthorized, "the token's claim %q is neither text nor an integer", claim)
}
