package verify_test

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/roles"
	"imgo/roles/comet"
	"imgo/roles/job"
	"imgo/roles/logic"
	"imgo/roles/router"
	"imgo/verify"
	"imgo/verify/history"
)

// TestFindsFaults runs against nodes that each have one fault. The run must report it as the
// right kind of violation. The disturbances that make the fault visible are dropped, doubled and
// reordered deliveries, retried appends and reconnecting devices. Without the fault they must cause
// no violation.
func TestFindsFaults(t *testing.T) {
	t.Parallel()
	lost, again, order, twoIDs := history.KindLost, history.KindAgain, history.KindOrder, history.KindTwoIDs
	for name, c := range map[string]struct {
		// fault is the fault under test, disturbances are those that make it visible.
		fault, disturbances roles.Faults
		churn               float64
		// want holds the kinds that must be found, may the kinds that are also allowed.
		want, may []history.Kind
	}{
		"accepted before the append": {
			fault: roles.Faults{LogicLog: func(kept logic.KeptLog) logic.KeptLog { return eagerLog{kept} }},
			want:  []history.Kind{lost},
		},
		"a record skipped by the router": {
			fault: roles.Faults{RouterLog: func(kept router.KeptLog) router.KeptLog { return skippingLog{kept} }},
			want:  []history.Kind{lost},
		},
		"a retried record not voided": {
			fault:        roles.Faults{Router: router.Faults{NoRecordID: true}},
			disturbances: roles.Faults{LogicLog: func(kept logic.KeptLog) logic.KeptLog { return retryingLog{kept} }},
			want:         []history.Kind{twoIDs},
			may:          []history.Kind{order},
		},
		"an acknowledgement applied to the wrong device": {
			fault: roles.Faults{LogicLog: func(kept logic.KeptLog) logic.KeptLog { return confusedLog{kept} }},
			churn: 60,
			want:  []history.Kind{lost},
		},
		"comet's prev rule left out while deliveries are reordered": {
			fault:        roles.Faults{Comet: comet.Faults{NoPrev: true}},
			disturbances: way(t, disturbance{late: 0.3}),
			want:         []history.Kind{lost},
			may:          []history.Kind{order},
		},
		"the owner's watch left out while deliveries are dropped": {
			fault:        roles.Faults{Router: router.Faults{NoWatch: true}},
			disturbances: way(t, disturbance{drop: 0.3}),
			want:         []history.Kind{lost},
		},
		"comet's duplicate rule left out while deliveries are doubled": {
			fault:        roles.Faults{Comet: comet.Faults{NoDuplicate: true}},
			disturbances: way(t, disturbance{double: 0.1}),
			want:         []history.Kind{again},
			may:          []history.Kind{order},
		},
		"catch-up asked only once while answers are dropped": {
			fault:        roles.Faults{Comet: comet.Faults{NoAskAgain: true}},
			disturbances: way(t, disturbance{drop: 0.3}),
			want:         []history.Kind{lost},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Run("without the fault", func(t *testing.T) {
				t.Parallel()
				cfg := shortRun(start(t, c.disturbances, nil))
				cfg.Churn, cfg.Keyless = c.churn, 0.4
				report := until(t, cfg, enough(c.churn))
				wellUsed(t, report)
				if !report.OK {
					t.Error("the run is not OK")
				}
			})
			t.Run("with the fault", func(t *testing.T) {
				t.Parallel()
				cfg := shortRun(start(t, both(c.disturbances, c.fault), nil))
				cfg.Churn, cfg.Keyless = c.churn, 0.4
				cfg.ArrivalTimeout = 2 * time.Second // the run waits this long for lost messages
				report := until(t, cfg, enough(c.churn))
				wellUsed(t, report)
				found := slices.Collect(maps.Keys(report.Violations))
				for _, kind := range c.want {
					if !slices.Contains(found, kind) {
						t.Errorf("the run did not find %q", kind)
					}
				}
				for _, kind := range found {
					if !slices.Contains(c.want, kind) && !slices.Contains(c.may, kind) {
						t.Errorf("the run found %q", kind)
					}
				}
				if report.OK || report.First == nil {
					t.Fatal("the run is OK")
				}
				if report.ProblemCount > 0 {
					t.Errorf("there are problems: %v", report.Problems)
				}
				first := report.First
				if first.User == "" || first.Push == 0 || first.Accepted == nil || first.AcceptedBy != cfg.API[0] ||
					first.Device != "" && len(first.Sessions) == 0 {
					t.Errorf("the first violation lacks details: %+v", first)
				}
			})
		})
	}
}

// enough returns a condition for until. It allows far more pushes and sessions than any fault needs
// to become visible.
func enough(churn float64) func(verify.Progress) bool {
	return func(p verify.Progress) bool { return p.Accepted >= 250 && (churn == 0 || p.Sessions >= 3*p.Devices) }
}

// wellUsed checks that a run pushed and received enough for a verdict.
func wellUsed(t *testing.T, r *verify.Report) {
	t.Helper()
	if r.Pushes.Accepted == 0 || r.Pushes.NotKeptAccepted == 0 || r.Deliveries.Received == 0 || r.Deliveries.NotKept == 0 {
		t.Errorf("too little happened: %+v %+v", r.Pushes, r.Deliveries)
	}
}

// both combines two sets of faults. If both set the same field, b wins.
func both(a, b roles.Faults) roles.Faults {
	if b.LogicLog != nil {
		a.LogicLog = b.LogicLog
	}
	if b.RouterLog != nil {
		a.RouterLog = b.RouterLog
	}
	if b.Comet != (comet.Faults{}) {
		a.Comet = b.Comet
	}
	if b.Router != (router.Faults{}) {
		a.Router = b.Router
	}
	return a
}

// hit reports true for a share p of all calls.
func hit(p float64) bool { return rand.Float64() < p }

// keyless returns the record of a push without an idempotency key, or nil for any other record.
func keyless(value []byte) *envelope.Record {
	r := &envelope.Record{}
	if r.UnmarshalVT(value) != nil || r.GetPush() == nil || r.GetPush().GetIdempotencyKey() != "" {
		return nil
	}
	return r
}

// nothing returns a record without content.
func nothing() []byte {
	value, err := (&envelope.Record{Id: envelope.NewRecordID()}).MarshalVT()
	if err != nil {
		panic(err)
	}
	return value
}

// eagerLog sometimes reports success for a push without a key, but appends an empty record instead.
// Logic would behave so if it answered before the append and crashed in between.
type eagerLog struct{ logic.KeptLog }

func (l eagerLog) AppendMany(ctx context.Context, entries []envelope.Entry) error {
	told := slices.Clone(entries)
	for i := range told {
		if keyless(told[i].Value) != nil && hit(0.2) {
			told[i].Value = nothing()
		}
	}
	err := l.KeptLog.AppendMany(ctx, told)
	for i := range entries {
		entries[i].Offset = told[i].Offset
	}
	return err
}

// retryingLog is a log whose producer repeats appends that had succeeded.
type retryingLog struct{ logic.KeptLog }

func (l retryingLog) AppendMany(ctx context.Context, entries []envelope.Entry) error {
	if err := l.KeptLog.AppendMany(ctx, entries); err != nil || !hit(0.2) {
		return err
	}
	return l.KeptLog.AppendMany(ctx, slices.Clone(entries))
}

// confusedLog swaps the devices d0 and d1 in acknowledgements.
type confusedLog struct{ logic.KeptLog }

func confuse(value []byte) []byte {
	r := &envelope.Record{}
	if r.UnmarshalVT(value) != nil || r.GetAcks() == nil {
		return value
	}
	for _, a := range r.GetAcks().GetAcks() {
		switch a.GetDevice() {
		case "d0":
			a.Device = "d1"
		case "d1":
			a.Device = "d0"
		}
	}
	confused, err := r.MarshalVT()
	if err != nil {
		panic(err)
	}
	return confused
}

func (l confusedLog) AppendMany(ctx context.Context, entries []envelope.Entry) error {
	for i := range entries {
		entries[i].Value = confuse(entries[i].Value)
	}
	return l.KeptLog.AppendMany(ctx, entries)
}

func (l confusedLog) AppendEssential(ctx context.Context, partition int32, value []byte) (int64, error) {
	return l.KeptLog.AppendEssential(ctx, partition, confuse(value))
}

// forgetfulLog appends an empty record instead of acknowledgements.
type forgetfulLog struct{ logic.KeptLog }

func forget(value []byte) []byte {
	r := &envelope.Record{}
	if r.UnmarshalVT(value) != nil || r.GetAcks() == nil {
		return value
	}
	return nothing()
}

func (l forgetfulLog) AppendMany(ctx context.Context, entries []envelope.Entry) error {
	for i := range entries {
		entries[i].Value = forget(entries[i].Value)
	}
	return l.KeptLog.AppendMany(ctx, entries)
}

func (l forgetfulLog) AppendEssential(ctx context.Context, partition int32, value []byte) (int64, error) {
	return l.KeptLog.AppendEssential(ctx, partition, forget(value))
}

// skippingLog is a log from which the router sometimes misses a record.
type skippingLog struct{ router.KeptLog }

func (l skippingLog) Read(ctx context.Context, p int32, from int64, maxBytes int) ([]envelope.Entry, error) {
	entries, err := l.KeptLog.Read(ctx, p, from, maxBytes)
	read := slices.Clone(entries)
	for i := range read {
		if keyless(read[i].Value) != nil && hit(0.2) {
			read[i].Value = nothing()
		}
	}
	return read, err
}

// disturbance is the share of deliveries from job to a comet that are dropped, doubled, or late and
// so reordered.
type disturbance struct{ drop, double, late float64 }

// way returns faults that disturb the deliveries of a node.
func way(t *testing.T, d disturbance) roles.Faults {
	late := &sync.WaitGroup{}
	t.Cleanup(late.Wait)
	return roles.Faults{Deliveries: func(to job.Comet) job.Comet { return disturbed{to, d, late} }}
}

// disturbed is a comet whose deliveries are disturbed.
type disturbed struct {
	job.Comet
	d    disturbance
	late *sync.WaitGroup
}

func (c disturbed) Push(ctx context.Context, req *envelope.PushRequest) (*envelope.PushReply, error) {
	for _, one := range req.GetDeliveries() {
		copies := 1
		if one.GetId() != 0 && hit(c.d.double) {
			copies = 2
		}
		for range copies {
			r := &envelope.PushRequest{Deliveries: []*envelope.Delivery{one}}
			switch {
			case hit(c.d.drop):
			case hit(c.d.late):
				c.late.Go(func() {
					time.Sleep(rand.N(100 * time.Millisecond))
					_, _ = c.Comet.Push(context.WithoutCancel(ctx), r) // a failed call counts as a dropped delivery
				})
			default:
				if _, err := c.Comet.Push(ctx, r); err != nil {
					return nil, err
				}
			}
		}
	}
	return &envelope.PushReply{}, nil // these tests have no rooms
}
