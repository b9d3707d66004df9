package imgoclient_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	imgoclient "imgo/clients/go"
	"imgo/clients/go/raw"
)

// vectors reads a file of clients/vectors. The packed module does not have them.
func vectors(t *testing.T, file string, into any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "vectors", file))
	if errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(filepath.Join("..", "..", "protocol")); err != nil {
			t.Skip("the vectors are in the repository of imgo, not in the packed module")
		}
	}
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// equalJSON reports whether two texts are equal as JSON.
func equalJSON(a, b []byte) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && diff(x, y) == ""
}

func TestAuthVectors(t *testing.T) {
	var file struct {
		Auth []struct {
			Name    string
			Options struct {
				Token, Device, Platform string
				Rooms                   []string
				Accepts                 []int32
			}
			Body json.RawMessage
		}
	}
	vectors(t, "auth.json", &file)
	for _, v := range file.Auth {
		s := newServer(t, "tcp")
		r := start(t, s, func(cfg *imgoclient.Config) {
			cfg.Token, cfg.Device, cfg.Platform = v.Options.Token, v.Options.Device, v.Options.Platform
			cfg.Rooms, cfg.Accepts = v.Options.Rooms, v.Options.Accepts
		})
		p := <-s.accepted
		if packet := p.expect(raw.OpAuth); !equalJSON(packet.Body, v.Body) {
			t.Errorf("%s: %s", v.Name, packet.Body)
		}
		r.stop()
	}
	if len(file.Auth) == 0 {
		t.Error("there are no vectors")
	}
}

func TestAuthReplyVectors(t *testing.T) {
	var file struct {
		Replies []struct {
			Name, Body, Session, User string
			HeartbeatMS               float64 `json:"heartbeat_ms"`
			ExpiresInMS               float64 `json:"expires_in_ms"`
			Pending                   int
			MaxBody                   int `json:"max_body"`
			Rooms                     []string
			Refused                   []imgoclient.RoomChange
			Published                 string
		}
		Broken          []struct{ Name, Body string }
		BrokenPublished []struct{ Name, Body string } `json:"broken_published"`
	}
	vectors(t, "auth_replies.json", &file)
	for _, v := range file.Replies {
		s := newServer(t, "tcp")
		changes := make(chan imgoclient.RoomChange, 10)
		r := start(t, s, func(cfg *imgoclient.Config) {
			cfg.OnRoom = func(c imgoclient.RoomChange) { changes <- c }
			cfg.Device = "laptop"
		})
		p := s.accept()
		began := uint64(time.Now().UnixMicro())
		p.send(raw.OpAuthReply, 1, 0, v.Body)
		got := <-r.live
		if published := parseID(t, v.Published); published < math.MaxUint64 {
			r.publish(4, "a")
			base, latest := p.expect(4).ID-1, max(published, uint64(time.Now().UnixMicro()))
			if base < max(published, began) || base > latest {
				t.Errorf("%s: the base of the ids is %d", v.Name, base)
			}
		}
		span := func(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }
		if got.ID != v.Session || got.User != v.User || got.Pending != v.Pending || !slices.Equal(got.Rooms, v.Rooms) ||
			got.Heartbeat != span(v.HeartbeatMS) || got.ExpiresIn != span(v.ExpiresInMS) {
			t.Errorf("%s: %+v", v.Name, got)
		}
		if v.MaxBody > 0 {
			if _, err := r.Send(t.Context(), 1000, make([]byte, v.MaxBody+1)); !errors.Is(err, imgoclient.ErrInvalid) {
				t.Errorf("%s: a body above max_body: %v", v.Name, err)
			}
		}
		over, cancel := context.WithCancel(t.Context())
		sent := make(chan error, 1)
		go func() {
			_, err := r.Send(over, 1000, make([]byte, cmp.Or(v.MaxBody, 1<<17)))
			sent <- err
		}()
		p.expect(1000)
		cancel()
		<-sent
		for _, want := range v.Refused {
			if change := <-changes; change != want {
				t.Errorf("%s: %+v", v.Name, change)
			}
		}
		r.stop()
	}
	for _, v := range append(file.Broken, file.BrokenPublished...) {
		s := newServer(t, "tcp")
		problems := make(chan *imgoclient.Error, 10)
		r := start(t, s, func(cfg *imgoclient.Config) { cfg.OnError = func(err *imgoclient.Error) { problems <- err } })
		s.accept().send(raw.OpAuthReply, 1, 0, v.Body)
		if err := <-r.lost; !errors.Is(err, imgoclient.ErrProtocol) {
			t.Errorf("%s: %v", v.Name, err)
		}
		if err := <-problems; err.Code != imgoclient.CodeProtocol {
			t.Errorf("%s: %v", v.Name, err)
		}
		r.stop()
	}
	if len(file.Replies) == 0 || len(file.Broken) == 0 || len(file.BrokenPublished) == 0 {
		t.Error("there are no vectors")
	}
}

func TestRoomVectors(t *testing.T) {
	var file struct {
		Refused []struct {
			Name, Body, Reason string
			ServerCode         string `json:"server_code"`
		}
		Changed []struct {
			Name, Body, Room, Code, Reason string
			Joined                         bool
		}
		BrokenChange []struct{ Name, Body string } `json:"broken_change"`
	}
	vectors(t, "rooms.json", &file)
	s := newServer(t, "tcp")
	changes := make(chan imgoclient.RoomChange, 10)
	r := start(t, s, func(cfg *imgoclient.Config) { cfg.OnRoom = func(c imgoclient.RoomChange) { changes <- c } })
	p := s.welcome()
	<-r.live
	for _, v := range file.Refused {
		answer := make(chan error, 1)
		go func() { answer <- r.Leave(context.Background(), "room") }()
		p.send(raw.OpError, p.expect(raw.OpLeaveRoom).Seq, 0, v.Body)
		var denied *imgoclient.Error
		if err := <-answer; !errors.Is(err, imgoclient.ErrDenied) || !errors.As(err, &denied) || denied.ServerCode != v.ServerCode ||
			!strings.Contains(err.Error(), v.Reason) {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
	for _, v := range file.Changed {
		p.send(raw.OpRoomChanged, 0, 0, v.Body)
		if change := <-changes; change != (imgoclient.RoomChange{Room: v.Room, Joined: v.Joined, Code: v.Code, Reason: v.Reason}) {
			t.Errorf("%s: %+v", v.Name, change)
		}
	}
	for _, v := range file.BrokenChange {
		p.send(raw.OpRoomChanged, 0, 0, v.Body)
		if err := <-r.lost; !errors.Is(err, imgoclient.ErrProtocol) {
			t.Errorf("%s: %v", v.Name, err)
		}
		p = s.welcome()
	}
	r.stop()
	if len(file.Refused) == 0 || len(file.Changed) == 0 || len(file.BrokenChange) == 0 {
		t.Error("there are no vectors")
	}
}

func TestNameVectors(t *testing.T) {
	var file struct{ Valid, Invalid []struct{ Text string } }
	vectors(t, "names.json", &file)
	check := func(text string) []error {
		cfg := imgoclient.Config{Address: "h:1", Token: "t", OnMessage: handleNothing}
		client, err := imgoclient.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		errs := []error{client.Join(context.Background(), text), client.Leave(context.Background(), text)}
		cfg.Rooms = []string{text}
		_, err = imgoclient.New(cfg)
		errs = append(errs, err)
		if text != "" { // an empty name is the default device, and no platform
			_, device := imgoclient.New(imgoclient.Config{Address: "h:1", Token: "t", OnMessage: handleNothing, Device: text})
			_, platform := imgoclient.New(imgoclient.Config{Address: "h:1", Token: "t", OnMessage: handleNothing, Platform: text})
			errs = append(errs, device, platform)
		}
		return errs
	}
	for _, v := range file.Valid {
		if err := errors.Join(check(v.Text)...); err != nil {
			t.Errorf("%q: %v", v.Text, err)
		}
	}
	for _, v := range file.Invalid {
		for _, err := range check(v.Text) {
			if !errors.Is(err, imgoclient.ErrInvalid) {
				t.Errorf("%q: %v", v.Text, err)
			}
		}
	}
	if err := errors.Join(check("\xff")...); !errors.Is(err, imgoclient.ErrInvalid) {
		t.Errorf("invalid UTF-8: %v", err)
	}
	if len(file.Valid) == 0 || len(file.Invalid) == 0 {
		t.Error("there are no vectors")
	}
}

func TestBackoffVectors(t *testing.T) {
	var file struct {
		Spans []struct {
			MinMS   int   `json:"min_ms"`
			MaxMS   int   `json:"max_ms"`
			SpansMS []int `json:"spans_ms"`
		}
	}
	vectors(t, "backoff.json", &file)
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	address := deadAddress(t)
	for _, v := range file.Spans {
		waits := make(chan time.Duration, 1000)
		r := start(t, &server{t: t, address: address}, func(cfg *imgoclient.Config) {
			cfg.MinBackoff, cfg.MaxBackoff = ms(v.MinMS), ms(v.MaxMS)
			cfg.OnState = func(to imgoclient.StateChange) {
				if to.State == imgoclient.Waiting {
					waits <- to.RetryIn
				}
			}
		})
		longest := time.Duration(0)
		for _, span := range v.SpansMS {
			wait := <-waits
			if wait <= 0 || wait > ms(span)+1 {
				t.Errorf("%d to %d ms: a wait of %s in a span of %d ms", v.MinMS, v.MaxMS, wait, span)
			}
			longest = max(longest, wait)
			r.Connect() // the waits are not waited for
		}
		// 20 more: the span stays, and most waits are not short.
		for range 20 {
			longest = max(longest, <-waits)
			r.Connect()
		}
		if longest < ms(v.MaxMS)/4 || longest > ms(v.MaxMS)+1 {
			t.Errorf("%d to %d ms: the longest of 30 waits is %s", v.MinMS, v.MaxMS, longest)
		}
		r.stop()
	}
	if len(file.Spans) == 0 {
		t.Error("there are no vectors")
	}
}
