package router_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/roles/router"
	"imgo/store"
)

// growing is a growth to a log in memory.
type growing struct {
	mu    sync.Mutex
	next  *memLog
	begun chan struct{}
	moved map[int32]int
	// refuse fails so many appends; noting fails while it is set.
	refuse int
	noting error
}

func newGrowing(partitions int) *growing {
	next := newMemLog(partitions)
	next.generation = 2
	return &growing{next: next, begun: make(chan struct{}), moved: make(map[int32]int)}
}

func (g *growing) Moving(ctx context.Context) (router.NextLog, error) {
	select {
	case <-g.begun:
		return g, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (g *growing) Partitions() int32 { return g.next.Partitions() }

func (g *growing) AppendMany(ctx context.Context, entries []envelope.Entry) error {
	g.mu.Lock()
	refused := g.refuse > 0
	g.refuse--
	g.mu.Unlock()
	if refused {
		// Some of it is there all the same.
		_ = g.next.AppendMany(ctx, entries[:len(entries)/2])
		return envelope.Errorf(envelope.CodeUnavailable, "as the test wants it")
	}
	return g.next.AppendMany(ctx, entries)
}

func (g *growing) HasMoved(partition int32) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.moved[partition] > 0
}

func (g *growing) Moved(_ context.Context, partition int32) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.noting != nil {
		return g.noting
	}
	g.moved[partition]++
	return nil
}

// awaitMoved waits until all has moved.
func (g *growing) awaitMoved(t *testing.T, partitions int32) {
	t.Helper()
	eventually(t, "all has moved", func() bool {
		for p := range partitions {
			if !g.HasMoved(p) {
				return false
			}
		}
		return true
	})
}

// after is a router of the next generation, with an empty disk.
func after(t *testing.T, w *world, next *memLog) *world {
	t.Helper()
	n := &world{t: t, cfg: w.cfg, dir: t.TempDir(), kept: next, live: newMemLog(1), clock: w.clock}
	n.start()
	t.Cleanup(func() { n.stop() })
	return n
}

// add appends a record of the next generation and waits until it is applied.
func (w *world) add(user string, rec *envelope.Record) uint64 {
	w.t.Helper()
	rec.Id, rec.TimeMs = envelope.NewRecordID(), w.clock.now().UnixMilli()
	value, err := rec.MarshalVT()
	if err != nil {
		w.t.Fatal(err)
	}
	p := envelope.Partition(user, int(w.kept.Partitions()))
	off, err := w.kept.Append(context.Background(), p, value)
	if err != nil {
		w.t.Fatal(err)
	}
	w.reached(p, off)
	return envelope.ID(w.kept.Generation(), off)
}

func (w *world) reached(p int32, off int64) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	id := envelope.ID(w.kept.Generation(), off)
	if _, err := w.r.Resolve(ctx, &envelope.ResolveRequest{Partition: uint32(p), Items: []*envelope.ResolveItem{{Id: id}}}); err != nil {
		w.t.Fatal(err)
	}
}

func pushOf(w *world, body, key string, ttl time.Duration, users ...string) *envelope.Record {
	return &envelope.Record{Push: &envelope.Push{
		Users: users, Op: 5, Body: []byte(body), IdempotencyKey: key, ExpiresMs: w.clock.now().Add(ttl).UnixMilli(),
	}}
}

// populate gives users every kind of state, by a seed, and returns their names.
func populate(w *world, seed uint64) []string {
	rng := rand.New(rand.NewPCG(seed, 3))
	var users []string
	for i := range 12 {
		users = append(users, fmt.Sprint("user", i))
	}
	devices := []string{"", "phone", "laptop"}
	for step := range 400 {
		user := users[rng.IntN(len(users))]
		switch rng.IntN(8) {
		case 0, 1, 2:
			w.append(user, pushOf(w, fmt.Sprint(step), "", time.Hour, user))
		case 3:
			w.append(user, pushOf(w, "soon gone", "", time.Minute, user))
		case 4:
			w.append(user, pushOf(w, fmt.Sprint(step), fmt.Sprint("key", rng.IntN(10)), time.Hour, user))
		case 5, 6:
			p := envelope.Partition(user, 2)
			_, end, _ := w.kept.Bounds(context.Background(), p)
			ack := &envelope.Ack{User: user, Device: devices[rng.IntN(3)]}
			for range 5 {
				ack.Ids = append(ack.Ids, envelope.ID(1, rng.Int64N(end+1)))
			}
			w.append(user, &envelope.Record{Acks: &envelope.Acks{Acks: []*envelope.Ack{ack}}})
		case 7:
			room := fmt.Sprint("room", rng.IntN(3))
			w.append(user, &envelope.Record{Membership: &envelope.Membership{User: user, Room: room, Member: rng.IntN(3) > 0}})
			if step > 50 && user != "user0" { // of whom no device is ever known
				w.append(user, &envelope.Record{Device: &envelope.Device{
					User: user, Device: devices[rng.IntN(3)], SeenMs: w.clock.now().UnixMilli(),
				}})
			}
		}
	}
	// A message for several users of a partition is one record.
	var together []string
	for _, u := range users {
		if envelope.Partition(u, 2) == 0 {
			together = append(together, u)
		}
	}
	w.append(together[0], pushOf(w, "together", "", time.Hour, together...))
	for i := range 5 {
		w.append(users[i], &envelope.Record{Claim: &envelope.Claim{Key: fmt.Sprint("claim", i)}})
	}
	w.clock.add(2 * time.Minute) // some have expired
	w.awaitApplied(users)
	return users
}

// full is all that callers and sessions can know of users.
func (w *world) full(users []string) string {
	w.t.Helper()
	out := w.state(users)
	for _, u := range users {
		info, err := w.r.User(context.Background(), &envelope.UserRequest{User: u})
		if err != nil {
			w.t.Fatal(err)
		}
		out += fmt.Sprintf("%s dropped %d, %d to %d, seen %d", u, info.Dropped, info.OldestId, info.NewestId, info.LastSeenMs)
		for i := range 10 {
			l, err := w.r.Lookup(context.Background(), &envelope.LookupRequest{Users: []string{u}, IdempotencyKey: fmt.Sprint("key", i)})
			if err != nil {
				w.t.Fatal(err)
			}
			out += fmt.Sprintf(" %d", l.Users[0].AppliedId)
		}
		out += " " + w.rooms(u, 0) + "\n"
	}
	return out
}

// All that a router has is what the routers of the next generation have, and
// the log says it, whatever appends failed meanwhile.
func TestMove(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			g := newGrowing(5)
			w := newWorld(t, func(c *router.Config) { c.MailboxLength = 15 })
			w.stop()
			w.growth = g
			w.start()
			users := populate(w, seed)
			want := w.full(users)
			g.refuse = int(seed % 3)
			close(g.begun)
			g.awaitMoved(t, 2)
			if got := w.full(users); got != want {
				t.Errorf("the old router says another thing now:\n%s\nbefore:\n%s", got, want)
			}
			n := after(t, w, g.next)
			if got := n.full(users); got != want {
				t.Errorf("moved:\n%s\nbefore:\n%s", got, want)
			}
			n.restart()
			if got := n.full(users); got != want {
				t.Errorf("moved and restarted:\n%s\nbefore:\n%s", got, want)
			}
		})
	}
}

// merge is a log that has the records of others, each in its order, one among
// the other by a seed.
func merge(rng *rand.Rand, partitions int, logs ...*memLog) *memLog {
	out := newMemLog(partitions)
	out.generation = 2
	for p := range int32(partitions) {
		rest := make([][]envelope.Entry, len(logs))
		for i, l := range logs {
			rest[i] = slices.Clone(l.parts[p])
		}
		for {
			var left []int
			for i := range rest {
				if len(rest[i]) > 0 {
					left = append(left, i)
				}
			}
			if len(left) == 0 {
				break
			}
			i := left[rng.IntN(len(left))]
			_, _ = out.Append(context.Background(), p, rest[i][0].Value)
			rest[i] = rest[i][1:]
		}
	}
	return out
}

// cut is the first part of a log: its mover died.
func cut(rng *rand.Rand, l *memLog) *memLog {
	out := newMemLog(len(l.parts))
	for p, entries := range l.parts {
		for _, e := range entries[:rng.IntN(len(entries)+1)] {
			_, _ = out.Append(context.Background(), int32(p), e.Value)
		}
	}
	return out
}

// Movers that did not know of each other, and ones that died in the middle, say
// the same: what they say twice is said once, in any order, also with crashes
// of whoever reads it, and behind all that came since.
func TestMovedTwiceIsMovedOnce(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 9))
			movers := []*growing{newGrowing(5), newGrowing(5), newGrowing(5)}
			w := newWorld(t, func(c *router.Config) { c.MailboxLength = 40 })
			users := populate(w, seed)
			want := w.full(users)
			for i, g := range movers {
				// Each from a disk of its own, as another owner has.
				w.stop()
				if i > 0 {
					w.dir = t.TempDir()
				}
				w.growth = g
				w.start()
				close(g.begun)
				g.awaitMoved(t, 2)
			}
			merged := merge(rng, 5, cut(rng, movers[0].next), movers[1].next, movers[2].next)
			n := after(t, w, merged)
			n.cfg.FlushInterval, n.cfg.FlushBytes, n.cfg.IdleMailboxes = time.Millisecond, 1<<(6+rng.IntN(10)), rng.IntN(3)
			n.restart()
			if got := n.full(users); got != want {
				t.Fatalf("merged:\n%s\nbefore:\n%s", got, want)
			}
			// Life goes on; and then a mover that had been away says all again.
			for step := range 60 {
				user := users[rng.IntN(len(users))]
				switch rng.IntN(4) {
				case 0:
					n.add(user, pushOf(n, "new", fmt.Sprint("key", rng.IntN(20)), time.Hour, user))
				case 1:
					n.add(user, &envelope.Record{Device: &envelope.Device{User: user, Device: "tablet", SeenMs: n.clock.now().UnixMilli()}})
				case 2:
					info, err := n.r.User(context.Background(), &envelope.UserRequest{User: user})
					if err != nil {
						t.Fatal(err)
					}
					for _, d := range info.Devices {
						ack := &envelope.Ack{User: user, Device: d.Device, Ids: n.pendingIDs(user, d.Device)}
						n.add(user, &envelope.Record{Acks: &envelope.Acks{Acks: []*envelope.Ack{ack}}})
					}
				case 3:
					if step%5 == 0 {
						_ = n.db.Close() // as with kill -9
						n.restart()
					}
				}
			}
			now := n.full(users)
			for p, entries := range movers[0].next.parts {
				for _, e := range entries {
					var rec envelope.Record
					if err := rec.UnmarshalVT(e.Value); err != nil {
						t.Fatal(err)
					}
					rec.Id = envelope.NewRecordID() // another mover's
					value, err := rec.MarshalVT()
					if err != nil {
						t.Fatal(err)
					}
					off, _ := merged.Append(context.Background(), int32(p), value)
					n.reached(int32(p), off)
				}
			}
			if got := n.full(users); got != now {
				t.Errorf("after a late mover:\n%s\nbefore:\n%s", got, now)
			}
			_ = n.db.Close()
			n.restart()
			if got := n.full(users); got != now {
				t.Errorf("after a crash:\n%s\nbefore:\n%s", got, now)
			}
			n.stop()
			n.dir = t.TempDir()
			n.start()
			if got := n.full(users); got != now {
				t.Errorf("from the log alone:\n%s\nbefore:\n%s", got, now)
			}
		})
	}
}

// A mailbox that is larger than a record moves in parts, in its order; one
// message that is nearly as large as a record, too, with many devices.
func TestMoveBigMailboxes(t *testing.T) {
	g := newGrowing(3)
	w := newWorld(t, nil)
	w.stop()
	w.growth = g
	w.start()
	user, other := "big", "one"
	var devices []string
	for i := range 20 {
		devices = append(devices, fmt.Sprintf("%s%03d", strings.Repeat("d", 125), i))
	}
	var last uint64
	for _, d := range devices {
		w.append(user, &envelope.Record{Device: &envelope.Device{User: user, Device: d, SeenMs: w.clock.now().UnixMilli()}})
		last = w.append(other, &envelope.Record{Device: &envelope.Device{User: other, Device: d, SeenMs: w.clock.now().UnixMilli()}})
	}
	body := strings.Repeat("x", 9000)
	for i := range 300 {
		w.push(user, fmt.Sprint(i, body))
	}
	huge := w.push(other, strings.Repeat("y", maxRecord-1500))
	tooLarge := w.push(other, strings.Repeat("z", maxRecord-100))
	w.ack(other, devices[3], huge)
	w.awaitApplied([]string{user, other})
	want := w.full([]string{user})
	close(g.begun)
	g.awaitMoved(t, 2)
	n := after(t, w, g.next)
	if got := n.full([]string{user}); got != want {
		t.Errorf("moved:\n%.2000s\nbefore:\n%.2000s", got, want)
	}
	parts := 0
	for _, entries := range g.next.parts {
		parts += len(entries)
	}
	if parts < 300*9000/(256<<10)+20 {
		t.Errorf("moved in %d records", parts)
	}
	for i, d := range devices {
		b, err := n.r.CatchUp(context.Background(), &envelope.CatchUpRequest{
			To: &envelope.Address{Comet: "c", Session: 1}, User: other, Device: d, Floor: last, MaxBytes: 8 << 20,
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := len(b.Messages); (got != 1 || b.Messages[0].Id != huge) && i != 3 || i == 3 && got != 0 {
			t.Errorf("device %d has %d messages", i, got)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(w.events, "message_lost "+other) {
		t.Errorf("it is not said that message %d did not move: %q", tooLarge, w.events)
	}
}

// What is tracked of messages counts for the size of what moves: it may be much more than their bodies.
func TestMoveTrackedMessages(t *testing.T) {
	g := newGrowing(1)
	w := newWorld(t, nil)
	w.stop()
	w.growth = g
	w.start()
	const devices = 40
	users := []string{"big", "one", "two", "three", "four", "five"}
	for i, user := range users {
		for d := range devices {
			w.append(user, &envelope.Record{Device: &envelope.Device{
				User: user, Device: fmt.Sprintf("%s%03d", strings.Repeat("d", 125), d), SeenMs: w.clock.now().UnixMilli(),
			}})
		}
		messages := 60 // a part of a record
		if i == 0 {
			messages = 250 // several records
		}
		var ids []uint64
		for m := range messages {
			ids = append(ids, w.append(user, &envelope.Record{Push: &envelope.Push{
				Users: []string{user}, Op: 5, Body: fmt.Append(nil, m), ExpiresMs: w.clock.now().Add(time.Hour).UnixMilli(),
				Report: &envelope.Report{Ref: strings.Repeat("r", 128)},
			}}))
		}
		for d := range devices - 1 {
			w.append(user, &envelope.Record{Acks: &envelope.Acks{Acks: []*envelope.Ack{
				{User: user, Device: fmt.Sprintf("%s%03d", strings.Repeat("d", 125), d), Ids: ids},
			}}})
		}
	}
	w.awaitApplied(users)
	want := w.full(users)
	close(g.begun)
	g.awaitMoved(t, 2)
	n := after(t, w, g.next)
	if got := n.full(users); got != want {
		t.Errorf("moved:\n%.2000s\nbefore:\n%.2000s", got, want)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.events) > 0 {
		t.Errorf("notices: %q", w.events)
	}
}

// Behind the fence everything is void: for good, also after a restart, and
// callers are told to come again.
func TestBehindTheFence(t *testing.T) {
	g := newGrowing(3)
	g.noting = errors.New("as the test wants it") // it moves again and again
	w := newWorld(t, func(c *router.Config) { c.FlushInterval = time.Millisecond })
	w.stop()
	w.growth = g
	w.start()
	user := userOf(1)
	s := session("c", 1, user, "phone")
	w.attach(s)
	before := w.push(user, "before")
	w.applied(user, before)
	close(g.begun)
	tries := uint64(100)
	eventually(t, "it is fenced", func() bool {
		tries++ // a device that got in is known
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		_, err := w.r.Attach(ctx, &envelope.AttachRequest{Session: session("c", tries, user, fmt.Sprint("unknown", tries))})
		return errors.Is(err, envelope.ErrNotReady)
	})
	check := func(when string) {
		t.Helper()
		behind := w.push(user, "behind")
		w.applied(user, behind)
		if to := w.resolve(user, behind); to != "" {
			t.Errorf("%s: a push behind the fence goes to %s", when, to)
		}
		w.ack(user, "phone", before)
		reply := w.attach(s)
		if got := bodies(reply.Backlog); got != "before" {
			t.Errorf("%s: a device that is known gets %q", when, got)
		}
		if reply.Backlog.UpTo < behind {
			t.Errorf("%s: the answer is true up to %d, not %d", when, reply.Backlog.UpTo, behind)
		}
		ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
		defer cancel()
		if _, err := w.r.Attach(ctx, &envelope.AttachRequest{Session: session("c", 2, user, "new")}); !errors.Is(err, envelope.ErrNotReady) {
			t.Errorf("%s: a device that is not known: %v", when, err)
		}
		if _, err := w.r.Take(ctx, &envelope.TakeRequest{User: user}); !errors.Is(err, envelope.ErrNotReady) {
			t.Errorf("%s: taking what waits: %v", when, err)
		}
		id := w.append(user, &envelope.Record{Claim: &envelope.Claim{Key: "k"}})
		if _, err := w.r.Claim(ctx, &envelope.ClaimRequest{Partition: uint32(envelope.Partition(user, 2)), Key: "k", Id: id}); err != nil {
			t.Errorf("%s: a claim: %v", when, err)
		}
	}
	check("at once")
	_ = w.db.Close()
	w.restart()
	check("after a crash")
	w.restart()
	check("after a restart")
	w.stop()
	w.dir = t.TempDir()
	w.start()
	check("without the disk")
	g.mu.Lock()
	g.noting = nil
	g.mu.Unlock()
	g.awaitMoved(t, 2)
	n := after(t, w, g.next)
	if got := bodies(n.attach(s).Backlog); got != "before" {
		t.Errorf("moved: %q", got)
	}
	// A record of a later generation is not this router's to wait for.
	_, err := w.r.CatchUp(context.Background(), &envelope.CatchUpRequest{
		To: s.Address, User: user, Device: "phone", Floor: envelope.ID(2, 0),
	})
	if !errors.Is(err, envelope.ErrUnavailable) {
		t.Errorf("a record of the next generation: %v", err)
	}
}

// A key is used, and a claim claimed, on the other side, too; until its time
// is over.
func TestMovedKeys(t *testing.T) {
	g := newGrowing(4)
	w := newWorld(t, nil)
	w.stop()
	w.growth = g
	w.start()
	user := "u"
	first := w.append(user, pushOf(w, "first", "key", time.Hour, user))
	late := w.append(user, pushOf(w, "too late", "late", -time.Second, user)) // it uses its key all the same
	claim := &envelope.Record{Claim: &envelope.Claim{Key: "claim"}}
	w.append("claim", claim)
	w.awaitApplied([]string{user, "claim"})
	close(g.begun)
	g.awaitMoved(t, 2)
	n := after(t, w, g.next)
	again := n.add(user, pushOf(n, "again", "key", time.Hour, user))
	n.add(user, pushOf(n, "again", "late", time.Hour, user))
	other := n.add(user, pushOf(n, "other", "other", time.Hour, user))
	if got := bodies(n.attach(session("c", 1, user, "")).Backlog); got != "firstother" {
		t.Errorf("the user gets %q", got)
	}
	for key, want := range map[string]uint64{"key": first, "late": late, "other": other} {
		l, err := n.r.Lookup(context.Background(), &envelope.LookupRequest{Users: []string{user}, IdempotencyKey: key})
		if err != nil || l.Users[0].AppliedId != want {
			t.Errorf("%s is used by %v (%v), want %d (not %d)", key, l.GetUsers(), err, want, again)
		}
	}
	id := n.add("claim", &envelope.Record{Claim: &envelope.Claim{Key: "claim"}})
	p := uint32(envelope.Partition("claim", 4))
	if r, err := n.r.Claim(context.Background(), &envelope.ClaimRequest{Partition: p, Id: id, Key: "claim"}); err != nil || r.Won {
		t.Errorf("the second claim: %v, %v", r, err)
	}
	r, err := n.r.Claim(context.Background(), &envelope.ClaimRequest{Partition: p, Id: id, Key: "claim", RecordId: claim.Id})
	if err != nil || !r.Won {
		t.Errorf("the first claim, asked for again: %v, %v", r, err)
	}

	n.stop()
	n.dir = t.TempDir()
	n.clock.add(48 * time.Hour)
	n.start()
	l, err := n.r.Lookup(context.Background(), &envelope.LookupRequest{Users: []string{user}, IdempotencyKey: "key"})
	if err != nil || l.Users[0].AppliedId != 0 {
		t.Errorf("days later the key is used by %v (%v)", l.GetUsers(), err)
	}
}

// A router of the next generation takes over the disk of the one before: what
// is there of the old generation goes, and is never taken for its own.
func TestMoveOnTheSameDisk(t *testing.T) {
	g := newGrowing(3)
	w := newWorld(t, func(c *router.Config) { c.CleanAfter = 50 * time.Millisecond })
	w.stop()
	w.growth = g
	w.start()
	users := populate(w, 1)
	want := w.full(users)
	close(g.begun)
	g.awaitMoved(t, 2)
	w.stop()
	w.kept, w.growth = g.next, nil
	w.start()
	if got := w.full(users); got != want {
		t.Errorf("moved:\n%s\nbefore:\n%s", got, want)
	}
	eventually(t, "the old generation is off the disk", func() bool {
		for p := range int32(2) {
			if empty, err := store.NewMailboxes(w.db).Empty(p); err != nil || !empty {
				return false
			}
		}
		return true
	})
	w.restart()
	if got := w.full(users); got != want {
		t.Errorf("after a restart:\n%s\nbefore:\n%s", got, want)
	}
}

// Only what is owned moves, and what is gained meanwhile moves then.
func TestMoveWhatIsOwned(t *testing.T) {
	g := newGrowing(3)
	r := newRing(0)
	w := newOwner(t, nil, r, nil)
	w.stop()
	w.growth = g
	w.start()
	close(g.begun)
	eventually(t, "what is owned has moved", func() bool { return g.HasMoved(0) })
	if g.HasMoved(1) {
		t.Error("another router's partition moved")
	}
	r.set(0, 1)
	g.awaitMoved(t, 2)
	g.mu.Lock()
	defer g.mu.Unlock()
	if !maps.Equal(g.moved, map[int32]int{0: 1, 1: 1}) {
		t.Errorf("moved %v times", g.moved)
	}
}

// A batch that is too large for one transaction has the users first: after a
// crash in the middle a mailbox may say that it is complete and lack all of its
// messages, with the position before them. They are taken again.
func TestCrashInTheMiddleOfWhatMoved(t *testing.T) {
	g := newGrowing(3)
	w := newWorld(t, nil)
	w.stop()
	w.growth = g
	w.start()
	users := populate(w, 5)
	want := w.full(users)
	close(g.begun)
	g.awaitMoved(t, 2)
	log := newMemLog(3)
	log.generation = 2
	for p := range int32(3) {
		if _, err := log.Append(context.Background(), p, nil); err != nil { // a position needs a record before
			t.Fatal(err)
		}
		for _, e := range g.next.parts[p] {
			if _, err := log.Append(context.Background(), p, e.Value); err != nil {
				t.Fatal(err)
			}
		}
	}
	n := after(t, w, log)
	n.stop()
	n.dir = t.TempDir()
	db, err := store.Open(store.Options{Dir: n.dir, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	boxes := store.NewMailboxes(db).ForGeneration(2)
	for p := range int32(3) {
		b := boxes.Batch(p)
		for off, e := range log.parts[p] {
			var rec envelope.Record
			if err := rec.UnmarshalVT(e.Value); err != nil {
				t.Fatal(err)
			}
			for _, m := range rec.GetMoved().GetMailboxes() {
				if !m.Last {
					continue
				}
				meta := &store.MailboxMeta{Moved: envelope.ID(2, int64(off)), LastMS: m.LastMs, Dropped: m.Dropped}
				for i, d := range m.Devices {
					meta.Devices = append(meta.Devices, store.MailboxDevice{Name: d.Device, Bit: uint8(i), Since: d.Since, SeenMS: d.SeenMs})
				}
				b.PutMeta(m.User, meta, n.clock.now().Add(time.Hour))
			}
		}
		if err := b.Commit(envelope.ID(2, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	n.start()
	if got := n.full(users); got != want {
		t.Errorf("after the crash:\n%s\nbefore:\n%s", got, want)
	}
}
