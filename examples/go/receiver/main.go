// Receiver gets the events of a hook, and prints each of them once.
package main

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"imgo/clients/go/pushapi"
)

func main() {
	webhook, err := pushapi.NewWebhook(os.Getenv("HOOK_SECRET"))
	if err != nil {
		log.Fatal(err)
	}
	var mu sync.Mutex
	seen := make([]string, 1000) // a real backend stores the ids together with what it does
	handler := func(w http.ResponseWriter, r *http.Request) {
		var event struct {
			ID, Type, Subject string // the subject is the user
			Data              struct{ Ref string }
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		mu.Lock()
		defer mu.Unlock()
		if err != nil || webhook.Verify(r.Header, body) != nil || json.Unmarshal(body, &event) != nil {
			http.Error(w, "the call is not signed", http.StatusUnauthorized)
		} else if !slices.Contains(seen, event.ID) {
			log.Println(event.Type, event.Data.Ref, event.Subject)
			seen = append(seen[1:], event.ID)
		}
	}
	log.Fatal((&http.Server{Addr: "127.0.0.1:3001", Handler: http.HandlerFunc(handler), ReadTimeout: time.Minute}).ListenAndServe())
}
