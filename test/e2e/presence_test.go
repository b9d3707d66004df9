package e2e_test

import (
	"strconv"
	"testing"
	"time"

	"imgo/config"
)

// presenceView is what GET /v1/users/{user} says about who is online.
type presenceView struct {
	Online     bool
	SinceMS    int64 `json:"since_ms"`
	LastSeenMS int64 `json:"last_seen_ms"`
	Devices    []struct {
		Device     string
		Online     bool
		LastSeenMS int64 `json:"last_seen_ms"`
	}
}

func (n *node) presence(t *testing.T, user string) (v presenceView) {
	t.Helper()
	n.call(t, "GET", "/v1/users/"+user, "").decode(t, &v)
	return v
}

// GET /v1/users/{user} says who is online and since when, without any setting, also of the clients of imgo 2016 and goim.
func TestUserSaysWhoIsOnline(t *testing.T) {
	n := start(t, nil)
	if v := n.presence(t, "alice"); v.Online || v.SinceMS != 0 || v.LastSeenMS != 0 || len(v.Devices) != 0 {
		t.Errorf("before: %+v", v)
	}
	begin := time.Now().Add(-time.Second).UnixMilli()
	n.tcp(t).login("v2", "alice", `,"device":"laptop"`)
	phone := n.tcp(t)
	phone.login("v2", "alice", `,"device":"phone"`)
	v := n.presence(t, "alice")
	if !v.Online || v.SinceMS < begin || v.SinceMS > time.Now().Add(time.Second).UnixMilli() || v.LastSeenMS < v.SinceMS ||
		len(v.Devices) != 2 {
		t.Errorf("online: %+v", v)
	}
	phone.Close()
	eventually(t, "the phone is offline and the laptop is not", func() bool {
		v = n.presence(t, "alice")
		online := map[string]bool{}
		for _, d := range v.Devices {
			online[d.Device] = d.Online
		}
		return v.Online && online["laptop"] && !online["phone"]
	})
	for _, generation := range []string{"imgo", "goim"} {
		c := n.tcp(t)
		c.login(generation, "77", "")
		if v := n.presence(t, "77"); !v.Online || v.SinceMS < begin {
			t.Errorf("%s: %+v", generation, v)
		}
		c.Close()
		eventually(t, "the user of the old client is offline", func() bool {
			v = n.presence(t, "77")
			return !v.Online && v.SinceMS >= begin && v.SinceMS == v.LastSeenMS
		})
	}
	if page := n.presenceEvents(t, ""); len(page.Events) != 0 {
		t.Errorf("events while they are off: %+v", page.Events)
	}
}

// presencePage is a page of events of presence.
type presencePage struct {
	Events []struct {
		Type string
		Data struct{ User, Device, Epoch string }
	}
	Next string
}

func (n *node) presenceEvents(t *testing.T, query string) (page presencePage) {
	t.Helper()
	n.call(t, "GET", "/v1/events?types=user.*"+query, "").decode(t, &page)
	return page
}

// wantPresence waits for the next events of presence and checks them. It returns the cursor behind them.
func (n *node) wantPresence(t *testing.T, after string, want ...string) (next string) {
	t.Helper()
	var last uint64
	for i := 0; i < len(want); {
		page := n.presenceEvents(t, "&limit=1&wait=20s&after="+after)
		if after = page.Next; len(page.Events) == 0 {
			t.Fatalf("no event %q", want[i])
		}
		for _, e := range page.Events {
			epoch, err := strconv.ParseUint(e.Data.Epoch, 10, 64)
			if got := e.Type + " " + e.Data.User + " " + e.Data.Device; got != want[i] || err != nil || epoch <= last {
				t.Fatalf("event %q with the epoch %q after %d, want %q", got, e.Data.Epoch, last, want[i])
			}
			last = epoch
			i++
		}
	}
	return after
}

// With presence.events the caller is told who comes and goes, also of a user that goes while the node is down.
func TestEventsOfPresence(t *testing.T) {
	n := start(t, func(c *config.Config) {
		c.Presence.Events, c.Presence.Grace = true, 200*time.Millisecond
		c.Kept.Partitions = 1 // one order for all users
		c.Delivery.AnnounceInterval = 100 * time.Millisecond
	})
	phone := n.tcp(t)
	phone.login("v2", "alice", `,"device":"phone"`)
	next := n.wantPresence(t, "", "user.online alice phone")
	old := n.tcp(t)
	old.login("imgo", "bob", "")
	next = n.wantPresence(t, next, "user.online bob ")
	phone.Close()
	next = n.wantPresence(t, next, "user.offline alice phone")
	n = n.restart(t)
	next = n.wantPresence(t, next, "user.offline bob ")
	again := n.tcp(t)
	again.login("v2", "alice", `,"device":"laptop"`)
	n.wantPresence(t, next, "user.online alice laptop")
	n.call(t, "GET", "/v1/events?types=user.online&user=bob", "").want(t, 200, `"type":"user.online"`, `"subject":"bob"`)
}
