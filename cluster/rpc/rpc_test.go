package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	"imgo/cluster/rpc"
	"imgo/envelope"
	"imgo/internal/wait/waittest"
)

// fill sets every field of a message.
func fill(m proto.Message) {
	r := m.ProtoReflect()
	fields := r.Descriptor().Fields()
	value := func(f protoreflect.FieldDescriptor, empty func() protoreflect.Value) protoreflect.Value {
		n := int64(f.Number()) + 40
		switch f.Kind() {
		case protoreflect.MessageKind:
			v := empty()
			fill(v.Message().Interface())
			return v
		case protoreflect.StringKind:
			return protoreflect.ValueOfString(string(f.Name()))
		case protoreflect.BytesKind:
			return protoreflect.ValueOfBytes([]byte{0, 0xff, byte(n)})
		case protoreflect.BoolKind:
			return protoreflect.ValueOfBool(true)
		case protoreflect.Int32Kind:
			return protoreflect.ValueOfInt32(int32(n))
		case protoreflect.Uint32Kind:
			return protoreflect.ValueOfUint32(uint32(n))
		case protoreflect.Int64Kind:
			return protoreflect.ValueOfInt64(-n)
		case protoreflect.Uint64Kind:
			return protoreflect.ValueOfUint64(uint64(n) << 50)
		}
		panic("fill does not know this kind of field: " + f.Kind().String())
	}
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case f.IsMap():
			v := r.Mutable(f).Map()
			v.Set(value(f.MapKey(), nil).MapKey(), value(f.MapValue(), v.NewValue))
		case f.IsList():
			v := r.Mutable(f).List()
			v.Append(value(f, v.NewElement))
		default:
			r.Set(f, value(f, func() protoreflect.Value { return r.NewField(f) }))
		}
	}
}

// interfaces returns the roles of a Peer, by the names that the fakes use.
func interfaces(p *rpc.Peer) map[string]reflect.Value {
	return map[string]reflect.Value{
		"Router": reflect.ValueOf(p).MethodByName("Router").Call(nil)[0],
		"Logic":  reflect.ValueOf(p).MethodByName("Logic").Call(nil)[0],
		"Comet":  reflect.ValueOf(p).MethodByName("Comet").Call(nil)[0],
		"Status": reflect.ValueOf(p).MethodByName("Status").Call(nil)[0],
	}
}

// forEachMethod calls f with every method of every role of a node.
func forEachMethod(
	p *rpc.Peer, f func(name string, call func(context.Context, proto.Message) (proto.Message, error), req, rep proto.Message),
) {
	for role, v := range interfaces(p) {
		for i := range v.NumMethod() {
			name := role + "." + v.Type().Method(i).Name
			method := v.Method(i)
			req := reflect.New(method.Type().In(1).Elem()).Interface().(proto.Message)
			var rep proto.Message
			if method.Type().NumOut() == 2 {
				rep = reflect.New(method.Type().Out(0).Elem()).Interface().(proto.Message)
			}
			f(name, func(ctx context.Context, q proto.Message) (proto.Message, error) {
				out := method.Call([]reflect.Value{reflect.ValueOf(ctx), reflect.ValueOf(q)})
				err, _ := out[len(out)-1].Interface().(error)
				if len(out) == 1 || out[0].IsNil() {
					return nil, err
				}
				return out[0].Interface().(proto.Message), err
			}, req, rep)
		}
	}
}

func TestEveryMethodCarriesItsMessages(t *testing.T) {
	var (
		mu      sync.Mutex
		got     = map[string]proto.Message{}
		replies = map[string]proto.Message{}
	)
	addr, _ := serve(t, rpc.ServerOptions{}, roles{func(_ context.Context, method string, req proto.Message) (proto.Message, error) {
		mu.Lock()
		defer mu.Unlock()
		got[method] = req
		return replies[method], nil
	}}.services())
	peer := newPool(t, rpc.PoolOptions{}).Node(addr)
	methods := 0
	forEachMethod(peer, func(name string, call func(context.Context, proto.Message) (proto.Message, error), req, rep proto.Message) {
		methods++
		fill(req)
		if rep != nil {
			fill(rep)
			mu.Lock()
			replies[name] = rep
			mu.Unlock()
		}
		answer, err := call(within(t, waitLimit), req)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if diff := cmp.Diff(req, got[name], protocmp.Transform()); diff != "" {
			t.Errorf("%s: the request arrived otherwise:\n%s", name, diff)
		}
		if rep == nil {
			return
		}
		if diff := cmp.Diff(rep, answer, protocmp.Transform()); diff != "" {
			t.Errorf("%s: the reply arrived otherwise:\n%s", name, diff)
		}
	})
	if want := rpc.Methods(); methods != want {
		t.Errorf("%d methods were called, a server has %d", methods, want)
	}
}

// A router refuses calls for another generation of the kept topic, because each generation
// spreads users over its partitions differently.
func TestGenerationsDoNotMix(t *testing.T) {
	services := roles{func(_ context.Context, method string, _ proto.Message) (proto.Message, error) {
		if method == "Router.Lookup" {
			return &envelope.LookupReply{}, nil
		}
		return nil, nil
	}}.services()
	services.Generation = 2
	addr, _ := serve(t, rpc.ServerOptions{}, services)
	peer := newPool(t, rpc.PoolOptions{}).Node(addr)
	call := func(generation uint16) error {
		_, err := peer.RouterOf(generation).Lookup(within(t, waitLimit), &envelope.LookupRequest{})
		return errors.Join(err, peer.RouterOf(generation).Detach(within(t, waitLimit), &envelope.DetachRequest{}))
	}
	for generation, good := range map[uint16]bool{0: true, 1: false, 2: true, 3: false} {
		if err := call(generation); (err == nil) != good || err != nil && !errors.Is(err, envelope.ErrUnavailable) {
			t.Errorf("a call of generation %d: %v", generation, err)
		}
	}
	if peer.RouterOf(2) != peer.RouterOf(2) || peer.RouterOf(2) == peer.RouterOf(3) {
		t.Error("the same router of the same generation, and no other, must be the same value")
	}
}

func TestErrorsKeepTheirIdentity(t *testing.T) {
	codes := []envelope.Code{
		envelope.CodeInvalid, envelope.CodeUnauthorized, envelope.CodeExpired, envelope.CodeRevoked, envelope.CodeTooMany,
		envelope.CodeRateLimited, envelope.CodeNotFound, envelope.CodeTooLarge, envelope.CodeDiskFull, envelope.CodeUnavailable,
		envelope.CodeNotReady, envelope.CodeOutOfRange, envelope.CodeClosed, envelope.CodeInternal,
	}
	var (
		mu   sync.Mutex
		fail error
	)
	addr, _ := serve(t, rpc.ServerOptions{}, roles{func(context.Context, string, proto.Message) (proto.Message, error) {
		mu.Lock()
		defer mu.Unlock()
		return nil, fail
	}}.services())
	peer := newPool(t, rpc.PoolOptions{}).Node(addr)
	set := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		fail = err
	}
	forEachMethod(peer, func(name string, call func(context.Context, proto.Message) (proto.Message, error), req, _ proto.Message) {
		for _, code := range codes {
			in := &envelope.Error{Code: code, Field: "users[3]", Message: "is not — good: 50 %\n"}
			wrapped := fmt.Errorf("attach for comet 7: %w", in)
			set(wrapped)
			_, err := call(within(t, waitLimit), req)
			var out *envelope.Error
			if !errors.As(err, &out) || *out != *in || !errors.Is(err, &envelope.Error{Code: code}) || envelope.CodeOf(err) != code {
				t.Fatalf("%s: %v became %#v", name, in, err)
			}
			if err.Error() != wrapped.Error() {
				t.Fatalf("%s: the text %q became %q", name, wrapped, err)
			}
		}
		set(errors.New("disk on fire"))
		_, err := call(within(t, waitLimit), req)
		if envelope.CodeOf(err) != envelope.CodeInternal || err.Error() != "disk on fire" || errors.Is(err, envelope.ErrUnavailable) {
			t.Errorf("%s: a plain error became %v (%s)", name, err, envelope.CodeOf(err))
		}
	})
	for name, in := range map[string]error{"out of time": context.DeadlineExceeded, "cancelled": context.Canceled} {
		set(fmt.Errorf("resolve: %w", in))
		_, err := peer.Status().Status(within(t, waitLimit), &envelope.StatusRequest{})
		if !errors.Is(err, envelope.ErrUnavailable) || errors.Is(err, context.Canceled) {
			t.Errorf("a handler that was %s: %v", name, err)
		}
	}
	set(envelope.Errorf(envelope.CodeInvalid, "%s\xff", strings.Repeat("long ", 100_000)))
	_, err := peer.Status().Status(within(t, waitLimit), &envelope.StatusRequest{})
	if !errors.Is(err, envelope.ErrInvalid) || len(err.Error()) > 10_000 {
		t.Errorf("a long error became one of %d bytes, %s", len(err.Error()), envelope.CodeOf(err))
	}
}

func TestRolesThatANodeDoesNotRun(t *testing.T) {
	addr, _ := serve(t, rpc.ServerOptions{}, rpc.Services{Status: roles{ready}.services().Status})
	peer := newPool(t, rpc.PoolOptions{}).Node(addr)
	forEachMethod(peer, func(name string, call func(context.Context, proto.Message) (proto.Message, error), req, _ proto.Message) {
		_, err := call(within(t, waitLimit), req)
		role, _, _ := strings.Cut(strings.ToLower(name), ".")
		if role == "status" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			return
		}
		if !errors.Is(err, envelope.ErrUnavailable) || !strings.Contains(err.Error(), "does not run role "+role) {
			t.Errorf("%s: %v", name, err)
		}
	})
}

func TestDeadlines(t *testing.T) {
	left := make(chan time.Duration, 1)
	addr, _ := serve(t, rpc.ServerOptions{}, roles{func(ctx context.Context, method string, _ proto.Message) (proto.Message, error) {
		d, ok := ctx.Deadline()
		if !ok {
			return nil, errors.New("no deadline")
		}
		select {
		case left <- time.Until(d):
		default:
		}
		if method == "Comet.Rooms" {
			return &envelope.RoomsReply{}, nil
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}}.services())
	comet := newPool(t, rpc.PoolOptions{}).Node(addr).Comet()

	if _, err := comet.Rooms(context.Background(), &envelope.RoomsRequest{}); err != nil {
		t.Fatal(err)
	}
	if d := <-left; d > 5*time.Second {
		t.Errorf("a call without a deadline got one of %v", d)
	}
	_, err := comet.Push(within(t, 50*time.Millisecond), &envelope.PushRequest{})
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, envelope.ErrUnavailable) {
		t.Errorf("past its deadline: %v", err)
	}
	<-left
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-left; cancel() }()
	if _, err = comet.Push(ctx, &envelope.PushRequest{}); !errors.Is(err, context.Canceled) || errors.Is(err, envelope.ErrUnavailable) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestPanicIsAnError(t *testing.T) {
	var log waittest.Log
	o := rpc.ServerOptions{Log: zerolog.New(&log)}
	addr, _ := serve(t, o, roles{func(_ context.Context, method string, _ proto.Message) (proto.Message, error) {
		if method == "Comet.Push" {
			var m map[string]int
			m["x"] = 1 //nolint:staticcheck // A write to a nil map panics.
		}
		return &envelope.StatusReply{Ready: true}, nil
	}}.services())
	peer := newPool(t, rpc.PoolOptions{}).Node(addr)
	_, err := peer.Comet().Push(within(t, waitLimit), &envelope.PushRequest{})
	if !errors.Is(err, envelope.ErrInternal) || !strings.Contains(err.Error(), "nil map") {
		t.Errorf("a panic became %v", err)
	}
	if log.Count("rpc_test.go") == 0 {
		t.Error("the log has no stack")
	}
	askStatus(t, peer)
}

func TestLargeMessages(t *testing.T) {
	o := rpc.ServerOptions{MaxMessage: 8 << 20}
	addr, _ := serve(t, o, roles{func(_ context.Context, _ string, req proto.Message) (proto.Message, error) {
		rooms := req.(*envelope.PushRequest).Deliveries[0].Body
		return &envelope.PushReply{EmptyRooms: []string{string(rooms)}}, nil
	}}.services())
	comet := newPool(t, rpc.PoolOptions{}).Node(addr).Comet()
	body := bytes.Repeat([]byte("0123456789abcdef"), 7<<20/16)
	push := func(body []byte) (*envelope.PushReply, error) {
		return comet.Push(within(t, waitLimit), &envelope.PushRequest{Deliveries: []*envelope.Delivery{{Body: body}}})
	}
	rep, err := push(body)
	if err != nil || rep.EmptyRooms[0] != string(body) {
		t.Fatalf("7 MiB: %v", err)
	}
	if _, err = push(append(body, body...)); !errors.Is(err, envelope.ErrTooLarge) {
		t.Errorf("over the limit: %v", err)
	}
	if _, err = push([]byte("small")); err != nil {
		t.Errorf("after one over the limit: %v", err)
	}
}

func TestManyAtOnce(t *testing.T) {
	addr, _ := serve(t, rpc.ServerOptions{}, roles{func(_ context.Context, _ string, req proto.Message) (proto.Message, error) {
		return &envelope.PushReply{Seq: req.(*envelope.PushRequest).Deliveries[0].Id}, nil
	}}.services())
	comet := newPool(t, rpc.PoolOptions{}).Node(addr).Comet()
	var g sync.WaitGroup
	for i := range uint64(64) {
		g.Go(func() {
			for j := range uint64(20) {
				id := i<<32 | j
				req := &envelope.PushRequest{Deliveries: []*envelope.Delivery{{Id: id, Body: make([]byte, j*700)}}}
				rep, err := comet.Push(within(t, waitLimit), req)
				if err != nil || rep.Seq != id {
					t.Errorf("call %d: %v, %v", id, rep, err)
					return
				}
			}
		})
	}
	g.Wait()
}

func TestMetrics(t *testing.T) {
	server, client := prometheus.NewRegistry(), prometheus.NewRegistry()
	o := rpc.ServerOptions{Metrics: server}
	addr, stop := serve(t, o, roles{func(_ context.Context, method string, _ proto.Message) (proto.Message, error) {
		if method == "Comet.Push" {
			return nil, envelope.ErrNotReady
		}
		return &envelope.StatusReply{}, nil
	}}.services())
	peer := newPool(t, rpc.PoolOptions{Metrics: client}).Node(addr)
	askStatus(t, peer)
	if _, err := peer.Comet().Push(within(t, waitLimit), &envelope.PushRequest{}); err == nil {
		t.Fatal("no error")
	}
	stop()
	for name, reg := range map[string]*prometheus.Registry{"server": server, "client": client} {
		got := counters(t, reg, "imgo_rpc_"+name+"_calls_total")
		want := map[string]float64{"not_ready /imgo.rpc.v1.Comet/Push": 1, "ok /imgo.rpc.v1.Status/Status": 1}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
		timed := 0
		for _, n := range counters(t, reg, "imgo_rpc_"+name+"_call_seconds") {
			timed += int(n)
		}
		if timed != 2 {
			t.Errorf("%s: %d calls were timed", name, timed)
		}
	}
}

// counters returns the values of a counter, or the counts of a histogram, by the values of
// their labels.
func counters(t *testing.T, reg *prometheus.Registry, name string) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetValue())
			}
			out[strings.Join(labels, " ")] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return out
}

func BenchmarkPush(b *testing.B) {
	req := &envelope.PushRequest{Deliveries: []*envelope.Delivery{{Id: 1, Op: 5, Body: make([]byte, 200),
		To: []*envelope.Target{{Session: 1 << 40, Prev: 7}}}}}
	for _, s := range []struct {
		name     string
		security rpc.Security
	}{{"plain", rpc.Security{}}, {"secret", rpc.Security{Secret: "a long and random secret"}}} {
		addr, _ := serve(b, rpc.ServerOptions{Security: s.security}, rpc.Services{Comet: pushedComet{}})
		comet := newPool(b, rpc.PoolOptions{Security: s.security}).Node(addr).Comet()
		b.Run(s.name+"/one", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := comet.Push(context.Background(), req); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(s.name+"/many", func(b *testing.B) {
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := comet.Push(context.Background(), req); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
