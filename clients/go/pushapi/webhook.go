package pushapi

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// webhookTolerance is how far the time of a call may be from the time here.
	webhookTolerance = 5 * time.Minute
	// minSecret is the smallest size of a secret, in bytes.
	minSecret = 24
	// maxSignatures bounds the signatures of a call that are looked at.
	maxSignatures = 16
)

// Webhook verifies the calls that imgo makes to a backend. They are signed as Standard Webhooks
// (https://www.standardwebhooks.com) describe. It is safe for concurrent use.
type Webhook struct{ keys [][]byte }

// NewWebhook returns a Webhook for the secrets of a hook, or of auth.webhook_secrets, such as "whsec_…". A call is
// good if any of them has signed it, so a secret can be replaced while both are in use.
func NewWebhook(secrets ...string) (*Webhook, error) {
	if len(secrets) == 0 {
		return nil, errors.New("there is no secret: give those of the hook, or auth.webhook_secrets of the server")
	}
	w := &Webhook{}
	for i, secret := range secrets {
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
		switch {
		case err != nil:
			return nil, fmt.Errorf("secret %d is not base64: use whsec_ and the output of: openssl rand -base64 32", i+1)
		case len(key) < minSecret:
			return nil, fmt.Errorf("secret %d has %d bytes, at least %d are needed: use whsec_ and the output of: openssl rand -base64 32",
				i+1, len(key), minSecret)
		}
		w.keys = append(w.keys, key)
	}
	return w, nil
}

// Verify returns an error unless one of the secrets has signed the body, at most five minutes ago. The
// backend should answer 401 then. Read the body with a bound first, for example by http.MaxBytesReader.
//
// A call may be repeated within the five minutes. A backend that must not act twice remembers the header
// Webhook-Id.
func (w *Webhook) Verify(header http.Header, body []byte) error {
	id, stamp, signatures := header.Get("Webhook-Id"), header.Get("Webhook-Timestamp"), header.Get("Webhook-Signature")
	switch {
	case id == "":
		return errors.New("the call has no Webhook-Id, so it is not signed")
	case signatures == "":
		return errors.New("the call has no Webhook-Signature, so it is not signed")
	}
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return errors.New("the call's Webhook-Timestamp is not a number of seconds")
	}
	if off := time.Since(time.Unix(seconds, 0)).Abs(); off > webhookTolerance {
		return fmt.Errorf("the call's Webhook-Timestamp is %s off: are both clocks right?", off.Round(time.Second))
	}
	for i, text := range strings.Fields(signatures) {
		version, encoded, _ := strings.Cut(text, ",")
		signature, err := base64.StdEncoding.DecodeString(encoded)
		if i >= maxSignatures || version != "v1" || err != nil {
			continue
		}
		for _, key := range w.keys {
			mac := hmac.New(sha256.New, key)
			fmt.Fprintf(mac, "%s.%s.", id, stamp)
			mac.Write(body)
			if hmac.Equal(mac.Sum(nil), signature) {
				return nil
			}
		}
	}
	return errors.New("no signature of the call fits: does the backend have the secret of the server?")
}
