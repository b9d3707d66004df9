// Package hooktest tests a program that receives the events of a hook, in any language, beside a real imgo.
package hooktest

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	imgoclient "imgo/clients/go"
	"imgo/clients/go/pushapi"
	"imgo/internal/wait/waittest"
)

// Secret signs the events. The receiver has it in its environment.
const Secret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="

// Env is the environment of a receiver.
const Env = "HOOK_SECRET=" + Secret

// wrongSecret is that of a caller that is not the server.
const wrongSecret = "whsec_bm90IHRoZSBzZWNyZXQgb2YgdGhlIHNlcnZlciwgbm90IGF0IGFsbA=="

// MaxLines is the most that a reader of a receiver should have to read.
const MaxLines = 40

// Settings writes a settings file with a hook that posts to a URL, and returns its path.
func Settings(t testing.TB, url string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "imgo.toml")
	text := "[[hooks]]\nname = \"orders\"\nurl = \"" + url + "\"\nsecrets = [\"" + Secret + "\"]\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Short fails the test if a receiver has more than MaxLines lines.
func Short(t testing.TB, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if lines := bytes.Count(text, []byte("\n")); lines > MaxLines {
		t.Errorf("%s has %d lines; a receiver has at most %d", file, lines, MaxLines)
	}
}

// Check has a client acknowledge a message that reports, and expects that the receiver prints its events once each, in
// order. It then calls the receiver with the signature of another secret, and twice with the same event. api is the
// address of imgo's API (http://…), and client its address for clients. printed returns the receiver's output so far.
func Check(t testing.TB, api, client, url string, printed func() string) {
	t.Helper()
	backend, err := pushapi.New(pushapi.Config{Servers: []string{api}})
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	token, err := backend.NewToken(t.Context(), "ana", pushapi.TokenOptions{TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	_, err = backend.Push(t.Context(), &pushapi.Push{User: "ana", Body: "paid", Ref: "order-17", Report: pushapi.ReportEach})
	if err != nil {
		t.Fatal(err)
	}
	acknowledge(t, client, token.Token)
	const delivered, settled = "message.delivered order-17 ana\n", "message.settled order-17 ana\n"
	waittest.Eventually(t, "the receiver prints both events", func() bool {
		return strings.Contains(printed(), delivered) && strings.Contains(printed(), settled)
	})
	if strings.Index(printed(), delivered) > strings.Index(printed(), settled) {
		t.Errorf("the events came in another order:\n%s", printed())
	}

	if status := call(t, url, wrongSecret, "0-1.0", "forged"); status != http.StatusBadRequest && status != http.StatusUnauthorized {
		t.Errorf("a call with a wrong signature is answered %d, want 400 or 401", status)
	}
	for _, event := range [][2]string{{"0-1.0", "order-18"}, {"0-1.0", "order-18"}, {"0-2.0", "order-19"}} {
		if status := call(t, url, Secret, event[0], event[1]); status/100 != 2 {
			t.Errorf("a call that is signed is answered %d", status)
		}
	}
	waittest.Eventually(t, "the receiver prints the last event", func() bool { return strings.Contains(printed(), "order-19 ben\n") })
	for text, want := range map[string]int{delivered: 1, settled: 1, "message.dropped order-18 ben\n": 1, "forged": 0} {
		if got := strings.Count(printed(), text); got != want {
			t.Errorf("the receiver printed %q %d times, want %d", text, got, want)
		}
	}
}

// acknowledge has a client of ana acknowledge the first message that comes.
func acknowledge(t testing.TB, address, token string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Limit)
	defer cancel()
	came := make(chan struct{}, 1)
	client, err := imgoclient.New(imgoclient.Config{
		Address: address, Token: token, Device: "phone", OnMessage: func(context.Context, imgoclient.Message) error {
			came <- struct{}{}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- client.Run(ctx) }()
	select {
	case <-came: // the graceful close sends the acknowledgement
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the client ended with: %v", err)
		}
	case err := <-ended:
		t.Fatalf("the client ended without the message: %v", err)
	}
}

// call posts an event as a hook does, signed with a secret, and returns the status of the answer.
func call(t testing.TB, url, secret, id, ref string) int {
	t.Helper()
	signer, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"test","type":"message.dropped","subject":"ben",`+
		`"data":{"user":"ben","ref":%q}}`, id, ref)
	now := time.Now()
	signature, err := signer.Sign(id, now, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Limit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/cloudevents+json")
	request.Header.Set("Webhook-Id", id)
	request.Header.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
	request.Header.Set("Webhook-Signature", signature)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	return response.StatusCode
}
