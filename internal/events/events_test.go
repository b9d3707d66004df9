package events_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"imgo/envelope"
	"imgo/internal/events"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memLog is an events topic in memory.
type memLog struct {
	generation uint16
	mu         sync.Mutex
	parts      [][]envelope.Entry
	begins     []int64
	closed     bool
	grown      chan struct{}
	// arrive, unless nil, is told of a read, as far as it has room. All reads wait for proceed.
	arrive, proceed chan struct{}
}

func newLog(generation uint16, partitions int) *memLog {
	return &memLog{
		generation: generation, parts: make([][]envelope.Entry, partitions), begins: make([]int64, partitions), grown: make(chan struct{}),
	}
}

func (l *memLog) Partitions() int32  { return int32(len(l.parts)) }
func (l *memLog) Generation() uint16 { return l.generation }

func (l *memLog) Bounds(_ context.Context, p int32) (begin, end int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.begins[p], int64(len(l.parts[p])), nil
}

func (l *memLog) Read(ctx context.Context, p int32, from int64, _ int) ([]envelope.Entry, error) {
	if l.arrive != nil {
		select {
		case l.arrive <- struct{}{}:
		default:
		}
		select {
		case <-l.proceed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	for {
		l.mu.Lock()
		begin, list, closed, grown := l.begins[p], l.parts[p], l.closed, l.grown
		l.mu.Unlock()
		switch {
		case closed:
			return nil, envelope.ErrClosed
		case from < begin || from > int64(len(list)):
			return nil, envelope.ErrOutOfRange
		case from < int64(len(list)):
			return list[from:min(int64(len(list)), from+7)], nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// change does something to the log and wakes the readers.
func (l *memLog) change(do func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	do()
	close(l.grown)
	l.grown = make(chan struct{})
}

// add appends a delivery of a user's message, by the record at an offset of the kept log.
func (l *memLog) add(user string, offset int64, n uint32) {
	p := envelope.Partition(user, len(l.parts))
	e := events.Event{
		ID: events.ID{Record: envelope.ID(l.generation, offset), N: n}, Type: events.Delivered, User: user, Ref: fmt.Sprintf("%d.%d", offset, n),
	}
	l.change(func() {
		l.parts[p] = append(l.parts[p], envelope.Entry{Partition: p, Offset: int64(len(l.parts[p])), Value: e.AppendJSON(nil, "test")})
	})
}

// topics are the logs of generations 1 and up. A nil one was deleted.
type topics struct {
	mu   sync.Mutex
	logs []*memLog
}

func (s *topics) Current() uint16 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return uint16(len(s.logs))
}

func (s *topics) Open(_ context.Context, generation uint16) (envelope.Log, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.logs[generation-1] == nil {
		return nil, fmt.Errorf("open the topic: %w", envelope.ErrNotFound)
	}
	return s.logs[generation-1], nil
}

// The topic has CloudEvents, with strings as any JSON reader expects them.
func TestEventIsCloudEvent(t *testing.T) {
	nasty := "q\"\\\u2028<é\x00"
	for _, c := range []struct {
		event events.Event
		data  map[string]any
	}{
		{events.Event{Type: events.Delivered, Ref: nasty, Device: nasty, AfterMS: 12, Auto: true},
			map[string]any{"ref": nasty, "device": nasty, "after_ms": 12.0, "auto": true}},
		{events.Event{Type: events.Delivered}, map[string]any{"device": "", "after_ms": 0.0}},
		{events.Event{Type: events.Settled, Without: []string{"a", nasty}}, map[string]any{"without": []any{"a", nasty}}},
		{events.Event{Type: events.Settled}, map[string]any{}},
		{events.Event{Type: events.Undelivered, Devices: []string{"a"}}, map[string]any{"devices": []any{"a"}, "step": 1.0}},
		{events.Event{Type: events.Expired}, map[string]any{"devices": []any{}}},
		{events.Event{Type: events.Dropped, Reason: events.ReasonFull}, map[string]any{"devices": []any{}, "reason": "mailbox_full"}},
		{events.Event{Type: events.Read, Device: nasty, IDs: []uint64{1, math.MaxUint64}, UpTo: 7},
			map[string]any{"device": nasty, "ids": []any{"1", "18446744073709551615"}, "up_to": "7"}},
		{events.Event{Type: events.Read}, map[string]any{"device": "", "ids": []any{}}},
		{events.Event{Type: events.Online, Device: nasty}, map[string]any{"device": nasty, "epoch": "281474976710657"}},
		{events.Event{Type: events.Offline}, map[string]any{"device": "", "epoch": "281474976710657"}},
		{events.Event{Type: events.Upstream, Device: nasty, Session: "n~1", Op: 4, Body: []byte(nasty), ClientID: math.MaxUint64},
			map[string]any{"device": nasty, "session": "n~1", "op": 4.0, "body_text": nasty, "client_id": "18446744073709551615"}},
		{events.Event{Type: events.Upstream, Op: math.MaxInt32, Body: []byte(`{"a":[1]}`)},
			map[string]any{"device": "", "session": "", "op": float64(math.MaxInt32), "body": map[string]any{"a": []any{1.0}}}},
		{events.Event{Type: events.Upstream, Op: 4, Body: []byte{0xff, 0}},
			map[string]any{"device": "", "session": "", "op": 4.0, "body_base64": "/wA="}},
	} {
		e := c.event
		e.ID, e.Partition, e.User, e.TimeMS = events.ID{Record: 1<<48 + 1, N: 3}, 7, nasty, 1_700_000_000_123
		c.data["user"] = nasty
		if strings.HasPrefix(string(e.Type), "message.") && e.Type != events.Read {
			e.Message, c.data["id"] = 1<<48, "281474976710656"
		}
		want := map[string]any{
			"specversion": "1.0", "id": "7-281474976710657.3", "source": "imgo/x", "type": string(e.Type), "subject": nasty,
			"time": "2023-11-14T22:13:20.123Z", "datacontenttype": "application/json", "data": c.data,
		}
		value := e.AppendJSON(nil, "imgo/x")
		var got map[string]any
		if err := json.Unmarshal(value, &got); err != nil {
			t.Fatalf("%s: %v", value, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", e.Type, diff)
		}
		if h, err := events.ParseHeader(value); err != nil || h != (events.Header{ID: e.ID, Type: e.Type, User: nasty}) {
			t.Errorf("header %+v, %v", h, err)
		}
	}
	for _, text := range []string{"", "1", "a.1", "1.a", "1.-1", "1.4294967296", "18446744073709551616.0"} {
		if id, err := events.ParseID(text); err == nil {
			t.Errorf("%q is read as %v", text, id)
		}
	}
}

func TestTypes(t *testing.T) {
	for _, c := range []struct {
		list string
		want bool
	}{
		{"", true}, {"message.*", true}, {"*", true}, {"message.delivered", true}, {"message.settled", false}, {"message.d*", true},
		{"user.*", false},
	} {
		list := strings.FieldsFunc(c.list, func(r rune) bool { return r == ',' })
		if got := events.Matches(list, events.Delivered); got != c.want {
			t.Errorf("%q matches: %v", c.list, got)
		}
	}
	if err := events.CheckTypes("types", []string{"message.*", "users.*"}); !errors.Is(err, envelope.ErrInvalid) {
		t.Errorf("CheckTypes: %v", err)
	}
}

func refs(list []events.Record) (out []string) {
	for _, r := range list {
		var e struct{ Data struct{ Ref string } }
		_ = json.Unmarshal(r.Value, &e)
		out = append(out, r.User+" "+e.Data.Ref)
	}
	return out
}

// A reader drops repetitions, however they are mixed, and values of others. It finds its place again by an offset.
func TestReaderDropsRepetitions(t *testing.T) {
	l := newLog(1, 1)
	for _, at := range []int64{1, 2, 1, 2, 3, 2, 3} {
		l.add("u", at, 0)
		l.add("u", at, 1)
	}
	l.change(func() {
		l.parts[0] = append(l.parts[0], envelope.Entry{Offset: int64(len(l.parts[0])), Value: []byte("nonsense")})
	})
	l.add("u", 4, 0)
	want := []string{"u 1.0", "u 1.1", "u 2.0", "u 2.1", "u 3.0", "u 3.1", "u 4.0"}
	for resume := range int64(len(l.parts[0])) {
		var got []string
		take := func(r *events.Reader, until int64) {
			for r.Position().Offset < until {
				records, err := r.Next(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for _, rec := range records {
					if rec.Offset < until {
						got = append(got, refs([]events.Record{rec})...)
					}
				}
			}
		}
		take(events.NewReader(l, 0, events.Position{}), resume)
		r, err := events.ResumeReader(t.Context(), l, 0, resume)
		if err != nil {
			t.Fatal(err)
		}
		take(r, int64(len(l.parts[0])))
		if !slices.Equal(got, want) {
			t.Errorf("resumed at %d: %q, want %q", resume, got, want)
		}
	}
	if id, err := events.Highest(t.Context(), l, 0); err != nil || id != (events.ID{Record: envelope.ID(1, 4)}) {
		t.Errorf("highest id %v, %v", id, err)
	}
}

func TestCursor(t *testing.T) {
	id := events.ID{Record: envelope.ID(3, envelope.MaxOffset), N: 1<<32 - 1}
	for _, c := range []events.Cursor{
		{Generation: 1},
		{Generation: 3, Turn: 7, At: map[int32]events.Position{
			0: {Offset: 5}, 9: {Offset: 1 << 40, Last: id}, 1023: {Last: events.ID{Record: envelope.ID(3, 0)}}}},
	} {
		got, err := events.ParseCursor(c.String())
		if c.At == nil {
			c.At = map[int32]events.Position{}
		}
		if diff := cmp.Diff(c, got); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	}
	for _, text := range []string{"x", "AA", "AQ", "AQAA", "AQEA_w", "AQEAAAA", "*"} {
		if c, err := events.ParseCursor(text); err == nil {
			t.Errorf("%q is read as %+v", text, c)
		}
	}
}

// Pages of a feed have every event once, in a user's order, whatever the limit, across generations, and a user's alone.
func TestWindow(t *testing.T) {
	first := newLog(1, 3)
	s := &topics{logs: []*memLog{first}}
	users := []string{"a", "b", "c", "d", "e"}
	for i := range int64(20) {
		for k, u := range users {
			first.add(u, 10*i+int64(k), 0)
		}
		first.add("a", 10*i, 0) // a repetition
	}
	w := events.NewFeed(s)
	for _, limit := range []int{1, 7, 1000} {
		for _, only := range []string{"", "b"} {
			s.logs = s.logs[:1]
			q := events.Query{Limit: limit, User: only, Types: []string{"message.*"}}
			got := map[string][]string{}
			for step := 0; ; step++ {
				page, err := w.Read(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				if len(page.Records) > limit {
					t.Fatalf("%d events, at most %d were asked for", len(page.Records), limit)
				}
				for _, text := range refs(page.Records) {
					u, ref, _ := strings.Cut(text, " ")
					got[u] = append(got[u], ref)
				}
				if !page.More && len(s.logs) == 2 {
					break
				}
				if step == 3 { // the kept log has grown
					second := newLog(2, 5)
					s.logs = append(s.logs, second)
					for k, u := range users {
						second.add(u, int64(k), 0)
					}
				}
				if q.After, err = events.ParseCursor(page.Next.String()); err != nil {
					t.Fatal(err)
				}
			}
			for k, u := range users {
				var want []string
				if only == "" || only == u {
					for i := range 20 {
						want = append(want, fmt.Sprintf("%d.0", 10*i+k))
					}
					want = append(want, fmt.Sprintf("%d.0", k))
				}
				if !slices.Equal(got[u], want) {
					t.Errorf("limit %d, user %q: events of %s: %q, want %q", limit, only, u, got[u], want)
				}
			}
		}
	}
}

// A feed waits for an event that matches, until the time is over, and says what retention took.
func TestWindowSkipsADeletedGeneration(t *testing.T) {
	s := &topics{logs: []*memLog{newLog(1, 2), newLog(2, 3), newLog(3, 3)}}
	w := events.NewFeed(s)
	for _, log := range s.logs {
		log.add("a", 0, 0)
		log.add("a", 1, 0)
	}
	first, err := w.Read(t.Context(), events.Query{After: events.Cursor{Generation: 1}, Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	s.logs[0], s.logs[1] = nil, nil
	page, err := w.Read(t.Context(), events.Query{After: first.Next, Limit: 10})
	if err != nil {
		t.Fatal(err)
	}
	if len(page.Records) != 2 || page.More || page.Next.Generation != 3 {
		t.Errorf("after the deletion of two topics: %+v, want both events of the third", page)
	}
}

// The ends of all partitions are looked for side by side: a read may wait for a server far away.
func TestWindowFindsTheEndsSideBySide(t *testing.T) {
	const partitions = 8
	l := newLog(1, partitions)
	for i := range int64(200) {
		l.add(fmt.Sprint("u", i), i, 0)
	}
	l.arrive = make(chan struct{}, partitions)
	l.proceed = make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		defer close(l.proceed)
		for range partitions {
			select {
			case <-l.arrive:
			case <-ctx.Done():
				return
			}
		}
	}()
	page, err := events.NewFeed(&topics{logs: []*memLog{l}}).Read(ctx, events.Query{Limit: 10, Now: true})
	if err != nil {
		t.Fatal(err)
	}
	for p, list := range l.parts {
		last := list[len(list)-1]
		h, err := events.ParseHeader(last.Value)
		if err != nil {
			t.Fatal(err)
		}
		if want := (events.Position{Offset: last.Offset + 1, Last: h.ID}); page.Next.At[int32(p)] != want {
			t.Errorf("partition %d ends at %v, want %v", p, page.Next.At[int32(p)], want)
		}
	}
}

func TestWindowWaits(t *testing.T) {
	l := newLog(1, 2)
	w := events.NewFeed(&topics{logs: []*memLog{l}})
	l.add("a", 1, 0)
	page, err := w.Read(t.Context(), events.Query{Limit: 10, Now: true})
	if err != nil || len(page.Records) != 0 {
		t.Fatalf("from now on: %v, %v", page, err)
	}
	type result struct {
		page *events.Page
		err  error
	}
	done := make(chan result, 1)
	go func() {
		p, err := w.Read(t.Context(), events.Query{Limit: 10, After: page.Next, User: "b", Wait: time.Minute})
		done <- result{p, err}
	}()
	l.add("a", 2, 0) // of another user
	l.add("b", 3, 0)
	if r := <-done; r.err != nil || !slices.Equal(refs(r.page.Records), []string{"b 3.0"}) {
		t.Errorf("waited for %v, %v", r.page, r.err)
	}
	short := events.Query{Limit: 10, After: page.Next, User: "c", Wait: 10 * time.Millisecond}
	if p, err := w.Read(t.Context(), short); err != nil || len(p.Records) > 0 {
		t.Errorf("nothing came: %v, %v", p, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if p, err := w.Read(ctx, events.Query{Limit: 10, After: page.Next, User: "c", Wait: time.Minute}); err == nil {
		t.Errorf("the caller has gone: %v", p)
	}
	p := envelope.Partition("a", 2)
	for i := range int64(4) {
		l.add("a", 10+i, 0)
	}
	l.change(func() { l.begins[p] = int64(len(l.parts[p])) - 1 })
	got, err := w.Read(t.Context(), events.Query{Limit: 10, After: page.Next, User: "a"})
	if err != nil || !slices.Equal(refs(got.Records), []string{"a 13.0"}) || got.Skipped == 0 {
		t.Errorf("after retention: %+v, %v", got, err)
	}
	beyond := events.Cursor{Generation: 1, At: map[int32]events.Position{0: {Offset: 1000}}}
	if _, err := w.Read(t.Context(), events.Query{Limit: 10, After: beyond}); !errors.Is(err, envelope.ErrInvalid) {
		t.Errorf("a cursor beyond the end: %v", err)
	}
}

// laterLog is a log whose partitions did not begin at 0.
type laterLog struct {
	*memLog
	first int64
}

func (l laterLog) First() int64 { return l.first }

func (l laterLog) Current() uint16 { return 1 }

func (l laterLog) Open(context.Context, uint16) (envelope.Log, error) { return l, nil }

// A cursor of a log that was lost is told from one whose events retention has removed.
func TestCursorOfALostLog(t *testing.T) {
	l := laterLog{newLog(1, 1), 10}
	for i := range int64(20) {
		l.add("a", i, 0)
	}
	l.change(func() { l.begins[0] = 15 })
	w := events.NewFeed(l)
	for offset, want := range map[int64]error{9: envelope.ErrInvalid, 10: nil, 15: nil} {
		after := events.Cursor{Generation: 1, At: map[int32]events.Position{0: {Offset: offset}}}
		page, err := w.Read(t.Context(), events.Query{Limit: 10, After: after})
		if !errors.Is(err, want) {
			t.Errorf("after offset %d: %v, want %v", offset, err, want)
		} else if err == nil && (len(page.Records) != 5 || page.Skipped != 15-offset) {
			t.Errorf("after offset %d: %+v", offset, page)
		}
	}
	if page, err := w.Read(t.Context(), events.Query{Limit: 10}); err != nil || len(page.Records) != 5 {
		t.Errorf("without a cursor: %v, %v", page, err)
	}
}

// Retention may remove all entries of a partition. A page then has none and goes on behind them.
func TestWindowOfAnEmptiedPartition(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	l := newLog(1, 1)
	for i := range int64(20) {
		l.add("a", i, 0)
	}
	l.change(func() { l.begins[0] = 20 })
	w := events.NewFeed(&topics{logs: []*memLog{l}})
	q := events.Query{Limit: 10, After: events.Cursor{Generation: 1, At: map[int32]events.Position{0: {Offset: 5}}}}
	for _, q.Wait = range []time.Duration{0, time.Millisecond} {
		page, err := w.Read(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Records) > 0 || page.More || page.Skipped != 15 || page.Next.At[0].Offset != 20 {
			t.Errorf("got %+v", page)
		}
	}
	if found, complete, err := events.OfMessage(ctx, l, 0, "a", 1, 0); err != nil || len(found) > 0 || !complete {
		t.Errorf("of a message: %v, %v, %v", found, complete, err)
	}
	l.add("a", 20, 0)
	page, err := w.Read(ctx, q)
	if err != nil || !slices.Equal(refs(page.Records), []string{"a 20.0"}) || page.Skipped != 15 {
		t.Errorf("after the next event: %+v, %v", page, err)
	}
	// Who begins has skipped nothing.
	page, err = w.Read(ctx, events.Query{Limit: 10})
	if err != nil || !slices.Equal(refs(page.Records), []string{"a 20.0"}) || page.Skipped != 0 {
		t.Errorf("without a cursor: %+v, %v", page, err)
	}
}
