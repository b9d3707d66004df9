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

// TestFindsSeededFaults runs against nodes that each have a defect: it must be
// found, as what it is. What only makes the defect show (deliveries that are
// dropped, doubled or turned around, appends that are retried, devices that
// come and go) must do no harm without it.
func TestFindsSeededFaults(t *testing.T) {
	t.Parallel()
	lost, again, order, twoIDs := history.KindLost, history.KindAgain, history.KindOrder, history.KindTwoIDs
	for name, c := range map[string]struct {
		// fault is the defect, around what makes it show.
		fault, around roles.Faults
		churn         float64
		// want is what must be found, and may what else may be.
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
			fault:  roles.Faults{Router: router.Faults{NoRecordID: true}},
			around: roles.Faults{LogicLog: func(kept logic.KeptLog) logic.KeptLog { return retryingLog{kept} }},
			want:   []history.Kind{twoIDs},
			may:    []history.Kind{order},
		},
		"an acknowledgement applied to the wrong device": {
			fault: roles.Faults{LogicLog: func(kept logic.KeptLog) logic.KeptLog { return confusedLog{kept} }},
			churn: 60,
			want:  []history.Kind{lost},
		},
		"comet's prev rule left out while deliveries are reordered": {
			fault:  roles.Faults{Comet: comet.Faults{NoPrev: true}},
			around: way(t, disturbance{late: 0.3}),
			want:   []history.Kind{lost},
			may:    []history.Kind{order},
		},
		"the owner's watch left out while deliveries are dropped": {
			fault:  roles.Faults{Router: router.Faults{NoWatch: true}},
			around: way(t, disturbance{drop: 0.3}),
			want:   []history.Kind{lost},
		},
		"comet's duplicate rule left out while deliveries are doubled": {
			fault:  roles.Faults{Comet: comet.Faults{NoDuplicate: true}},
			around: way(t, disturbance{double: 0.1}),
			want:   []history.Kind{again},
			may:    []history.Kind{order},
		},
		"catch-up asked only once while answers are dropped": {
			fault:  roles.Faults{Comet: comet.Faults{NoAskAgain: true}},
			around: way(t, disturbance{drop: 0.3}),
			want:   []history.Kind{lost},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Run("without the fault", func(t *testing.T) {
				t.Parallel()
				cfg := few(start(t, c.around, nil))
				cfg.Churn, cfg.Keyless = c.churn, 0.4
				report := until(t, cfg, enough(c.churn))
				wellUsed(t, report)
				if !report.OK {
					t.Error("it is not OK")
				}
			})
			t.Run("with the fault", func(t *testing.T) {
				t.Parallel()
				cfg := few(start(t, both(c.around, c.fault), nil))
				cfg.Churn, cfg.Keyless = c.churn, 0.4
				cfg.Settle = 2 * time.Second // what never comes is waited for this long
				report := until(t, cfg, enough(c.churn))
				wellUsed(t, report)
				found := slices.Collect(maps.Keys(report.Violations))
				for _, kind := range c.want {
					if !slices.Contains(found, kind) {
						t.Errorf("it did not find %q", kind)
					}
				}
				for _, kind := range found {
					if !slices.Contains(c.want, kind) && !slices.Contains(c.may, kind) {
						t.Errorf("it found %q", kind)
					}
				}
				if report.OK || report.First == nil {
					t.Fatal("it is OK")
				}
				if report.ProblemCount > 0 {
					t.Errorf("there are problems: %v", report.Problems)
				}
				first := report.First
				if first.User == "" || first.Push == 0 || first.Accepted == nil || first.AcceptedBy != cfg.API[0] ||
					first.Device != "" && len(first.Sessions) == 0 {
					t.Errorf("the first offender is told as %+v", first)
				}
			})
		})
	}
}

// enough is as much as each fault needs to show, by far: pushes, and where
// devices come and go, sessions.
func enough(churn float64) func(verify.Progress) bool {
	return func(p verify.Progress) bool { return p.Accepted >= 250 && (churn == 0 || p.Sessions >= 3*p.Devices) }
}

// wellUsed says that a run did what it was to do.
func wellUsed(t *testing.T, r *verify.Report) {
	t.Helper()
	if r.Pushes.Accepted == 0 || r.Pushes.NotKeptAccepted == 0 || r.Deliveries.Received == 0 || r.Deliveries.NotKept == 0 {
		t.Errorf("not much happened: %+v %+v", r.Pushes, r.Deliveries)
	}
}

// both combines two sets of defects. Where both have the same kind, b counts.
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

// hit is true for a share p of all calls.
func hit(p float64) bool { return rand.Float64() < p }

// keyless is the record of a push that nobody asks about again; nil: it is
// another one.
func keyless(value []byte) *envelope.Record {
	r := &envelope.Record{}
	if r.UnmarshalVT(value) != nil || r.GetPush() == nil || r.GetPush().GetIdempotencyKey() != "" {
		return nil
	}
	return r
}

// nothing is a record that means nothing.
func nothing() []byte {
	value, err := (&envelope.Record{Id: envelope.NewRecordID()}).MarshalVT()
	if err != nil {
		panic(err)
	}
	return value
}

// eagerLog says that it has a record before it has, and now and then never
// comes to it: as logic would that answers first and appends then, and dies
// between the two.
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

// retryingLog is a log whose producer retries appends that had worked.
type retryingLog struct{ logic.KeptLog }

func (l retryingLog) AppendMany(ctx context.Context, entries []envelope.Entry) error {
	if err := l.KeptLog.AppendMany(ctx, entries); err != nil || !hit(0.2) {
		return err
	}
	return l.KeptLog.AppendMany(ctx, slices.Clone(entries))
}

// confusedLog has acknowledgements of a device's brother.
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

// skippingLog is a log of which a router skips a record now and then.
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

// disturbance is what goes wrong between job and a comet: the share of
// deliveries that are dropped, doubled, or late and so reordered.
type disturbance struct{ drop, double, late float64 }

// way is the way of a node's deliveries.
func way(t *testing.T, d disturbance) roles.Faults {
	late := &sync.WaitGroup{}
	t.Cleanup(late.Wait)
	return roles.Faults{Deliveries: func(to job.Comet) job.Comet { return disturbed{to, d, late} }}
}

// disturbed is a comet behind such a way.
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
					_, _ = c.Comet.Push(context.WithoutCancel(ctx), r) // one that fails is one that is dropped
				})
			default:
				if _, err := c.Comet.Push(ctx, r); err != nil {
					return nil, err
				}
			}
		}
	}
	return &envelope.PushReply{}, nil // no rooms here
}
