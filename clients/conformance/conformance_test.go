package conformance

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"imgo/clients/conformance/driver"
	"imgo/clients/conformance/peer"
)

var languageFlag = flag.String("language", "", "the languages to judge, separated by commas (default all)")

var apartFlag = flag.Bool("apart", false, "start a driver for each scenario, in place of one for all")

// The flags that TestJudge gives to the processes that it starts.
var (
	programFlag = flag.String("program", "", "the `path` of a driver that is built already, for a single language")
	faultFlag   = flag.String("fault", "", "falsify what the library does in this `way`")
	limitFlag   = flag.Duration("limit", peer.Limit, "the longest `time` that a scenario waits for one step")
)

// parallel is the number of scenarios that run side by side. They wait much more than they work.
const parallel = "16"

func TestMain(m *testing.M) {
	flag.Parse()
	peer.Limit = *limitFlag
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", parallel); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1) //nolint:forbidigo // TestMain ends the process
		}
	}
	os.Exit(m.Run()) //nolint:forbidigo // TestMain ends the process
}

// where says on which transports a scenario is played.
type where int

const (
	onFirst     where = iota // the first one of the library
	onEach                   // each one
	onSecure                 // the first one with TLS
	onWebSocket              // WebSocket
)

// scenario is a conversation between a scripted server and a client.
type scenario struct {
	name  string
	about string // what the library must do
	on    where
	// own gives the scenario a driver of its own. The others share one.
	own bool
	// needs reports whether the library can play the scenario. Nil means that every library can.
	needs func(ready driver.Event) bool
	play  func(w *world)
}

// transports returns those of a library on which the scenario is played.
func (s scenario) transports(of []string) []string {
	var chosen []string
	for _, t := range of {
		secure, webSocket := t == peer.TLS || t == peer.WSS, t == peer.WS || t == peer.WSS
		switch {
		case s.on == onEach, s.on == onFirst && !secure, s.on == onSecure && secure, s.on == onWebSocket && webSocket && !secure:
			chosen = append(chosen, t)
		}
	}
	if s.on != onEach && len(chosen) > 1 {
		chosen = chosen[:1]
	}
	return chosen
}

// scenarios returns all scenarios.
func scenarios() []scenario {
	return slices.Concat(connectionScenarios(), closeScenarios(), backoffScenarios(), tokenScenarios(), heartbeatScenarios(),
		frameScenarios(), messageScenarios(), storeScenarios(), roomScenarios(), callScenarios(),
		publishScenarios(), outboxScenarios(), readScenarios(), endScenarios())
}

// TestConformance plays the scenarios with the driver of each language.
func TestConformance(t *testing.T) {
	for _, lang := range chosenLanguages(t) {
		t.Run(lang.Name, func(t *testing.T) {
			t.Parallel()
			command := prepare(t, lang)
			shared := startDriver(t, command)
			if r := shared.Ready; r.Language != lang.Name || len(r.Transports) == 0 || !r.Publishes {
				t.Fatalf("the driver says that it is %q with the transports %q, and that it publishes: %t", r.Language, r.Transports, r.Publishes)
			}
			t.Run("scenarios", func(t *testing.T) {
				for _, s := range scenarios() {
					t.Run(s.name, func(t *testing.T) {
						t.Parallel()
						s.playAll(t, lang, command, shared)
					})
				}
			})
			t.Run("end_of_input", func(t *testing.T) {
				if err := shared.Stop(); err != nil {
					t.Errorf("the driver does not end at the end of its input: %v", err)
				}
			})
		})
	}
}

// playAll plays a scenario on its transports.
func (s scenario) playAll(t *testing.T, lang driver.Language, command driver.Command, shared *driver.Process) {
	if s.needs != nil && !s.needs(shared.Ready) {
		t.Skip("not for this library: " + s.about)
	}
	on := s.transports(shared.Ready.Transports)
	if len(on) == 0 {
		t.Skip("the library has no transport for it")
	}
	for _, transport := range on {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			w := &world{T: t, fault: faults()[*faultFlag], lang: lang, command: command, transport: transport, driver: shared}
			if s.own || *apartFlag {
				w.restart()
			}
			s.play(w)
		})
	}
}

// TestScenariosAreDocumented checks the names and that each scenario says what it is about.
func TestScenariosAreDocumented(t *testing.T) {
	all := scenarios()
	seen := map[string]bool{}
	for _, s := range all {
		if s.name == "" || strings.ContainsAny(s.name, " /") || len(s.about) < 20 || seen[s.name] {
			t.Errorf("scenario %q: a name must be unique and without spaces, and about must say what it is about", s.name)
		}
		seen[s.name] = true
	}
	if len(all) < 40 {
		t.Errorf("only %d scenarios", len(all))
	}
}

// lastTag is the tag of the newest command in any driver.
var lastTag atomic.Int64
