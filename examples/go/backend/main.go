// Backend knows who its users are, makes tokens for their clients, and pushes.
package main

import (
	"cmp"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"

	"imgo/clients/go/pushapi"
)

// userOf returns the user of a request. A real backend takes it from its own session, never from the request.
func userOf(r *http.Request) string { return cmp.Or(r.URL.Query().Get("user"), "ana") }

func main() {
	imgo, err := pushapi.New(pushapi.Config{Servers: []string{"http://127.0.0.1:7172"}, Key: os.Getenv("IMGO_KEY")})
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		token, err := imgo.NewToken(r.Context(), userOf(r), pushapi.TokenOptions{TTL: time.Hour})
		answer(w, token.Token, err)
	})
	http.HandleFunc("POST /push", func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 10_000))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		results, err := imgo.Push(r.Context(), &pushapi.Push{
			User: userOf(r), Body: map[string]string{"text": string(text)},
			IdempotencyKey: r.Header.Get("Idempotency-Key"), // with it, a repeated request is no second message
		})
		if err != nil {
			answer(w, "", err)
			return
		}
		answer(w, fmt.Sprint(results[0].ID), nil)
	})
	server := &http.Server{Addr: "127.0.0.1:3000", ReadTimeout: time.Minute}
	log.Printf("the backend is at http://%s", server.Addr)
	log.Fatal(server.ListenAndServe())
}

func answer(w http.ResponseWriter, text string, err error) {
	if err != nil {
		log.Print(err)
		http.Error(w, "the push server did not do it", http.StatusBadGateway)
		return
	}
	fmt.Fprint(w, text)
}
