package run

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// teller says what happens as it happens: facts a line each, and below them, on a terminal, how things stand.
type teller struct {
	mu       sync.Mutex
	out      io.Writer
	terminal bool
	began    time.Time
	shown    bool      // a status stands on the last line
	last     time.Time // when the last status was said, elsewhere than on a terminal
}

// statusEvery is how often a pipe is told how things stand.
const statusEvery = 10 * time.Second

func newTeller(out io.Writer) *teller {
	t := &teller{out: out, began: time.Now(), last: time.Now()}
	if file, ok := out.(*os.File); ok && os.Getenv("TERM") != "dumb" {
		info, err := file.Stat()
		t.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return t
}

// say writes a fact.
func (t *teller) say(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clear()
	fmt.Fprintf(t.out, "%7.2fs  %s\n", time.Since(t.began).Seconds(), fmt.Sprintf(format, args...))
}

// status writes how things stand.
func (t *teller) status(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.terminal:
		t.clear()
		fmt.Fprintf(t.out, "%7.2fs  %s", time.Since(t.began).Seconds(), fmt.Sprintf(format, args...))
		t.shown = true
	case time.Since(t.last) >= statusEvery:
		t.last = time.Now()
		fmt.Fprintf(t.out, "%7.2fs  %s\n", time.Since(t.began).Seconds(), fmt.Sprintf(format, args...))
	}
}

// clear removes the status; it is called with mu held.
func (t *teller) clear() {
	if t.shown {
		fmt.Fprint(t.out, "\r\x1b[K")
		t.shown = false
	}
}
