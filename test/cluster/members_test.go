package cluster_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"imgo/config"
)

// member puts a user into the room (PUT), or takes it out (DELETE), by any logic. It tries again while the user's partition
// moves from router to router, and returns how many sessions followed.
func (w *world) member(method, room, user string) (sessions int) {
	w.t.Helper()
	var answer struct{ Sessions, Late int }
	eventually(w.t, fmt.Sprintf("%s of %s into %s", method, user, room), func() bool {
		answer.Sessions, answer.Late = 0, 0
		status, _ := w.api(method, fmt.Sprintf("/v1/rooms/%s/users/%s", room, user), "", &answer)
		return status == 200 && answer.Late == 0
	})
	return answer.Sessions
}

// pushRoom pushes a text to a room.
func (w *world) pushRoom(room, text string) {
	w.t.Helper()
	eventually(w.t, "the push to "+room, func() bool {
		status, _ := w.api("POST", "/v1/push", fmt.Sprintf(`{"room":%q,"body_text":%q}`, room, text), nil)
		return status == 202
	})
}

// hears waits until a device has heard a text. Others that it hears before are those of earlier pushes.
func (d *device) hears(text string) {
	d.w.t.Helper()
	limit := time.After(waitLimit)
	for {
		select {
		case got := <-d.heard:
			if got == text {
				return
			}
			d.w.t.Errorf("%s/%s heard %q, want %q", d.user, d.name, got, text)
		case <-limit:
			d.w.t.Fatalf("%s/%s did not hear %q", d.user, d.name, text)
		}
	}
}

// waitIn waits until a device is in a room, or is not.
func (d *device) waitIn(room string, want bool) {
	d.w.t.Helper()
	eventually(d.w.t, fmt.Sprintf("%s/%s is in %s: %t", d.user, d.name, room, want), func() bool {
		var answer struct {
			Members []struct{ User, Device string }
		}
		if status, _ := d.w.api("GET", "/v1/rooms/"+room, "", &answer); status != 200 {
			return false
		}
		return want == slices.ContainsFunc(answer.Members, func(m struct{ User, Device string }) bool {
			return m.User == d.user && m.Device == d.name
		})
	})
}

// Memberships outlive the routers that own them, one after the other, with their disks. Sessions stay in their rooms meanwhile,
// a change by any node reaches the sessions on all comets, and a new session is in its rooms from the start.
func TestMembershipsWhileRoutersAreKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.startAll()
	const room = "team"
	devices := make(map[string][]*device) // by user
	for i := range 8 {
		user := fmt.Sprint("user", i)
		for j, comet := range w.of(config.RoleComet) {
			devices[user] = append(devices[user], w.connect(user, fmt.Sprint("d", j), comet))
		}
	}
	members := []string{"user0", "user1", "user2", "user3"}
	for _, user := range members {
		if n := w.member("PUT", room, user); n != 2 {
			t.Errorf("%d sessions of %s followed", n, user)
		}
	}
	texts := 0
	allHear := func() {
		t.Helper()
		texts++
		text := fmt.Sprint("text ", texts)
		w.pushRoom(room, text)
		for _, user := range members {
			for _, d := range devices[user] {
				d.hears(text)
			}
		}
	}
	allHear()
	for i, router := range w.of(config.RoleRouter) {
		router.kill()
		router.wipe()
		allHear() // nobody left the room with its router
		joins := fmt.Sprint("user", 4+i)
		// The other router takes the partition. It may not know the user's sessions yet. They follow once it does.
		w.member("PUT", room, joins)
		for _, d := range devices[joins] {
			d.waitIn(room, true)
		}
		members = append(members, joins)
		allHear()
		devices["user0"] = append(devices["user0"], w.connect("user0", fmt.Sprint("later", i), nil))
		allHear() // the new session, too
		router.restart()
		leaves := members[1]
		members = slices.Delete(members, 1, 2)
		w.member("DELETE", room, leaves)
		for _, d := range devices[leaves] {
			d.waitIn(room, false)
		}
		allHear()
	}
	for user, all := range devices {
		var answer struct{ Rooms []string }
		eventually(t, "the rooms of "+user, func() bool {
			status, _ := w.api("GET", "/v1/users/"+user+"/rooms", "", &answer)
			return status == 200
		})
		if in := slices.Contains(answer.Rooms, room); in != slices.Contains(members, user) {
			t.Errorf("%s is in %v, the members are %v", user, answer.Rooms, members)
		}
		for _, d := range all {
			if len(d.heard) > 0 { // who is no member hears nothing, and a member hears nothing twice
				t.Errorf("%s/%s has also heard %q", user, d.name, <-d.heard)
			}
			if n := d.sessions.Load(); n != 1 {
				t.Errorf("%s/%s has connected %d times", user, d.name, n)
			}
		}
	}
}
