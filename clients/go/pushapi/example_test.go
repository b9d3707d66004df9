package pushapi_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"imgo/clients/go/pushapi"
)

func ExampleClient_Push() {
	// A server that keeps every message, for the example.
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Printf("%s %s %s\n", r.Method, r.URL.Path, body)
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprint(w, `{"id":"7","user":"123","sessions":2,"duplicate":false}`)
	}))
	defer server.Close()

	api, err := pushapi.New(pushapi.Config{Servers: []string{server.URL}, Key: "the API key"})
	if err != nil {
		log.Fatal(err)
	}
	defer api.Close()
	order := map[string]int{"order": 17}
	results, err := api.Push(context.Background(), &pushapi.Push{User: "123", Body: order, IdempotencyKey: "order-17"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("message %d is on its way to %d sessions\n", results[0].ID, results[0].Sessions)
	// Output:
	// POST /v1/push {"user":"123","body":{"order":17},"idempotency_key":"order-17"}
	// message 7 is on its way to 2 sessions
}

func ExampleWebhook() {
	webhook, err := pushapi.NewWebhook("whsec_V2hhdCBuYW1lcyBhIHNlY3JldCBpcyBub25lLg==")
	if err != nil {
		log.Fatal(err)
	}
	handler := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
		if err == nil {
			err = webhook.Verify(r.Header, body)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, `{"allow":true}`)
	}
	answer := httptest.NewRecorder()
	handler(answer, httptest.NewRequest(http.MethodPost, "/imgo/connect", strings.NewReader(`{"token":"a forged call"}`)))
	fmt.Print(answer.Code, " ", answer.Body)
	// Output: 401 the call has no Webhook-Id, so it is not signed
}
