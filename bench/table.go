//go:build linux

package bench

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// table returns the report as text: first the targets, then all figures.
func (r *report) table() string {
	var b strings.Builder
	changed := ""
	if r.Changed {
		changed = " with uncommitted changes"
	}
	fmt.Fprintf(&b, "imgo bench at %s%s, %s, %.0f s\nof %s\n", r.Commit, changed, r.Date.Format("2006-01-02 15:04 MST"), r.Seconds, r.Imgo)
	fmt.Fprintf(&b, "%s\n", r.Machine)
	fmt.Fprintf(&b, "%d connections, %d callers, %d user ids, %d pushes/s, %d broadcasts/s, %g s a measurement\n",
		r.Options.Conns, r.Options.Callers, r.Options.Users, r.Options.Rate, r.Options.Broadcasts, r.Options.Duration)
	if r.Options.Profiled {
		fmt.Fprintln(&b, "Profiles were taken: the figures are worse for it.")
	}
	r.figureTable(&b)
	r.targetTable(&b)
	for _, note := range r.Notes {
		fmt.Fprintln(&b, "Note:", note)
	}
	return b.String()
}

// minSlowdown is the factor over the usual cost of a limit from which the table mentions
// it.
const minSlowdown = 1.1

// targetTable writes which targets were reached and which were not.
func (r *report) targetTable(b *strings.Builder) {
	if len(r.Verdicts) == 0 {
		return
	}
	rows := [][]string{{"figure", "unit", "target", "min", "median", "max", "limit", "ratio", "reached?"}}
	var short []string
	var slowdowns []float64
	for _, v := range r.Verdicts {
		row := []string{v.Target, v.Unit, v.Bound}
		if v.Runs == 0 {
			rows = append(rows, append(row, "–", "–", "–", "–", "–", "not measured"))
			short = append(short, v.Target+": not measured")
			continue
		}
		for _, m := range v.Measured {
			row = append(row, digits(m))
		}
		if v.Ratio != nil {
			row = append(row, digits(v.Limit), digits(v.Ratio[1]))
		} else {
			row = append(row, "", "")
		}
		if v.Slowdown > 0 {
			slowdowns = append(slowdowns, v.Slowdown)
		}
		reached := "yes"
		if !v.Reached {
			reached = "NO"
			got := digits(v.Measured[1]) + " " + v.Unit
			if v.of.overLimit && v.Ratio != nil {
				got = digits(v.Ratio[1]) + " × limit"
			}
			line := fmt.Sprintf("%s: %s, target %s", v.Target, strings.TrimSpace(got), v.Bound)
			if v.Slowdown > minSlowdown && !v.of.overLimit {
				line += fmt.Sprintf("; the machine's own limit is %s × what it usually is, at which this would be %s", digits(v.Slowdown),
					digits(v.atUsual()))
			}
			short = append(short, line)
		}
		rows = append(rows, append(row, reached))
	}
	fmt.Fprintln(b, "Targets")
	fmt.Fprintln(b)
	align(b, rows)
	if len(short) == 0 {
		fmt.Fprintln(b, "Every target was reached.")
	} else {
		fmt.Fprintf(b, "%d of %d targets fall short:\n", len(short), len(r.Verdicts))
		for _, s := range short {
			fmt.Fprintln(b, "  -", s)
		}
	}
	if slowdown := median(slowdowns); slowdown > minSlowdown {
		fmt.Fprintf(b, "The machine was slow: its own limits were %s × what they usually are. Figures in µs, ms and 1/s are worse for it, "+
			"those over a limit are not.\n", digits(slowdown))
	}
	fmt.Fprintln(b)
}

// figureTable writes all figures.
func (r *report) figureTable(b *strings.Builder) {
	rows := [][]string{{"figure", "unit", "min", "median", "max", "runs"}}
	scenario := ""
	for _, f := range r.Figures {
		if f.Scenario != scenario {
			scenario = f.Scenario
			rows = append(rows, []string{scenario})
		}
		name := "  " + f.Name
		if f.Limit {
			name = "  | " + f.Name
		}
		rows = append(rows, []string{name, f.Unit, digits(f.Min), digits(f.Median), digits(f.Max), strconv.Itoa(len(f.Runs))})
	}
	align(b, rows)
	fmt.Fprintln(b, "| is the machine's own limit, measured in the same run.")
	fmt.Fprintln(b)
}

// align writes rows in columns. The columns from the third on are aligned to the
// right. A row with a single cell is a heading.
func align(b *strings.Builder, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			if len(row) > 1 {
				widths[i] = max(widths[i], utf8.RuneCountInString(cell))
			}
		}
	}
	for _, row := range rows {
		if len(row) == 1 {
			fmt.Fprintf(b, "\n%s\n", row[0])
			continue
		}
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i < 2 {
				line.WriteString(cell + pad + "  ")
			} else {
				line.WriteString(pad + cell + "  ")
			}
		}
		fmt.Fprintln(b, strings.TrimRight(line.String(), " "))
	}
	fmt.Fprintln(b)
}
