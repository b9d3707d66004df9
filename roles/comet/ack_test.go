package comet_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"imgo/envelope"
	"imgo/internal/wait"
	"imgo/protocol"
	"imgo/roles/comet"
)

func ackBody(ids ...uint64) string {
	var body []byte
	for _, id := range ids {
		body = binary.BigEndian.AppendUint64(body, id)
	}
	return string(body)
}

// TestMadeUpAcks checks that a client cannot acknowledge what it was not sent. It cannot acknowledge
// the same id twice, either. Both are answered as always.
func TestMadeUpAcks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, &fakeLogic{}, nil)
		c := s.connected(0, "eve", 0)
		madeUp := make([]uint64, 1000)
		for i := range madeUp {
			madeUp[i] = uint64(i + 100)
		}
		for seq := range int32(50) {
			c.send(2, protocol.OpAck, seq+1, ackBody(madeUp...))
			c.receive()
		}
		s.push(s.kept(0, 1, 0), s.kept(0, 2, 1))
		c.receive()
		c.receive()
		for range 3 {
			c.send(2, protocol.OpAck, 0, ackBody(2, 7, 2))
		}
		time.Sleep(time.Second)
		if ids := s.logic.acked(); !slices.Equal(ids, []uint64{2}) {
			t.Errorf("acknowledged %v", ids)
		}
		if n := s.metric("imgo_comet_unknown_acks_total"); n != 50*1000+8 {
			t.Errorf("%v ids were counted as unknown", n)
		}
		// The next session gets the other one again, and only then can acknowledge it.
		again := s.connected(1, "eve", 0)
		again.send(2, protocol.OpAck, 0, ackBody(1))
		synctest.Wait()
		s.push(s.kept(1, 1, 0))
		again.receive()
		time.Sleep(time.Second)
		if ids := s.logic.acked(); len(ids) != 1 {
			t.Errorf("acknowledged %v before it was written to the session", ids)
		}
		again.send(2, protocol.OpAck, 0, ackBody(1))
		time.Sleep(time.Second)
		if ids := s.logic.acked(); !slices.Equal(ids, []uint64{2, 1}) {
			t.Errorf("acknowledged %v", ids)
		}
	})
}

// TestAckShares checks that users who acknowledge much do not cost another user's acknowledgements,
// while logic takes none and the queue is full.
func TestAckShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		logic := &fakeLogic{}
		logic.ack = func(*envelope.AckRequest) error {
			if !up.Load() {
				return envelope.ErrUnavailable
			}
			return nil
		}
		s := start(t, logic, func(cfg *comet.Config) { cfg.AckQueue, cfg.AckBatch = 160, 20 })
		clients := []*client{s.connected(0, "honest", 0), s.connected(1, "eve", 0), s.connected(2, "mallory", 0)}
		get := func(n int, id uint64) {
			s.push(s.kept(n, id, id-1))
			clients[n].receive()
			clients[n].send(2, protocol.OpAck, 0, ackBody(id))
		}
		const honest = 40 // less than a third of the queue
		for id := range uint64(1000) {
			if id < honest {
				get(0, id+1)
			}
			get(1, id+1)
			get(2, id+1)
		}
		time.Sleep(time.Second)
		up.Store(true)
		time.Sleep(10 * time.Second)
		counts := logic.ackedBy()
		if counts["honest"] != honest || counts["eve"] == 0 || counts["mallory"] == 0 {
			t.Errorf("acknowledged %v", counts)
		}
	})
}

// TestAckBatchRefused checks that a batch that logic refuses is sent one by one, and that only what logic refuses again is
// lost: logic goes away after the first one and comes back.
func TestAckBatchRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var singles atomic.Int32
		logic := &fakeLogic{}
		logic.ack = func(r *envelope.AckRequest) error {
			if len(r.Acks) > 1 {
				return envelope.Invalid("ids", "are wrong")
			}
			if r.Acks[0].User == "wrong" {
				return envelope.ErrTooLarge
			}
			if singles.Add(1) == 2 {
				return envelope.ErrUnavailable
			}
			return nil
		}
		s := start(t, logic, func(cfg *comet.Config) { cfg.AckInterval = time.Second })
		for i, user := range []string{"wrong", "a", "b", "c"} {
			c := s.connected(i, user, 0)
			s.push(s.kept(i, 1, 0))
			c.receive()
			c.send(2, protocol.OpAck, 0, ackBody(1))
			synctest.Wait()
		}
		time.Sleep(10 * time.Second)
		var users []string
		logic.mu.Lock()
		for _, a := range logic.acks {
			users = append(users, a.User)
		}
		logic.mu.Unlock()
		if !slices.Equal(users, []string{"a", "b", "c"}) {
			t.Errorf("the acknowledgements of %v were taken, want those of a, b and c", users)
		}
		if n := s.metric("imgo_comet_lost_total"); n != 1 {
			t.Errorf("%v were lost, want 1", n)
		}
	})
}

// failingPartition is how fakeLogic answers while one of 8 partitions fails: a call for it hangs for nearly as long as it may.
type failingPartition struct {
	mu    sync.Mutex
	fails bool
	of    string // the user whose partition it is
	calls map[string]int
}

func (f *failingPartition) set(fails bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fails = fails
}

func (f *failingPartition) answer(ctx context.Context, users []string) *envelope.PartsReply {
	f.mu.Lock()
	fails := f.fails
	for _, user := range users {
		f.calls[user]++
	}
	f.mu.Unlock()
	if p := envelope.Partition(f.of, 8); fails && slices.ContainsFunc(users, func(u string) bool { return envelope.Partition(u, 8) == p }) {
		by, _ := ctx.Deadline()
		_ = wait.Sleep(ctx, time.Until(by)*3/4)
		return &envelope.PartsReply{Failed: []int32{p}, Partitions: 8}
	}
	return &envelope.PartsReply{}
}

// userLike returns another user of the same partition as a user, or of another one.
func userLike(user string, same bool, partitions int) string {
	for i := 0; ; i++ {
		if other := fmt.Sprint("user", i); (envelope.Partition(other, partitions) == envelope.Partition(user, partitions)) == same {
			return other
		}
	}
}

// TestAckFailingPartition checks that a partition that fails delays the acknowledgements and the ends of sessions of
// the other partitions' users only once. Nothing is sent twice for them. What waits for the partition arrives when it
// is back.
func TestAckFailingPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := &failingPartition{fails: true, of: "ann", calls: make(map[string]int)}
		s := start(t, &fakeLogic{parts: down.answer}, func(cfg *comet.Config) { cfg.AckQueue = 1000 })
		other := userLike("ann", false, 8)
		ann, bob := s.connected(0, "ann", 0), s.connected(1, other, 0)
		acknowledge := func(n int, c *client, id uint64) {
			s.push(s.kept(n, id, id-1))
			c.receive()
			c.send(2, protocol.OpAck, 0, ackBody(id))
			synctest.Wait()
		}
		acknowledge(0, ann, 1)
		time.Sleep(5 * time.Second)
		const messages = 200
		for id := uint64(1); id <= messages; id++ {
			acknowledge(0, ann, id+1)
			acknowledge(1, bob, id)
			time.Sleep(100 * time.Millisecond)
			if ids := s.logic.acked(); len(ids) != int(id) {
				t.Fatalf("bob's ids %v have arrived, want %d", ids, id)
			}
		}
		third := s.connected(2, other, 0)
		_ = third.pipe.Close()
		time.Sleep(100 * time.Millisecond)
		if gone := s.logic.gone(); len(gone) != 1 || gone[0].User != other {
			t.Errorf("the ended sessions are %v, want bob's", gone)
		}
		if n := down.calls[other]; n != messages+1 {
			t.Errorf("%d calls for bob, want %d", n, messages+1)
		}
		down.set(false)
		time.Sleep(10 * time.Second)
		if ids := s.logic.acked(); len(ids) != 2*messages+1 {
			t.Errorf("%d ids have arrived, want %d", len(ids), 2*messages+1)
		}
		if n := s.metric("imgo_comet_ack_queue_ids"); n != 0 {
			t.Errorf("%v ids wait", n)
		}
	})
}

// TestAckFailingPartitionIsBounded checks that what waits for a partition that fails takes no space of the others, and that
// each user has a share.
func TestAckFailingPartitionIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := &failingPartition{fails: true, of: "honest", calls: make(map[string]int)}
		eve := userLike("honest", true, 8)
		s := start(t, &fakeLogic{parts: down.answer}, func(cfg *comet.Config) { cfg.AckQueue, cfg.AckBatch = 160, 20 })
		bob := userLike("honest", false, 8)
		names := []string{"honest", eve, bob}
		clients := make([]*client, len(names))
		for i, name := range names {
			clients[i] = s.connected(i, name, 0)
		}
		acknowledge := func(n int, id uint64) {
			s.push(s.kept(n, id+1, id))
			clients[n].receive()
			clients[n].send(2, protocol.OpAck, 0, ackBody(id+1))
		}
		acknowledge(0, 0)
		time.Sleep(5 * time.Second)
		const honest = 40
		for id := range uint64(1000) {
			for i := range clients {
				if i > 0 || id > 0 && id < honest {
					acknowledge(i, id)
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
		if n := s.metric("imgo_comet_ack_queue_ids"); n > 160 {
			t.Errorf("%v ids wait, want at most 160", n)
		}
		down.set(false)
		time.Sleep(10 * time.Second)
		counts := s.logic.ackedBy()
		if counts["honest"] != honest || counts[bob] != 1000 || counts[eve] == 0 {
			t.Errorf("acknowledged %v", counts)
		}
	})
}

// TestAckFailingPartitionAtTheEnd checks that a comet that stops does not wait for a partition that fails for longer than a
// call takes, and that it tells logic all else. What logic is not told of is counted.
func TestAckFailingPartitionAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := &failingPartition{fails: true, of: "ann", calls: make(map[string]int)}
		s := start(t, &fakeLogic{parts: down.answer}, nil)
		other := userLike("ann", false, 8)
		for i, user := range []string{"ann", other} {
			c := s.connected(i, user, 0)
			s.push(s.kept(i, 1, 0))
			c.receive()
			c.send(2, protocol.OpAck, 0, ackBody(1))
			time.Sleep(5 * time.Second)
			_ = c.pipe.Close()
			synctest.Wait()
		}
		began := time.Now()
		if err := s.stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("the end took %v", took)
		}
		if gone := s.logic.gone(); len(s.logic.acked()) != 1 || len(gone) != 1 || gone[0].User != other {
			t.Errorf("acknowledged %v, ended %v", s.logic.acked(), gone)
		}
		for _, queue := range []string{"ack", "detach"} {
			if n := s.metric("imgo_comet_lost_total", "queue="+queue); n != 1 {
				t.Errorf("%v of the queue %s are counted as lost, want 1", n, queue)
			}
		}
	})
}

// TestAckFailsAgainAtTheEnd checks that nothing is lost if a partition that seemed to have recovered fails once more while
// the comet stops.
func TestAckFailsAgainAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stopping, calls atomic.Int32
		logic := &fakeLogic{}
		logic.ackParts = func(*envelope.AckRequest) *envelope.PartsReply {
			switch {
			case stopping.Load() == 0:
			case calls.Add(1) == 2:
				time.Sleep(time.Second)
			default:
				return &envelope.PartsReply{}
			}
			return &envelope.PartsReply{Failed: []int32{envelope.Partition("ann", 8)}, Partitions: 8}
		}
		s := start(t, logic, nil)
		c := s.connected(0, "ann", 0)
		for id := uint64(1); id <= 3; id++ {
			s.push(s.kept(0, id, id-1))
			c.receive()
			c.send(2, protocol.OpAck, 0, ackBody(id))
			time.Sleep(time.Second)
		}
		_ = c.pipe.Close()
		synctest.Wait()
		stopping.Store(1)
		if err := s.stop(); err != nil {
			t.Error(err)
		}
		if ids, lost := logic.acked(), s.metric("imgo_comet_lost_total"); len(ids) != 3 || lost != 0 {
			t.Errorf("acknowledged %v, %v are lost, want 3 ids", ids, lost)
		}
	})
}

// TestAckAtTheEndWithoutLogic checks that a comet counts what no logic took until its stop.
func TestAckAtTheEndWithoutLogic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, &fakeLogic{ack: func(*envelope.AckRequest) error { return envelope.ErrUnavailable }}, nil)
		c := s.connected(0, "ann", 0)
		s.push(s.kept(0, 1, 0))
		c.receive()
		c.send(2, protocol.OpAck, 0, ackBody(1))
		synctest.Wait()
		if err := s.stop(); err != nil {
			t.Error(err)
		}
		if n := s.metric("imgo_comet_lost_total", "queue=ack"); n != 1 {
			t.Errorf("%v ids are counted as lost, want 1", n)
		}
	})
}

// TestAckPartitionsGrow checks that items of a partition that failed find their new partition.
func TestAckPartitionsGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var partitions atomic.Int32
		partitions.Store(4)
		logic := &fakeLogic{}
		logic.parts = func(_ context.Context, users []string) *envelope.PartsReply {
			n := partitions.Load()
			if n > 8 || !slices.Contains(users, "ann") {
				return &envelope.PartsReply{}
			}
			return &envelope.PartsReply{Failed: []int32{envelope.Partition("ann", int(n))}, Partitions: n}
		}
		s := start(t, logic, nil)
		acknowledge := func(n int, c *client, id uint64) {
			s.push(s.kept(n, id, id-1))
			c.receive()
			c.send(2, protocol.OpAck, 0, ackBody(id))
			time.Sleep(3 * time.Second)
		}
		ann, bob := s.connected(0, "ann", 0), s.connected(1, "bob", 0)
		acknowledge(0, ann, 1)
		acknowledge(0, ann, 2)
		acknowledge(1, bob, 1)
		partitions.Store(8)
		time.Sleep(3 * time.Second)
		acknowledge(1, bob, 2)
		partitions.Store(16)
		time.Sleep(3 * time.Second)
		if ids := logic.acked(); len(ids) != 4 {
			t.Errorf("acknowledged %v, want 4 ids", ids)
		}
	})
}

// TestAckSharesOfMany checks that a full queue does not lose everything if it has less than one id for each user.
func TestAckSharesOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		logic := &fakeLogic{}
		logic.ack = func(*envelope.AckRequest) error {
			if !up.Load() {
				return envelope.ErrUnavailable
			}
			return nil
		}
		s := start(t, logic, func(cfg *comet.Config) { cfg.AckQueue = 40 })
		const users = 100
		for n := range users {
			c := s.connected(n, fmt.Sprint("user", n), 0)
			s.push(s.kept(n, 1, 0))
			c.receive()
			c.send(2, protocol.OpAck, 0, ackBody(1))
			synctest.Wait()
		}
		up.Store(true)
		time.Sleep(10 * time.Second)
		got, lost := len(logic.acked()), s.metric("imgo_comet_lost_total", "queue=ack")
		if got < 35 || float64(got)+lost != users {
			t.Errorf("%d ids arrived and %v were lost, of %d", got, lost, users)
		}
	})
}

// TestAckInFlightWhilePartitionsGrow checks that an item is not lost that is being tried when another call learns that the
// topic has grown, whatever becomes of its own call.
func TestAckInFlightWhilePartitionsGrow(t *testing.T) {
	for _, test := range []struct {
		name   string
		failed []int32 // of the call in flight
		of     int32   // partitions, as its logic knows them
	}{
		{"the logic does not know of the growth", []int32{envelope.Partition("ann", 4)}, 4},
		{"the partition fails under its new number, too", []int32{envelope.Partition("ann", 8)}, 8},
		{"it is taken", nil, 4},
	} {
		synctest.Test(t, func(t *testing.T) {
			other := userLike("ann", false, 4)
			var annCalls atomic.Int32
			var grown, grownTold atomic.Bool
			logic := &fakeLogic{}
			logic.ackParts = func(r *envelope.AckRequest) *envelope.PartsReply {
				users := usersOf(r.Acks)
				switch {
				case slices.Contains(users, other) && grown.Load() && !grownTold.Swap(true):
					return &envelope.PartsReply{Failed: []int32{envelope.Partition(other, 8)}, Partitions: 8}
				case !slices.Contains(users, "ann"):
				case annCalls.Add(1) == 1:
					return &envelope.PartsReply{Failed: []int32{envelope.Partition("ann", 4)}, Partitions: 4}
				case annCalls.Load() == 2: // the call in flight
					grown.Store(true)
					time.Sleep(3 * time.Second)
					return &envelope.PartsReply{Failed: test.failed, Partitions: test.of}
				}
				return &envelope.PartsReply{}
			}
			s := start(t, logic, nil)
			ann, bob := s.connected(0, "ann", 0), s.connected(1, other, 0)
			acknowledge := func(n int, c *client, id uint64) {
				s.push(s.kept(n, id, id-1))
				c.receive()
				c.send(2, protocol.OpAck, 0, ackBody(id))
				time.Sleep(time.Second)
			}
			acknowledge(0, ann, 1)
			acknowledge(1, bob, 1)
			if !grownTold.Load() || len(logic.acked()) > 1 {
				t.Errorf("%s: the call is not in flight while the growth is told: %d calls, told: %t", test.name, annCalls.Load(), grownTold.Load())
			}
			time.Sleep(20 * time.Second)
			counts := logic.ackedBy()
			if lost := s.metric("imgo_comet_lost_total"); counts["ann"] != 1 || counts[other] != 1 || lost != 0 {
				t.Errorf("%s: acknowledged %v, %v are lost", test.name, counts, lost)
			}
			if n := s.metric("imgo_comet_ack_queue_ids"); n != 0 {
				t.Errorf("%s: %v ids wait", test.name, n)
			}
		})
	}
}

// TestSetAsideIsTrimmed checks that what waits for a partition that fails is trimmed by an eighth of its bound, so that not
// each further item costs that, and that what is dropped is counted.
func TestSetAsideIsTrimmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		logic := &fakeLogic{parts: func(context.Context, []string) *envelope.PartsReply {
			if up.Load() {
				return &envelope.PartsReply{}
			}
			return &envelope.PartsReply{Failed: []int32{0}, Partitions: 1}
		}}
		s := start(t, logic, func(cfg *comet.Config) { cfg.AckQueue = 16 })
		for n, want := range []struct{ queued, lost float64 }{15: {16, 0}, 16: {14, 3}, 17: {15, 3}, 18: {16, 3}, 19: {14, 6}} {
			c := s.connected(n, fmt.Sprint("user", n), 0)
			_ = c.pipe.Close()
			time.Sleep(3 * time.Second)
			queued, lost := s.metric("imgo_comet_detach_queue_sessions"), s.metric("imgo_comet_lost_total", "queue=detach")
			if want.queued > 0 && (queued != want.queued || lost != want.lost) {
				t.Errorf("after %d sessions %v wait and %v are lost, want %v and %v", n+1, queued, lost, want.queued, want.lost)
			}
		}
		up.Store(true)
		time.Sleep(10 * time.Second)
		if n := len(logic.gone()); n != 14 {
			t.Errorf("logic was told of %d sessions, want 14", n)
		}
	})
}
