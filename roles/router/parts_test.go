package router

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/roles/router/mailbox"
	"imgo/store"
)

// While the events topic takes nothing, records are applied between two routine flushes for at least as long as a flush keeps
// them from it. The goroutine that applies them may need a moment to get a processor.
func TestRecordsGoOnBetweenFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &partition{}
		p.applier.p = p
		em := newEmitter(p, struct{ EventsLog }{})
		em.queue = make([]events.Event, 1)
		var paused, free time.Duration
		for began := time.Now(); time.Since(began) < time.Minute; {
			at := time.Now()
			if release, err := em.pauseWhenSent(false); release != nil || err != nil {
				t.Fatal("the topic has taken the events", err)
			}
			paused += time.Since(at)
			time.Sleep(time.Millisecond) // the next flush
			free += time.Millisecond
		}
		if paused == 0 || free < paused {
			t.Errorf("records were applied for %s, and paused for %s", free, paused)
		}
	})
}

// newTestTable returns a table and a function that returns its gauge's value.
func newTestTable(t *testing.T) (table sessionTable, value func() float64) {
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "sessions"})
	reg := prometheus.NewRegistry()
	reg.MustRegister(gauge)
	return newSessionTable(&sessionKinds{}, gauge), func() float64 {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		return families[0].Metric[0].Gauge.GetValue()
	}
}

func newTestAccount(user string) *account { return &account{Mailbox: mailbox.New(user)} }

func info(comet string, id uint64, key string) *envelope.SessionInfo {
	return &envelope.SessionInfo{Address: &envelope.Address{Comet: comet, Session: id}, Key: key, GlobalKey: key != ""}
}

// Every field of a SessionInfo is remembered, whatever is added to it.
func TestSessionRemembersEveryField(t *testing.T) {
	want := &envelope.SessionInfo{}
	fields := want.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		set(t, want.ProtoReflect(), fields.Get(i), i+1)
	}
	var kinds sessionKinds
	if got := kinds.newSession(want).describe(want.User); !proto.Equal(got, want) {
		t.Errorf("remembered\n%v\nof\n%v", got, want)
	}
}

// set gives a field a value that is not its zero value.
func set(t *testing.T, m protoreflect.Message, f protoreflect.FieldDescriptor, n int) {
	t.Helper()
	value := func() protoreflect.Value {
		switch f.Kind() {
		case protoreflect.StringKind:
			return protoreflect.ValueOfString(fmt.Sprint("text", n))
		case protoreflect.Int32Kind:
			return protoreflect.ValueOfInt32(int32(n))
		case protoreflect.Int64Kind:
			return protoreflect.ValueOfInt64(int64(n))
		case protoreflect.Uint32Kind:
			return protoreflect.ValueOfUint32(uint32(n))
		case protoreflect.Uint64Kind:
			return protoreflect.ValueOfUint64(uint64(n))
		case protoreflect.BoolKind:
			return protoreflect.ValueOfBool(true)
		}
		t.Fatalf("this test has no value for the field %s of kind %s", f.Name(), f.Kind())
		return protoreflect.Value{}
	}
	switch {
	case f.IsList():
		m.Mutable(f).List().Append(value())
	case f.Message() != nil:
		inner := f.Message().Fields()
		for i := range inner.Len() {
			set(t, m.Mutable(f).Message(), inner.Get(i), n+i)
		}
	default:
		m.Set(f, value())
	}
}

func TestSessionTable(t *testing.T) {
	table, value := newTestTable(t)
	ann, bob := newTestAccount("ann"), newTestAccount("bob")
	table.addLocked(ann, info("c", 1, "k"), 0)
	table.addLocked(ann, info("c", 1, "k"), 0) // a call that is made again
	table.addLocked(bob, info("c", 2, "k"), 0)
	table.addLocked(bob, info("d", 1, ""), 0)
	if n := value(); n != 3 || table.online != 2 || len(bob.sessions) != 2 {
		t.Errorf("%v sessions, %d accounts are online", n, table.online)
	}
	named := func(key string) string {
		var out []string
		for _, s := range table.withKeyLocked(nil, key) {
			out = append(out, fmt.Sprintf("%s %s/%d", s.User, s.Address.Comet, s.Address.Session))
		}
		return strings.Join(out, ", ")
	}
	for key, want := range map[string]string{
		"k": "ann c/1, bob c/2", "d~0000000000000001": "bob d/1", "c~0000000000000001": "ann c/1", "d~0000000000000002": "", "x": "",
	} {
		if got := named(key); got != want {
			t.Errorf("the key %s names %q, want %q", key, got, want)
		}
	}
	table.eachLocked("c", func(a *account, s *session) { table.removeLocked(a, s.address()) })
	if table.removeLocked(ann, envelope.AddressKey{Comet: "c", Session: 1}) {
		t.Error("a session is removed twice")
	}
	if n := value(); n != 1 || table.online != 1 || len(table.byKey) != 0 || len(table.byComet) != 1 {
		t.Errorf("%v sessions, %d accounts are online, keys %v", n, table.online, table.byKey)
	}
}

func TestReplacedSessionsAreForgottenInOrder(t *testing.T) {
	a := newTestAccount("u")
	for i := range uint64(maxReplaced + 1) {
		a.noteReplaced(envelope.AddressKey{Comet: "c", Session: i})
	}
	if len(a.extra.replaced) != maxReplaced || a.extra.replaced[0].Session != 1 {
		t.Errorf("remembered %v", a.extra.replaced)
	}
}

func TestClaims(t *testing.T) {
	var c claims
	c.add("a", 1, []byte("0123456789ab"))
	if taken := c.collect(); len(taken) != 1 {
		t.Errorf("took %v", taken)
	}
	c.add("b", 2, nil)
	for key, want := range map[string]bool{"a": true, "b": true, "c": false} {
		if _, ok := c.find(key); ok != want {
			t.Errorf("%s is found: %v", key, ok)
		}
	}
	c.written(errors.New("disk"))
	if taken := c.collect(); len(taken) != 2 || taken["a"].Record != [12]byte([]byte("0123456789ab")) {
		t.Errorf("after a failure it took %v", taken)
	}
	c.written(nil)
	if _, ok := c.find("a"); ok {
		t.Error("a claim that the store has is in memory")
	}
	c.written(errors.New("disk")) // a flush without claims
	c.add("d", 3, nil)
	if c.collect()["d"] != (store.MailboxClaim{ID: 3}) {
		t.Error("a new claim is lost")
	}
}

// Ids are remembered for as long as their records may be repeated, in bounded memory.
func TestRecordIDs(t *testing.T) {
	id := func(n int) []byte { return fmt.Appendf(nil, "%012d", n) }
	for name, c := range map[string]struct {
		repeats    time.Duration
		everyMS    int64 // between two records
		remembered int   // records
		held       int
		forgotten  bool
	}{
		"never repeated":              {0, 0, recordIDsKept, 2 * recordIDsKept, false},
		"few come while it may be":    {time.Second, 10, recordIDsKept, 2 * recordIDsKept, false},
		"many come while it may be":   {3 * recordIDsKept * time.Millisecond, 1, 3 * recordIDsKept, 6*recordIDsKept + 2, false},
		"too many":                    {time.Hour, 0, recordIDsMost, 2 * recordIDsMost, true},
		"the log's clock is put back": {time.Second, -1, recordIDsMost, 2 * recordIDsMost, true},
	} {
		t.Run(name, func(t *testing.T) {
			reg := prometheus.NewRegistry()
			forgotten := prometheus.NewCounter(prometheus.CounterOpts{Name: "forgotten"})
			reg.MustRegister(forgotten)
			r := recordIDs{repeats: c.repeats, forgotten: forgotten}
			for n := range 3 * recordIDsMost {
				at := 1_700_000_000_000 + int64(n)*c.everyMS
				for range 2 { // a record that is applied again is not void
					if r.repeated(id(n), int64(n), at) {
						t.Fatalf("record %d is taken for a repetition", n)
					}
				}
				if last := n - c.remembered + 1; last >= 0 && !r.repeated(id(last), int64(n+1), at) {
					t.Fatalf("record %d was forgotten too early", last)
				}
				if held := len(r.newer) + len(r.older); held > c.held {
					t.Fatalf("%d ids are held", held)
				}
			}
			families, err := reg.Gather()
			if err != nil {
				t.Fatal(err)
			}
			if n := families[0].Metric[0].Counter.GetValue(); n > 0 != c.forgotten {
				t.Errorf("%v ids were forgotten while their records might be repeated", n)
			}
			if r.repeated(nil, 1, 1) || r.repeated(nil, 2, 2) {
				t.Error("a record without an id is a repetition")
			}
		})
	}
}

func TestCacheMakesRoom(t *testing.T) {
	const body = 100
	message := &envelope.Kept{Body: make([]byte, body)}
	var limit atomic.Int64
	c := cache{limit: &limit}
	var accounts []*account
	for i := range 3 {
		entries := []store.MailboxEntry{{ID: 1, Size: body, ExpiresMS: 1}, {ID: 2, Size: body, ExpiresMS: 1}}
		a := &account{Mailbox: mailbox.Load(fmt.Sprint(i), nil, entries)}
		accounts = append(accounts, a)
		limit.Store(int64(5 * a.Messages.All()[0].Cost()))
		for _, e := range a.Messages.All() {
			c.add(a, e, message)
		}
		if i == 1 {
			c.use(accounts[0])
		}
	}
	c.trim()
	held := func(i int) int { return accounts[i].Messages.Held() }
	if held(0) == 0 || held(1) != 0 || held(2) == 0 || c.bytes != held(0)+held(2) {
		t.Errorf("held are %d, %d and %d bytes, counted %d", held(0), held(1), held(2), c.bytes)
	}
	limit.Store(1)
	c.add(accounts[1], accounts[1].Messages.All()[0], message)
	if held(1) != 0 {
		t.Error("an account has more than half of the room")
	}
	for _, a := range accounts {
		c.release(a)
		c.release(a)
	}
	if c.bytes != 0 {
		t.Errorf("%d bytes are counted of nothing", c.bytes)
	}
}

func TestCometTable(t *testing.T) {
	table := newCometTable()
	now := time.Unix(1000, 0)
	announce := func(incarnation uint64, rooms map[string]uint32) (map[string]uint32, bool) {
		rooms, restarted, _ := table.announced(&envelope.AnnounceRequest{Comet: "c", Incarnation: incarnation, Rooms: rooms}, now)
		return rooms, restarted
	}
	table.announced(&envelope.AnnounceRequest{Comet: "d", Incarnation: 1, Rooms: map[string]uint32{"r": 2, "s": 1}}, now)
	rooms, restarted := announce(1, map[string]uint32{"r": 3})
	if len(rooms) != 1 || rooms["r"] != 5 || !restarted {
		t.Errorf("rooms %v, restarted %v", rooms, restarted)
	}
	totals := func(want string) {
		t.Helper()
		if got := fmt.Sprint(table.rooms); got != want {
			t.Errorf("the rooms have %s, want %s", got, want)
		}
	}
	if rooms, _ := announce(1, map[string]uint32{"r": 1, "t": 4}); rooms["r"] != 3 || rooms["t"] != 4 {
		t.Errorf("rooms %v", rooms)
	}
	totals("map[r:3 s:1 t:4]")
	epoch := table.epoch("c", now)
	if _, restarted := announce(1, nil); restarted || table.epoch("c", now) != epoch {
		t.Error("a comet that lives gets another epoch")
	}
	grows := func(what string) {
		t.Helper()
		next := table.epoch("c", now)
		if next <= epoch {
			t.Errorf("%s: the epoch %d became %d", what, epoch, next)
		}
		epoch = next
	}
	announce(2, nil)
	grows("a restart")
	table.forget("c")
	grows("forgotten")
	totals("map[r:2 s:1]")

	// A count that differs in the same way for long enough is believed.
	for i, c := range []struct {
		want, have uint32
		miscounted bool
	}{{1, 2, false}, {1, 2, false}, {2, 2, false}, {1, 2, false}, {1, 3, false}, {1, 3, false}, {1, 3, true}, {1, 3, false},
		{2, 2, false}, {5, 6, false}, {9, 10, false}, {10, 9, false}, {6, 7, false}, {7, 8, false}, {2, 3, true}} {
		if got := table.miscounted("c", 0, c.want, c.have, now); got != c.miscounted {
			t.Errorf("%d: %+v: %v", i, c, got)
		}
	}
	if reviewing, _ := table.reviewStep("c", now); reviewing {
		t.Error("the comet is reviewed before it was asked")
	}
	table.beginReview("c", now)
	grows("a review")
	for range 3 * mismatchLimit {
		if reviewing, over := table.reviewStep("c", now); !reviewing || over {
			t.Errorf("the review of a comet that still announces sessions: %v, %v", reviewing, over)
		}
		table.announced(&envelope.AnnounceRequest{Comet: "c", Incarnation: 2, Sessions: []*envelope.SessionInfo{{User: "u"}}}, now)
	}
	for i := range mismatchLimit + 1 {
		if reviewing, over := table.reviewStep("c", now); !reviewing || over != (i == mismatchLimit) {
			t.Errorf("step %d: %v, %v", i, reviewing, over)
		}
	}

	// A comet that is silent is expired once in each timeout, and forgotten
	// after a day; its epochs never come back.
	present := map[string]struct{}{"c": {}, "met": {}}
	if silent := table.expire(present, time.Second, now); len(silent) != 0 {
		t.Errorf("expired %v", silent)
	}
	now = now.Add(2 * time.Second)
	if silent := table.expire(present, time.Second, now); len(silent) != 3 {
		t.Errorf("expired %v", silent)
	}
	if silent := table.expire(present, time.Second, now); len(silent) != 0 {
		t.Errorf("expired %v again at once", silent)
	}
	grows("silence")
	totals("map[]")
	announce(2, map[string]uint32{"r": 1})
	now = now.Add(forgetAfter + time.Second)
	table.expire(nil, time.Second, now)
	if len(table.comets) != 0 {
		t.Errorf("%d comets are known", len(table.comets))
	}
	totals("map[]")
	grows("forgotten for good")
}

func TestRemindersBackOff(t *testing.T) {
	cfg := DefaultConfig()
	cfg.WatchInterval, cfg.WatchMax = time.Second, 8*time.Second
	s := &session{}
	now := time.Unix(1000, 0)
	var told []int
	for second := range 40 {
		if s.remind(7, now.Add(time.Duration(second)*time.Second), &cfg) {
			told = append(told, second)
		}
	}
	if got := fmt.Sprint(told); got != "[0 2 6 14 22 30 38]" {
		t.Errorf("told of the same message at the seconds %s", got)
	}
	if !s.remind(8, now.Add(39*time.Second), &cfg) {
		t.Error("a new message waits")
	}
}

func TestPositionBeforeTheFirstRecord(t *testing.T) {
	for generation, want := range map[uint16]uint64{1: 0, 2: envelope.ID(2, 0) - 1} {
		p := position{generation: generation, fence: -1}
		if got := p.appliedID(); got != want || p.fenced() {
			t.Errorf("generation %d: %d", generation, got)
		}
		p.next = 5
		if got := p.appliedID(); got != envelope.ID(generation, 4) {
			t.Errorf("generation %d: %d", generation, got)
		}
	}
}
