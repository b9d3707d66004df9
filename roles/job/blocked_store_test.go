package job_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/roles/job"
	"imgo/roles/router"
	"imgo/store"
)

// node is a job beside a real log, store and router in one process, as in a node that
// runs alone, with one fake comet "a".
type node struct {
	t      testing.TB
	log    *store.Log
	router *router.Router
	comet  pusher
}

// pusher is a comet that counts and signals.
type pusher struct {
	mu   sync.Mutex
	got  []string
	each func()
}

func (p *pusher) Push(_ context.Context, req *envelope.PushRequest) (*envelope.PushReply, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range req.Deliveries {
		if p.each != nil {
			p.each()
			continue
		}
		p.got = append(p.got, fmt.Sprintf("%s:%d", d.Body, d.To[0].Session))
	}
	return &envelope.PushReply{}, nil
}

func (p *pusher) all() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Sprint(p.got)
}

func (n *node) Owner(int32) (job.Router, error) { return n.router, nil }
func (n *node) Comet(string) job.Comet          { return &n.comet }
func (n *node) Names() []string                 { return []string{"a"} }

const nodePartitions = 2

// startNode starts a node with a session for each of the users.
func startNode(t testing.TB, faults store.Faults, users ...string) *node {
	t.Helper()
	db, err := store.Open(store.Options{Dir: t.TempDir(), Log: zerolog.Nop(), Faults: faults})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t}
	if n.log, err = store.OpenLog(db, store.LogOptions{Partitions: nodePartitions}); err != nil {
		t.Fatal(err)
	}
	live, err := store.NewLiveLog(store.LiveOptions{Partitions: 1, MaxBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	n.router, err = router.New(router.DefaultConfig(), router.Deps{
		Kept: n.log, Live: live, Store: store.NewMailboxes(db), Log: zerolog.Nop(), Metrics: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	j, err := job.New(context.Background(), job.DefaultConfig(), job.Deps{
		Kept: n.log, Live: live, Owners: n, Comets: n, Local: n.router, Log: zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	// The log ends last, as in a real node.
	ctx, cancel := context.WithCancel(context.Background())
	var roles, logs sync.WaitGroup
	for _, run := range []func(context.Context) error{n.router.Run, j.Run} {
		roles.Go(func() { _ = run(ctx) })
	}
	logs.Go(func() { _ = n.log.Run(context.Background()) })
	t.Cleanup(func() {
		cancel()
		roles.Wait()
		_ = n.log.Close()
		logs.Wait()
		_ = live.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	for i, user := range users {
		n.attach(user, uint64(i+1))
	}
	return n
}

// attach gives a user a session.
func (n *node) attach(user string, session uint64) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := n.router.Attach(ctx, &envelope.AttachRequest{
		Session: &envelope.SessionInfo{Address: &envelope.Address{Comet: "a", Session: session}, User: user},
	})
	if err != nil {
		n.t.Fatal(err)
	}
}

// push appends a push, which must commit within a bounded time.
func (n *node) push(user, body string) {
	n.t.Helper()
	rec := push(body, user)
	rec.TimeMs = time.Now().UnixMilli()
	rec.Push.ExpiresMs = rec.TimeMs + time.Hour.Milliseconds()
	value, err := rec.MarshalVT()
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := n.log.Append(ctx, envelope.Partition(user, nodePartitions), value); err != nil {
		n.t.Fatalf("append a push to %s: %v", user, err)
	}
}

// usersOf returns n user names of a partition.
func usersOf(partition int32, n int) (users []string) {
	for i := 0; len(users) < n; i++ {
		if user := fmt.Sprint("user", i); envelope.Partition(user, nodePartitions) == partition {
			users = append(users, user)
		}
	}
	return users
}

// TestBlockedStoreDelaysOneReader blocks the store while the mailbox of a user is read.
// The push to that user and later pushes to its partition still commit; another
// partition's are delivered too. Nothing is lost once the store goes on.
func TestBlockedStoreDelaysOneReader(t *testing.T) {
	first, second := usersOf(0, 2), usersOf(1, 1)
	warm, cold, other := first[0], first[1], second[0]
	var blocking atomic.Bool
	blocked, free := make(chan struct{}), make(chan struct{})
	unblock := sync.OnceFunc(func() { close(free) })
	t.Cleanup(unblock)
	n := startNode(t, store.Faults{ReadMailbox: func(_ int32, user string) {
		if user == cold && blocking.CompareAndSwap(true, false) {
			close(blocked)
			<-free
		}
	}}, warm, other)
	t.Cleanup(unblock) // before the node ends

	blocking.Store(true)
	n.push(cold, "cold")
	<-blocked
	n.push(warm, "warm")
	for i := range 3 {
		n.push(other, fmt.Sprint("other", i))
	}
	want := "[other0:2 other1:2 other2:2]"
	eventually(t, "the other partition's pushes are delivered", func() bool { return n.comet.all() == want })
	unblock()
	want = "[other0:2 other1:2 other2:2 warm:1]"
	eventually(t, "everything is delivered", func() bool { return n.comet.all() == want })
}

// TestFastPathOfARealNode shows that a push to a mailbox in memory is delivered by the
// time that its append returns.
func TestFastPathOfARealNode(t *testing.T) {
	user := usersOf(0, 1)[0]
	n := startNode(t, store.Faults{}, user)
	eventually(t, "the fast path is open", func() bool {
		before := n.comet.all()
		n.push(user, "x")
		after := n.comet.all()
		eventually(t, "it is delivered", func() bool { return n.comet.all() != before })
		return after != before
	})
	direct := 0
	for range 50 {
		before := n.comet.all()
		n.push(user, "x")
		if n.comet.all() != before {
			direct++
		}
		eventually(t, "it is delivered", func() bool { return n.comet.all() != before })
	}
	if direct < 40 {
		t.Errorf("%d of 50 pushes took the fast path", direct)
	}
}

// BenchmarkKeptPush measures a kept push from Append to the comet.
func BenchmarkKeptPush(b *testing.B) {
	user := usersOf(0, 1)[0]
	n := startNode(b, store.Faults{}, user)
	var at time.Time
	got := make(chan time.Duration, 1)
	n.comet.each = func() { got <- time.Since(at) }
	var took []time.Duration
	for b.Loop() {
		at = time.Now()
		n.push(user, "x")
		took = append(took, <-got)
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
}
