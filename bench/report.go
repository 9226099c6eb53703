package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

const payloadBytes = 512

// figure is one measured number: the median of its rounds, and their spread.
type figure struct {
	Name    string   `json:"name"`
	About   string   `json:"about"`
	Unit    string   `json:"unit,omitempty"`
	Median  float64  `json:"median"`
	Min     float64  `json:"min"`
	Max     float64  `json:"max"`
	AtMost  *float64 `json:"at_most,omitempty"` // neither: for information
	AtLeast *float64 `json:"at_least,omitempty"`
	Met     *bool    `json:"met,omitempty"` // judged by the median
}

func figureOf(name, about, unit string, rounds []float64) figure {
	sorted := slices.Sorted(slices.Values(rounds))
	n := len(sorted)
	return figure{
		Name: name, About: about, Unit: unit,
		Median: (sorted[(n-1)/2] + sorted[n/2]) / 2, Min: sorted[0], Max: sorted[n-1],
	}
}

// atMost sets the figure's target.
func (f figure) atMost(target float64) figure {
	met := f.Median <= target
	f.AtMost, f.Met = &target, &met
	return f
}

// atLeast sets the figure's target.
func (f figure) atLeast(target float64) figure {
	met := f.Median >= target
	f.AtLeast, f.Met = &target, &met
	return f
}

func (f figure) missed() bool { return f.Met != nil && !*f.Met }

// target says what the figure has to reach; nothing for one that is for information.
func (f figure) target() string {
	switch {
	case f.AtMost != nil:
		return "at most " + number(*f.AtMost)
	case f.AtLeast != nil:
		return "at least " + number(*f.AtLeast)
	}
	return ""
}

func (f figure) verdict() string {
	switch {
	case f.Met == nil:
		return ""
	case *f.Met:
		return "met"
	}
	return "MISSED"
}

func (f figure) title() string {
	if f.Unit == "" {
		return f.About
	}
	return f.About + ", " + f.Unit
}

// rowReport is what became of one row.
type rowReport struct {
	Number  int      `json:"row"`
	What    string   `json:"what"`
	Same    string   `json:"same"`
	Figures []figure `json:"figures"`
	Error   string   `json:"error,omitempty"`
	Missed  bool     `json:"missed"`
}

// report is everything that one run measured.
type report struct {
	Server  string      `json:"server"`
	Go      string      `json:"go"`
	CPUs    int         `json:"cpus"`
	Rounds  int         `json:"rounds"`
	Slice   string      `json:"slice"`
	Payload int         `json:"payload_bytes"`
	Rows    []rowReport `json:"rows"`
	Missed  int         `json:"rows_missed"`

	failed error
}

// add takes a row's figures; a row without its figures has missed its targets as well.
func (r *report) add(of row, figures []figure, err error) {
	row := rowReport{Number: of.number, What: of.what, Same: of.same, Figures: figures}
	row.Missed = err != nil || slices.ContainsFunc(figures, figure.missed)
	if err != nil {
		row.Error = err.Error()
		r.failed = errors.Join(r.failed, err)
	}
	if row.Missed {
		r.Missed++
	}
	// Those with a target come first, then what explains them.
	slices.SortStableFunc(row.Figures, func(a, b figure) int { return rank(a) - rank(b) })
	r.Rows = append(r.Rows, row)
}

func rank(f figure) int {
	if f.Met != nil {
		return 0
	}
	return 1
}

// failure is what kept rows from being measured.
func (r *report) failure() error { return r.failed }

// figure returns the one of that name; the zero figure when there is none.
func (r *report) figure(name string) figure {
	for _, row := range r.Rows {
		if i := slices.IndexFunc(row.Figures, func(f figure) bool { return f.Name == name }); i >= 0 {
			return row.Figures[i]
		}
	}
	return figure{}
}

func (r *report) json(out io.Writer) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}

func (r *report) heading() string {
	return fmt.Sprintf("%s, %s, %d cores; results of %d bytes; medians of %d rounds of %s a contender, in turns", r.Server, r.Go, r.CPUs, r.Payload, r.Rounds, r.Slice)
}

// table prints the rows; its last line says how many miss a target.
func (r *report) table(out io.Writer) error {
	fmt.Fprintln(out, r.heading())
	var columns strings.Builder
	w := tabwriter.NewWriter(&columns, 0, 0, 2, ' ', 0)
	for _, row := range r.Rows {
		// A line without tabs would end the columns; they are to be the same for all rows.
		fmt.Fprintf(w, "\t\t\t\t\t\n%d  %s\tmedian\tmin to max\ttarget\t\t\n", row.Number, row.What)
		for _, f := range row.Figures {
			fmt.Fprintf(w, "     %s\t%s\t%s to %s\t%s\t%s\t\n", f.title(), number(f.Median), number(f.Min), number(f.Max), f.target(), f.verdict())
		}
		if row.Error != "" {
			fmt.Fprintf(w, "     not measured\t\t\t\tMISSED\t\n")
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(columns.String()) {
		fmt.Fprintln(out, strings.TrimRight(line, " \n"))
	}
	for _, row := range r.Rows {
		fmt.Fprintf(out, "\n%d  %s\n", row.Number, row.What)
		writeWrapped(out, "     ", row.Same)
		if row.Error != "" {
			writeWrapped(out, "     ", "Not measured: "+row.Error)
		}
	}
	_, err := fmt.Fprintf(out, "\n%s\n", r.verdict())
	return err
}

func (r *report) verdict() string {
	var missed []string
	for _, row := range r.Rows {
		if row.Missed {
			missed = append(missed, fmt.Sprint(row.Number))
		}
	}
	if len(missed) == 0 {
		return fmt.Sprintf("0 of %d rows miss their target", len(r.Rows))
	}
	return fmt.Sprintf("%d of %d rows miss their target: %s", r.Missed, len(r.Rows), strings.Join(missed, ", "))
}

// writeWrapped writes a text in lines of at most 100 letters and the indent.
func writeWrapped(out io.Writer, indent, text string) {
	line := ""
	for _, word := range strings.Fields(text) {
		if len(line)+len(word) >= 100 {
			fmt.Fprintln(out, indent+line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	fmt.Fprintln(out, indent+line)
}

// number prints three digits or, of large numbers, all before the point; no zeros at the end.
func number(x float64) string {
	digits := 2
	switch size := max(x, -x); {
	case size >= 100:
		digits = 0
	case size >= 10:
		digits = 1
	case size < 1:
		digits = 3
	}
	text := fmt.Sprintf("%.*f", digits, x)
	if strings.Contains(text, ".") {
		text = strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
	}
	return text
}
