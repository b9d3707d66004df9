package pushapi_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"imgo/clients/go/pushapi"
)

const (
	oldSecret = "whsec_b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xk"
	newSecret = "whsec_bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3"
)

// sign returns the signature of a call.
func sign(t *testing.T, secret, id, stamp, body string) string {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", id, stamp, body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// The example of https://github.com/standard-webhooks/standard-webhooks, with its own secret and time, is too old to
// be accepted. So it must fail only for its time.
func TestWebhookExample(t *testing.T) {
	w, err := pushapi.NewWebhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	got := sign(t, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", `{"test": 2432232314}`)
	if got != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" {
		t.Errorf("the signature is %s", got)
	}
	header := http.Header{"Webhook-Id": {"msg_p5jXN8AQM9LWM0D4loKWxJek"}, "Webhook-Timestamp": {"1614265330"}, "Webhook-Signature": {got}}
	if err := w.Verify(header, []byte(`{"test": 2432232314}`)); err == nil || !strings.Contains(err.Error(), "clocks") {
		t.Errorf("an old call: %v", err)
	}
}

func TestWebhook(t *testing.T) {
	w, err := pushapi.NewWebhook(newSecret, oldSecret)
	if err != nil {
		t.Fatal(err)
	}
	const id, body = "msg_1", `{"user":"1"}`
	at := func(off time.Duration) string { return fmt.Sprint(time.Now().Add(off).Unix()) }
	now := at(0)
	good, other := sign(t, oldSecret, id, now, body), sign(t, "whsec_b3RoZXJvdGhlcm90aGVyb3RoZXJvdGhlcm90", id, now, body)
	for name, test := range map[string]struct {
		id, stamp, signature, body string
		want                       string // a part of the error; empty if there is none
	}{
		"good":                        {id, now, good, body, ""},
		"the new secret":              {id, now, sign(t, newSecret, id, now, body), body, ""},
		"one of several":              {id, now, other + " v1a,AAAA v1,!! " + good, body, ""},
		"four minutes late":           {id, at(-4 * time.Minute), sign(t, oldSecret, id, at(-4*time.Minute), body), body, ""},
		"six minutes late":            {id, at(-6 * time.Minute), sign(t, oldSecret, id, at(-6*time.Minute), body), body, "clocks"},
		"six minutes early":           {id, at(6 * time.Minute), sign(t, oldSecret, id, at(6*time.Minute), body), body, "clocks"},
		"a clock at its end":          {id, "9223372036854775807", good, body, "clocks"},
		"another body":                {id, now, good, body + " ", "no signature"},
		"another id":                  {"msg_2", now, good, body, "no signature"},
		"another secret":              {id, now, other, body, "no signature"},
		"another version":             {id, now, strings.Replace(good, "v1,", "v2,", 1), body, "no signature"},
		"half a signature":            {id, now, good[:len(good)-8], body, "no signature"},
		"an empty signature":          {id, now, "v1,", body, "no signature"},
		"a signature behind many":     {id, now, strings.Repeat(other+" ", 16) + good, body, "no signature"},
		"no id":                       {"", now, good, body, "Webhook-Id"},
		"no time":                     {id, "", good, body, "Webhook-Timestamp"},
		"no signature":                {id, now, "", body, "Webhook-Signature"},
		"a time that is not a number": {id, "now", good, body, "Webhook-Timestamp"},
	} {
		header := http.Header{}
		header.Set("webhook-id", test.id)
		header.Set("webhook-timestamp", test.stamp)
		header.Set("webhook-signature", test.signature)
		err := w.Verify(header, []byte(test.body))
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	for _, secrets := range [][]string{nil, {""}, {"whsec_c2hvcnQ="}, {oldSecret, "whsec_!"}} {
		if _, err := pushapi.NewWebhook(secrets...); err == nil || strings.Contains(err.Error(), "c2hvcnQ") {
			t.Errorf("%q: %v", secrets, err)
		}
	}
}
