package model_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"imgo/roles/comet"
	"imgo/roles/router"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var everything = rates{drop: 0.05, double: 0.05, late: 0.2, retry: 0.1, lateMax: 20 * time.Millisecond, lag: 0.2}

// runs is how many schedules are tried; IMGO_MODEL_RUNS asks for more.
func runs(t *testing.T, def int) int {
	n, err := strconv.Atoi(os.Getenv("IMGO_MODEL_RUNS"))
	if err != nil {
		return def
	}
	t.Logf("%d runs", n)
	return n
}

// With all rules in place no schedule and no fault breaks an invariant.
func TestInvariantsHold(t *testing.T) {
	for seed := range runs(t, 8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, plan{seed: uint64(seed), rates: everything, length: 1500 * time.Millisecond})
				if err := w.run(); err != nil {
					t.Fatal(err)
				}
				t.Logf("%d pushes, %d sessions", w.n, len(w.h.sessions))
			})
		})
	}
}

// Each rule that the design calls needed is: without it, schedules that the
// rules withstand break an invariant. The faults are those that the rule is
// there for, so that few runs are enough.
func TestEachRuleIsNeeded(t *testing.T) {
	for _, c := range []struct {
		rule string
		plan plan
	}{
		{"prev", plan{cometFaults: comet.Faults{NoPrev: true}, rates: rates{drop: 0.1, late: 0.3, lateMax: 10 * time.Millisecond}, calm: true}},
		{"duplicate", plan{cometFaults: comet.Faults{NoDuplicate: true}, rates: rates{double: 0.3}, calm: true}},
		{"ask-again", plan{cometFaults: comet.Faults{NoAskAgain: true}, rates: rates{drop: 0.3}, calm: true}},
		{"announce", plan{cometFaults: comet.Faults{NoAnnounce: true}, calm: true}},
		{"watch", plan{routerFaults: router.Faults{NoWatch: true}, rates: rates{drop: 0.5}, calm: true, still: true}},
		{"applied", plan{
			routerFaults: router.Faults{NoApplied: true}, rates: rates{drop: 0.3, lag: 0.7, lateMax: 20 * time.Millisecond}, calm: true,
		}},
		{"believe-acks", plan{cometFaults: comet.Faults{BelieveAcks: true}, rates: rates{drop: 0.3}, calm: true}},
		{"record-id", plan{routerFaults: router.Faults{NoRecordID: true}, rates: rates{retry: 0.3}}},
	} {
		t.Run(c.rule, func(t *testing.T) {
			t.Parallel()
			const tries = 20
			for seed := range tries {
				p := c.plan
				p.seed, p.length = uint64(seed), 700*time.Millisecond
				var err error
				t.Run(fmt.Sprint(seed), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { err = newWorld(t, p).run() })
				})
				if err != nil {
					t.Logf("found in run %d: %v", seed, err)
					return
				}
			}
			t.Fatalf("%d runs without the rule broke nothing: either it is not needed or the test cannot see it", tries)
		})
	}
}
