package cluster_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"imgo/config"
	"imgo/roles"
)

// counter counts the events that a follower got.
type counter struct {
	ids map[string]bool
	// delivered counts by message and device, settled by message.
	delivered, settled map[string]int
	cursor             string
}

// follow asks one logic after the other for events until done, and checks that each comes once and in its order.
func (w *world) follow(to *counter, done func() bool) {
	w.t.Helper()
	turn := 0
	eventually(w.t, "all events have come", func() bool {
		logics := w.of(config.RoleLogic)
		turn++
		var page struct {
			Events []struct {
				ID, Type string
				Data     struct{ Ref, Device string }
			}
			Next string
		}
		url := "http://" + logics[turn%len(logics)].HTTPAddr().String() + "/v1/events?limit=1000&wait=1s&after=" + to.cursor
		if get(url, &page) != nil {
			return false // it starts, stops, or changes its partitions
		}
		to.cursor = page.Next
		for _, e := range page.Events {
			if to.ids[e.ID] {
				w.t.Errorf("event %s came twice", e.ID)
			}
			to.ids[e.ID] = true
			switch e.Type {
			case "message.delivered":
				to.delivered[e.Data.Ref+" "+e.Data.Device]++
				if to.settled[e.Data.Ref] > 0 {
					w.t.Errorf("message %s is settled before %s has it", e.Data.Ref, e.Data.Device)
				}
			case "message.settled":
				to.settled[e.Data.Ref]++
			}
		}
		return done()
	})
}

// Routers that lose their disks and more partitions change nothing about the events: a follower is told of each receipt
// once, and of each message that all devices have it.
func TestEventsWhileRoutersDieAndPartitionsGrow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.times = quickTimes()
	w.pushes.reports = true
	w.startAll()
	users := w.connectUsers(3)
	w.pushes.run(3, users)
	w.waitReceived(60)
	follower := &counter{ids: make(map[string]bool), delivered: make(map[string]int), settled: make(map[string]int)}
	w.follow(follower, func() bool { return len(follower.settled) > 10 })
	first := w.of(config.RoleRouter)[0]
	first.kill()
	first.wipe()
	first.restart()
	w.waitReceived(60)
	w.grow(7)
	w.waitGrown(7)
	w.waitReceived(60)
	second := w.of(config.RoleRouter)[1]
	second.kill()
	second.restart()
	w.waitReceived(60)
	w.checkHistory()
	pushed := w.pushes.number.Load()
	w.follow(follower, func() bool { return len(follower.settled) >= int(pushed) })
	for n := uint64(1); n <= pushed; n++ {
		ref := fmt.Sprint(n)
		phone, laptop, ends := follower.delivered[ref+" phone"], follower.delivered[ref+" laptop"], follower.settled[ref]
		if phone != 1 || laptop != 1 || ends != 1 {
			t.Errorf("message %s: told %d times of the phone, %d of the laptop, %d of its end", ref, phone, laptop, ends)
		}
	}
	t.Logf("%d events of %d pushes", len(follower.ids), pushed)
}

// A follower that is behind goes on with the next generation if the events topic of its own was deleted. Nobody makes that
// topic again.
func TestEventsOfADeletedTopic(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.times = quickTimes()
	n := w.start("one", config.RoleRouter, config.RoleLogic, config.RoleJob, config.RoleComet)
	url := "http://" + n.HTTPAddr().String()
	push := func() {
		eventually(t, "a push with a report is accepted", func() bool {
			status, _ := call("POST", url+"/v1/push", `{"user":"a","body":1,"report":"settled","ttl":"1s"}`, nil)
			return status == 202
		})
	}
	var page struct {
		Events []struct{ Type string }
		Next   string
	}
	push()
	eventually(t, "the end of the message is an event", func() bool {
		return get(url+"/v1/events?limit=1", &page) == nil && len(page.Events) == 1
	})
	w.grow(7)
	w.waitGrown(7)
	if err := w.kafka.Cluster.DeleteTopic("imgo.events.1"); err != nil {
		t.Fatal(err)
	}
	push()
	behind := page.Next
	eventually(t, "the event of the next generation has come", func() bool {
		return get(url+"/v1/events?limit=1&after="+behind, &page) == nil && len(page.Events) == 1
	})
	if w.kafka.Cluster.TopicInfo("imgo.events.1") != nil {
		t.Error("the deleted topic was made again")
	}
}

// A call that an older node could not understand is refused as long as there is one. After the first such call an older
// node does not start.
func TestUpgradeUnfinished(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.faults = map[string]roles.Faults{"old": {RecordVersion: 1}}
	w.start("new", config.RoleRouter, config.RoleLogic, config.RoleJob, config.RoleComet)
	old := w.start("old", config.RoleRouter)
	push := func(more string) (int, error) {
		url := "http://" + w.of(config.RoleLogic)[0].HTTPAddr().String() + "/v1/push"
		return call("POST", url, `{"user":"a","body":1`+more+`}`, nil)
	}
	eventually(t, "the newer node refuses a report, and names the older one", func() bool {
		status, err := push(`,"report":"settled"`)
		return status == 409 && strings.Contains(err.Error(), "upgrade_unfinished") && strings.Contains(err.Error(), ": old;")
	})
	read := func() (int, error) {
		url := "http://" + w.of(config.RoleLogic)[0].HTTPAddr().String() + "/v1/users/a/read"
		return call("POST", url, `{"up_to":"281474976710656"}`, nil)
	}
	if status, err := read(); status != 409 || !strings.Contains(err.Error(), "upgrade_unfinished") {
		t.Errorf("a user reads: %d, %v", status, err)
	}
	if status, err := push(""); status != 202 {
		t.Errorf("a push without a report: %d, %v", status, err)
	}
	cfg := old.Config
	old.stop()
	eventually(t, "reports are accepted without the older node", func() bool {
		status, _ := push(`,"report":"settled"`)
		return status == 202
	})
	if status, err := read(); status != 200 {
		t.Errorf("a user reads without the older node: %d, %v", status, err)
	}
	n, err := roles.New(context.Background(), cfg, roles.RunOptions{Faults: roles.Faults{RecordVersion: 1}})
	if err == nil || !strings.Contains(err.Error(), "records of version 3 are in use") {
		t.Errorf("the older node starts again: %v, %v", n, err)
	}
}
