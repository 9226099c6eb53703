package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDraw(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "img"), 0o755); err != nil {
		t.Fatal(err)
	}
	var run bytes.Buffer
	if err := sampleReport().json(&run); err != nil {
		t.Fatal(err)
	}
	file, page := filepath.Join(dir, "speed.json"), filepath.Join(dir, "speed.md")
	if err := errors.Join(
		os.WriteFile(file, run.Bytes(), 0o600),
		os.WriteFile(page, []byte("before\n"+tableBegins+"old\n"+tableEnds+"after\n"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	var out, told bytes.Buffer
	if status := execute(t.Context(), []string{"draw", "--docs", dir, file}, streams{strings.NewReader(""), &out, &told}); status != exitOK {
		t.Fatalf("status %d: %s", status, told.String())
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"before\n", "after\n", "| | too much, bytes | 2 | 1 to 3 | at most 1.5 | MISSED |", "2 of 3 rows miss their target: 1, 3"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the page lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "old") || strings.Contains(string(text), "for information") {
		t.Errorf("the page has too much:\n%s", text)
	}
	drawn, err := os.ReadFile(filepath.Join(dir, "img", "speed.svg"))
	if err != nil {
		t.Fatal(err)
	}
	for decoder := xml.NewDecoder(bytes.NewReader(drawn)); ; {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for want, n := range map[string]int{"<circle class=\"met\"": 2, "<circle class=\"missed\"": 1, "prefers-color-scheme: dark": 1, "not measured": 1} {
		if got := strings.Count(string(drawn), want); got != n {
			t.Errorf("the drawing has %d of %s, want %d", got, want, n)
		}
	}
}

// What is better stands further right, whichever way the target goes, and everything stays on the scale.
func TestPositions(t *testing.T) {
	most, least := figureOf("", "", "", []float64{1}).atMost(2), figureOf("", "", "", []float64{1}).atLeast(2)
	for name, falls := range map[string]bool{
		"less of what is bounded":    position(most.better(1)) > position(most.better(3)),
		"more of what is asked for":  position(least.better(3)) > position(least.better(1)),
		"nothing of what is bounded": position(most.better(0)) == scaleEnd,
		"far too little":             position(least.better(0)) == scaleBegin,
		"the target":                 position(most.better(2)) == (scaleBegin+scaleEnd)/2,
	} {
		if !falls {
			t.Errorf("%s stands in the wrong place", name)
		}
	}
}

// The documentation shows the run whose numbers are beside it.
func TestSpeedPage(t *testing.T) {
	docs := filepath.Join("..", "docs")
	page, err := os.ReadFile(filepath.Join(docs, "speed.md"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(docs, "speed.json"))
	if errors.Is(err, fs.ErrNotExist) {
		if _, made, _ := strings.Cut(string(page), tableBegins); strings.Contains(made, "| row |") {
			t.Error("docs/speed.md has numbers, and docs/speed.json, which they would come from, is missing")
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	want, err := withTable(page, &r)
	if err != nil {
		t.Fatal(err)
	}
	drawn, err := os.ReadFile(filepath.Join(docs, "img", "speed.svg"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(page, want) || !bytes.Equal(drawn, r.svg()) {
		t.Error("docs/speed.md or docs/img/speed.svg is not what go run ./bench draw makes of docs/speed.json")
	}
}
