package verify_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"imgo/config"
	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles"
	"imgo/roles/logic"
	"imgo/roles/logic/httpapi"
	"imgo/test/harness"
	"imgo/transport"
	"imgo/verify"
	"imgo/verify/history"
)

// post sends a request to the API of a node. An answer below 300 goes into out, unless that is nil.
func post(t *testing.T, n *harness.Node, path, body string, out any) {
	t.Helper()
	if _, err := harness.Call("POST", n.Base+path, body, out); err != nil {
		t.Fatal(err)
	}
}

// TestRestartIsSeen restarts the server during a run. The run finds no violation. The mark in the
// report shows how long the restart was noticeable.
func TestRestartIsSeen(t *testing.T) {
	t.Parallel()
	seen := start(t, roles.Faults{}, nil)
	cfg := shortRun(seen)
	cfg.CallTimeout = 10 * time.Second
	cfg.Keyless = 0 // every push is repeated until it is accepted
	// Nothing listens at the first address.
	cfg.API = []string{"http://127.0.0.1:1", seen.Base}
	const down = 500 * time.Millisecond
	report := during(t, cfg, func(v *verify.Verifier) {
		v.Mark("nothing")()
		end := v.Mark("restart")
		again := seen.SameAddresses()
		if err := seen.Stop(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(down) // the fault itself
		seen = harness.Start(t, again, roles.RunOptions{}, nil)
		accepted := v.Progress().Accepted
		eventually(t, "all devices are connected and pushes are accepted again", func() bool {
			p := v.Progress()
			return p.Connected == p.Devices && p.Accepted > accepted+20
		})
		end()
	})
	if !report.OK || report.Pushes.Accepted != report.Pushes.Kept {
		t.Errorf("a restart caused a violation, or %d of %d pushes were accepted", report.Pushes.Accepted, report.Pushes.Kept)
	}
	if len(report.Marks) != 2 {
		t.Fatalf("the marks are %+v", report.Marks)
	}
	quiet, restart := report.Marks[0], report.Marks[1]
	for _, m := range []struct {
		what          string
		quiet, during verify.Millis
	}{
		{"refusal", quiet.LongestRefusal, restart.LongestRefusal},
		{"push", quiet.LongestPush, restart.LongestPush},
	} {
		if time.Duration(m.during) < down || m.quiet >= m.during {
			t.Errorf("the longest %s is %s while the server is down for more than %s, and before %s", m.what, m.during, down, m.quiet)
		}
	}
	if restart.LongestDelivery <= 0 || restart.LongestRefusal != report.Pushes.LongestRefusal {
		t.Errorf("the mark is %+v, of %+v", restart, report.Pushes)
	}
	if quiet.Reconnects != 0 || restart.Reconnects < int64(report.Devices) {
		t.Errorf("%d of %d devices connected again, and %d before", restart.Reconnects, report.Devices, quiet.Reconnects)
	}
	if report.Pushes.Refusals == 0 || report.SentAway == 0 {
		t.Errorf("%d refusals and %d disconnect packets, want both", report.Pushes.Refusals, report.SentAway)
	}
	// The run has revoked its tokens.
	var tokens struct{ Revoked int }
	if post(t, seen, "/v1/tokens/revoke", `{"user":"`+report.Run+`0"}`, &tokens); tokens.Revoked != 0 {
		t.Errorf("%d of its tokens were left", tokens.Revoked)
	}
	nothingWaits(t, seen, report)
}

// nothingWaits waits until the last acknowledgements of a run are applied, so that its users have
// no pending messages.
func nothingWaits(t *testing.T, n *harness.Node, r *verify.Report) {
	t.Helper()
	for i := range r.Users {
		eventually(t, fmt.Sprintf("nothing waits for user %d", i), func() bool {
			var state struct{ Pending int }
			if _, err := harness.Call("GET", fmt.Sprintf("%s/v1/users/%s%d", n.Base, r.Run, i), "", &state); err != nil {
				t.Fatal(err)
			}
			return state.Pending == 0
		})
	}
}

// TestLate makes every delivery late.
func TestLate(t *testing.T) {
	t.Parallel()
	for _, fails := range []bool{false, true} {
		t.Run(fmt.Sprintf("fails=%t", fails), func(t *testing.T) {
			t.Parallel()
			cfg := shortRun(start(t, roles.Faults{}, nil))
			cfg.Late, cfg.LateFails = 1, fails
			report := until(t, cfg, pushed(50))
			if report.Deliveries.Late == 0 || len(report.Late) == 0 || report.Late[0].User == "" || report.Late[0].Took <= 0 {
				t.Errorf("late: %d, %+v", report.Deliveries.Late, report.Late)
			}
			if report.OK == fails || (report.Violations[verify.KindLate] > 0) != fails || (report.First != nil) != fails {
				t.Errorf("OK %t, violations %v, first %+v", report.OK, report.Violations, report.First)
			}
		})
	}
}

// TestStranger pushes to a user of the run without telling the run.
func TestStranger(t *testing.T) {
	t.Parallel()
	n := start(t, roles.Faults{}, nil)
	cfg := shortRun(n)
	cfg.Prefix = "stranger-"
	report := during(t, cfg, func(v *verify.Verifier) {
		for _, body := range []string{`"hello"`, `{"verify":"stranger-","n":999999}`} {
			post(t, n, "/v1/push", `{"user":"stranger-3","body":`+body+`}`, nil)
		}
		eventually(t, "both devices have both", func() bool { return v.Progress().Violations == 4 })
	})
	if report.OK || report.Violations[history.KindStranger] != 4 || report.First.User != "stranger-3" {
		t.Errorf("violations %v, first %+v", report.Violations, report.First)
	}
}

// TestSentAwayForGood kicks a user. The run must report it, because its devices give no reason for
// a final disconnect.
func TestSentAwayForGood(t *testing.T) {
	t.Parallel()
	n := start(t, roles.Faults{}, nil)
	cfg := shortRun(n)
	cfg.Prefix = "kicked-"
	report := during(t, cfg, func(v *verify.Verifier) {
		post(t, n, "/v1/users/kicked-3/kick", `{"device":"d1","reason":"test"}`, nil)
		eventually(t, "the kick is seen", func() bool { return v.Progress().Problems > 0 })
	})
	if report.OK || report.ProblemCount != 1 || !strings.Contains(report.Problems[0], "kicked-3/d1") || len(report.Violations) > 0 {
		t.Errorf("problems %v, violations %v", report.Problems, report.Violations)
	}
	if !strings.Contains(report.String(), "PROBLEM") {
		t.Errorf("the report does not have the problem:\n%s", report)
	}
}

// TestHangingAddress uses one API address that accepts calls and never answers. It must delay only
// the pushes that went to it.
func TestHangingAddress(t *testing.T) {
	t.Parallel()
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	cfg := shortRun(start(t, roles.Faults{}, nil))
	cfg.API = append(cfg.API, "http://"+mute.Addr().String())
	cfg.Rate, cfg.Callers, cfg.CallTimeout = 50, 0, 4*time.Second
	report := until(t, cfg, pushed(100))
	if !report.OK {
		t.Error("the run is not OK")
	}
	if p := report.Pushes; time.Duration(p.LongestPush) < cfg.CallTimeout || p.LongestRefusal >= p.LongestPush ||
		p.Accepted+p.Unanswered != p.Kept {
		t.Errorf("the pushes are %+v", p)
	}
}

// TestHeartbeats counts the heartbeats at a scripted comet. It accepts every device, sets the
// heartbeat interval, and sends no messages.
func TestHeartbeats(t *testing.T) {
	t.Parallel()
	comet, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var beats atomic.Int64
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := comet.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { serveBeats(conn, &beats) })
		}
	})
	defer serving.Wait()
	defer comet.Close()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"token":"t","id":"1"}`) // the write fails only if the caller is gone
	}))
	defer api.Close()

	cfg := verify.DefaultConfig()
	cfg.API, cfg.Clients = []string{api.URL}, []string{comet.Addr().String()}
	cfg.Users, cfg.Rate, cfg.NotKept, cfg.Duration, cfg.ArrivalTimeout = 5, 1, 1, 0, time.Second
	v, err := verify.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _, err = v.Run(ctx) })
	func() {
		defer running.Wait()
		defer cancel()
		eventually(t, "three heartbeats of each device", func() bool { return beats.Load() >= 30 })
	}()
	if err != nil {
		t.Error(err)
	}
}

// serveBeats serves one connection of the scripted comet.
func serveBeats(conn net.Conn, beats *atomic.Int64) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	var header [protocol.HeaderV2]byte
	for {
		p, err := transport.ReadPacket(r, &header, 1<<20)
		if err != nil {
			return
		}
		answer, body := protocol.OpHeartbeatReply, ""
		if p.Op == protocol.OpAuth {
			answer, body = protocol.OpAuthReply, `{"session":"s","heartbeat":0.3}`
		} else if p.Op == protocol.OpHeartbeat {
			beats.Add(1)
		}
		if _, err := conn.Write(transport.AppendPacket(nil, 2, protocol.HeaderV2, answer, p.Seq, 0, []byte(body))); err != nil {
			return
		}
	}
}

// everything returns the settings of a short run with every kind of device and of push, on a server
// without other clients.
func everything(n *harness.Node) verify.Config {
	cfg := shortRun(n)
	cfg.Kinds = verify.DeviceKinds()
	cfg.Slow, cfg.Lazy, cfg.Rooms, cfg.NotKept, cfg.Broadcast, cfg.Large = 3, 0.5, 3, 0.2, 0.1, 0.1
	cfg.Churn = 60
	return cfg
}

// TestEverything uses every kind of device and of push, and devices that leave and return.
func TestEverything(t *testing.T) {
	t.Parallel()
	cfg := everything(start(t, roles.Faults{}, nil))
	report := until(t, cfg, func(p verify.Progress) bool { return p.Accepted > 300 && p.Sessions > 2*p.Devices })
	wellUsed(t, report)
	if !report.OK {
		t.Error("the run is not OK")
	}
	// A push to one user that is not kept reaches 2 devices, one to a room 20, one to everybody 40.
	if report.Deliveries.NotKept < 4*report.Pushes.NotKeptAccepted {
		t.Errorf("%d accepted pushes that are not kept caused %d deliveries", report.Pushes.NotKeptAccepted, report.Deliveries.NotKept)
	}
}

// TestKinds uses one kind of device at a time, so that each kind receives messages.
func TestKinds(t *testing.T) {
	t.Parallel()
	n := start(t, roles.Faults{}, nil)
	for _, kind := range everything(n).Kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			cfg := shortRun(n)
			cfg.Kinds = []verify.DeviceKind{kind}
			report := until(t, cfg, pushed(50))
			wellUsed(t, report)
			if !report.OK {
				t.Error("the run is not OK")
			}
		})
	}
}

// TestJudgeCanFail falsifies what a device received from a correct server. The run must find each false
// record, as the right kind of violation and as nothing else.
func TestJudgeCanFail(t *testing.T) {
	t.Parallel()
	n := start(t, roles.Faults{}, nil)
	for falsify, kind := range map[verify.Falsify]history.Kind{
		verify.FalsifyLose: history.KindLost, verify.FalsifyRepeat: history.KindAgain, verify.FalsifySwap: history.KindOrder,
	} {
		t.Run(string(falsify), func(t *testing.T) {
			t.Parallel()
			cfg := shortRun(n)
			cfg.Falsify, cfg.Users, cfg.Churn = falsify, 12, 60
			if falsify == verify.FalsifyLose {
				cfg.ArrivalTimeout = 2 * time.Second // the run waits this long for the lost message
			}
			report := until(t, cfg, pushed(500))
			if report.OK || report.ProblemCount > 0 || report.Violations[kind] == 0 || len(report.Violations) != 1 {
				t.Errorf("violations %v, problems %v; want %q alone", report.Violations, report.Problems, kind)
			}
		})
	}
}

// TestFalsifyNeedsMessages ends a run before its device has received enough for a false record. The run
// must not be OK, because it has not proved anything.
func TestFalsifyNeedsMessages(t *testing.T) {
	t.Parallel()
	cfg := shortRun(start(t, roles.Faults{}, nil))
	cfg.Falsify, cfg.Users = verify.FalsifyLose, 200
	if report := until(t, cfg, pushed(50)); report.OK || !strings.Contains(fmt.Sprint(report.Problems), "too few messages") {
		t.Errorf("OK %t, problems %v", report.OK, report.Problems)
	}
}

// TestLostAcknowledgements runs against a server that forgets acknowledgements. The run must report that
// mailboxes are not empty.
func TestLostAcknowledgements(t *testing.T) {
	t.Parallel()
	faults := roles.Faults{LogicLog: func(kept logic.KeptLog) logic.KeptLog { return forgetfulLog{kept} }}
	cfg := shortRun(start(t, faults, nil))
	cfg.ArrivalTimeout = 2 * time.Second
	report := until(t, cfg, pushed(50))
	if report.OK || len(report.Violations) > 0 || !strings.Contains(fmt.Sprint(report.Problems), "the mailbox of "+report.Run) {
		t.Errorf("violations %v, problems %v", report.Violations, report.Problems)
	}
}

// TestLingering pushes a message of the run after all mailboxes are empty, as a server does that forgets
// what was acknowledged. The run must report it, and what OnPhase returns.
func TestLingering(t *testing.T) {
	t.Parallel()
	n := start(t, roles.Faults{}, nil)
	cfg := shortRun(n)
	cfg.Prefix = "lingering-"
	var phases []string
	cfg.OnPhase = func(_ context.Context, phase string) error {
		phases = append(phases, phase)
		if phase != verify.PhaseLingering {
			return nil
		}
		_, err := harness.Call("POST", n.Base+"/v1/push", `{"user":"lingering-3","body":{"verify":"lingering-","n":7}}`, nil)
		return errors.Join(err, errors.New("a problem of the caller"))
	}
	report := until(t, cfg, pushed(50))
	if all := fmt.Sprint(report.Problems); report.OK || !strings.Contains(all, "lingering-3/d0 got push 7") ||
		!strings.Contains(all, "a problem of the caller") {
		t.Errorf("problems %v", report.Problems)
	}
	if got := strings.Join(phases, " "); got != "pushing settling emptying lingering done" {
		t.Errorf("the phases were %s", got)
	}
}

// TestGivenAddresses runs against configured client addresses, without asking the API for them.
func TestGivenAddresses(t *testing.T) {
	t.Parallel()
	for name, addresses := range map[string]func(n *harness.Node) []string{
		"TCP alone":       func(n *harness.Node) []string { return []string{n.ClientAddr("tcp").String()} },
		"WebSocket alone": func(n *harness.Node) []string { return []string{"ws://" + n.ClientAddr("ws").String()} },
		"one that is dead": func(n *harness.Node) []string {
			return []string{"127.0.0.1:1", n.ClientAddr("tcp").String(), "ws://127.0.0.1:1/sub", "ws://" + n.ClientAddr("ws").String() + "/sub"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := start(t, roles.Faults{}, nil)
			cfg := shortRun(n)
			cfg.Clients = addresses(n)
			if report := until(t, cfg, pushed(50)); !report.OK || report.Deliveries.Received == 0 {
				t.Errorf("received %d", report.Deliveries.Received)
			}
		})
	}
}

// TestCannotBegin checks that Run returns an error with the reason if a run is impossible.
func TestCannotBegin(t *testing.T) {
	t.Parallel()
	n := start(t, roles.Faults{}, func(cfg *config.Config) {
		cfg.HTTP.Keys = []httpapi.Key{{Name: "one", Key: "a-key-that-is-long-enough"}}
	})
	// This server accepts connections and never answers.
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	for name, c := range map[string]struct {
		change func(*verify.Config)
		want   string
	}{
		"nobody at the API":     {func(cfg *verify.Config) { cfg.API = []string{"http://127.0.0.1:1"} }, "refused"},
		"without the API key":   {func(cfg *verify.Config) { cfg.Key = "" }, "401"},
		"with another API key":  {func(cfg *verify.Config) { cfg.Key, cfg.Clients = "wrong", []string{"127.0.0.1:1"} }, "is the API key right?"},
		"nobody at the clients": {func(cfg *verify.Config) { cfg.Clients = []string{"127.0.0.1:1"} }, "refused"},
		"somebody mute":         {func(cfg *verify.Config) { cfg.Clients = []string{mute.Addr().String()} }, "0 of 40 devices"},
		"no user's name":        {func(cfg *verify.Config) { cfg.Prefix = "a\x00" }, "make a token"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := shortRun(n)
			cfg.Key, cfg.ConnectTimeout = "a-key-that-is-long-enough", 500*time.Millisecond
			c.change(&cfg)
			v, err := verify.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			report, err := v.Run(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) || report != nil {
				t.Errorf("Run ended with %v, want %q in it", err, c.want)
			}
		})
	}
}

// TestCheck checks that invalid settings are refused.
func TestCheck(t *testing.T) {
	t.Parallel()
	good := verify.DefaultConfig()
	good.API = []string{"127.0.0.1:7172"}
	if _, err := verify.New(good); err != nil {
		t.Fatal(err)
	}
	for field, change := range map[string]func(*verify.Config){
		"API":            func(c *verify.Config) { c.API = nil },
		"Users":          func(c *verify.Config) { c.Users = 0 },
		"Devices":        func(c *verify.Config) { c.Devices = 65 },
		"Kinds":          func(c *verify.Config) { c.Kinds = []verify.DeviceKind{verify.DeviceTCP, "pigeon"} },
		"Drivers":        func(c *verify.Config) { c.Kinds = []verify.DeviceKind{verify.DeviceDriver} },
		"Slow":           func(c *verify.Config) { c.Slow = 101 },
		"Lazy":           func(c *verify.Config) { c.Lazy = 2 },
		"Rooms":          func(c *verify.Config) { c.Rooms = -1 },
		"Broadcast":      func(c *verify.Config) { c.Broadcast = math.NaN() },
		"Large":          func(c *verify.Config) { c.Large = 1.5 },
		"Falsify":        func(c *verify.Config) { c.Falsify = "forget" },
		"Rate":           func(c *verify.Config) { c.Rate = 0 },
		"Callers":        func(c *verify.Config) { c.Callers = -1 },
		"NotKept":        func(c *verify.Config) { c.NotKept = 1.1 },
		"Keyless":        func(c *verify.Config) { c.Keyless = -1 },
		"Body":           func(c *verify.Config) { c.Body = 1 << 20 },
		"Churn":          func(c *verify.Config) { c.Churn = -1 },
		"Away":           func(c *verify.Config) { c.Away = 0 },
		"Duration":       func(c *verify.Config) { c.Duration = -1 },
		"ArrivalTimeout": func(c *verify.Config) { c.ArrivalTimeout = 0 },
		"Linger":         func(c *verify.Config) { c.Linger = -1 },
		"Late":           func(c *verify.Config) { c.Late = 0 },
		"GiveUp":         func(c *verify.Config) { c.GiveUp = 0 },
		"CallTimeout":    func(c *verify.Config) { c.CallTimeout = 0 },
		"ConnectTimeout": func(c *verify.Config) { c.ConnectTimeout = 0 },
		"Events.Share":   func(c *verify.Config) { c.Events = &verify.Events{} },
		"Events.Hook":    func(c *verify.Config) { c.Events = &verify.Events{Share: 1, Hook: "7180"} },
		"Events.HookSecret": func(c *verify.Config) {
			c.Events = &verify.Events{Share: 1, Hook: "127.0.0.1:7180", HookSecret: "-"}
		},
		"ProgressEvery": func(c *verify.Config) { c.ProgressEvery = 0 },
		"Prefix":        func(c *verify.Config) { c.Prefix = strings.Repeat("x", 65) },
	} {
		cfg := good
		change(&cfg)
		_, err := verify.New(cfg)
		var bad *envelope.Error
		if !errors.As(err, &bad) || bad.Field != field {
			t.Errorf("%s: the error is %v", field, err)
		}
	}
	for _, address := range []string{"127.0.0.1", "http://127.0.0.1:8080", "ws://", "127.0.0.1:"} {
		cfg := good
		cfg.Clients = []string{address}
		if _, err := verify.New(cfg); err == nil || !strings.Contains(err.Error(), "client address") {
			t.Errorf("client address %q: the error is %v", address, err)
		}
	}
	for _, address := range []string{"ftp://127.0.0.1:1", "http://", "::"} {
		cfg := good
		cfg.API = []string{address}
		if _, err := verify.New(cfg); err == nil || !strings.Contains(err.Error(), "API address") {
			t.Errorf("API address %q: the error is %v", address, err)
		}
	}
}
