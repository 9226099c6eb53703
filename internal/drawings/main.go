// Command drawings makes the drawings of the documentation, docs/img/*.svg. The same program makes the same bytes.
//
//	go run ./internal/drawings           write them
//	go run ./internal/drawings -check    exit status 1 when what is there differs
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

// all are the drawings of the documentation.
func all() []*drawing {
	return []*drawing{states(), takeover(), fence(), spread(), memory()}
}

func main() {
	dir := flag.String("dir", filepath.Join("docs", "img"), "`directory` of the drawings")
	only := flag.Bool("check", false, "write nothing, and exit with status 1 when a drawing differs")
	flag.Parse()
	work := write
	if *only {
		work = check
	}
	if err := work(*dir); err != nil {
		fmt.Fprintln(os.Stderr, "drawings:", err)
		os.Exit(1)
	}
}

func write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, d := range all() {
		if err := os.WriteFile(filepath.Join(dir, d.name), d.svg(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// byOthers are made by another program, out of what it measured, and compared by its tests.
var byOthers = map[string]bool{"speed.svg": true}

// check compares what is in dir with what write would put there; a drawing that nobody makes is a difference, too.
func check(dir string) error {
	var wrong []error
	made := map[string]bool{}
	for _, d := range all() {
		made[d.name] = true
		is, err := os.ReadFile(filepath.Join(dir, d.name))
		if err != nil {
			wrong = append(wrong, err)
		} else if !bytes.Equal(is, d.svg()) {
			wrong = append(wrong, fmt.Errorf("%s is not what this program draws; run it without -check", d.name))
		}
	}
	there, err := filepath.Glob(filepath.Join(dir, "*.svg"))
	for _, path := range there {
		if name := filepath.Base(path); !made[name] && !byOthers[name] {
			wrong = append(wrong, fmt.Errorf("%s is drawn by nobody", path))
		}
	}
	return errors.Join(append(wrong, err)...)
}
