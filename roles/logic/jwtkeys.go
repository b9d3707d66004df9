package logic

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
	"maps"
	"slices"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

const (
	// maxStaticKeys bounds the keys that a token without a name may try.
	maxStaticKeys = 16
	// maxSetKeys bounds the keys of one JWKS.
	maxSetKeys = 256
	// minRSABits is what RS256 asks of a key.
	minRSABits = 2048
)

// keySet are the keys of a moment; it never changes.
type keySet struct {
	// version tells one set from another.
	version uint64
	// unnamed are the keys without a name (kid), by algorithm.
	unnamed map[string][]jwt.VerificationKey
	// named are those of a JWKS with a name.
	named map[keyName][]jwt.VerificationKey
	// strict: a name that a token gives must be among named.
	strict bool
}

type keyName struct{ alg, kid string }

// find are the keys that a token of an algorithm and a key name (empty: none)
// may be signed with.
func (s *keySet) find(alg, kid string) []jwt.VerificationKey {
	if s.strict && kid != "" {
		return s.named[keyName{alg, kid}]
	}
	return s.unnamed[alg]
}

// newKeySet makes a set of the secret, the PEM files' contents and the JWKS's.
func newKeySet(cfg JWTConfig, pems, sets []parsedKeys) (*keySet, error) {
	s := &keySet{
		unnamed: make(map[string][]jwt.VerificationKey),
		named:   make(map[keyName][]jwt.VerificationKey),
		strict:  cfg.usesJWKS(),
	}
	if cfg.Secret != "" {
		s.unnamed[algHS256] = append(s.unnamed[algHS256], []byte(cfg.Secret))
	}
	for _, p := range slices.Concat(pems, sets) {
		for _, k := range p {
			if k.kid == "" {
				s.unnamed[k.alg] = append(s.unnamed[k.alg], k.key)
			} else {
				name := keyName{k.alg, k.kid}
				s.named[name] = append(s.named[name], k.key)
			}
		}
	}
	for _, keys := range slices.Concat(slices.Collect(maps.Values(s.unnamed)), slices.Collect(maps.Values(s.named))) {
		if len(keys) > maxStaticKeys {
			return nil, fmt.Errorf("%d keys of one algorithm and one name (or none): at most %d are allowed", len(keys), maxStaticKeys)
		}
	}
	return s, nil
}

// parsedKeys are the keys of one file.
type parsedKeys []parsedKey

type parsedKey struct {
	alg, kid string
	key      jwt.VerificationKey
}

// parsePEM reads the public keys and certificates of a PEM file.
func parsePEM(data []byte) (parsedKeys, error) {
	var keys parsedKeys
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		key, err := parseBlock(block)
		if err != nil {
			return nil, err
		}
		alg, err := algorithmOf(key)
		if err != nil {
			return nil, fmt.Errorf("PEM block %q: %w", block.Type, err)
		}
		keys = append(keys, parsedKey{alg: alg, key: key})
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no PEM block with a public key in it")
	}
	return keys, nil
}

func parseBlock(block *pem.Block) (any, error) {
	var key any
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		var cert *x509.Certificate
		if cert, err = x509.ParseCertificate(block.Bytes); err == nil {
			key = cert.PublicKey
		}
	case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY":
		return nil, fmt.Errorf("PEM block %q: give the public key only; the private one belongs to whoever makes tokens", block.Type)
	default:
		return nil, fmt.Errorf("PEM block %q: it must be a PUBLIC KEY or a CERTIFICATE", block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("PEM block %q: %w", block.Type, err)
	}
	return key, nil
}

// algorithmOf is the one algorithm that a key is good for. That it is one, and
// is found by the key's type, is what keeps a public key from being taken for
// an HS256 secret.
func algorithmOf(key any) (string, error) {
	switch k := key.(type) {
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
	return "", fmt.Errorf("a key of type %T is not supported: use RSA, EC P-256 or Ed25519", key)
}

// parseJWKS reads a JWKS. Keys for another use or algorithm are left out, as
// sets of identity providers have them; skipped says why. Without one good key
// it is an error. Secrets are read only where secrets says so: a set that was
// fetched holds public keys.
func parseJWKS(data []byte, secrets bool) (keys parsedKeys, skipped []error, err error) {
	var set jwkset.JWKSMarshal
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, nil, fmt.Errorf("decode the JWKS: %w", err)
	}
	if len(set.Keys) > maxSetKeys {
		return nil, nil, fmt.Errorf("the JWKS has %d keys: at most %d are allowed", len(set.Keys), maxSetKeys)
	}
	for i, marshal := range set.Keys {
		key, err := parseJWK(marshal, secrets)
		if err != nil {
			skipped = append(skipped, fmt.Errorf("key %d (kid %q): %w", i, marshal.KID, err))
			continue
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, nil, fmt.Errorf("the JWKS has no usable key: %w", errors.Join(skipped...))
	}
	return keys, skipped, nil
}

func parseJWK(marshal jwkset.JWKMarshal, secrets bool) (parsedKey, error) {
	if marshal.USE != "" && marshal.USE != jwkset.UseSig {
		return parsedKey{}, fmt.Errorf("it is for use %q, not for signatures", marshal.USE)
	}
	symmetric := marshal.KTY == jwkset.KtyOct
	if symmetric && !secrets {
		return parsedKey{}, errors.New("it is a secret, which a fetched set must not have")
	}
	// Nothing is fetched for a key: what its x5u names could be anywhere.
	marshal.X5U, marshal.X5C, marshal.X5T, marshal.X5TS256 = "", nil, "", ""
	jwk, err := jwkset.NewJWKFromMarshal(marshal,
		jwkset.JWKMarshalOptions{Private: symmetric}, jwkset.JWKValidateOptions{SkipKeyOps: true})
	if err != nil {
		return parsedKey{}, err
	}
	alg, err := algorithmOf(jwk.Key())
	if err != nil {
		return parsedKey{}, err
	}
	if marshal.ALG != "" && string(marshal.ALG) != alg {
		return parsedKey{}, fmt.Errorf("it is for %s, which is not supported for such a key: only %s is", marshal.ALG, alg)
	}
	return parsedKey{alg: alg, kid: marshal.KID, key: jwk.Key()}, nil
}
