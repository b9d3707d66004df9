//go:build linux

package bench

import (
	"strings"

	"imgo/bench/plot"
)

// plots returns the pictures of the report by name.
func (r *report) plots() map[string][]byte {
	all := map[string][]byte{}
	var bars []plot.Bar
	for _, v := range r.Verdicts {
		if v.Runs > 0 {
			bars = append(bars, plot.Bar{Label: v.Target, Value: v.Share, Good: v.Reached, Text: v.Bound})
		}
	}
	where := r.Date.Format("2006-01-02") + ", " + r.Commit + ", " + r.Machine.CPU
	if len(bars) > 0 {
		all["targets"] = plot.Bars("How near each figure comes to its target (1: reached; above: better)", where, 1, bars)
	}
	// All series of one scenario share one picture.
	var order []string
	grouped := map[string][]series{}
	for _, s := range r.Series {
		if grouped[s.Scenario] == nil {
			order = append(order, s.Scenario)
		}
		grouped[s.Scenario] = append(grouped[s.Scenario], s)
	}
	for _, scenario := range order {
		var lines []plot.Line
		for _, s := range grouped[scenario] {
			lines = append(lines, plot.Line{Label: s.Name, X: s.X, Y: s.Y})
		}
		first := grouped[scenario][0]
		all[strings.ReplaceAll(scenario, "/", "-")] = plot.Lines(scenario+": "+first.Name, where, first.XUnit, first.YUnit, lines)
	}
	return all
}
