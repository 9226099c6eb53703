package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// mood is how a line is meant; on a terminal it has a colour.
type mood string

const (
	calm mood = ""
	good mood = "\x1b[32m"
	warn mood = "\x1b[33m"
	bad  mood = "\x1b[31m"

	plain = "\x1b[0m"
)

// diary tells what happens as it happens, a line each.
type diary struct {
	mu      sync.Mutex
	w       io.Writer
	colours bool
	began   time.Time
}

func newDiary(w io.Writer) *diary {
	return &diary{w: w, colours: wantsColours(w), began: time.Now()}
}

func (d *diary) note(m mood, who, format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	line := fmt.Sprintf("%6.2fs  %-9s  %s", time.Since(d.began).Seconds(), who, fmt.Sprintf(format, args...))
	fmt.Fprintln(d.w, d.paint(m, line))
}

// say writes a line without a time.
func (d *diary) say(m mood, format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fmt.Fprintln(d.w, d.paint(m, fmt.Sprintf(format, args...)))
}

func (d *diary) paint(m mood, line string) string {
	if !d.colours || m == calm {
		return line
	}
	return string(m) + line + plain
}

// wantsColours says whether w is a terminal whose user has not asked for plain text (no-color.org).
func wantsColours(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
