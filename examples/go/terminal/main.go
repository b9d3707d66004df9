// Terminal is a client: terminal USER. A line "ben: hello" goes to the user ben.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"

	imgo "imgo/clients/go"
)

func call(ctx context.Context, path, body string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://127.0.0.1:3000"+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusOK {
		err = fmt.Errorf("the backend answered %s", response.Status)
	}
	return string(text), err
}

func main() {
	user := url.QueryEscape(os.Args[len(os.Args)-1])
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	client, err := imgo.New(imgo.Config{
		Address: "127.0.0.1:8080", Device: "terminal", Platform: "go", Store: imgo.NewFileStore(user+".ids", 0),
		TokenSource: func(ctx context.Context) (string, error) { return call(ctx, "/token?user="+user, "") },
		OnMessage:   func(_ context.Context, m imgo.Message) error { log.Printf("> %s", m.Body); return nil },
		OnState:     func(to imgo.StateChange) { log.Println(to.State, to.Session.User, to.Reason) },
	})
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			to, text, _ := strings.Cut(lines.Text(), ": ")
			if _, err := call(ctx, "/push?user="+url.QueryEscape(to), text); err != nil {
				log.Println("not sent:", err)
			}
		}
		stop() // the end of the input ends the client in order, as Ctrl-C does
	}()
	if err := client.Run(ctx); err != nil {
		log.Fatal(err)
	}
}
