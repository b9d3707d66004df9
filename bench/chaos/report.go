//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"imgo/bench/machine"
	"imgo/verify"
)

// subject names the commit and the machine of a result.
type subject struct {
	Date    time.Time `json:"date"`
	Commit  string    `json:"commit"`
	Machine string    `json:"machine"`
	Brokers int       `json:"brokers"`
	Each    int       `json:"nodes_of_each_role"`
}

func newSubject(ctx context.Context, s *settings) subject {
	commit, changed := machine.Commit(ctx)
	if changed {
		commit += "-changed"
	}
	return subject{
		Date: time.Now().UTC().Truncate(time.Second), Commit: commit, Brokers: s.brokers, Each: s.each,
		Machine: fmt.Sprintf("%d × %s", runtime.NumCPU(), machine.Processor()),
	}
}

// report is the result of a run.
type report struct {
	subject
	Users   int      `json:"users"`
	Rate    float64  `json:"pushes_a_second"`
	Scale   float64  `json:"scale"`
	Random  float64  `json:"random_seconds"`
	Seed    uint64   `json:"seed"`
	LeftOut []string `json:"left_out,omitempty"`
	// Failed says why the run ended early. It is empty if the run was complete.
	Failed string         `json:"failed,omitempty"`
	Faults []faultRow     `json:"faults"`
	Verify *verify.Report `json:"verify"`
}

// faultRow is the sum of all occurrences of one fault.
type faultRow struct {
	Name  string `json:"name"`
	Times int    `json:"times"`
	// LongestRefusal is the longest time without an accepted push. LongestPush is the
	// longest time for which one push was retried. LongestDelivery is the longest time
	// from acceptance to receipt. If the device was offline on purpose, it counts from the
	// moment when the device wants to connect again.
	LongestRefusal  verify.Millis `json:"longest_refusal_ms"`
	LongestPush     verify.Millis `json:"longest_push_ms"`
	LongestDelivery verify.Millis `json:"longest_delivery_ms"`
	Reconnects      int64         `json:"reconnects"`
}

// gather combines the occurrences of each fault into one row.
func (r *report) gather() {
	at := map[string]int{}
	for _, m := range r.Verify.Marks {
		i, ok := at[m.Name]
		if !ok {
			i = len(r.Faults)
			at[m.Name] = i
			r.Faults = append(r.Faults, faultRow{Name: m.Name})
		}
		f := &r.Faults[i]
		f.Times++
		f.LongestRefusal = max(f.LongestRefusal, m.LongestRefusal)
		f.LongestPush = max(f.LongestPush, m.LongestPush)
		f.LongestDelivery = max(f.LongestDelivery, m.LongestDelivery)
		f.Reconnects += m.Reconnects
	}
}

// verdict returns an error if verify found a violation or a problem.
func (r *report) verdict() error {
	if !r.Verify.OK {
		return errors.New("verify found a violation or a problem: see the report")
	}
	return nil
}

// String returns the report as text.
func (r *report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "imgo chaos %s, commit %s, seed %d\n", r.Date.Format("2006-01-02 15:04:05Z"), r.Commit, r.Seed)
	fmt.Fprintf(&b, "%s; Kafka with %d brokers; %d nodes of each role; %d users × 2 devices; %v pushes a second; faults × %v\n\n",
		r.Machine, r.Brokers, r.Each, r.Users, r.Rate, r.Scale)
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "fault\ttimes\tno push accepted for\tlongest push\tlongest delivery\treconnects\n")
	for _, f := range r.Faults {
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%d\n", f.Name, f.Times, f.LongestRefusal, f.LongestPush, f.LongestDelivery, f.Reconnects)
	}
	_ = t.Flush() // into memory
	for _, l := range r.LeftOut {
		fmt.Fprintf(&b, "left out: %s\n", l)
	}
	all := *r.Verify
	all.Marks = nil // the table above has them
	fmt.Fprintf(&b, "\n%s", all.String())
	if r.Failed != "" {
		fmt.Fprintf(&b, "FAILED       %s\n", r.Failed)
	}
	return b.String()
}

// write prints the report, and stores it in the folder out unless that is empty.
func (r *report) write(out string, stdout io.Writer) error {
	r.gather()
	fmt.Fprint(stdout, r)
	return r.store(out, "chaos", r.String(), r)
}

// store stores the text and the JSON of a result in files with the date in their
// names.
func (s *subject) store(out, kind, text string, result any) error {
	if out == "" {
		return nil
	}
	data, err := json.MarshalIndent(result, "", "  ")
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	base := filepath.Join(out, fmt.Sprintf("%s-%s-%s", s.Date.Format("2006-01-02-150405"), kind, s.Commit))
	return errors.Join(os.WriteFile(base+".txt", []byte(text), 0o644), os.WriteFile(base+".json", append(data, '\n'), 0o644))
}
