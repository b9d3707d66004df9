package cluster_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"imgo/config"
)

// Bugs of imgo's ancestors that only a cluster can have.

// api calls the API of the first logic.
func (w *world) api(method, path, body string, out any) (int, error) {
	return call(method, "http://"+w.of(config.RoleLogic)[0].HTTPAddr().String()+path, body, out)
}

// sessions returns how many sessions a user has.
func (w *world) sessions(user string) int {
	var answer struct {
		Sessions []struct{ Name string }
	}
	if _, err := w.api("GET", "/v1/users/"+user, "", &answer); err != nil {
		return -1
	}
	return len(answer.Sessions)
}

// Bug 2: HTTP answered ok before Kafka had acknowledged the record.
func TestAncestorBug02_AcceptedMeansAcknowledgedByKafka(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.startAll()
	d := w.connect("u", "d", nil)
	resume := w.kafka.RefuseAppends("imgo.kept.1")
	for _, path := range []string{"/v1/push", "/1/push?uid=1", "/1/pushs"} {
		body := map[string]string{"/v1/push": `{"user":"u","body_text":"x"}`, "/1/push?uid=1": "x", "/1/pushs": `{"m":{},"u":[1]}`}[path]
		var answer map[string]any
		status, err := w.api("POST", path, body, &answer)
		if status == 202 || fmt.Sprint(answer["ret"]) == "1" {
			t.Errorf("%s accepted the push (%d, %v, %v) although Kafka has acknowledged nothing", path, status, answer, err)
		}
	}
	resume()
	eventually(t, "pushes are taken again", func() bool {
		status, _ := w.api("POST", "/v1/push", `{"user":"other","body_text":"x"}`, nil)
		return status == 202
	})
	w.pushes.push("u")
	eventually(t, "it arrives", func() bool { return d.received.Load() == 1 })
	w.checkHistory()
}

// Bug 5: job did not see rooms that were younger than a second.
func TestAncestorBug05_YoungRoomGetsItsMessages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.startAll()
	for i := range 10 {
		room := fmt.Sprint("room", i)
		d := w.connect("u", fmt.Sprint("d", i), nil, room)
		body := fmt.Sprintf(`hello %s`, room)
		if _, err := w.api("POST", "/v1/push", fmt.Sprintf(`{"room":%q,"body_text":%q}`, room, body), nil); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-d.heard:
			if got != body {
				t.Errorf("the room received %q", got)
			}
		case <-time.After(waitLimit):
			t.Fatalf("the first message of %s did not arrive", room)
		}
	}
}

// Bug 6: the sessions of a dead comet stayed for ever, so its users looked online.
func TestAncestorBug06_SessionsOfADeadCometGo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.startAll()
	comet := w.of(config.RoleComet)[0]
	d := w.connect("ghost", "d", comet)
	stays := w.connect("stays", "d", w.of(config.RoleComet)[1])
	eventually(t, "both are online", func() bool { return w.sessions("ghost") == 1 && w.sessions("stays") == 1 })
	comet.kill()
	d.leave()
	// I6 says 10 s, but the machine of the test may be slow.
	eventuallyIn(t, 3*10*time.Second, "the dead comet's session is gone", func() bool { return w.sessions("ghost") == 0 })
	// On a busy machine gossip may also suspect the other comet for a moment.
	eventually(t, "the other comet's user has its session", func() bool { return w.sessions("stays") == 1 })
	// Pushes of the meantime wait for the next connection.
	w.pushes.push("ghost")
	w.connect("ghost", "d", nil)
	w.pushes.push("stays")
	w.checkHistory()
	if stays.sessions.Load() != 1 {
		t.Errorf("the other comet's user had %d sessions", stays.sessions.Load())
	}
}

// Bug 7: a restarted router had forgotten all sessions, and connected users counted as
// offline.
func TestAncestorBug07_RouterRestartForgetsNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.startAll()
	var devices []*device
	for i := range 8 {
		devices = append(devices, w.connect(fmt.Sprint("u", i), "d", nil))
	}
	for _, n := range w.of(config.RoleRouter) {
		n.kill()
		n.wipe()
		n.restart()
	}
	for i, d := range devices {
		user := fmt.Sprint("u", i)
		eventually(t, user+" is online", func() bool { return w.sessions(user) == 1 })
		if n := d.sessions.Load(); n != 1 {
			t.Errorf("%s lost its connection: it has connected %d times", user, n)
		}
		w.pushes.push(user)
	}
	// A push that is not kept goes to connected sessions only.
	eventually(t, "a push that is not kept finds its session", func() bool {
		var answer struct{ Sessions int }
		_, err := w.api("POST", "/v1/push", `{"user":"u0","body_text":"now","kept":false}`, &answer)
		return err == nil && answer.Sessions == 1
	})
	w.checkHistory()
}

// A comet that stops tells its clients the addresses of others, and they connect there.
func TestDrainedCometSendsItsClientsElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.startAll()
	comets := w.of(config.RoleComet)
	var devices []*device
	for i := range 5 {
		devices = append(devices, w.connect("u", fmt.Sprint("d", i), comets[0]))
	}
	for _, d := range devices {
		w.mu.Lock()
		d.comet = nil // anywhere, next time
		w.mu.Unlock()
	}
	w.pushes.run(1, []string{"u"})
	w.waitReceived(20)
	comets[0].stop()
	for _, d := range devices {
		eventually(t, d.name+" is on the other comet", func() bool { return d.sessions.Load() == 2 })
		bye := d.lastDisconnect()
		if bye["code"] != 3001.0 || bye["reconnect"] != true || fmt.Sprint(bye["addresses"]) != "["+comets[1].ClientAddr("tcp").String()+"]" {
			t.Errorf("the disconnect packet of %s was %v", d.name, bye)
		}
	}
	w.checkHistory()
	if log := comets[0].Log.String(); !strings.Contains(log, `"message":"stopped"`) {
		t.Errorf("the comet did not log that it stopped:\n%s", log)
	}
}

// A token of one logic is valid on every other logic once that has read of it. Revoking it
// works in the same way, and ends its sessions.
func TestTokensEverywhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.change = func(cfg *config.Config) { cfg.Auth.Mode = "token" }
	w.startAll()
	logics := w.of(config.RoleLogic)
	var made struct{ Token string }
	if _, err := call("POST", "http://"+logics[0].HTTPAddr().String()+"/v1/tokens", `{"user":"7"}`, &made); err != nil {
		t.Fatal(err)
	}
	// Each logic says whether a token is valid.
	known := func(ret int) {
		t.Helper()
		for _, n := range logics {
			eventually(t, fmt.Sprintf("%s answers %d for the token", n.name, ret), func() bool {
				var answer struct{ Ret int }
				err := get("http://"+n.HTTPAddr().String()+"/1/msg/get?uid=7&mid=0&token="+made.Token, &answer)
				return err == nil && answer.Ret == ret
			})
		}
	}
	known(0)
	// A comet asks any logic, so some of many connections ask the other one.
	w.pushes.number.Store(0)
	var devices []*device
	for i := range 10 {
		d := &device{w: w, user: made.Token, name: fmt.Sprint("d", i)}
		devices = append(devices, d)
	}
	for _, d := range devices {
		if err := d.tryConnect(); err != nil {
			t.Errorf("%s is refused: %v", d.name, err)
		}
	}
	if _, err := call("POST", "http://"+logics[1].HTTPAddr().String()+"/v1/tokens/revoke", `{"user":"7"}`, nil); err != nil {
		t.Fatal(err)
	}
	known(65533)
	for i := range 10 {
		d := &device{w: w, user: made.Token, name: fmt.Sprint("d", i)}
		if err := d.tryConnect(); err == nil {
			t.Errorf("%s connected with a revoked token", d.name)
		}
	}
}
