package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/redistest"
	"github.com/onceward/coordinator/internal/wakeup"

	"github.com/onceward/coordinator/internal/keyname"
	"github.com/onceward/coordinator/internal/protocol"
)

// load runs operations, each on a key of its own and each to its end, until stop; errors of any kind are reported.
type load struct {
	t         *testing.T
	c         *Coordinator
	stop      context.CancelFunc
	done      sync.WaitGroup
	completed atomic.Int64
}

func startLoad(t *testing.T, c *Coordinator, workers int, resource func(Key) string) *load {
	ctx, stop := context.WithCancel(t.Context())
	l := &load{t: t, c: c, stop: stop}
	for range workers {
		l.done.Go(func() {
			for ctx.Err() == nil {
				key := newKey(t)
				key.Resource = resource(key)
				if err := l.once(context.WithoutCancel(ctx), key); err != nil {
					t.Errorf("%s: %v", label(key), err)
					return
				}
				l.completed.Add(1)
			}
		})
	}
	t.Cleanup(l.end)
	return l
}

func (l *load) once(ctx context.Context, key Key) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	lease, err := l.c.Claim(ctx, key, Fingerprint([]byte("fp")))
	if err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	if err := lease.Renew(ctx); err != nil {
		return fmt.Errorf("renew: %w", err)
	}
	if err := lease.Complete(ctx, []byte(key.ID)); err != nil {
		return fmt.Errorf("complete: %w", err)
	}
	if r, err := l.c.Result(ctx, key, []byte("fp")); err != nil || string(r.Payload) != key.ID {
		return fmt.Errorf("result: %q, %w", r.Payload, err)
	}
	return nil
}

// more waits until n more operations have been completed.
func (l *load) more(n int64) {
	l.t.Helper()
	from := l.completed.Load()
	eventually(l.t, 30*time.Second, fmt.Sprintf("%d more operations", n), func() bool {
		return l.completed.Load() >= from+n || l.t.Failed()
	})
}

func (l *load) end() {
	l.stop()
	l.done.Wait()
}

func none(Key) string { return "" }

func TestWorkGoesOnThroughScriptFlushFailoverAndReshard(t *testing.T) {
	onCluster(t, func(t *testing.T, nodes *redistest.Cluster, rdb *redis.ClusterClient) {
		ctx := t.Context()
		c := open(t, rdb)
		plain := startLoad(t, c, 6, none)
		// Resources have two keys in a slot, which wait while the slot is on its way.
		shared := startLoad(t, c, 2, func(key Key) string { return "account/" + key.ID })
		plain.more(50)

		if err := rdb.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
			return node.ScriptFlush(ctx).Err()
		}); err != nil {
			t.Fatal(err)
		}
		plain.more(50)

		master, err := nodes.MasterFor(ctx, "x")
		if err != nil {
			t.Fatal(err)
		}
		replicas, err := nodes.ReplicasOf(ctx, master)
		if err != nil || len(replicas) == 0 {
			t.Fatalf("no replica: %v", err)
		}
		if err := nodes.Failover(ctx, replicas[0]); err != nil {
			t.Fatal(err)
		}
		plain.more(50)

		from, to := ends(t, nodes, "x")
		for n := range 30 {
			slot := keyname.Slot(fmt.Sprintf("x%d", n))
			if owner, err := nodes.MasterFor(ctx, fmt.Sprintf("x%d", n)); err != nil || owner.Addr() != from.Addr() {
				continue
			}
			if err := nodes.MoveSlot(ctx, slot, from, to); err != nil {
				t.Fatal(err)
			}
			if err := nodes.MoveSlot(ctx, slot, to, from); err != nil {
				t.Fatal(err)
			}
		}
		plain.more(50)
		shared.more(5)
		plain.end()
		shared.end()
		t.Logf("%d plain and %d resource operations, none failed", plain.completed.Load(), shared.completed.Load())
	})
}

// ends are the master that has a key and another one to move its slot to.
func ends(t *testing.T, nodes *redistest.Cluster, name string) (from, to *redistest.Server) {
	t.Helper()
	from, err := nodes.MasterFor(t.Context(), name)
	for i := 0; err == nil && (to == nil || to.Addr() == from.Addr()); i++ {
		to, err = nodes.MasterFor(t.Context(), fmt.Sprint("another", i))
	}
	if err != nil {
		t.Fatal(err)
	}
	return from, to
}

// On a slot of which some keys have moved, records work at once; a resource's two keys wait until the move ends.
func TestHalfMigratedSlot(t *testing.T) {
	onCluster(t, func(t *testing.T, nodes *redistest.Cluster, rdb *redis.ClusterClient) {
		ctx := t.Context()
		c := open(t, rdb)
		key := newKey(t)
		key.Resource = key.ID
		n := c.names(key)
		lease := mustClaim(t, c, key)
		from, to := ends(t, nodes, n.Record)
		slot := keyname.Slot(n.Record)
		if err := nodes.BeginMove(ctx, slot, from, to); err != nil {
			t.Fatal(err)
		}
		source := from.Client(nil)
		defer source.Close()
		for half := false; !half; { // other tests' keys may be in the slot, too
			if moved, err := nodes.MoveKeys(ctx, slot, from, to, 1); err != nil || moved != 1 {
				t.Fatalf("moved %d keys: %v", moved, err)
			}
			left, err := source.ClusterGetKeysInSlot(ctx, slot, 1000).Result()
			if err != nil {
				t.Fatal(err)
			}
			half = !slices.Contains(left, n.Record) || !slices.Contains(left, n.Fence)
		}
		// The record alone: whichever side it is on, one-key scripts run.
		if r, err := c.Inspect(ctx, key); err != nil || r.State != StateInProgress {
			t.Errorf("half way the record reads %v, %v", r.State, err)
		}
		completed := make(chan error, 1)
		go func() { completed <- lease.Complete(ctx, []byte("done")) }()
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		wantError(t, lease.Renew(short), ErrUnavailable, "TRYAGAIN")
		if _, err := nodes.MoveKeys(ctx, slot, from, to, 100); err != nil {
			t.Fatal(err)
		}
		if err := nodes.EndMove(ctx, slot, from, to); err != nil {
			t.Fatal(err)
		}
		if err := <-completed; err != nil {
			t.Errorf("after the move: %v", err)
		}
		if err := nodes.MoveSlot(ctx, slot, to, from); err != nil {
			t.Fatal(err)
		}
	})
}

// Default client options look at the cluster's topology once a minute; we see to it that they look at once.
func TestClaimsSucceedSoonAfterAPromotion(t *testing.T) {
	onCluster(t, func(t *testing.T, nodes *redistest.Cluster, rdb *redis.ClusterClient) {
		ctx := t.Context()
		c := open(t, rdb)
		var delays []time.Duration
		for range 3 {
			key := newKey(t)
			lease := mustClaim(t, c, key)
			name := c.names(key).Record
			master, err := nodes.MasterFor(ctx, name)
			if err != nil {
				t.Fatal(err)
			}
			waitReplicated(t, rdb, name)
			if err := master.Kill(); err != nil {
				t.Fatal(err)
			}
			claimed := make(chan time.Time, 1)
			go func() {
				for {
					ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
					_, err := c.Claim(ctx, key)
					cancel()
					if errors.Is(err, ErrInProgress) || errors.Is(err, ErrStaleToken) || err == nil {
						claimed <- time.Now()
						return
					}
				}
			}()
			if _, _, err := nodes.WaitPromoted(ctx, master); err != nil {
				t.Fatal(err)
			}
			promoted := time.Now()
			delay := max((<-claimed).Sub(promoted), 0)
			delays = append(delays, delay)
			if err := lease.Complete(ctx, []byte("x")); err != nil {
				t.Errorf("the lease did not survive the failover: %v", err)
			}
			if err := nodes.Heal(ctx); err != nil {
				t.Fatal(err)
			}
		}
		slices.Sort(delays)
		t.Logf("claims succeeded %v after the promotion", delays)
		if delays[len(delays)/2] > time.Second {
			t.Errorf("claims succeeded only %v after the promotion", delays)
		}
	})
}

// waitReplicated waits until the replica of a key's master has what was written.
func waitReplicated(t *testing.T, rdb *redis.ClusterClient, name string) {
	t.Helper()
	node, err := rdb.MasterForKey(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	conn := node.Conn() // WAIT answers for its own connection's writes
	defer conn.Close()
	if err := conn.Expire(t.Context(), name, time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Wait(t.Context(), 1, 5*time.Second).Result(); err != nil || n < 1 {
		t.Fatalf("%d replicas: %v", n, err)
	}
}

// A call returns when its context ends, also when the server is stopped in the middle of everything.
func TestCallsReturnWhenTheirContextEnds(t *testing.T) {
	server := redistest.Run(t)
	rdb := server.Client(nil)
	defer rdb.Close()
	c := open(t, rdb)
	key := newKey(t)
	lease := mustClaim(t, c, key)
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	defer server.Resume()
	calls := map[string]func(ctx context.Context) error{
		"claim":      func(ctx context.Context) error { _, err := c.Claim(ctx, newKey(t)); return err },
		"wait":       func(ctx context.Context) error { _, err := c.Claim(ctx, key, WaitUpTo(time.Minute)); return err },
		"renew":      func(ctx context.Context) error { return lease.Renew(ctx) },
		"checkpoint": func(ctx context.Context) error { return lease.SaveCheckpoint(ctx, nil) },
		"complete":   func(ctx context.Context) error { return lease.Complete(ctx, nil) },
		"release":    func(ctx context.Context) error { return lease.Release(ctx) },
		"result":     func(ctx context.Context) error { _, err := c.Result(ctx, key, nil); return err },
		"await":      func(ctx context.Context) error { _, err := c.Await(ctx, key, nil); return err },
		"inspect":    func(ctx context.Context) error { _, err := c.Inspect(ctx, key); return err },
		"expire":     func(ctx context.Context) error { return c.Expire(ctx, key) },
		"resolve":    func(ctx context.Context) error { return c.Resolve(ctx, key, Resolution{Rerun: true}) },
		"give back":  func(ctx context.Context) error { return c.GiveBack(ctx, key, mine) },
		"resume":     func(ctx context.Context) error { _, err := c.Resume(ctx, key, lease.Grant()); return err },
		"fence": func(ctx context.Context) error {
			f := c.Fence(key)
			return f.Do(ctx, lease.Grant(), "get", f.Tag()).Err()
		},
		"claim many": func(ctx context.Context) error {
			return c.ClaimMany(ctx, []ClaimRequest{{Key: newKey(t)}, {Key: newKey(t)}})[0].Err
		},
		"load": func(ctx context.Context) error { return c.Load(ctx) },
		"do": func(ctx context.Context) error {
			_, _, err := Do(ctx, c, newKey(t), func(context.Context, *Lease) (int, error) { return 1, nil })
			return err
		},
	}
	for name, call := range calls {
		for _, how := range []string{"cancel", "deadline"} {
			ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
			ended := time.Now().Add(150 * time.Millisecond)
			if how == "cancel" {
				cancel()
				ctx, cancel = context.WithCancel(t.Context())
				time.AfterFunc(150*time.Millisecond, cancel)
			}
			err := call(ctx)
			if late := time.Since(ended); late > 500*time.Millisecond { // for busy machines; hung connections are given up after seconds
				t.Errorf("%s returned %v after its context's %s", name, late, how)
			}
			if !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrUnavailable) || ctx.Err() == nil || !errors.Is(err, ctx.Err()) {
				t.Errorf("%s, %s: %v", name, how, err)
			}
			cancel()
		}
	}
}

func TestSentinel(t *testing.T) {
	group := redistest.RunSentinels(t, 1)
	rdb := group.Client(nil)
	defer rdb.Close()
	c := open(t, rdb)
	key := newKey(t)
	lease := mustClaim(t, c, key, LeaseFor(time.Minute))
	master := group.Primary
	if n, err := master.Client(nil).Wait(t.Context(), 1, 5*time.Second).Result(); err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if err := master.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := group.WaitFailover(t.Context(), master); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := lease.Complete(ctx, []byte("after the failover")); err != nil {
		t.Errorf("complete: %v", err)
	}
	_, err := c.Claim(ctx, key)
	if r, ok := ResultOf(err); !ok || string(r.Payload) != "after the failover" {
		t.Errorf("claim: %v", err)
	}
}

func TestReplicas(t *testing.T) {
	primary := redistest.Run(t)
	replica := redistest.RunReplica(t, primary)
	rdb := primary.Client(nil)
	defer rdb.Close()
	c := open(t, rdb, WithReplicas(1, 300*time.Millisecond), WithLease(time.Minute))
	key := newKey(t)
	var lease *Lease
	eventually(t, 10*time.Second, "the replica confirms in time", func() (granted bool) {
		var err error
		lease, err = c.Claim(t.Context(), key)
		return err == nil
	})
	if got, err := replica.Client(nil).Get(t.Context(), c.names(key).Record).Result(); err != nil || got == "" {
		t.Errorf("the grant was confirmed and the replica has %q, %v", got, err)
	}
	if err := lease.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	deadline := lease.Deadline()

	acknowledged(t, rdb) // or WAIT would miss something of before, on whatever connection it is sent
	if err := replica.Pause(); err != nil {
		t.Fatal(err)
	}
	wantError(t, lease.Renew(t.Context()), ErrNotReplicated)
	if !lease.Deadline().Equal(deadline) {
		t.Error("an unconfirmed renewal moved the deadline")
	}
	other := newKey(t)
	_, err := c.Claim(t.Context(), other)
	wantError(t, err, ErrNotReplicated, "given back")
	if r, err := c.Inspect(t.Context(), other); err != nil || r.State != StateReleased || r.Attempt != 0 {
		t.Errorf("an unconfirmed claim left %+v, %v", r, err)
	}
	wantError(t, lease.Complete(t.Context(), []byte("result")), ErrNotReplicated, "stands")
	if r, err := c.Result(t.Context(), key, nil); err != nil || string(r.Payload) != "result" {
		t.Errorf("it stands and is visible, but: %v", err)
	}
	_, err = c.Claim(t.Context(), key)
	wantError(t, err, ErrNotReplicated) // a replay of what a failover may lose

	if err := replica.Resume(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the same completion is confirmed", func() bool {
		return lease.Complete(t.Context(), []byte("result")) == nil
	})
	again := mustClaim(t, c, other)
	if again.Attempt() != 1 {
		t.Errorf("nobody worked before, but it is attempt %d", again.Attempt())
	}
	_, err = c.Claim(t.Context(), key)
	wantError(t, err, ErrCompleted)
	if err := replica.Pause(); err != nil {
		t.Fatal(err)
	}
	defer replica.Resume()
	_, err = c.Claim(t.Context(), key) // it was noted as confirmed: replays do not depend on replicas any more
	wantError(t, err, ErrCompleted)
}

// acknowledged waits until a replica has told the primary that it has everything; unasked it does so once a second.
func acknowledged(t *testing.T, primary *redis.Client) {
	t.Helper()
	eventually(t, 10*time.Second, "the replica acknowledges everything", func() bool {
		info := primary.Info(t.Context(), "replication").Val()
		_, rest, _ := strings.Cut(info, "master_repl_offset:")
		offset, _, _ := strings.Cut(rest, "\r\n")
		return strings.Contains(info, ",offset="+offset+",")
	})
}

func TestReplicasOnACluster(t *testing.T) {
	onCluster(t, func(t *testing.T, nodes *redistest.Cluster, rdb *redis.ClusterClient) {
		c := open(t, rdb, WithReplicas(1, time.Second))
		work := startLoad(t, c, 4, none)
		work.more(30)
		reqs := make([]ClaimRequest, 60)
		for i := range reqs {
			reqs[i].Key = newKey(t)
		}
		for i, r := range c.ClaimMany(t.Context(), reqs) {
			if r.Err != nil {
				t.Fatalf("%d: %v", i, r.Err)
			}
			if err := r.Lease.Release(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		// A slot on the move: the pipeline of script and WAIT follows it.
		key := newKey(t)
		slot := keyname.Slot(c.names(key).Record)
		from, to := ends(t, nodes, c.names(key).Record)
		if err := nodes.BeginMove(t.Context(), slot, from, to); err != nil {
			t.Fatal(err)
		}
		lease := mustClaim(t, c, key) // not there yet: ASK
		if _, err := nodes.MoveKeys(t.Context(), slot, from, to, 0); err != nil {
			t.Fatal(err)
		}
		if err := nodes.EndMove(t.Context(), slot, from, to); err != nil {
			t.Fatal(err)
		}
		if err := lease.Complete(t.Context(), nil); err != nil { // MOVED
			t.Error(err)
		}
		if err := nodes.MoveSlot(t.Context(), slot, to, from); err != nil {
			t.Fatal(err)
		}
		work.more(30)
	})
}

// Waiters on a cluster listen on the record's shard; when its slot moves, the server ends their subscription.
func TestWaitersAreWokenOnACluster(t *testing.T) {
	onCluster(t, func(t *testing.T, nodes *redistest.Cluster, rdb *redis.ClusterClient) {
		ctx := t.Context()
		c, waiting := open(t, rdb), open(t, rdb)
		for _, move := range []bool{false, true} {
			key := newKey(t)
			lease := mustClaim(t, c, key, LeaseFor(time.Minute))
			name := c.names(key).Record
			answered := make(chan error, 1)
			go func() {
				_, err := waiting.Claim(ctx, key, WaitUpTo(time.Minute))
				answered <- err
			}()
			marked := func() bool {
				s, _ := rdb.Get(ctx, name).Result()
				r, err := protocol.DecodeRecord(s, true)
				return err == nil && r.Mark == '2'
			}
			eventually(t, 10*time.Second, "the waiter has marked the record", marked)
			most := 200 * time.Millisecond
			if move {
				slot := keyname.Slot(name)
				from, to := ends(t, nodes, name)
				if err := nodes.MoveSlot(ctx, slot, from, to); err != nil {
					t.Fatal(err)
				}
				defer nodes.MoveSlot(ctx, slot, to, from)
				most = wakeup.Poll + 200*time.Millisecond
			}
			if err := lease.Complete(ctx, []byte("done")); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			err := <-answered
			took := time.Since(began)
			wantError(t, err, ErrCompleted)
			t.Logf("moved %v: woken after %v", move, took)
			if took > most {
				t.Errorf("moved %v: woken only %v after the completion", move, took)
			}
		}
	})
}
