package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// progress tells on standard error how far the run is: one line that changes on a terminal, a line for each row elsewhere.
// A nil progress tells nothing.
type progress struct {
	out   io.Writer
	live  bool
	begun time.Time

	mu   sync.Mutex
	what string
}

func newProgress(out io.Writer) *progress {
	p := &progress{out: out, begun: time.Now()}
	if file, ok := out.(*os.File); ok {
		info, err := file.Stat()
		p.live = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// row begins a row.
func (p *progress) row(r row) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.what = fmt.Sprintf("row %d: %s", r.number, r.what)
	if p.live {
		p.show("")
	} else {
		fmt.Fprintf(p.out, "%4.0f s  %s\n", time.Since(p.begun).Seconds(), p.what)
	}
}

// step says what is being done within the row; it is for terminals only.
func (p *progress) step(format string, args ...any) {
	if p == nil || !p.live {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.show(": " + fmt.Sprintf(format, args...))
}

const clearLine = "\r\x1b[K"

func (p *progress) show(more string) {
	fmt.Fprintf(p.out, clearLine+"%4.0f s  %s%s", time.Since(p.begun).Seconds(), p.what, more)
}

// end takes the line away.
func (p *progress) end() {
	if p != nil && p.live {
		fmt.Fprint(p.out, clearLine)
	}
}
