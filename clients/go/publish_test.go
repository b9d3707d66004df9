package imgoclient_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	imgoclient "imgo/clients/go"
	"imgo/clients/go/raw"
)

// ahead is an id above those that begin at the clock: an outbox that has no base begins at what the server has.
const ahead = 1 << 60

// mailed expects the published message with the id ahead + n.
func (p *peer) mailed(n uint64, body string) raw.Packet {
	p.t.Helper()
	packet, id := p.expect(raw.OpSend), ahead+n
	if packet.ID != id || string(packet.Body) != body || packet.Seq == 0 {
		p.t.Fatalf("server: got id %d with %q and sequence %d, want id %d with %q", packet.ID, packet.Body, packet.Seq, id, body)
	}
	return packet
}

// admit lets the next client in. The server has the published messages of its device up to the id ahead + n.
func (s *server) admit(n uint64) *peer {
	s.t.Helper()
	return s.admitAt(fmt.Sprint(ahead + n))
}

// admitAt is admit with the text of the id.
func (s *server) admitAt(published string) *peer {
	s.t.Helper()
	p := s.accept()
	p.admit(published)
	return p
}

func (p *peer) admit(published string) {
	p.t.Helper()
	p.send(raw.OpAuthReply, 1, 0, fmt.Sprintf(`{"session":"s","heartbeat":60,"published":%q}`, published))
}

func withDevice(cfg *imgoclient.Config) { cfg.Device = "laptop" }

// left checks the next message that leaves the outbox.
func (r *running) left(number uint64, body string) {
	r.t.Helper()
	if got := r.gone(); got.Number != number || string(got.Body) != body || got.Err != nil {
		r.t.Fatalf("message %d left with %q, %v; want %d with %q", got.Number, got.Body, got.Err, number, body)
	}
}

func TestPublishAcrossRestarts(t *testing.T) {
	overBoth(t, func(t *testing.T, s *server) {
		path := filepath.Join(t.TempDir(), "outbox")
		withOutbox := func(cfg *imgoclient.Config) {
			cfg.Device, cfg.Outbox = "laptop", imgoclient.NewFileOutbox(path)
		}
		r := start(t, s, withOutbox)
		p := s.admit(40)
		for i := range 3 {
			if n := r.publish(4, fmt.Sprint("m", i+1)); n != uint64(i+1) {
				t.Fatalf("message %d has the number %d", i+1, n)
			}
		}
		p.send(raw.OpSend, p.mailed(41, "m1").Seq, 0, "one")
		r.left(1, "one")
		p.mailed(42, "m2")
		r.stop()
		p.close()

		r = start(t, s, withOutbox)
		p = s.admit(42)
		r.left(2, "")
		p.send(raw.OpSend, p.mailed(43, "m3").Seq, 0, "three")
		r.left(3, "three")
		if n := r.publish(4, "m4"); n != 4 {
			t.Errorf("the next message has the number %d", n)
		}
		p.mailed(44, "m4")
		p.close()
		p = s.welcome() // a server that has forgotten the device
		p.send(raw.OpSend, p.mailed(44, "m4").Seq, 0, "")
		r.left(4, "")
		r.stop()
	})
}

// TestBase checks that ids begin at the clock or at what the server has, whichever is larger, and go on from there.
func TestBase(t *testing.T) {
	s := newServer(t, "tcp")
	for published, above := range map[string]bool{"0": true, "41": true, fmt.Sprint(ahead): false} {
		began := uint64(time.Now().UnixMicro())
		r := start(t, s, withDevice)
		p := s.admitAt(published)
		r.publish(4, "a")
		id := p.expect(4).ID
		if base, now := id-1, uint64(time.Now().UnixMicro()); above && (base < began || base > now) || !above && base != ahead {
			t.Errorf("published %s: the base is %d, the clock was between %d and %d", published, base, began, now)
		}
		p.close()
		p = s.welcome()
		if again := p.expect(4).ID; again != id {
			t.Errorf("published %s: the message is sent again with id %d, at first with %d", published, again, id)
		}
		r.stop()
	}
}

// TestOldOutbox checks that the ids begin anew if the server has more than was sent from the outbox: its file was restored, for
// example.
func TestOldOutbox(t *testing.T) {
	for name, test := range map[string]struct {
		waiting   int    // of three messages; the base is ahead + 10
		published uint64 // above ahead
		gone      int    // of those that wait
		base      uint64 // above ahead
	}{
		"empty, and the server has the last message":             {published: 13, base: 10},
		"empty, and the server has one more":                     {published: 14, base: 14},
		"empty, and the server has many more":                    {published: 99, base: 99},
		"two wait, and the server has those before":              {waiting: 2, published: 11, base: 10},
		"two wait, and the server has the oldest":                {waiting: 2, published: 12, gone: 1, base: 10},
		"two wait, and the server has one more":                  {waiting: 2, published: 13, base: 13},
		"two wait, and the server has many more":                 {waiting: 2, published: 99, base: 99},
		"three wait, and the server has what was there at first": {waiting: 3, published: 10, base: 10},
	} {
		t.Run(name, func(t *testing.T) {
			outbox := imgoclient.NewMemoryOutbox()
			errs := []error{outbox.SetBase(t.Context(), ahead+10)}
			for n := range uint64(3) {
				errs = append(errs, outbox.Add(t.Context(), imgoclient.OutboxMessage{Number: n + 1, Op: 4, Body: fmt.Append(nil, "m", n+1)}))
			}
			first := 4 - test.waiting
			if err := errors.Join(append(errs, outbox.Remove(t.Context(), uint64(first-1)))...); err != nil {
				t.Fatal(err)
			}
			s := newServer(t, "tcp")
			r := start(t, s, func(cfg *imgoclient.Config) { cfg.Device, cfg.Outbox = "laptop", outbox })
			p := s.accept()
			r.publish(4, "m4") // the client has read the outbox
			p.admit(fmt.Sprint(ahead + test.published))
			for ; test.gone > 0; test.gone-- {
				r.left(uint64(first), "")
				first++
			}
			for n := uint64(first); n <= 4; n++ {
				p.send(raw.OpSend, p.mailed(test.base+n, fmt.Sprint("m", n)).Seq, 0, "")
				r.left(n, "")
			}
			p.close()
			p = s.admit(test.base + 4)
			r.publish(4, "m5")
			p.mailed(test.base+5, "m5")
			r.stop()
		})
	}
}

// TestOutboxOfAnotherClient checks that a client that runs again knows what another one has done with the outbox meanwhile.
func TestOutboxOfAnotherClient(t *testing.T) {
	s := newServer(t, "tcp")
	path := filepath.Join(t.TempDir(), "outbox")
	withOutbox := func(cfg *imgoclient.Config) {
		cfg.Device, cfg.Outbox = "laptop", imgoclient.NewFileOutbox(path)
	}
	first := start(t, s, withOutbox)
	p := s.admit(0)
	first.publish(4, "a")
	p.mailed(1, "a")
	first.stop()
	second := start(t, s, withOutbox)
	p = s.admit(0)
	second.publish(4, "b")
	for id, body := range []string{"a", "b"} {
		p.send(raw.OpSend, p.mailed(uint64(id+1), body).Seq, 0, "")
		second.left(uint64(id+1), "")
	}
	second.stop()
	ctx, cancel := context.WithCancel(t.Context())
	first.cancel = cancel
	go func() { first.result <- first.Run(ctx) }()
	p = s.admit(2)
	if n := first.publish(4, "c"); n != 3 {
		t.Errorf("the next message has the number %d", n)
	}
	p.send(raw.OpSend, p.mailed(3, "c").Seq, 0, "")
	first.left(3, "")
	first.stop()
}

// TestPublishAtOnceAfterATimeout checks that a message without a reply is sent again without the backoff.
func TestPublishAtOnceAfterATimeout(t *testing.T) {
	s := newServer(t, "tcp")
	r := start(t, s, func(cfg *imgoclient.Config) {
		cfg.Device, cfg.RequestTimeout, cfg.MinBackoff, cfg.MaxBackoff = "laptop", 100*time.Millisecond, 24*time.Hour, 24*time.Hour
	})
	p := s.admit(0)
	r.publish(4, "a")
	first := p.mailed(1, "a")
	if again := p.mailed(1, "a"); again.Seq != first.Seq {
		t.Error("the tries have different sequences, so a late reply to the first does not count")
	}
	r.stop()
}

// brokenOutbox is an Outbox whose methods fail when they are told so.
type brokenOutbox struct {
	*imgoclient.MemoryOutbox
	load, base, add, remove atomic.Bool
	removes                 atomic.Int32
}

var errDisk = errors.New("the disk is full")

func fails(broken *atomic.Bool) error {
	if broken.Load() {
		return errDisk
	}
	return nil
}

func (o *brokenOutbox) Load(ctx context.Context) (imgoclient.OutboxContent, error) {
	c, err := o.MemoryOutbox.Load(ctx)
	return c, errors.Join(err, fails(&o.load))
}

func (o *brokenOutbox) SetBase(ctx context.Context, base uint64) error {
	if err := fails(&o.base); err != nil {
		return err
	}
	return o.MemoryOutbox.SetBase(ctx, base)
}

func (o *brokenOutbox) Add(ctx context.Context, m imgoclient.OutboxMessage) error {
	if err := fails(&o.add); err != nil {
		return err
	}
	return o.MemoryOutbox.Add(ctx, m)
}

func (o *brokenOutbox) Remove(ctx context.Context, upTo uint64) error {
	o.removes.Add(1)
	if err := fails(&o.remove); err != nil {
		return err
	}
	return o.MemoryOutbox.Remove(ctx, upTo)
}

func TestOutboxThatFails(t *testing.T) {
	s := newServer(t, "tcp")
	o := &brokenOutbox{MemoryOutbox: imgoclient.NewMemoryOutbox()}
	o.load.Store(true)
	o.base.Store(true)
	problems := make(chan *imgoclient.Error, 1)
	r := start(t, s, func(cfg *imgoclient.Config) {
		cfg.Device, cfg.Outbox = "laptop", o
		cfg.OnError = func(err *imgoclient.Error) {
			select {
			case problems <- err:
			default:
			}
		}
	})
	storage := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, imgoclient.ErrStorage) || !errors.Is(err, errDisk) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// load: no attempt and no Publish goes on without it.
	storage("load", <-r.lost)
	_, err := r.Publish(t.Context(), 4, nil)
	storage("Publish without load", err)
	o.load.Store(false)
	// base: nothing is sent before it is durable.
	p := s.admit(9)
	r.publish(4, "a")
	for {
		if err := <-problems; strings.Contains(err.Error(), "base") {
			storage("base", err)
			break
		}
	}
	o.base.Store(false)
	first := p.mailed(10, "a")
	// add: the number stays free.
	o.add.Store(true)
	_, err = r.Publish(t.Context(), 4, []byte("x"))
	storage("add", err)
	o.add.Store(false)
	if n := r.publish(4, "b"); n != 2 {
		t.Errorf("the next message has the number %d", n)
	}
	// remove: the message is told when it is removed, and never sent again, also not by the next session.
	o.remove.Store(true)
	p.send(raw.OpSend, first.Seq, 0, "one")
	for tries := o.removes.Load(); o.removes.Load() < tries+3; {
		storage("remove", <-problems)
	}
	p.close()
	p = s.admit(10)
	for tries := o.removes.Load(); o.removes.Load() < tries+3; {
		<-problems
	}
	if len(r.outbox) > 0 {
		t.Error("a message that is not removed has left the outbox")
	}
	o.remove.Store(false)
	r.left(1, "one")
	p.send(raw.OpSend, p.mailed(11, "b").Seq, 0, "two")
	r.left(2, "two")
	r.stop()
}

// TestPublishInCallbacks checks that a slow callback that publishes itself does not wait for itself.
func TestPublishInCallbacks(t *testing.T) {
	const count = 1000 // more than the events that may wait
	s := newServer(t, "tcp")
	var client atomic.Pointer[imgoclient.Client]
	told := make(chan uint64, 2*count)
	r := start(t, s, func(cfg *imgoclient.Config) {
		cfg.Device = "laptop"
		cfg.OnPublished = func(p imgoclient.Published) {
			if _, err := client.Load().Publish(context.Background(), 4, nil); err != nil {
				t.Errorf("publish in OnPublished: %v", err)
			}
			told <- p.Number
		}
	})
	client.Store(r.Client)
	p := s.admit(0)
	for range count {
		r.publish(4, "")
	}
	for n := range uint64(count) {
		p.send(raw.OpSend, p.mailed(n+1, "").Seq, 0, "")
	}
	for n := range uint64(count) {
		if got := <-told; got != n+1 {
			t.Fatalf("message %d left, want %d", got, n+1)
		}
	}
	p.mailed(count+1, "")
	r.stop()
}

func TestPublishConcurrently(t *testing.T) {
	s := newServer(t, "tcp")
	r := start(t, s, withDevice)
	p := s.admit(0)
	const callers, each = 8, 25
	var publishing sync.WaitGroup
	var mu sync.Mutex
	bodies := map[uint64]string{}
	for i := range callers {
		publishing.Go(func() {
			last := uint64(0)
			for k := range each {
				body := fmt.Sprint(i, ":", k)
				n, err := r.Publish(context.Background(), 4, []byte(body))
				if err != nil || n <= last {
					t.Errorf("message %q has the number %d after %d, %v", body, n, last, err)
				}
				last = n
				mu.Lock()
				bodies[n] = body
				mu.Unlock()
			}
		})
	}
	got := map[uint64]string{}
	for n := range uint64(callers * each) {
		packet := p.expect(raw.OpSend)
		if packet.ID != ahead+n+1 {
			t.Fatalf("got id %d, want %d", packet.ID, ahead+n+1)
		}
		got[n+1] = string(packet.Body)
		p.send(raw.OpSend, packet.Seq, 0, "")
		r.left(n+1, "")
	}
	publishing.Wait()
	if diff := diff(bodies, got); diff != "" {
		t.Error(diff)
	}
	r.stop()
}

func TestPublishRefusesBadArguments(t *testing.T) {
	cfg := imgoclient.Config{Address: "h:1", Token: "t", OnMessage: handleNothing, MaxBody: 10, Device: "laptop"}
	client, err := imgoclient.New(cfg)
	must(t, err)
	body := []byte("changes")
	n, err := client.Publish(t.Context(), 4, body)
	if n != 1 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	for _, op := range []int32{-1, 0, 5, 999} {
		if _, err := client.Publish(t.Context(), op, nil); !errors.Is(err, imgoclient.ErrInvalid) {
			t.Errorf("op %d: %v", op, err)
		}
	}
	_, err = client.Publish(t.Context(), 4, make([]byte, 11))
	if !errors.Is(err, imgoclient.ErrInvalid) || !strings.Contains(err.Error(), "MaxBody") {
		t.Errorf("a large body: %v", err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client.Publish(over, 4, nil); !errors.Is(err, imgoclient.ErrTimeout) {
		t.Errorf("a context that is over: %v", err)
	}
	if n, err := client.Publish(t.Context(), 4, nil); n != 2 || err != nil {
		t.Errorf("after bad arguments: %d, %v", n, err)
	}
	cfg.Device = ""
	nameless, err := imgoclient.New(cfg)
	must(t, err)
	if _, err := nameless.Publish(t.Context(), 4, nil); !errors.Is(err, imgoclient.ErrInvalid) || !strings.Contains(err.Error(), "Device") {
		t.Errorf("without a device: %v", err)
	}
}

// TestTooLargeForTheServer checks that no body is sent that the server does not take, and that one that is in the outbox already
// does not hold up those behind it.
func TestTooLargeForTheServer(t *testing.T) {
	s := newServer(t, "tcp")
	r := start(t, s, func(cfg *imgoclient.Config) { cfg.Device, cfg.AckDelay = "laptop", 50*time.Millisecond })
	p := s.accept()
	r.publish(4, strings.Repeat("x", 17))
	r.publish(4, strings.Repeat("y", 16))
	p.send(raw.OpAuthReply, 1, 0, `{"session":"s","max_body":16}`)
	var denied *imgoclient.Error
	if got := r.gone(); got.Number != 1 || !errors.Is(got.Err, imgoclient.ErrDenied) || !errors.As(got.Err, &denied) ||
		denied.ServerCode != "too_large" {
		t.Errorf("%+v", got)
	}
	next := p.expect(4)
	if len(next.Body) != 16 {
		t.Errorf("the next message is %q", next.Body)
	}
	p.send(4, next.Seq, 0, "")
	r.left(2, "")
	if _, err := r.Publish(t.Context(), 4, make([]byte, 17)); !errors.Is(err, imgoclient.ErrInvalid) {
		t.Errorf("publish: %v", err)
	}
	if _, err := r.Send(t.Context(), 4, make([]byte, 17)); !errors.Is(err, imgoclient.ErrInvalid) {
		t.Errorf("send: %v", err)
	}
	if err := r.Read(t.Context(), []uint64{1, 2, 3}, 0); !errors.Is(err, imgoclient.ErrInvalid) {
		t.Errorf("read: %v", err)
	}
	p.push(1, 2, 3, 4, 5)
	r.expect(1, 2, 3, 4, 5)
	for got := 0; got < 5; {
		ids := len(p.expectAcks(1))
		if got += ids; ids > 2 {
			t.Errorf("an ack packet has %d ids", ids)
		}
	}
	if n := r.publish(4, "z"); n != 3 {
		t.Errorf("the next message has the number %d", n)
	}
	r.stop()
}

// TestPublishCopies checks that a caller may change the body after Publish.
func TestPublishCopies(t *testing.T) {
	s := newServer(t, "tcp")
	r := start(t, s, withDevice)
	body := []byte("before")
	if _, err := r.Publish(t.Context(), 4, body); err != nil {
		t.Fatal(err)
	}
	copy(body, "after!")
	s.admit(0).mailed(1, "before")
	r.stop()
}

// TestIDsAreUsedUp checks that a device whose ids have reached the end of 64 bits tells so, and sends nothing with a low id.
func TestIDsAreUsedUp(t *testing.T) {
	s := newServer(t, "tcp")
	r := start(t, s, withDevice)
	p := s.admitAt("18446744073709551614")
	r.publish(4, "last")
	r.publish(4, "too late")
	p.send(raw.OpSend, p.mailed(1<<64-1-ahead, "last").Seq, 0, "")
	r.left(1, "")
	if got := r.gone(); got.Number != 2 || !errors.Is(got.Err, imgoclient.ErrDenied) {
		t.Errorf("%+v", got)
	}
	r.stop()
}

// TestRetryAfterIsBounded checks that a server that asks for an absurd wait does not make the client send at once.
func TestRetryAfterIsBounded(t *testing.T) {
	s := newServer(t, "tcp")
	r := start(t, s, nil)
	p := s.welcome()
	<-r.live
	for body, want := range map[string]time.Duration{
		`{"code":"x","retry_ms":1e300}`: 24 * time.Hour,
		`{"code":"x","retry_ms":-5}`:    time.Millisecond,
		`{"code":"x","retry_ms":0}`:     time.Millisecond,
		`{"code":"x","retry_ms":1.5}`:   1500 * time.Microsecond,
		`{"code":"x","retry_ms":null}`:  0,
		`{"code":"x","retry_ms":"1"}`:   0,
	} {
		result := make(chan error, 1)
		go func() {
			_, err := r.Send(context.Background(), 4, nil)
			result <- err
		}()
		p.send(raw.OpError, p.expect(4).Seq, 0, body)
		var denied *imgoclient.Error
		if err := <-result; !errors.As(err, &denied) || denied.RetryAfter != want {
			t.Errorf("%s: %v", body, err)
		}
	}
	r.stop()
}

func TestRead(t *testing.T) {
	overBoth(t, func(t *testing.T, s *server) {
		r := start(t, s, nil)
		p := s.accept()
		if err := r.Read(t.Context(), []uint64{1}, 0); !errors.Is(err, imgoclient.ErrNotLive) {
			t.Errorf("without a session: %v", err)
		}
		for what, ids := range map[string][]uint64{"nothing": nil, "id 0": {1, 0}, "many": upTo(501, 501)} {
			if err := r.Read(t.Context(), ids, 0); !errors.Is(err, imgoclient.ErrInvalid) {
				t.Errorf("%s: %v", what, err)
			}
		}
		p.send(raw.OpAuthReply, 1, 0, `{"session":"s"}`)
		<-r.live
		result := make(chan error, 1)
		go func() { result <- r.Read(context.Background(), nil, 9) }()
		packet := p.expect(raw.OpRead)
		if packet.ID != 9 || len(packet.Body) > 0 {
			t.Errorf("%+v", packet)
		}
		p.send(raw.OpError, packet.Seq, 0, `{"op":24,"code":"unavailable","reason":"no router","retry_ms":20}`)
		var denied *imgoclient.Error
		if err := <-result; !errors.As(err, &denied) || denied.ServerCode != "unavailable" || denied.RetryAfter != 20*time.Millisecond {
			t.Errorf("%v", err)
		}
		r.stop()
	})
}
