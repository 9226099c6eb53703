package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/redistest"
	"github.com/onceward/coordinator/scripts"
)

// Who holds a lease, and until when: what is not held any more is not renewed on, and what is held does not end
// for somebody else's sake.

// between stands between a client and its server. It sees each command that goes out alone, by its verb (its name
// where it is no script of ours), passes it on by send, and returns what the client is told.
type between func(ctx context.Context, verb string, send func(context.Context) error) error

func (between) DialHook(next redis.DialHook) redis.DialHook { return next }
func (between) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (b between) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		verb := cmd.Name()
		for _, s := range scripts.All() {
			if args := cmd.Args(); len(args) > 1 && (args[1] == s.SHA || args[1] == s.Text) {
				verb = s.Verb
			}
		}
		err := b(ctx, verb, func(ctx context.Context) error { return next(ctx, cmd) })
		cmd.SetErr(err)
		return err
	}
}

// losing loses the requests of some verbs.
func losing(verbs ...string) between {
	return func(ctx context.Context, verb string, send func(context.Context) error) error {
		if slices.Contains(verbs, verb) {
			return io.EOF
		}
		return send(ctx)
	}
}

// hanging holds back the requests of some verbs for as long as anybody waits for them.
func hanging(verbs ...string) between {
	return func(ctx context.Context, verb string, send func(context.Context) error) error {
		if slices.Contains(verbs, verb) {
			<-ctx.Done()
			return ctx.Err()
		}
		return send(ctx)
	}
}

// panicking is a codec with a bug.
type panicking struct{ jsonCodec }

func (panicking) Marshal(any) ([]byte, error) { panic("marshal") }

// P8. Were such a lease renewed on, one lost release would block its key for an hour.
func TestLeaseThatNobodyHoldsIsNotRenewedOn(t *testing.T) {
	oops := errors.New("oops")
	do := func(c *Coordinator, key Key, result error, opts ...DoOption) (err error) {
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("panic: %v", r)
			}
		}()
		_, _, err = Do(context.Background(), c, key, func(context.Context, *Lease) (int, error) { return 1, result }, opts...)
		return err
	}
	for what, end := range map[string]func(t *testing.T, c *Coordinator, key Key){
		"Release": func(t *testing.T, c *Coordinator, key Key) {
			wantError(t, mustClaim(t, c, key).Release(t.Context()), ErrUnknown)
		},
		"Do of work that fails": func(t *testing.T, c *Coordinator, key Key) {
			wantError(t, do(c, key, oops), oops)
		},
		"Do of work that is done": func(t *testing.T, c *Coordinator, key Key) {
			wantError(t, do(c, key, nil), ErrUnknown)
		},
		"Do of work that fails for good": func(t *testing.T, c *Coordinator, key Key) {
			wantError(t, do(c, key, Final(oops)), ErrUnknown)
		},
		"a panic of the codec": func(t *testing.T, c *Coordinator, key Key) {
			if err := do(c, key, nil, WithCodec(panicking{})); err == nil || err.Error() != "panic: marshal" {
				t.Errorf("got %v", err)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
				rdb.AddHook(losing("release", "complete"))
				c, other := open(t, rdb, WithLease(30*time.Second)), open(t, rdb)
				key := newKey(t)
				end(t, c, key)
				l, err := other.Claim(t.Context(), key, WaitUpTo(33*time.Second)) // a lease and its grace
				if err != nil {
					t.Fatalf("one lease later another claim gets: %v", err)
				}
				if l.Attempt() != 2 {
					t.Errorf("it is attempt %d", l.Attempt())
				}
			})
		})
	}
}

// forgetful is an observer that takes a minute over a lost lease.
type forgetful struct{ noObserver }

func (forgetful) Note(e Event) {
	if e.Outcome == "lost" {
		time.Sleep(time.Minute)
	}
}

// P6. An observer that is slow, on a full log for instance, must not let work go on under a lease that is over.
func TestSlowObserverDelaysNoLeasesEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
		c := open(t, rdb, WithObserver(forgetful{}))
		var leases []*Lease
		for i := range 3 {
			leases = append(leases, mustClaim(t, c, newKey(t), LeaseFor(time.Duration(10+i)*time.Second), ManualRenewal()))
		}
		for i, l := range leases {
			<-l.Context().Done()
			if late := time.Since(l.Deadline()); late > time.Millisecond {
				t.Errorf("lease %d ended %v after its deadline", i, late)
			}
		}
	})
}

// P6. A holder whose Complete hangs is told by its context what a renewal has found out meanwhile: the key is another's.
func TestLossThatIsFoundDuringACompletion(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
		rdb.AddHook(hanging("complete"))
		c := open(t, rdb, WithLease(30*time.Second))
		l := mustClaim(t, c, newKey(t))
		if err := c.Expire(t.Context(), l.Key()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second) // a renewal goes out within ten
		defer cancel()
		wantError(t, l.Complete(ctx, nil), ErrUnknown)
		wantError(t, context.Cause(l.Context()), ErrLeaseLost)
	})
}

// P7. A grant that is over before its reply is here stands until it is given back: who were told that nothing was
// done would find the key taken by himself.
func TestGrantThatArrivesDead(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
		slow := hanging("giveback")
		rdb.AddHook(between(func(ctx context.Context, verb string, send func(context.Context) error) error {
			err := slow(ctx, verb, send)
			if verb == "claim" {
				time.Sleep(130 * time.Millisecond)
			}
			return err
		}))
		c := open(t, rdb)
		if err := c.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		key := newKey(t)
		ctx, cancel := context.WithTimeout(t.Context(), 180*time.Millisecond)
		defer cancel()
		_, err := c.Claim(ctx, key, LeaseFor(100*time.Millisecond))
		wantError(t, err, ErrUnknown)
		if r, err := c.Inspect(t.Context(), key); err != nil || r.State == StateAbsent {
			t.Errorf("it left %v, %v", r.State, err)
		}
	})
}

// lateBatch is a network whose pipelines' replies take their time.
type lateBatch struct{ between }

func (lateBatch) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		time.Sleep(200 * time.Millisecond)
		return err
	}
}

// P6. Of a batch that arrives late one grant may be dead. Giving it back must not cost the others their leases.
func TestBatchWithOneDeadGrant(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
		rdb.AddHook(lateBatch{hanging("giveback")})
		c := open(t, rdb)
		if err := c.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		results := c.ClaimMany(t.Context(), []ClaimRequest{
			{Key: newKey(t), Options: []ClaimOption{LeaseFor(100 * time.Millisecond)}},
			{Key: newKey(t), Options: []ClaimOption{LeaseFor(2 * time.Second)}},
		})
		wantError(t, results[0].Err, ErrUnknown)
		if r := results[1]; r.Err != nil || r.Lease.Context().Err() != nil {
			t.Errorf("the other one: %+v", r)
		}
	})
}

// P6. Renewals and batches go to each master by itself: one that hangs costs nobody on another master his lease.
func TestHungMasterCostsOthersNothing(t *testing.T) {
	onCluster(t, func(t *testing.T, nodes *redistest.Cluster, rdb *redis.ClusterClient) {
		const lease = 2 * time.Second
		ctx := t.Context()
		c := open(t, rdb, WithLease(lease))
		if err := c.Load(ctx); err != nil {
			t.Fatal(err)
		}
		nodeTimeout := func(ms int) {
			t.Helper()
			if err := rdb.ForEachShard(ctx, func(ctx context.Context, node *redis.Client) error {
				return node.ConfigSet(ctx, "cluster-node-timeout", strconv.Itoa(ms)).Err()
			}); err != nil {
				t.Error(err)
			}
		}
		nodeTimeout(60_000) // no failover, in which all masters are down for a moment
		defer nodeTimeout(redistest.NodeTimeout)
		hung, _ := ends(t, nodes, "x")
		elsewhere := func(key Key) bool {
			t.Helper()
			master, err := nodes.MasterFor(ctx, c.names(key).Record)
			if err != nil {
				t.Fatal(err)
			}
			return master != hung
		}
		// Keys on all masters, so that a pipeline that is common to all would have those of the hung one in it.
		var held []*Lease
		for range 20 {
			if l := mustClaim(t, c, newKey(t)); elsewhere(l.Key()) {
				held = append(held, l)
			}
		}
		var reqs []ClaimRequest
		var live []bool
		for range 20 {
			key := newKey(t)
			reqs, live = append(reqs, ClaimRequest{Key: key}), append(live, elsewhere(key))
		}

		if err := hung.Pause(); err != nil {
			t.Fatal(err)
		}
		defer hung.Resume()
		all := time.After(lease + lease/4) // a lease that is not renewed is over by then
		short, cancel := context.WithTimeout(ctx, lease/2)
		defer cancel()
		began := time.Now()
		for i, r := range c.ClaimMany(short, reqs) {
			if live[i] && r.Err != nil {
				t.Errorf("a claim on a master that is well, in one batch with others: %v", r.Err)
			} else if live[i] {
				held = append(held, r.Lease)
			}
		}
		if late := time.Since(began) - lease/2; late > time.Second {
			t.Errorf("ClaimMany returned %v after its context had ended", late)
		}
		<-all
		lost := 0
		for _, l := range held {
			if l.Context().Err() != nil {
				lost++
			}
		}
		if lost > 0 {
			t.Errorf("%d of %d leases on masters that are well were lost", lost, len(held))
		}
	})
}
