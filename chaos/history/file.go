package history

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// Writer appends lines to a file, each by one write, so that a process that is killed leaves whole lines.
type Writer struct {
	mu   sync.Mutex
	file *os.File
}

// Create opens the file for appending.
func Create(name string) (*Writer, error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	return &Writer{file: file}, nil
}

// Write appends one line.
func (w *Writer) Write(line Line) error {
	data, err := json.Marshal(line)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err = w.file.Write(append(data, '\n'))
	return err
}

// Close closes the file.
func (w *Writer) Close() error { return w.file.Close() }

// History is a whole run, read from its files.
type History struct {
	Run      Run
	Events   []Event // one for each operation, by time of call; those that never returned are pending
	Holdings []Holding
	Faults   []Fault
	Sinks    []Sink
	Keys     []Key
	Domains  []Domain
	Leaks    []Leak
}

// Read reads all *.jsonl files of a directory. A last line that was cut off by a kill is left out.
func Read(dir string) (*History, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no history in %s: it has no *.jsonl file", dir)
	}
	return ReadFiles(names...)
}

// ReadFiles reads the files of one run.
func ReadFiles(names ...string) (*History, error) {
	h := &History{}
	type id struct {
		process int
		id      int64
	}
	events := map[id]Event{}
	for _, name := range names {
		if err := readFile(name, func(l Line) {
			switch {
			case l.Event != nil:
				at := id{l.Event.Process, l.Event.ID}
				if before, seen := events[at]; !seen || before.Pending() {
					events[at] = *l.Event
				}
			case l.Holding != nil:
				h.Holdings = append(h.Holdings, *l.Holding)
			case l.Fault != nil:
				h.Faults = append(h.Faults, *l.Fault)
			case l.Sink != nil:
				h.Sinks = append(h.Sinks, *l.Sink)
			case l.Key != nil:
				h.Keys = append(h.Keys, *l.Key)
			case l.Domain != nil:
				h.Domains = append(h.Domains, *l.Domain)
			case l.Run != nil:
				h.Run = *l.Run
			case l.Leak != nil:
				h.Leaks = append(h.Leaks, *l.Leak)
			}
		}); err != nil {
			return nil, err
		}
	}
	for _, e := range events {
		h.Events = append(h.Events, e)
	}
	slices.SortFunc(h.Events, func(a, b Event) int {
		switch {
		case a.Call != b.Call:
			return compare(a.Call, b.Call)
		case a.Process != b.Process:
			return compare(int64(a.Process), int64(b.Process))
		}
		return compare(a.ID, b.ID)
	})
	return h, nil
}

func compare(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func readFile(name string, take func(Line)) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	in := bufio.NewReaderSize(file, 1<<20)
	for number := 1; ; number++ {
		text, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil // what stands before it was cut off by a kill
		} else if err != nil {
			return err
		}
		var line Line
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&line); err != nil {
			return fmt.Errorf("%s, line %d: %w", name, number, err)
		}
		take(line)
	}
}
