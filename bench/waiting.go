package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/scripts"
	"github.com/redis/go-redis/v9"
)

const sameWaiting = `There is no peer: the others poll, or fail. So the limits are absolute. All callers call Do for one key at once, with WaitUpTo; one of them
works for a while, and the others get its result. The processes are this program, started anew. An answer's delay is from the moment at which the work was done, before its
result was stored, to the return of Do, by the machine's clock. Commands are counted by MONITOR, those of scripts as one, while the work goes on and nobody begins to wait any more:
polls, which come every 12 to 15 s; a window of the full run has one or two of each process. The renewals of the one at work are not among them. TestCommandsWhileWaiting counts for ten minutes.`

// waiting is row 8.
func (l *lab) waiting(ctx context.Context) ([]figure, error) {
	var figures []figure
	for _, processes := range []int{1, l.processes} {
		var late, extra, commands []float64
		for round := range l.waitRounds {
			l.progress.step("%d processes, round %d of %d", processes, round+1, l.waitRounds)
			w, err := l.waitOnce(ctx, processes)
			if err != nil {
				return nil, err
			}
			late = append(late, w.p99)
			extra = append(extra, w.executions)
			commands = append(commands, w.commands)
		}
		where := fmt.Sprintf("%d in %d processes", l.waiters, processes)
		if processes == 1 {
			where = fmt.Sprintf("%d in one process", l.waiters)
		}
		name := fmt.Sprintf("waiting_%d_", processes)
		figures = append(figures,
			figureOf(name+"executions", where+": executions, the most of all rounds", "", []float64{slices.Max(extra)}).atMost(1),
			figureOf(name+"p99", where+": answered after the completion", "ms p99", late).atMost(25),
			figureOf(name+"commands", where+": commands a second and process, waiting", "", commands).atMost(0.2),
		)
	}
	return figures, nil
}

// waited is what one round of waiting showed.
type waited struct {
	executions float64
	p99        float64 // ms
	commands   float64 // a second and process
}

// waitOnce lets processes of waiters wait for one key.
func (l *lab) waitOnce(ctx context.Context, processes int) (w waited, err error) {
	self, err := os.Executable()
	if err != nil {
		return w, err
	}
	ctx, cancel := context.WithTimeout(ctx, l.working+30*time.Second)
	defer cancel() // ends the processes, too
	var crowds []*crowd
	id := newKey().ID
	for i := range processes {
		n := l.waiters*(i+1)/processes - l.waiters*i/processes
		c, err := startCrowd(ctx, self, "waiters", "--redis", l.server.Addr(), "--key", id,
			"--callers", fmt.Sprint(n), "--working", l.working.String())
		if err != nil {
			return w, err
		}
		crowds = append(crowds, c)
	}
	for _, c := range crowds {
		if err := c.ready(); err != nil {
			return w, err
		}
	}
	begin := time.Now()
	for _, c := range crowds {
		if err := c.start(); err != nil {
			return w, err
		}
	}
	// They have begun to wait well before a quarter of the time, and nothing ends before seven eighths.
	select {
	case <-ctx.Done():
		return w, context.Cause(ctx)
	case <-time.After(l.working/4 - time.Since(begin)):
	}
	window := l.working * 5 / 8
	commands, err := countCommands(ctx, l.server.Addr(), window)
	if err != nil {
		return w, err
	}
	w.commands = float64(commands) / window.Seconds() / float64(processes)
	var all crowdReport
	for _, c := range crowds {
		r, err := c.report()
		if err != nil {
			return w, err
		}
		all.Executions += r.Executions
		all.Done = max(all.Done, r.Done)
		all.Answered = append(all.Answered, r.Answered...)
	}
	w.executions = float64(all.Executions)
	slices.Sort(all.Answered)
	if len(all.Answered) != l.waiters {
		return w, fmt.Errorf("%d of %d were answered", len(all.Answered), l.waiters)
	}
	w.p99 = millis(time.Duration(all.Answered[len(all.Answered)*99/100] - all.Done))
	return w, nil
}

// countCommands counts what clients send to the server for a while, but not what scripts do, nor renewals: who works sends
// those, whether somebody waits or not.
func countCommands(ctx context.Context, addr string, d time.Duration) (n int, err error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if err := conn.SetDeadline(time.Now().Add(d)); err != nil {
		return 0, err
	}
	if _, err := io.WriteString(conn, "MONITOR\r\n"); err != nil {
		return 0, err
	}
	lines := bufio.NewReader(conn)
	for {
		line, err := lines.ReadString('\n')
		var late net.Error
		switch {
		case errors.As(err, &late) && late.Timeout():
			return n, nil
		case err != nil:
			return n, err
		case strings.HasPrefix(line, "-"):
			return n, fmt.Errorf("MONITOR: %s", strings.TrimSpace(line))
		case !strings.HasPrefix(line, "+OK") && !strings.Contains(line, " lua] ") && !strings.Contains(line, scripts.Renew.SHA):
			n++
		}
	}
}

// crowd is a process of waiters.
type crowd struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startCrowd(ctx context.Context, program string, args ...string) (*crowd, error) {
	c := &crowd{cmd: exec.CommandContext(ctx, program, args...)}
	c.cmd.Stderr = os.Stderr
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReader(out)
	return c, c.cmd.Start()
}

// ready waits until the process has reached the server.
func (c *crowd) ready() error {
	_, err := c.out.ReadString('\n')
	return err
}

func (c *crowd) start() error {
	_, err := io.WriteString(c.in, "go\n")
	return err
}

// report returns what the process saw, when it has ended.
func (c *crowd) report() (r crowdReport, err error) {
	err = json.NewDecoder(c.out).Decode(&r)
	if err := errors.Join(err, c.cmd.Wait()); err != nil {
		return r, err
	}
	if r.Error != "" {
		return r, errors.New(r.Error)
	}
	return r, nil
}

// crowdReport is what a process of waiters writes. Times are ns since 1970.
type crowdReport struct {
	Executions int     `json:"executions"`
	Done       int64   `json:"done"` // when the work was done; 0 in a process that did not do it
	Answered   []int64 `json:"answered"`
	Error      string  `json:"error,omitempty"`
}

// waitersCommand is the other side: it says that it is ready, waits for a line, and lets its callers call.
type waitersCommand struct {
	Redis   string        `required:""`
	Key     string        `required:""`
	Callers int           `required:""`
	Working time.Duration `required:""`
}

func (w *waitersCommand) Run(ctx context.Context, std streams) error {
	rdb := redis.NewClient(&redis.Options{Addr: w.Redis})
	defer rdb.Close()
	c, err := coordinator.New(rdb)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Load(ctx); err != nil {
		return err
	}
	fmt.Fprintln(std.out, "ready")
	if _, err := bufio.NewReader(std.in).ReadString('\n'); err != nil {
		return err
	}
	return json.NewEncoder(std.out).Encode(w.call(ctx, c))
}

// call lets all callers ask for the key at once.
func (w *waitersCommand) call(ctx context.Context, c *coordinator.Coordinator) (r crowdReport) {
	var mu sync.Mutex
	work := func(ctx context.Context, _ *coordinator.Lease) (string, error) {
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-time.After(w.Working):
		}
		mu.Lock()
		defer mu.Unlock()
		r.Executions++
		r.Done = time.Now().UnixNano()
		return strings.Repeat("r", payloadBytes-len(`""`)), nil
	}
	var callers sync.WaitGroup
	for range w.Callers {
		callers.Go(func() {
			_, _, err := coordinator.Do(ctx, c, coordinator.Key{Scope: "pay", ID: w.Key}, work, coordinator.WaitUpTo(w.Working+20*time.Second))
			now := time.Now().UnixNano()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				r.Error = err.Error()
			} else {
				r.Answered = append(r.Answered, now)
			}
		})
	}
	callers.Wait()
	return r
}
