package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/chaos/history"
)

// envCaller tells this test binary to be a process of callers, and what of.
const envCaller = "FAULTS_CALLER"

type callerConfig struct {
	Addrs map[string]string
	Key   string
}

// callerMain counts up one key until it is killed, or its parent is.
func callerMain() {
	var config callerConfig
	if err := json.Unmarshal([]byte(os.Getenv(envCaller)), &config); err != nil {
		panic(err)
	}
	var seeds []string
	for addr := range config.Addrs {
		seeds = append(seeds, addr)
	}
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: seeds, Dialer: Dialer(config.Addrs)})
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1)) // ends with the parent
		os.Exit(1)
	}()
	for {
		_ = counting.Eval(ctx, c, []string{config.Key}).Err()
		pause(ctx, 2*time.Millisecond)
	}
}

// process is a real one, which is given a new number whenever it is started.
type process struct {
	config callerConfig
	cmd    *exec.Cmd
	id     int
}

var started int

func (p *process) ID() int     { return p.id }
func (p *process) Stop() error { return p.cmd.Process.Signal(syscall.SIGSTOP) }
func (p *process) Cont() error { return p.cmd.Process.Signal(syscall.SIGCONT) }

func (p *process) Kill() error {
	if err := p.cmd.Process.Kill(); err != nil {
		return err
	}
	if err := p.cmd.Wait(); err == nil {
		return errors.New("it ended by itself")
	}
	return nil
}

func (p *process) Respawn(context.Context) error {
	config, err := json.Marshal(p.config)
	if err != nil {
		return err
	}
	started++
	p.id = started
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), envCaller+"="+string(config))
	p.cmd.Stderr = os.Stderr
	if _, err := p.cmd.StdinPipe(); err != nil {
		return err
	}
	return p.cmd.Start()
}

// populate starts a process for each network of the target.
func populate(t *testing.T, to *Target) []*process {
	t.Helper()
	var all []*process
	for _, n := range to.Networks {
		p := &process{config: callerConfig{n.Addrs(), fmt.Sprintf("process:%d", rand.Uint64())}}
		if err := p.Respawn(ctx); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Kill() })
		to.Processes = append(to.Processes, p)
		all = append(all, p)
	}
	return all
}

// gaps returns a function that ends the watching, and returns for each process the longest time for which it did not
// count. Each of them has counted when gaps returns.
func gaps(t *testing.T, to *Target, processes []*process) (stop func() []time.Duration) {
	t.Helper()
	c := direct(t, to)
	longest := make([]time.Duration, len(processes))
	last, at := make([]string, len(processes)), make([]time.Time, len(processes))
	look := func(i int) bool {
		v := c.Get(ctx, processes[i].config.Key).Val()
		if v != last[i] {
			if !at[i].IsZero() {
				longest[i] = max(longest[i], time.Since(at[i]))
			}
			last[i], at[i] = v, time.Now()
		}
		return v != ""
	}
	for i := range processes {
		if err := poll(bound(t), "a process to count", func() error {
			if !look(i) {
				return errors.New("it does not")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for pause(ctx, 5*time.Millisecond) {
			for i := range processes {
				look(i)
			}
		}
	}()
	t.Cleanup(cancel)
	return func() []time.Duration {
		cancel()
		<-done
		for i := range processes { // all of them have to come back
			before := last[i]
			if err := poll(bound(t), "a process to count again", func() error {
				if look(i); last[i] == before {
					return errors.New("it does not")
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		}
		return longest
	}
}

func bound(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// TestStopHolders: the processes which are named did not count for longer than a lease, and do so again.
func TestStopHolders(t *testing.T) {
	to := target(t, 3)
	to.Lease, to.Grace = time.Second, 100*time.Millisecond
	all := populate(t, to)
	stop := gaps(t, to, all)
	f := inject(t, to, "stop-holders")
	longest := stop()
	for i, p := range all {
		if hit := slices.Contains(f.Processes, p.ID()); hit != (longest[i] > to.Lease+to.Grace) {
			t.Errorf("process %d of %v did not count for %v", p.ID(), f.Processes, longest[i])
		}
	}
	if f.Effect != history.Stop || f.Detail != atWork || int(f.Count) != len(f.Processes) {
		t.Errorf("%+v", f)
	}
}

// TestKillHolders: the request that was under way runs after its sender's death.
func TestKillHolders(t *testing.T) {
	to := target(t, 2)
	all := populate(t, to)
	gone, pids := map[int]*process{}, map[int]int{}
	for _, p := range all {
		gone[p.ID()], pids[p.ID()] = p, p.cmd.Process.Pid
	}
	stop := gaps(t, to, all)
	f := inject(t, to, "kill-holders")
	stop()
	if len(f.Processes) != 1 || f.Count != 1 || f.Effect != history.Stop || f.Detail != atWork {
		t.Fatalf("%+v", f)
	}
	p := gone[f.Processes[0]]
	if p == nil || p.ID() == f.Processes[0] || p.cmd.Process.Pid == pids[f.Processes[0]] {
		t.Errorf("nobody was killed: %+v", f)
	}
}

// TestAtWork: a request is held up, once, while its process can be stopped.
func TestAtWork(t *testing.T) {
	to := target(t, 2)
	if to.atWork(ctx, 0) {
		t.Error("without processes, one is at work")
	}
	all := populate(t, to)
	gaps(t, to, all)()
	if !to.atWork(ctx, 1) {
		t.Fatal("it is not at work")
	}
	if err := all[1].Stop(); err != nil {
		t.Fatal(err)
	}
	if to.atWork(ctx, 1) {
		t.Error("it is at work when it is stopped")
	}
	if err := all[1].Cont(); err != nil {
		t.Fatal(err)
	}
}
