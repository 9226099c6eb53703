package coordpg

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onceward/coordinator"
)

// What runs ends with its context, and calls leave nothing behind: no goroutine, no connection, no transaction, no lock.
func TestNothingIsLeft(t *testing.T) {
	pool := newBank(t)
	server, c := newRedis(t, coordinator.WithTimeout(300*time.Millisecond))
	s := newStandby(t, c, pool, AwayFor(50*time.Millisecond), BackFor(400*time.Millisecond), Every(20*time.Millisecond))
	relay, err := NewRelay(c, pool, func(context.Context, []Event) error { return nil }, RelayWithStandby(s))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { _ = s.Run(ctx) })
	group.Go(func() { _ = relay.Run(ctx) })
	group.Go(func() { _ = KeepSwept(ctx, pool, time.Second, nil) })
	for i := range 40 {
		group.Go(func() {
			short, cancel := context.WithTimeout(ctx, time.Duration(i)*10*time.Millisecond)
			defer cancel()
			if i == 0 { // one gets done, on however busy a machine
				short = ctx
			}
			_, _, _ = Do(short, c, pool, newKey("1"), withdraw("1", 1), WithStandby(s), WaitUpTo(time.Minute), Emit(Event{Topic: "x"}))
		})
	}
	eventually(t, func() error {
		if balance(t, pool, "1") == 1000 {
			return errors.New("nothing is done yet")
		}
		return nil
	})
	server.Close()
	eventually(t, func() error {
		if !s.Alone() {
			return errors.New("not taken over")
		}
		return nil
	})
	cancel()
	group.Wait()
	eventually(t, func() error {
		if n := pool.Stat().AcquiredConns(); n > 0 {
			return errors.New("connections are not given back")
		}
		if n := number(t, pool, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`); n > 0 {
			return errors.New("locks are left")
		}
		if n := number(t, pool, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND (state LIKE 'idle in%' OR query LIKE 'LISTEN%')`); n > 0 {
			return errors.New("transactions or listeners are left")
		}
		buf := make([]byte, 1<<20)
		for _, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")[1:] {
			if strings.Contains(stack, "coordinator/coordpg.") && !strings.Contains(stack, "testing.(*T)") {
				return errors.New("a goroutine is left:\n" + stack)
			}
		}
		return nil
	})
}
