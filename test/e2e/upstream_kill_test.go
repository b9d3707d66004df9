package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	imgoclient "imgo/clients/go"
	"imgo/clients/go/pushapi"
)

// door is an address that stays, before a server that gets another one with each start.
type door struct {
	address string
	server  atomic.Pointer[string]
}

func newDoor(t *testing.T) *door {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &door{address: listener.Addr().String()}
	var carrying sync.WaitGroup
	carrying.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			carrying.Go(func() { d.carry(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		carrying.Wait()
	})
	return d
}

// carry joins a connection with the server until one of both ends it.
func (d *door) carry(conn net.Conn) {
	defer conn.Close()
	server, err := net.DialTimeout("tcp", *d.server.Load(), waitLimit)
	if err != nil {
		return
	}
	defer server.Close()
	ended := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{conn, server}, {server, conn}} {
		go func() {
			_, _ = io.Copy(way[0], way[1]) // either end closes both
			ended <- struct{}{}
		}()
	}
	<-ended
	_, _ = conn.Close(), server.Close()
	<-ended
}

// Each message that a client publishes is one event, in order. The server is killed while it takes messages, and the
// client is replaced by one with the same outbox.
func TestPublishThroughKills(t *testing.T) {
	dir, d, begun := t.TempDir(), newDoor(t), uint64(time.Now().UnixMicro())
	begin := func() *process {
		p := serve(t, dir, freePorts("--upstream", "4:events")...)
		d.server.Store(&p.tcp)
		return p
	}
	p := begin()
	api, err := pushapi.New(pushapi.Config{Servers: []string{p.node.base}})
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	token, err := api.NewToken(t.Context(), "alice", pushapi.TokenOptions{})
	if err != nil {
		t.Fatal(err)
	}

	const kills, each, before = 4, 30, 10
	left := make(chan imgoclient.Published, 2*kills*each)
	connect := func() (client *imgoclient.Client, end func()) {
		client, err := imgoclient.New(imgoclient.Config{
			Address: d.address, Token: token.Token, Device: "laptop", Outbox: imgoclient.NewFileOutbox(filepath.Join(dir, "outbox")),
			MinBackoff: 5 * time.Millisecond, MaxBackoff: 50 * time.Millisecond,
			OnMessage:   func(context.Context, imgoclient.Message) error { return nil },
			OnPublished: func(p imgoclient.Published) { left <- p },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- client.Run(ctx) }()
		return client, func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("run: %v", err)
			}
		}
	}
	seen := uint64(0)
	// next waits for the messages that leave the outbox, until so many have left it. A message whose client was replaced before
	// it could tell may be told by the next one again.
	next := func(until uint64) {
		t.Helper()
		for seen < until {
			select {
			case p := <-left:
				if p.Err != nil || p.Number > seen+1 {
					t.Fatalf("message %d has left the outbox after %d: %v", p.Number, seen, p.Err)
				}
				seen = max(seen, p.Number)
			case <-time.After(waitLimit):
				t.Fatalf("%d messages have left the outbox, want %d", seen, until)
			}
		}
	}
	client, end := connect()
	for round := range uint64(kills) {
		for n := range uint64(each) {
			number, err := client.Publish(t.Context(), 4, strconv.AppendUint(nil, round*each+n+1, 10))
			if err != nil || number != round*each+n+1 {
				t.Fatalf("message %d of round %d has the number %d, %v", n, round, number, err)
			}
		}
		next(round*each + before)
		p.signal(syscall.SIGKILL)
		p.exit()
		if round%2 == 1 {
			end()
			client, end = connect()
		}
		p = begin()
	}
	next(kills * each)
	end()

	var page struct {
		Events []struct {
			Type string
			Data struct {
				Device   string
				ClientID uint64 `json:"client_id,string"`
				Body     json.RawMessage
			}
		}
		Next string
		More bool
	}
	// The ids follow each other. The first one is above the client's clock when it began.
	after, got, base := "", uint64(0), uint64(0)
	for wait := "20s"; ; {
		page.Events, page.More = nil, false
		p.node.call(t, "GET", "/v1/events?types=upstream.message&user=alice&wait="+wait+"&after="+after, "").decode(t, &page)
		for _, e := range page.Events {
			got++
			if got == 1 {
				base = e.Data.ClientID - 1
			}
			if e.Data.Device != "laptop" || string(e.Data.Body) != fmt.Sprint(got) || e.Data.ClientID != base+got || base < begun {
				t.Fatalf("event %d is %s of %s with the id %d and the body %s; the ids begin above %d", got, e.Type, e.Data.Device,
					e.Data.ClientID, e.Data.Body, base)
			}
		}
		if after = page.Next; got >= kills*each {
			wait = "100ms"
		}
		if len(page.Events) == 0 && !page.More {
			break
		}
	}
	if got != kills*each {
		t.Errorf("%d events, want %d", got, kills*each)
	}
}
