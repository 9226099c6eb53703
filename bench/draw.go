package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
)

// drawCommand publishes a run. The documentation's numbers come from nowhere else.
type drawCommand struct {
	Report string `arg:"" optional:"" default:"docs/speed.json" help:"The JSON of a run, by --json; ${default} when left out."`
	Docs   string `default:"docs" help:"The directory of speed.md and img/speed.svg."`
}

func (d *drawCommand) Run() error {
	text, err := os.ReadFile(d.Report)
	if err != nil {
		return err
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("%s: %w", d.Report, err)
	}
	name := filepath.Join(d.Docs, "speed.md")
	page, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	page, err = withTable(page, &r)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return errors.Join(
		os.WriteFile(name, page, 0o644),
		os.WriteFile(filepath.Join(d.Docs, "img", "speed.svg"), r.svg(), 0o644),
	)
}

// The page has its table between these lines.
const (
	tableBegins = "<!-- made by go run ./bench draw -->\n"
	tableEnds   = "<!-- end of what is made -->\n"
)

var errNoTable = errors.New("the lines around the table are missing")

// withTable puts the figures of a run that have targets into the page.
func withTable(page []byte, r *report) ([]byte, error) {
	before, rest, begins := bytes.Cut(page, []byte(tableBegins))
	_, after, ends := bytes.Cut(rest, []byte(tableEnds))
	if !begins || !ends {
		return nil, errNoTable
	}
	var out bytes.Buffer
	out.Write(before)
	out.WriteString(tableBegins)
	r.markdown(&out)
	out.WriteString(tableEnds)
	out.Write(after)
	return out.Bytes(), nil
}

func (r *report) markdown(out *bytes.Buffer) {
	fmt.Fprintf(out, "![each figure against its target](img/speed.svg)\n\n%s. %s.\n\n", r.heading(), r.verdict())
	out.WriteString("| row | what | median | min to max | target | |\n|---|---|---|---|---|---|\n")
	for _, row := range r.Rows {
		fmt.Fprintf(out, "| **%d** | **%s** | | | | |\n", row.Number, row.What)
		for _, f := range row.Figures {
			if f.Met != nil {
				fmt.Fprintf(out, "| | %s | %s | %s to %s | %s | %s |\n", f.title(), number(f.Median), number(f.Min), number(f.Max), f.target(), f.verdict())
			}
		}
		if row.Error != "" {
			out.WriteString("| | not measured | | | | MISSED |\n")
		}
	}
}

// The drawing: a line for each figure that has a target, by how many times it is better than that. From the middle,
// where the target stands, to the right is better, and each step doubles.
const (
	drawWidth            = 1040
	labelsEnd, valuesAt  = 455, 800 // x: of the labels' end, of the numbers' beginning
	scaleBegin, scaleEnd = 470, 790
	scaleSteps           = 3 // doublings to either side; what is beyond stands at the edge
	lineStep, topMargin  = 24, 70
)

// style is that of the documentation's other drawings.
const style = `
    svg { font: 13px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
    .page { fill: #ffffff; }
    text { fill: #1f2328; }
    .name { font-weight: bold; }
    .small { fill: #59636e; }
    .grid { stroke: #d0d7de; }
    .target { stroke: #1f2328; stroke-width: 1.5; }
    .met { stroke: #1a7f37; fill: #1a7f37; }
    .missed { stroke: #b3151f; fill: #b3151f; }
    .spread { stroke-width: 3; stroke-opacity: 0.4; }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1117; }
      text { fill: #e6edf3; }
      .small { fill: #9ea7b1; }
      .grid { stroke: #30363d; }
      .target { stroke: #e6edf3; }
      .met { stroke: #3fb950; fill: #3fb950; }
      .missed { stroke: #ff8182; fill: #ff8182; }
    }
  `

// svg draws the figures that have targets.
func (r *report) svg() []byte {
	var body bytes.Buffer
	y := topMargin
	for _, row := range r.Rows {
		y += lineStep
		writeText(&body, "name", 20, y, "start", fmt.Sprintf("%d  %s", row.Number, row.What))
		for _, f := range row.Figures {
			if f.Met != nil {
				y += lineStep
				drawFigure(&body, y, f)
			}
		}
		if row.Error != "" {
			y += lineStep
			writeText(&body, "", labelsEnd, y, "end", "not measured")
		}
	}
	height := y + 40

	var out bytes.Buffer
	fmt.Fprintf(&out, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" role=\"img\" aria-labelledby=\"title about\">\n",
		drawWidth, height, drawWidth, height)
	out.WriteString("  <!-- made by go run ./bench draw -->\n")
	fmt.Fprintf(&out, "  <title id=\"title\">Each figure against its target</title>\n  <desc id=\"about\">%s. %s. Medians are dots, the spread of the rounds is a bar; "+
		"what is right of the line in the middle is better than the target, and each step doubles. The page's table has the same numbers.</desc>\n", escaped(r.heading()), escaped(r.verdict()))
	fmt.Fprintf(&out, "  <style>%s</style>\n  <rect class=\"page\" width=\"%d\" height=\"%d\"/>\n", style, drawWidth, height)
	writeText(&out, "small", 20, 30, "start", r.heading())
	drawScale(&out, height)
	out.Write(body.Bytes())
	out.WriteString("</svg>\n")
	return out.Bytes()
}

func drawScale(out *bytes.Buffer, height int) {
	writeText(out, "small", scaleEnd, topMargin-28, "end", "better →")
	for step := -scaleSteps; step <= scaleSteps; step++ {
		class, text := "grid", fmt.Sprintf("%g×", math.Exp2(float64(step)))
		if step == 0 {
			class, text = "target", "target"
		}
		x := position(math.Exp2(float64(step)))
		fmt.Fprintf(out, "  <line class=\"%s\" x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\"/>\n", class, x, topMargin, x, height-20)
		writeText(out, "small", x, topMargin-8, "middle", text)
	}
}

func drawFigure(out *bytes.Buffer, y int, f figure) {
	class := "met"
	if f.missed() {
		class = "missed"
	}
	writeText(out, "", labelsEnd, y, "end", f.title())
	middle := y - 4
	fmt.Fprintf(out, "  <line class=\"%s spread\" x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\"/>\n", class, position(f.better(f.Min)), middle, position(f.better(f.Max)), middle)
	fmt.Fprintf(out, "  <circle class=\"%s\" cx=\"%d\" cy=\"%d\" r=\"5\"/>\n", class, position(f.better(f.Median)), middle)
	writeText(out, "", valuesAt, y, "start", fmt.Sprintf("%s, %s", number(f.Median), f.target()))
}

// better is by how many times a value is better than the target; infinite where there is nothing to divide by.
func (f figure) better(value float64) float64 {
	switch {
	case f.AtLeast != nil:
		return value / *f.AtLeast
	case value <= 0:
		return math.Inf(1) // nothing at all, where little was asked for
	default:
		return *f.AtMost / value
	}
}

// position is where a ratio stands; what is off the scale is at its edge.
func position(better float64) int {
	step := min(max(math.Log2(better), -scaleSteps), scaleSteps)
	return int(math.Round(scaleBegin + (step+scaleSteps)*(scaleEnd-scaleBegin)/(2*scaleSteps)))
}

func writeText(out *bytes.Buffer, class string, x, y int, anchor, text string) {
	fmt.Fprintf(out, "  <text class=\"%s\" x=\"%d\" y=\"%d\" text-anchor=\"%s\">%s</text>\n", class, x, y, anchor, escaped(text))
}

func escaped(text string) string {
	var out strings.Builder
	_ = xml.EscapeText(&out, []byte(text)) // a Builder takes everything
	return out.String()
}
