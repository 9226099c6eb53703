package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What the documentation shows is what this program draws.
func TestDrawings(t *testing.T) {
	if err := check(filepath.Join("..", "..", "docs", "img")); err != nil {
		t.Error(err)
	}
}

func TestCheckFindsWhatDiffers(t *testing.T) {
	dir := t.TempDir()
	if check(dir) == nil {
		t.Error("drawings that are not there pass")
	}
	if err := write(dir); err != nil {
		t.Fatal(err)
	}
	if err := check(dir); err != nil {
		t.Error(err)
	}
	path := filepath.Join(dir, states().name)
	drawn, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Replace(drawn, []byte("lapsed"), []byte("elapsed"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if check(dir) == nil {
		t.Error("a drawing with another word passes")
	}
	if err := os.WriteFile(path, drawn, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "old.svg"), drawn, 0o600); err != nil {
		t.Fatal(err)
	}
	if check(dir) == nil {
		t.Error("a drawing that nobody makes passes")
	}
}

// A label stays clear of the others, of lines and of the edges of boxes, and inside the picture.
func TestNothingOverlaps(t *testing.T) {
	for _, d := range all() {
		t.Run(d.name, func(t *testing.T) {
			for _, fault := range faults(d) {
				t.Error(fault)
			}
		})
	}
}

func TestOverlapsAreFound(t *testing.T) {
	for name, spoil := range map[string]func(*drawing){
		"label on a label": func(d *drawing) { d.label(100, 50, "", "start", "one"); d.label(105, 52, "", "start", "two") },
		"label on a line":  func(d *drawing) { d.path("line", point{0, 50}, point{190, 50}); d.label(100, 52, "", "start", "one") },
		"label on an edge": func(d *drawing) { d.box(10, 10, 40, 40, "box"); d.label(30, 30, "", "start", "across") },
		"label outside":    func(d *drawing) { d.label(190, 50, "", "start", "cut off") },
	} {
		d := &drawing{width: 200, height: 100}
		spoil(d)
		if len(faults(d)) == 0 {
			t.Errorf("%s: not found", name)
		}
	}
}

func faults(d *drawing) (all []string) {
	page := area{"the picture", 0, 0, d.width, d.height}
	for i, l := range d.labels {
		if l.what == "" {
			continue
		}
		if !page.holds(l) {
			all = append(all, l.what+" leaves the picture")
		}
		for _, other := range d.labels[:i] {
			if l.meets(other) {
				all = append(all, l.what+" meets "+other.what)
			}
		}
		for _, line := range d.lines {
			if l.meets(line) {
				all = append(all, l.what+" stands on a line")
			}
		}
		for _, box := range d.boxes {
			if l.meets(box) && !box.holds(l) {
				all = append(all, l.what+" crosses the edge of the box "+box.what)
			}
		}
	}
	return all
}

// Each is well-formed, and tells readers who do not see it what it shows.
func TestDrawingsAreAccessible(t *testing.T) {
	for _, d := range all() {
		texts := map[string]string{}
		var in string
		for decoder := xml.NewDecoder(bytes.NewReader(d.svg())); ; {
			token, err := decoder.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", d.name, err)
			}
			switch token := token.(type) {
			case xml.StartElement:
				in = token.Name.Local
			case xml.CharData:
				texts[in] += strings.TrimSpace(string(token))
			}
		}
		if len(texts["title"]) < 10 || len(texts["desc"]) < 100 || !strings.Contains(texts["style"], "prefers-color-scheme: dark") {
			t.Errorf("%s has no title, description or dark colours: %q", d.name, texts)
		}
	}
}
