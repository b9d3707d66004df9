package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

const (
	// maxSameKeys bounds the keys of one name and algorithm: a token may cost a
	// signature for each.
	maxSameKeys = 16
	// maxSetKeys bounds the entries of one JWKS.
	maxSetKeys = 256
	// minRSABits is the smallest RSA key: RFC 7518, section 3.3.
	minRSABits = 2048
)

// keyName is what a token names its key by. kid is empty for a key without a
// name.
type keyName struct{ alg, kid string }

// key is a key that tokens may be signed with.
type key struct {
	keyName
	value jwt.VerificationKey
}

// keySet is the keys of a moment. It never changes.
type keySet struct {
	// version tells one set from another.
	version uint64
	keys    map[keyName][]jwt.VerificationKey
	// useNames reports whether the name that a token gives counts, as it does
	// when a JWKS is configured.
	useNames bool
}

// newKeySet returns the set of the configured secret and of other keys.
func newKeySet(cfg Config, version uint64, keys []key) (*keySet, error) {
	s := &keySet{version: version, keys: make(map[keyName][]jwt.VerificationKey), useNames: cfg.usesJWKS()}
	if cfg.Secret != "" {
		keys = append(keys, key{keyName{alg: algHS256}, []byte(cfg.Secret)})
	}
	for _, k := range keys {
		same := append(s.keys[k.keyName], k.value)
		if len(same) > maxSameKeys {
			return nil, fmt.Errorf("more than %d keys of one algorithm and one name (or none): at most %d are allowed", maxSameKeys, maxSameKeys)
		}
		s.keys[k.keyName] = same
	}
	return s, nil
}

// find returns the keys that a token with an algorithm and a key name (empty:
// none) may be signed with. A token without a name may not use a named key. known
// reports whether the set has keys of that name. If it has none, keys are those
// without a name, such as the configured secret.
func (s *keySet) find(alg, kid string) (keys []jwt.VerificationKey, known bool) {
	if !s.useNames {
		kid = ""
	}
	if keys := s.keys[keyName{alg, kid}]; len(keys) > 0 {
		return keys, true
	}
	return s.keys[keyName{alg, ""}], false
}

// parser reads keys. skipped says why entries were left out.
type parser func(data []byte) (keys []key, skipped []error, err error)

// parsePEM reads the public keys and certificates of a PEM file.
func parsePEM(data []byte) (keys []key, skipped []error, err error) {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		value, err := parseBlock(block)
		if err != nil {
			return nil, nil, fmt.Errorf("PEM block %q: %w", block.Type, err)
		}
		alg, err := algorithmOf(value)
		if err != nil {
			return nil, nil, fmt.Errorf("PEM block %q: %w", block.Type, err)
		}
		keys = append(keys, key{keyName{alg: alg}, value})
	}
	if len(keys) == 0 {
		return nil, nil, errors.New("there is no PEM block with a public key in it")
	}
	return keys, nil, nil
}

func parseBlock(block *pem.Block) (any, error) {
	switch block.Type {
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return cert.PublicKey, nil
	case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY":
		return nil, errors.New("give the public key only; the private one belongs to whoever makes tokens")
	}
	return nil, errors.New("it must be a PUBLIC KEY or a CERTIFICATE")
}

// parseJWKS returns a parser of a JWKS. Each entry stands alone (RFC
// 7517, section 5): one that is unreadable, or for another use or algorithm, is
// skipped, with the reason. A set without a usable key is an error. Secrets are
// used only if secrets is true: a set that was fetched holds public keys.
//
// The entries are jwkset's, but the set is read here. jwkset's HTTP storage and
// keyfunc/v3 refuse a whole set for one bad entry, and they use secrets of a fetched set.
// They let a token without a name try every key. A client whose key has just been rotated
// waits there in the queue of a rate limiter.
func parseJWKS(secrets bool) parser {
	return func(data []byte) (keys []key, skipped []error, err error) {
		var set struct {
			Keys []json.RawMessage `json:"keys"`
		}
		if err := json.Unmarshal(data, &set); err != nil {
			return nil, nil, fmt.Errorf("decode the JWKS: %w", err)
		}
		if len(set.Keys) > maxSetKeys {
			return nil, nil, fmt.Errorf("the JWKS has %d keys: at most %d are allowed", len(set.Keys), maxSetKeys)
		}
		for i, entry := range set.Keys {
			k, err := parseJWK(entry, secrets)
			if err != nil {
				skipped = append(skipped, fmt.Errorf("key %d (kid %q): %w", i, k.kid, err))
				continue
			}
			keys = append(keys, k)
		}
		if len(keys) == 0 {
			return nil, nil, fmt.Errorf("the JWKS has no usable key: %w", errors.Join(skipped...))
		}
		return keys, skipped, nil
	}
}

// parseJWK reads one entry of a JWKS. With an error the key has at most its name.
func parseJWK(entry []byte, secrets bool) (key, error) {
	var fields jwkset.JWKMarshal
	if err := json.Unmarshal(entry, &fields); err != nil {
		return key{}, err
	}
	k := key{keyName: keyName{kid: fields.KID}}
	if fields.USE != "" && fields.USE != jwkset.UseSig {
		return k, fmt.Errorf("it is for use %q, not for signatures", fields.USE)
	}
	symmetric := fields.KTY == jwkset.KtyOct
	if symmetric && !secrets {
		return k, errors.New("it is a secret, which a fetched set must not have")
	}
	// Nothing is fetched for a key: its x5u could name any address.
	fields.X5U, fields.X5C, fields.X5T, fields.X5TS256 = "", nil, "", ""
	jwk, err := jwkset.NewJWKFromMarshal(fields,
		jwkset.JWKMarshalOptions{Private: symmetric}, jwkset.JWKValidateOptions{SkipKeyOps: true})
	if err != nil {
		return k, err
	}
	if k.alg, err = algorithmOf(jwk.Key()); err != nil {
		return k, err
	}
	if fields.ALG != "" && string(fields.ALG) != k.alg {
		return k, fmt.Errorf("it is for %s, which is not supported for such a key: only %s is", fields.ALG, k.alg)
	}
	k.value = jwk.Key()
	return k, nil
}

// algorithmOf returns the one algorithm that a key is good for, by its type.
// This is what keeps a public key from being taken for an HS256 secret.
func algorithmOf(value any) (string, error) {
	switch k := value.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSABits {
			return "", fmt.Errorf("the RSA key has %d bits: at least %d are needed", k.N.BitLen(), minRSABits)
		}
		return algRS256, nil
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return "", fmt.Errorf("the EC key is on curve %s: ES256 needs P-256", k.Curve.Params().Name)
		}
		return algES256, nil
	case ed25519.PublicKey:
		return algEdDSA, nil
	case []byte:
		if len(k) < minSecret {
			return "", fmt.Errorf("the secret has %d bytes: HS256 needs at least %d", len(k), minSecret)
		}
		return algHS256, nil
	}
	return "", fmt.Errorf("a key of type %T is not supported: use RSA, EC P-256 or Ed25519", value)
}
