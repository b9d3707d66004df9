package cluster_test

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"imgo/config"
	"imgo/roles/router"
)

// presences is what a follower has been told of users.
type presences struct {
	w      *world
	online map[string]bool
	epochs map[string]uint64
	times  map[string]int // how often a user was told anything
	cursor string
	turn   int
}

func (w *world) followPresences() *presences {
	return &presences{w: w, online: make(map[string]bool), epochs: make(map[string]uint64), times: make(map[string]int)}
}

// read reads what there is, from one logic after the other. It checks that each user is told to be online and offline in
// turn, with epochs that grow.
func (p *presences) read() {
	p.w.t.Helper()
	for more := true; more; {
		logics := p.w.of(config.RoleLogic)
		p.turn++
		var page struct {
			Events []struct {
				Type string
				Data struct{ User, Epoch string }
			}
			Next string
			More bool
		}
		url := "http://" + logics[p.turn%len(logics)].HTTPAddr().String() + "/v1/events?types=user.*&limit=1000&after=" + p.cursor
		if get(url, &page) != nil {
			return // it starts, stops, or changes its partitions
		}
		p.cursor, more = page.Next, page.More
		for _, e := range page.Events {
			user, is := e.Data.User, e.Type == "user.online"
			epoch, err := strconv.ParseUint(e.Data.Epoch, 10, 64)
			if err != nil || epoch <= p.epochs[user] || is == p.online[user] {
				p.w.t.Errorf("%s of %s with the epoch %q after %d, which was online: %v", e.Type, user, e.Data.Epoch, p.epochs[user], p.online[user])
			}
			p.online[user], p.epochs[user] = is, epoch
			p.times[user]++
		}
	}
}

// presenceLimit is promised for the time from a fault until what is told is true. A loaded machine takes longer.
const presenceLimit = 15 * time.Second

// waitFor waits until exactly these users are told to be online, and logs how long it took.
func (p *presences) waitFor(what string, users ...string) {
	p.w.t.Helper()
	begin := time.Now()
	eventually(p.w.t, what, func() bool {
		p.read()
		var online []string
		for user, is := range p.online {
			if is {
				online = append(online, user)
			}
		}
		slices.Sort(online)
		return slices.Equal(online, users)
	})
	p.w.t.Logf("%s: after %s (at most %s is promised)", what, time.Since(begin).Round(10*time.Millisecond), presenceLimit)
}

// What is told of users ends as the truth: after comets and routers were killed, with and without users that go at the same
// time, and after the partitions became more.
func TestPresenceWhileNodesDieAndPartitionsGrow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.times = quickTimes()
	w.change = func(c *config.Config) { c.Presence = router.Presence{Events: true, Grace: 2 * time.Second} }
	w.startAll()
	told := w.followPresences()
	comets := w.of(config.RoleComet)
	stays := w.connect("stays", "phone", comets[1])
	w.connect("moves", "phone", nil)
	gone := make(map[string]*device)
	for _, user := range []string{"a", "b", "c", "d"} {
		gone[user] = w.connect(user, "phone", comets[1])
	}
	lost := w.connect("lost", "phone", comets[0])
	told.waitFor("all are online", "a", "b", "c", "d", "lost", "moves", "stays")

	gone["a"].leave()
	told.waitFor("a has gone", "b", "c", "d", "lost", "moves", "stays")

	comets[0].kill() // and its device finds nothing at its address
	told.waitFor("a comet was killed", "b", "c", "d", "moves", "stays")
	lost.leave()

	first := w.of(config.RoleRouter)[0]
	first.kill()
	gone["b"].leave()
	told.waitFor("a router was killed while b went", "c", "d", "moves", "stays")
	first.wipe()
	first.restart()

	w.grow(7)
	gone["c"].leave()
	w.waitGrown(7)
	told.waitFor("there are more partitions, and c went", "d", "moves", "stays")

	for _, r := range w.of(config.RoleRouter) {
		r.kill()
	}
	gone["d"].leave()
	w.start("router3", config.RoleRouter)
	told.waitFor("all routers were killed while d went", "moves", "stays")
	t.Logf("the user that stayed was told to be online or offline %d times", told.times["stays"])
	stays.leave()
	told.waitFor("stays has gone", "moves")
}
