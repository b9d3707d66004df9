package comet_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/comet"
	"imgo/transport/pipe"
)

// since returns the announcements from number n on, counted from 0.
func (l *fakeLogic) since(n int) []*envelope.AnnounceRequest {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*envelope.AnnounceRequest(nil), l.announced[n:]...)
}

// TestAnnounce checks that the counts are announced every interval. The sessions of a partition are
// announced only when its owner has a new epoch.
func TestAnnounce(t *testing.T) {
	for _, faults := range []comet.Faults{{}, {NoAnnounce: true}} {
		synctest.Test(t, func(t *testing.T) {
			var epochs atomic.Pointer[map[uint32]uint64]
			epochs.Store(&map[uint32]uint64{1: 10, 2: 10, 9: 99})
			logic := &fakeLogic{}
			logic.connect = func(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
				reply, err := admit(r)
				reply.Partition, reply.Floor = 1, 5
				if r.Token > "u1" {
					reply.Partition = 2
				}
				return reply, err
			}
			logic.announce = func(*envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
				return &envelope.AnnounceReply{Epochs: *epochs.Load()}, nil
			}
			s := start(t, logic, func(cfg *comet.Config) { cfg.AnnounceInterval, cfg.Faults = time.Second, faults })
			for i := range 4 {
				s.dialPipe(pipe.Options{}).login(fmt.Sprint("u", i), `,"device":"d","rooms":["r"],"accepts":[1000]`)
				s.push(s.backlog(i, 0, uint64(7+i), false))
			}
			time.Sleep(2500 * time.Millisecond)
			// announced returns how often the session of each user was announced since from.
			announced := func(from int) map[string]int {
				users := map[string]int{}
				var number uint64
				for _, r := range logic.since(from) {
					if len(r.Sessions) == 0 {
						if r.Number <= number {
							t.Errorf("the number %d comes after %d", r.Number, number)
						}
						number = r.Number
					}
					if r.Comet != "c1" || r.Incarnation == 0 {
						t.Fatalf("announced %v", r)
					}
					for _, session := range r.Sessions {
						users[session.User]++
					}
				}
				return users
			}
			last := logic.since(0)[len(logic.since(0))-1]
			if fmt.Sprint(last.Rooms, last.Partitions) != "map[r:4] map[1:2 2:2]" {
				t.Fatalf("counts %v %v", last.Rooms, last.Partitions)
			}
			want := "map[u0:1 u1:1 u2:1 u3:1]"
			if faults.NoAnnounce {
				want = "map[]"
			}
			if got := announced(0); fmt.Sprint(got) != want {
				t.Fatalf("announced %v, want %v", got, want)
			}
			// Partition 2 gets another owner.
			from := len(logic.since(0))
			epochs.Store(&map[uint32]uint64{1: 10, 2: 11})
			time.Sleep(3 * time.Second)
			if !faults.NoAnnounce {
				want = "map[u2:1 u3:1]"
			}
			if got := announced(from); fmt.Sprint(got) != want {
				t.Fatalf("announced %v to the new owner, want %v", got, want)
			}
			if faults.NoAnnounce {
				return
			}
			for _, r := range logic.since(from) {
				for _, got := range r.Sessions {
					if got.User == "u2" && (got.Device != "d" || got.Key != "" || fmt.Sprint(got.Rooms, got.Accepts) != "[r] [1000]") {
						t.Fatalf("announced %v", got)
					}
				}
			}
			// A partition whose owner is not known is not announced.
			from = len(logic.since(0))
			epochs.Store(&map[uint32]uint64{1: 10})
			time.Sleep(3 * time.Second)
			if got := announced(from); len(got) != 0 {
				t.Fatalf("announced %v to nobody", got)
			}
		})
	}
}

// TestAnnounceInChunks checks that many sessions are announced in several requests, which have no counts.
func TestAnnounceInChunks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var epoch atomic.Uint64
		logic := &fakeLogic{announce: func(*envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
			return &envelope.AnnounceReply{Epochs: map[uint32]uint64{7: epoch.Load()}}, nil
		}}
		s := start(t, logic, func(cfg *comet.Config) { cfg.AnnounceInterval = time.Second })
		const n = 1500
		for i := range n {
			c := s.dialPipe(pipe.Options{Buffer: 1 << 10})
			c.send(1, protocol.OpAuth, 1, fmt.Sprint("u", i))
		}
		time.Sleep(1500 * time.Millisecond)
		from := len(logic.since(0))
		epoch.Store(1)
		time.Sleep(time.Second)
		seen := map[uint64]bool{}
		chunks := 0
		for _, r := range logic.since(from) {
			if len(r.Sessions) > 1000 {
				t.Fatalf("%d sessions in one announcement", len(r.Sessions))
			}
			if len(r.Sessions) > 0 {
				chunks++
				if r.Rooms != nil || r.Partitions != nil {
					t.Errorf("sessions were announced with counts: %v, %v", r.Rooms, r.Partitions)
				}
			}
			for _, session := range r.Sessions {
				seen[session.Address.Session] = true
			}
		}
		if len(seen) != n || chunks != 2 {
			t.Fatalf("%d sessions in %d announcements", len(seen), chunks)
		}
	})
}

// TestAnnounceGoesOn checks that sessions whose announcement failed are announced again, and those before
// them are not. If the owner changes meanwhile, all are.
func TestAnnounceGoesOn(t *testing.T) {
	const n = 2500
	for _, c := range []struct {
		name   string
		after  uint64 // epoch of the owner after the failure
		chunks string
	}{{"same owner", 1, "[1000 1000 failed 1000 500]"}, {"new owner", 2, "[1000 1000 failed 1000 1000 500]"}} {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex // guards all below
			var epoch uint64
			var chunks []string
			seen := map[uint64]bool{}
			logic := &fakeLogic{announce: func(r *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
				mu.Lock()
				defer mu.Unlock()
				if len(r.Sessions) > 0 && epoch > 0 {
					chunks = append(chunks, fmt.Sprint(len(r.Sessions)))
					if len(chunks) == 2 {
						chunks[1] += " failed"
						epoch = c.after
						return nil, envelope.ErrUnavailable
					}
					for _, s := range r.Sessions {
						seen[s.Address.Session] = true
					}
				}
				return &envelope.AnnounceReply{Epochs: map[uint32]uint64{7: epoch}}, nil
			}}
			s := start(t, logic, func(cfg *comet.Config) { cfg.AnnounceInterval = time.Second })
			for i := range n {
				s.dialPipe(pipe.Options{Buffer: 1 << 10}).send(1, protocol.OpAuth, 1, fmt.Sprint("u", i))
			}
			time.Sleep(1500 * time.Millisecond)
			mu.Lock()
			epoch = 1
			mu.Unlock()
			time.Sleep(5 * time.Second)
			mu.Lock()
			defer mu.Unlock()
			if got := fmt.Sprint(chunks); got != c.chunks || len(seen) != n {
				t.Errorf("%s: chunks %s with %d sessions, want %s with %d", c.name, got, len(seen), c.chunks, n)
			}
		})
	}
}

// TestAnnounceToSomeOwners checks that an owner that does not take its part delays the sessions of no other one, and that
// each session is announced once to an owner that does.
func TestAnnounceToSomeOwners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 3000    // in each partition
		var mu sync.Mutex // guards all below
		recovered, chunks := false, 0
		var epoch uint64
		taken := map[uint32]map[string]int{1: {}, 2: {}}
		partition := func(user string) uint32 { return 1 + uint32(user[len(user)-1])%2 }
		logic := &fakeLogic{announce: func(r *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
			mu.Lock()
			defer mu.Unlock()
			reply := &envelope.AnnounceReply{Epochs: map[uint32]uint64{1: epoch, 2: epoch}}
			if len(r.Sessions) == 0 || epoch == 0 {
				return reply, nil
			}
			if chunks++; !recovered {
				delete(reply.Epochs, 2)
			}
			for _, s := range r.Sessions {
				if p := partition(s.User); p == 1 || recovered {
					taken[p][s.User]++
				}
			}
			return reply, nil
		}}
		logic.connect = func(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
			reply, err := admit(r)
			reply.Partition = partition(r.Token)
			return reply, err
		}
		s := start(t, logic, func(cfg *comet.Config) { cfg.AnnounceInterval = time.Second })
		for i := range 2 * n {
			s.dialPipe(pipe.Options{Buffer: 1 << 10}).send(1, protocol.OpAuth, 1, fmt.Sprint("u", i))
		}
		expect := func(p uint32, want int) {
			t.Helper()
			for user, times := range taken[p] {
				if times > 1 {
					t.Errorf("%s was announced %d times", user, times)
				}
			}
			if len(taken[p]) != want {
				t.Errorf("%d sessions of partition %d were announced, want %d", len(taken[p]), p, want)
			}
		}
		time.Sleep(1500 * time.Millisecond)
		mu.Lock()
		epoch = 1
		mu.Unlock()
		time.Sleep(time.Second)
		mu.Lock()
		expect(1, n)
		expect(2, 0)
		if chunks > 5 {
			t.Errorf("%d requests, want those of partition 1 and one more", chunks)
		}
		mu.Unlock()
		time.Sleep(3 * time.Second)
		mu.Lock()
		recovered = true
		mu.Unlock()
		time.Sleep(2 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		expect(1, n)
		expect(2, n)
	})
}

// TestAnnounceBetweenChunks checks that all routers hear of a comet in time while its sessions are announced, however
// long that takes.
func TestAnnounceBetweenChunks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, interval, takes = 5500, time.Second, 400 * time.Millisecond
		var mu sync.Mutex // guards all below
		var epoch uint64
		var last time.Time
		longest, chunks, seen := time.Duration(0), 0, map[uint64]bool{}
		logic := &fakeLogic{announce: func(r *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
			mu.Lock()
			defer mu.Unlock()
			if len(r.Sessions) > 0 && epoch > 0 {
				time.Sleep(takes)
				chunks++
				for _, s := range r.Sessions {
					seen[s.Address.Session] = true
				}
			}
			if len(r.Sessions) == 0 {
				if !last.IsZero() {
					longest = max(longest, time.Since(last))
				}
				last = time.Now()
			}
			return &envelope.AnnounceReply{Epochs: map[uint32]uint64{7: epoch}}, nil
		}}
		s := start(t, logic, func(cfg *comet.Config) { cfg.AnnounceInterval = interval })
		for i := range n {
			s.dialPipe(pipe.Options{Buffer: 1 << 10}).send(1, protocol.OpAuth, 1, fmt.Sprint("u", i))
		}
		time.Sleep(1500 * time.Millisecond)
		mu.Lock()
		epoch = 1
		mu.Unlock()
		time.Sleep(8 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		if len(seen) != n || chunks != 6 || longest > interval+takes {
			t.Errorf("%d of %d sessions in %d chunks, want 6; %v between two signs of life, want at most %v",
				len(seen), n, chunks, longest, interval+takes)
		}
	})
}

// TestAnnounceWithoutEndedSessions checks that a session is not announced if it ends while other sessions
// are announced: its owner would put it back after it was told of the end.
func TestAnnounceWithoutEndedSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 1500
		var all atomic.Pointer[[]*client]
		closed := "" // of the announcer, until the sleep is over
		logic := &fakeLogic{announce: func(r *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
			clients := all.Load()
			if clients == nil {
				return &envelope.AnnounceReply{}, nil
			}
			if closed == "" && len(r.Sessions) > 0 {
				for i, c := range *clients {
					closed = fmt.Sprint("u", i)
					if !slices.ContainsFunc(r.Sessions, func(s *envelope.SessionInfo) bool { return s.User == closed }) {
						_ = c.Close()
						break
					}
				}
				synctest.Wait()
			}
			return &envelope.AnnounceReply{Epochs: map[uint32]uint64{7: 1}}, nil
		}}
		s := start(t, logic, func(cfg *comet.Config) { cfg.AnnounceInterval = time.Second })
		clients := make([]*client, n)
		for i := range clients {
			clients[i] = s.dialPipe(pipe.Options{Buffer: 1 << 10})
			clients[i].send(1, protocol.OpAuth, 1, fmt.Sprint("u", i))
		}
		synctest.Wait()
		all.Store(&clients)
		time.Sleep(2500 * time.Millisecond)
		synctest.Wait()
		announced := 0
		for _, r := range logic.since(0) {
			announced += len(r.Sessions)
			if slices.ContainsFunc(r.Sessions, func(s *envelope.SessionInfo) bool { return s.User == closed }) {
				t.Errorf("%s was announced after its end", closed)
			}
		}
		if announced != n-1 {
			t.Errorf("%d sessions were announced, want %d", announced, n-1)
		}
	})
}

// TestAnnounceSessionThatWaitsForItsRooms checks that a session is announced though the opening of its room hangs: logic
// has admitted it, and its owner is not told of it later.
func TestAnnounceSessionThatWaitsForItsRooms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var epoch atomic.Uint64
		o := &openings{}
		logic := &fakeLogic{opened: o.opened, announce: func(*envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
			return &envelope.AnnounceReply{Epochs: map[uint32]uint64{7: epoch.Load()}}, nil
		}}
		s := start(t, logic, func(cfg *comet.Config) { cfg.AnnounceInterval, cfg.CallTimeout = time.Second, 10*time.Second })
		synctest.Wait()
		s.pushRoom("x")
		free := make(chan struct{})
		o.mu.Lock()
		o.hold = until(free)
		o.mu.Unlock()
		c := s.dialPipe(pipe.Options{})
		c.send(2, protocol.OpAuth, 1, `{"token":"ann","device":"d","rooms":["x"]}`)
		for owner := range uint64(2) { // the second comes while the session still waits
			epoch.Store(owner + 1)
			from := len(logic.since(0))
			time.Sleep(2500 * time.Millisecond)
			announced := ""
			for _, r := range logic.since(from) {
				for _, info := range r.Sessions {
					announced += fmt.Sprint(info.User, info.Device, info.Rooms)
				}
			}
			if announced != "annd[x]" {
				t.Errorf("announced %q to owner %d, want ann's session once", announced, owner+1)
			}
		}
		if n := c.pipe.Unread(); n > 0 {
			t.Errorf("the client got %d bytes before its room was open", n)
		}
		close(free)
		if p := c.receive(); p.Op != protocol.OpAuthReply {
			t.Errorf("got op %d %s", p.Op, p.Body)
		}
	})
}

// TestOnline checks that the reply to goim's heartbeat counts the room's sessions on all comets.
func TestOnline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logic := &fakeLogic{announce: func(r *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
			return &envelope.AnnounceReply{Rooms: map[string]uint32{"live://1": r.Rooms["live://1"] + 40}}, nil
		}}
		s := start(t, logic, func(cfg *comet.Config) { cfg.AnnounceInterval = time.Second })
		join := func() *client {
			c := s.dialPipe(pipe.Options{})
			c.send(1, protocol.OpAuth, 1, `{"mid":1,"room_id":"live://1"}`)
			c.expect(protocol.OpAuthReply, 0, "")
			return c
		}
		c := join()
		time.Sleep(1500 * time.Millisecond)
		c.send(1, protocol.OpHeartbeat, 1, "")
		c.expect(protocol.OpHeartbeatReply, 0, "\x00\x00\x00\x29")
		join() // The join counts at this comet at once.
		c.send(1, protocol.OpHeartbeat, 1, "")
		c.expect(protocol.OpHeartbeatReply, 0, "\x00\x00\x00\x2a")
	})
}
