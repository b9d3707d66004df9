package imgoclient_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"

	imgoclient "imgo/clients/go"
	"imgo/clients/go/raw"
)

// exampleServer is a server for the examples. It accepts one client, and sends it two messages.
func exampleServer() (address string, end func()) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		for {
			p, err := raw.ReadPacket(conn, 1<<20)
			if err != nil {
				return
			}
			var answers []byte
			switch p.Op {
			case raw.OpAuth:
				answers = raw.AppendPacket(nil, raw.Packet{Op: raw.OpAuthReply, Seq: p.Seq, Body: []byte(`{"session":"s","user":"ana","pending":2}`)})
				answers = raw.AppendPacket(answers, raw.Packet{Op: raw.OpMessage, ID: 1, Body: []byte("first")})
				answers = raw.AppendPacket(answers, raw.Packet{Op: raw.OpMessage, ID: 2, Body: []byte("second")})
			case raw.OpJoinRoom:
				body := []byte(`{"op":20,"code":"forbidden","reason":"members only"}`)
				answers = raw.AppendPacket(nil, raw.Packet{Op: raw.OpError, Seq: p.Seq, Body: body})
			case raw.OpSend:
				answers = raw.AppendPacket(nil, raw.Packet{Op: p.Op, Seq: p.Seq, Body: []byte("thanks")})
			default:
				answers = raw.AppendPacket(nil, raw.Packet{Op: p.Op + 1, Seq: p.Seq})
			}
			if _, err := conn.Write(answers); err != nil {
				return
			}
		}
	}()
	return listener.Addr().String(), func() { listener.Close(); <-done }
}

func Example() {
	address, end := exampleServer()
	defer end()
	dir, err := os.MkdirTemp("", "imgo-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	ctx, stop := context.WithCancel(context.Background())
	client, err := imgoclient.New(imgoclient.Config{
		Address: address,
		Token:   "a token of your backend",
		Device:  "laptop",
		Store:   imgoclient.NewFileStore(filepath.Join(dir, "handled-ids"), 0),
		OnMessage: func(_ context.Context, m imgoclient.Message) error {
			fmt.Printf("message %d: %s\n", m.ID, m.Body)
			if m.ID == 2 {
				stop()
			}
			return nil // acknowledges the message
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Run(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(client.State())
	// Output:
	// message 1: first
	// message 2: second
	// closed
}

func ExampleClient_Join() {
	address, end := exampleServer()
	defer end()
	live := make(chan struct{}, 1)
	client, err := imgoclient.New(imgoclient.Config{
		Address:   address,
		Token:     "a token of your backend",
		OnMessage: func(context.Context, imgoclient.Message) error { return nil },
		OnState: func(to imgoclient.StateChange) {
			if to.State == imgoclient.Live {
				live <- struct{}{}
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- client.Run(ctx) }()
	<-live

	err = client.Join(ctx, "private/7")
	var denied *imgoclient.Error
	if errors.Is(err, imgoclient.ErrDenied) && errors.As(err, &denied) {
		fmt.Println(denied.ServerCode)
	}
	fmt.Println(err)
	stop()
	<-done
	// Output:
	// forbidden
	// join room "private/7": the server refused: members only (forbidden)
}

func ExampleClient_Publish() {
	address, end := exampleServer()
	defer end()
	dir, err := os.MkdirTemp("", "imgo-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	ctx, stop := context.WithCancel(context.Background())
	client, err := imgoclient.New(imgoclient.Config{
		Address:   address,
		Token:     "a token of your backend",
		Device:    "laptop", // this installation alone has this name
		Outbox:    imgoclient.NewFileOutbox(filepath.Join(dir, "outbox")),
		OnMessage: func(context.Context, imgoclient.Message) error { return nil },
		OnPublished: func(p imgoclient.Published) {
			if p.Err != nil {
				fmt.Printf("message %d was refused: %v\n", p.Number, p.Err)
			} else {
				fmt.Printf("message %d has arrived: %s\n", p.Number, p.Body)
			}
			stop()
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	// There is no connection yet. The outbox keeps the message, also if the program ends now.
	number, err := client.Publish(ctx, 4, []byte(`{"order":17}`))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("published", number)
	if err := client.Run(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// published 1
	// message 1 has arrived: thanks
}

func ExampleNew_invalid() {
	_, err := imgoclient.New(imgoclient.Config{Address: "push.example.com"})
	fmt.Println(errors.Is(err, imgoclient.ErrInvalid))
	fmt.Println(err)
	// Output:
	// true
	// Address: address "push.example.com" has no port: write host:port, tls://host:port or ws://host:port/sub
}
