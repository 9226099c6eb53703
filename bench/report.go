package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// The targets. A figure that exceeds its target is missed.
const (
	mostTrips        = 2
	mostCPU          = 4.5
	mostBeyond       = 240 // bytes of a completed record beyond its payload
	mostInFlight     = 220 // bytes of a claimed record in all
	nameTrips        = "round_trips"
	nameCPU          = "cpu_ratio"
	nameBeyond       = "completed_bytes_beyond_payload"
	nameInFlight     = "in_flight_bytes"
	payloadBytes     = 512
	fingerprintBytes = 32
)

// figure is one measured number: the median of its rounds, and their spread.
type figure struct {
	Name   string   `json:"name"`
	About  string   `json:"about"`
	Unit   string   `json:"unit"`
	Median float64  `json:"median"`
	Min    float64  `json:"min"`
	Max    float64  `json:"max"`
	Target *float64 `json:"target,omitempty"` // none: for information
	Met    *bool    `json:"met,omitempty"`
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
	f.Target, f.Met = &target, &met
	return f
}

// report is everything that one run measured.
type report struct {
	Server   string   `json:"server"`
	Rounds   int      `json:"rounds"`
	Keys     int      `json:"keys"`
	Pipeline int      `json:"pipeline"`
	Payload  int      `json:"payload_bytes"`
	Figures  []figure `json:"figures"`
	Missed   int      `json:"missed"`
}

func (r *report) add(figures ...figure) {
	for _, f := range figures {
		r.Figures = append(r.Figures, f)
		if f.Met != nil && !*f.Met {
			r.Missed++
		}
	}
}

// figure returns the one of that name; the zero figure when there is none.
func (r *report) figure(name string) figure {
	i := slices.IndexFunc(r.Figures, func(f figure) bool { return f.Name == name })
	if i < 0 {
		return figure{}
	}
	return r.Figures[i]
}

func (r *report) json(out io.Writer) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// table prints the figures that have a target first, then what explains them.
func (r *report) table(out io.Writer) error {
	fmt.Fprintf(out, "%s, results of %d bytes, medians of %d rounds of %d keys in pipelines of %d\n\n", r.Server, r.Payload, r.Rounds, r.Keys, r.Pipeline)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "figure\tmedian\tmin to max\ttarget\t")
	ordered := slices.Clone(r.Figures)
	slices.SortStableFunc(ordered, func(a, b figure) int { return cmp.Compare(rank(a), rank(b)) })
	for i, f := range ordered {
		if i > 0 && rank(f) != rank(ordered[i-1]) {
			fmt.Fprintln(w, "\t\t\t\t")
		}
		about := f.About
		if f.Unit != "" {
			about += ", " + f.Unit
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t\n", about, number(f.Median), number(f.Min)+" to "+number(f.Max), f.verdict())
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\n%d of %d targets missed\n", r.Missed, r.targets())
	return err
}

func rank(f figure) int {
	if f.Target != nil {
		return 0
	}
	return 1
}

func (f figure) verdict() string {
	switch {
	case f.Target == nil:
		return ""
	case *f.Met:
		return "at most " + number(*f.Target) + ": met"
	}
	return "at most " + number(*f.Target) + ": MISSED"
}

func (r *report) targets() (n int) {
	for _, f := range r.Figures {
		if f.Target != nil {
			n++
		}
	}
	return n
}

// number prints at most two decimals, none that are zero.
func number(x float64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", x), "0"), ".")
}
