package comet_test

import (
	"encoding/binary"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"imgo/envelope"
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
		counts := make(map[string]int)
		logic.mu.Lock()
		for _, a := range logic.acks {
			counts[a.User] += len(a.Ids)
		}
		logic.mu.Unlock()
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
