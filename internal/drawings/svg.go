package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"unicode/utf8"
)

// drawing is one picture: boxes, lines and labels, in pixels from the upper left corner. It remembers where everything
// stands, so that a test can find labels that meet.
type drawing struct {
	name, title, about string
	width, height      int
	body               bytes.Buffer
	boxes, lines       []area
	labels             []area
}

// area is where something stands.
type area struct {
	what           string
	x0, y0, x1, y1 int
}

func (a area) meets(b area) bool { return a.x0 < b.x1 && b.x0 < a.x1 && a.y0 < b.y1 && b.y0 < a.y1 }
func (a area) holds(b area) bool { return a.x0 <= b.x0 && b.x1 <= a.x1 && a.y0 <= b.y0 && b.y1 <= a.y1 }

type point struct{ x, y int }

const (
	fontSize   = 13
	lineHeight = 17
)

// style has a light and a dark set of colours; a picture brings its own background, so that it can be read on any page.
const style = `
    svg { font: 13px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
    .page { fill: #ffffff; }
    text { fill: #1f2328; }
    .name { font-weight: bold; }
    .small { fill: #59636e; }
    .red { fill: #b3151f; font-weight: bold; }
    .box { fill: #f6f8fa; stroke: #59636e; }
    .first { fill: #ddf4ff; stroke: #0969da; }
    .second { fill: #dafbe1; stroke: #1a7f37; }
    .over { fill: #eceff2; stroke: #59636e; stroke-dasharray: 4 3; }
    .line, .dashed { fill: none; stroke: #1f2328; stroke-width: 1.5; }
    .dashed { stroke-dasharray: 5 4; stroke: #59636e; }
    .stop { fill: none; stroke: #b3151f; stroke-width: 2; }
    .head { fill: #1f2328; }
    .stophead { fill: #b3151f; }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1117; }
      text { fill: #e6edf3; }
      .small { fill: #9ea7b1; }
      .red { fill: #ff8182; }
      .box { fill: #161b22; stroke: #9ea7b1; }
      .first { fill: #0c2d6b; stroke: #58a6ff; }
      .second { fill: #033a16; stroke: #3fb950; }
      .over { fill: #21262d; stroke: #9ea7b1; }
      .line { stroke: #e6edf3; }
      .dashed { stroke: #9ea7b1; }
      .stop { stroke: #ff8182; }
      .head { fill: #e6edf3; }
      .stophead { fill: #ff8182; }
    }
  `

func (d *drawing) svg() []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" role=\"img\" aria-labelledby=\"title about\">\n",
		d.width, d.height, d.width, d.height)
	fmt.Fprintf(&out, "  <!-- made by go run ./internal/drawings -->\n")
	fmt.Fprintf(&out, "  <title id=\"title\">%s</title>\n  <desc id=\"about\">%s</desc>\n", escaped(d.title), escaped(d.about))
	fmt.Fprintf(&out, "  <style>%s</style>\n", style)
	fmt.Fprintf(&out, "  <rect class=\"page\" width=\"%d\" height=\"%d\"/>\n", d.width, d.height)
	out.Write(d.body.Bytes())
	out.WriteString("</svg>\n")
	return out.Bytes()
}

func escaped(text string) string {
	var out bytes.Buffer
	_ = xml.EscapeText(&out, []byte(text)) // a Buffer takes everything
	return out.String()
}

// label writes lines of text, the first with its foot at y; anchor is start, middle or end of x.
func (d *drawing) label(x, y int, class, anchor string, lines ...string) {
	for i, line := range lines {
		foot := y + i*lineHeight
		fmt.Fprintf(&d.body, "  <text class=\"%s\" x=\"%d\" y=\"%d\" text-anchor=\"%s\">%s</text>\n", class, x, foot, anchor, escaped(line))
		width := widthOf(line)
		left := map[string]int{"start": x, "middle": x - width/2, "end": x - width}[anchor]
		d.labels = append(d.labels, area{line, left, foot - fontSize + 2, left + width, foot + 3})
	}
}

// widthOf is how wide a line is at most in the fonts of the style: the widest of them takes some 0.6 of its size for a letter.
func widthOf(line string) int { return utf8.RuneCountInString(line) * fontSize * 6 / 10 }

// box draws a box with lines in its middle, the first one bold.
func (d *drawing) box(x, y, width, height int, class string, lines ...string) {
	fmt.Fprintf(&d.body, "  <rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"5\"/>\n", class, x, y, width, height)
	what := class
	foot := y + height/2 + 5 - (len(lines)-1)*lineHeight/2
	for i, line := range lines {
		text := "small"
		if i == 0 {
			text, what = "name", line
		}
		d.label(x+width/2, foot+i*lineHeight, text, "middle", line)
	}
	d.boxes = append(d.boxes, area{what, x, y, x + width, y + height})
}

// path draws a line through the points, level or upright from one to the next.
func (d *drawing) path(class string, points ...point) {
	fmt.Fprintf(&d.body, "  <polyline class=\"%s\" points=\"", class)
	for i, p := range points {
		if i > 0 {
			d.body.WriteByte(' ')
			q := points[i-1]
			d.lines = append(d.lines, area{class, min(p.x, q.x) - 1, min(p.y, q.y) - 1, max(p.x, q.x) + 1, max(p.y, q.y) + 1})
		}
		fmt.Fprintf(&d.body, "%d,%d", p.x, p.y)
	}
	d.body.WriteString("\"/>\n")
}

// arrow is a path with a head at its end.
func (d *drawing) arrow(class string, points ...point) {
	const long, half = 9, 5
	end, before := points[len(points)-1], points[len(points)-2]
	back := end // where the line ends and the head begins
	switch {
	case before.x < end.x:
		back.x -= long
	case before.x > end.x:
		back.x += long
	case before.y < end.y:
		back.y -= long
	default:
		back.y += long
	}
	a, b := back, back
	if back.x == end.x {
		a.x, b.x = a.x-half, b.x+half
	} else {
		a.y, b.y = a.y-half, b.y+half
	}
	d.path(class, append(append([]point{}, points[:len(points)-1]...), back)...)
	head := "head"
	if class == "stop" {
		head = "stophead"
	}
	fmt.Fprintf(&d.body, "  <polygon class=\"%s\" points=\"%d,%d %d,%d %d,%d\"/>\n", head, end.x, end.y, a.x, a.y, b.x, b.y)
}
