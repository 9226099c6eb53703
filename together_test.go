package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/protocol"
)

// Claims of one key at the same time, in one process: few are sent, and each caller gets what his own would have got.

// far is a server at a distance: the replies to claims come late.
type far struct {
	commands
	takes func(claim int) time.Duration // the how manieth claim it is, from 1
	seen  atomic.Int64
}

func (f *far) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	next = f.commands.ProcessHook(next)
	return func(ctx context.Context, cmd redis.Cmder) error {
		defer f.travel(cmd)
		return next(ctx, cmd)
	}
}

func (f *far) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	next = f.commands.ProcessPipelineHook(next)
	return func(ctx context.Context, cmds []redis.Cmder) error {
		defer f.travel(cmds...)
		return next(ctx, cmds)
	}
}

func (f *far) travel(cmds ...redis.Cmder) {
	longest := time.Duration(0)
	for _, cmd := range cmds {
		if cmd.Name() == "evalsha" && verbOf(cmd.Args()) == "claim" {
			longest = max(longest, f.takes(int(f.seen.Add(1))))
		}
	}
	time.Sleep(longest)
}

const way = 10 * time.Millisecond

// farAway runs a test in a bubble where the reply to a claim takes a way, or as long as takes says.
func farAway(t *testing.T, takes func(claim int) time.Duration, test func(t *testing.T, c *Coordinator, f *far), opts ...Option) {
	t.Helper()
	inBubble(t, func(t *testing.T, _ *miniredis.Miniredis, rdb *redis.Client) {
		f := &far{takes: func(int) time.Duration { return 0 }}
		rdb.AddHook(f)
		c, err := New(rdb, opts...)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		if f.takes = takes; takes == nil {
			f.takes = func(int) time.Duration { return way }
		}
		test(t, c, f)
		time.Sleep(2 * time.Second) // replies that nobody waits for any more
		if n := c.flights.Len(); n != 0 {
			t.Errorf("%d entries are left", n)
		}
	})
}

// claimed is what one of several claims came to.
type claimed struct {
	lease *Lease
	err   error
	took  time.Duration
}

// atOnce has claims begin one behind the other, in no time, and returns what they came to once all have an answer.
func atOnce(ctx context.Context, c *Coordinator, key Key, callers int, opts ...ClaimOption) (wait func() []claimed) {
	all := make([]claimed, callers)
	var group sync.WaitGroup
	for i := range all {
		group.Go(func() {
			began := time.Now()
			lease, err := c.Claim(ctx, key, opts...)
			all[i] = claimed{lease, err, time.Since(began)}
		})
		if callers <= 10 || i == 0 {
			synctest.Wait()
		}
	}
	synctest.Wait()
	return func() []claimed { group.Wait(); return all }
}

func leases(all []claimed) (n int) {
	for _, a := range all {
		if a.lease != nil {
			n++
		}
	}
	return n
}

// P1. A thousand want to run what has never run: one does, and the others learn it from one more claim.
func TestThousandClaimsOfAFreshKey(t *testing.T) {
	farAway(t, nil, func(t *testing.T, c *Coordinator, f *far) {
		key := newKey(t)
		all := atOnce(t.Context(), c, key, 1000, LeaseFor(time.Minute))()
		if n := leases(all); n != 1 || all[0].lease == nil {
			t.Errorf("%d leases, the first one's: %v", n, all[0].lease)
		}
		for _, a := range all[1:] {
			busy, ok := errors.AsType[*InProgressError](a.err)
			if !ok || busy.Attempt != 1 || busy.Key != key || busy.RetryAfter <= time.Minute || busy.RetryAfter > 66*time.Second {
				t.Fatalf("%#v, %v", busy, a.err)
			}
		}
		if n := f.count("claim"); n != 2 {
			t.Errorf("%d claims for a thousand callers", n)
		}
	})
}

// P1, P4. The one who leads the others is granted what the first one has given up: they are told that he has it.
func TestGrantIsTheLeadersAlone(t *testing.T) {
	farAway(t, nil, func(t *testing.T, c *Coordinator, f *far) {
		key := newKey(t)
		lease := mustClaim(t, c, key)
		// A claim is out that sees nothing of what follows; those behind it find the key free.
		out, behind := atOnce(t.Context(), c, key, 1), atOnce(t.Context(), c, key, 100)
		if err := lease.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantError(t, out()[0].err, ErrInProgress)
		sent := f.count("claim")
		all := behind()
		if n := leases(all); n != 1 {
			t.Errorf("%d leases of one key", n)
		}
		for _, a := range all {
			if a.lease != nil {
				continue
			}
			busy, ok := errors.AsType[*InProgressError](a.err)
			if !ok || busy.Attempt != 2 || busy.RetryAfter <= 0 {
				t.Fatalf("%#v, %v", busy, a.err)
			}
		}
		if n := f.count("claim") - sent; n > 1 {
			t.Errorf("%d claims of those who waited", n)
		}
	})
}

// The whole way: one runs, all others wait for its result and get it.
func TestThousandDosOfAFreshKey(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		count := &commands{}
		rdb.AddHook(count)
		c := open(t, rdb)
		key, ran := newKey(t), atomic.Int64{}
		var group sync.WaitGroup
		for range 1000 {
			group.Go(func() {
				v, _, err := Do(t.Context(), c, key, func(context.Context, *Lease) (int64, error) {
					time.Sleep(300 * time.Millisecond)
					return ran.Add(1), nil
				}, WaitUpTo(time.Minute))
				if v != 1 || err != nil {
					t.Errorf("%d, %v", v, err)
				}
			})
		}
		group.Wait()
		if n := ran.Load(); n != 1 {
			t.Errorf("it ran %d times", n)
		}
		if n := count.count("claim"); n > 50 {
			t.Errorf("%d claims for a thousand callers", n)
		}
		if n := c.flights.Len(); n != 0 {
			t.Errorf("%d entries are left", n)
		}
	})
}

// P4. Replays of one key at once take two claims, and each caller has a payload of his own.
func TestReplaysAtOnce(t *testing.T) {
	farAway(t, nil, func(t *testing.T, c *Coordinator, f *far) {
		key := newKey(t)
		finish(t, c, key, "result")
		sent := f.count("claim")
		all := atOnce(t.Context(), c, key, 64)()
		for i, a := range all {
			r, ok := ResultOf(a.err)
			if !ok || string(r.Payload) != "result" || r.Failed || r.Token == 0 || r.CompletedAt.IsZero() {
				t.Fatalf("%d: %+v, %v", i, r, a.err)
			}
			copy(r.Payload, "spoilt")
		}
		if n := f.count("claim") - sent; n != 2 {
			t.Errorf("%d claims for 64 callers", n)
		}
	})
}

// The same on a server, without pauses: what is saved is not a matter of a slow network.
func TestHotKey(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		count := &commands{}
		rdb.AddHook(count)
		c := open(t, rdb)
		key := newKey(t)
		finish(t, c, key, "result")
		var group sync.WaitGroup
		const callers, each = 64, 50
		for range callers {
			group.Go(func() {
				for range each {
					_, err := c.Claim(t.Context(), key)
					if r, ok := ResultOf(err); !ok || string(r.Payload) != "result" {
						t.Errorf("%+v, %v", r, err)
					} else {
						copy(r.Payload, "spoilt")
					}
				}
			})
		}
		group.Wait()
		if n := count.count("claim"); n > callers*each/4 {
			t.Errorf("%d claims for %d callers %d times", n, callers, each)
		}
	})
}

// P4. Who begins after an Expire has returned gets nothing of before, whatever is under way: he works anew.
func TestClaimBehindAnExpireIsNotAnsweredFromBefore(t *testing.T) {
	for _, waiting := range []int{0, 3} { // who had come before: then it is their claim that is out
		farAway(t, nil, func(t *testing.T, c *Coordinator, _ *far) {
			key := newKey(t)
			finish(t, c, key, "old")
			old := atOnce(t.Context(), c, key, 1+waiting)
			time.Sleep(way / 2)
			if waiting > 0 {
				time.Sleep(way)
			}
			if err := c.Expire(t.Context(), key); err != nil {
				t.Fatal(err)
			}
			anew := atOnce(t.Context(), c, key, 1)()
			if anew[0].err != nil {
				t.Errorf("behind the expiry, with %d waiting before: %v", waiting, anew[0].err)
			}
			for _, a := range old() {
				if r, ok := ResultOf(a.err); !ok || string(r.Payload) != "old" {
					t.Errorf("before the expiry: %v", a.err)
				}
			}
		})
	}
}

// A claim without a reply keeps others for a moment and no longer, and they do with one claim.
func TestClaimThatHangsHoldsNobodyUp(t *testing.T) {
	takes := func(claim int) time.Duration {
		if claim == 2 {
			return time.Second
		}
		return way
	}
	farAway(t, takes, func(t *testing.T, c *Coordinator, f *far) {
		key := newKey(t)
		finish(t, c, key, "result")
		hung := atOnce(t.Context(), c, key, 1)
		sent := f.count("claim")
		for _, a := range atOnce(t.Context(), c, key, 100)() {
			wantError(t, a.err, ErrCompleted)
			if a.took > longestHold+way {
				t.Errorf("held up for %v", a.took)
			}
		}
		if n := f.count("claim") - sent; n != 1 {
			t.Errorf("%d claims of those who were held up", n)
		}
		wantError(t, hung()[0].err, ErrCompleted)
	})
}

// Who leaves gets the error of one who was not sent, at once, and the others do without him.
func TestContextEndsBehindAnotherClaim(t *testing.T) {
	farAway(t, nil, func(t *testing.T, c *Coordinator, f *far) {
		key := newKey(t)
		finish(t, c, key, "result")
		first := atOnce(t.Context(), c, key, 1)
		why := errors.New("gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		leaving, staying := atOnce(ctx, c, key, 3), atOnce(t.Context(), c, key, 3)
		sent := f.count("claim")
		time.Sleep(way / 2)
		cancel(why)
		for _, a := range leaving() {
			wantError(t, a.err, ErrUnavailable)
			if a.took != way/2 || !errors.Is(a.err, why) {
				t.Errorf("after %v: %v", a.took, a.err)
			}
		}
		for _, a := range slices.Concat(first(), staying()) {
			wantError(t, a.err, ErrCompleted)
		}
		if n := f.count("claim") - sent; n != 1 {
			t.Errorf("%d claims of those who stayed", n)
		}
	})
}

// A call without a deadline keeps to its timeout, whatever it waits for.
func TestTimeoutBehindAClaimThatHangs(t *testing.T) {
	farAway(t, func(int) time.Duration { return time.Second }, func(t *testing.T, c *Coordinator, _ *far) {
		for _, a := range atOnce(t.Context(), c, newKey(t), 5)() {
			wantError(t, a.err, ErrUnknown)
			if a.took > 70*time.Millisecond {
				t.Errorf("a call of 50ms took %v", a.took)
			}
		}
	}, WithTimeout(50*time.Millisecond))
}

// P7. Where the leader has no answer, or one that is his alone, each asks for himself.
func TestAnswerOfTheLeaderAlone(t *testing.T) {
	t.Run("no reply", func(t *testing.T) {
		farAway(t, nil, func(t *testing.T, c *Coordinator, _ *far) {
			key := newKey(t)
			finish(t, c, key, "result")
			first := atOnce(t.Context(), c, key, 1)
			ctx, cancel := context.WithCancel(t.Context())
			leading, others := atOnce(ctx, c, key, 1), atOnce(t.Context(), c, key, 3)
			first()
			time.Sleep(way / 2)
			cancel()
			leading()
			for _, a := range others() {
				wantError(t, a.err, ErrCompleted)
			}
		})
	})
	t.Run("its own options", func(t *testing.T) {
		farAway(t, nil, func(t *testing.T, c *Coordinator, _ *far) {
			key := newKey(t)
			old := IssuedAt(time.Now().Add(-48 * time.Hour))
			first, leading, others := atOnce(t.Context(), c, key, 1, old), atOnce(t.Context(), c, key, 1, old), atOnce(t.Context(), c, key, 2)
			wantError(t, first()[0].err, ErrKeyExpired)
			wantError(t, leading()[0].err, ErrKeyExpired)
			if n := leases(others()); n != 1 {
				t.Errorf("%d leases", n)
			}
		})
	})
	for code := range protocol.End {
		whole := slices.Contains([]protocol.Code{protocol.OK, protocol.Finished, protocol.Mismatch, protocol.InProgress, protocol.Blocked}, code)
		unsure := slices.Contains([]protocol.Code{protocol.Mismatch, protocol.InProgress, protocol.Blocked}, code)
		k := &call{}
		k.Reply = protocol.Reply{Code: code, Rec: protocol.Record{Mark: '0'}}
		if k.servesAll() {
			t.Errorf("code %d, without a reply, is told to others", code)
		}
		if k.Settled = true; k.servesAll() != whole {
			t.Errorf("code %d told to others: %v", code, !whole)
		}
		if k.Unconfirmed = true; k.servesAll() != unsure {
			t.Errorf("code %d, which replicas did not confirm, told to others: %v", code, !unsure)
		}
		if k.Err = errors.New("lost"); k.servesAll() {
			t.Errorf("code %d, with an error, is told to others", code)
		}
	}
}

// P4. Fingerprints go side by side, and each gets the answer for his own.
func TestFingerprintsSideBySide(t *testing.T) {
	farAway(t, nil, func(t *testing.T, c *Coordinator, f *far) {
		key := newKey(t)
		prints := [][]ClaimOption{nil, {Fingerprint([]byte{0})}, {Fingerprint([]byte{0, 0})}, {Fingerprint([]byte("fp"))}}
		var waits []func() []claimed
		for _, opts := range prints {
			waits = append(waits, atOnce(t.Context(), c, key, 20, opts...))
		}
		for i, wait := range waits {
			all := wait()
			for j, a := range all {
				want := ErrMismatch
				if i == 0 {
					want = ErrInProgress
				}
				if i+j > 0 {
					wantError(t, a.err, want)
				} else if a.err != nil {
					t.Error(a.err)
				}
				if a.took > 2*way {
					t.Errorf("fingerprint %d was held up for %v", i, a.took)
				}
			}
		}
		if n := f.count("claim"); n != 2*len(prints) {
			t.Errorf("%d claims for %d fingerprints", n, len(prints))
		}
	})
}

// What else tells answers apart, and what does not.
func TestWhichClaimsAreAlike(t *testing.T) {
	c := open(t, redis.NewClient(&redis.Options{}))
	key := newKey(t)
	alikeOf := func(key Key, opts ...ClaimOption) alike {
		q, err := c.newClaim(key, opts)
		if err != nil {
			t.Fatal(err)
		}
		return q.alike()
	}
	plain := alikeOf(key)
	if alikeOf(key, LeaseFor(time.Second), MinToken(5), ManualRenewal(), WaitUpTo(time.Second), IssuedAt(time.Now())) != plain {
		t.Error("options that no shared answer depends on tell claims apart")
	}
	other := key
	other.Resource = "account"
	for _, a := range []alike{alikeOf(key, QuarantineLapsed()), alikeOf(key, Fingerprint([]byte{0})), alikeOf(other)} {
		if a == plain {
			t.Errorf("%+v is like the one without", a)
		}
	}
}

// Those who are told of a holder, of the key or of its resource, wait for him like those who have asked themselves.
func TestWaitersAmongThoseWhoAreTold(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		for _, resource := range []string{"", "shared"} {
			t.Run(fmt.Sprintf("resource %q", resource), func(t *testing.T) {
				c := open(t, rdb)
				key := newKey(t)
				held := key
				if resource != "" {
					key.Resource, held.Resource = key.ID, key.ID
					held.ID += "another"
				}
				lease := mustClaim(t, c, held, LeaseFor(time.Minute))
				var group sync.WaitGroup
				var ran atomic.Int64
				for range 50 {
					group.Go(func() {
						v, _, err := Do(t.Context(), c, key, func(context.Context, *Lease) (string, error) {
							ran.Add(1)
							return "result", nil
						}, WaitUpTo(time.Minute))
						if v != "result" || err != nil {
							t.Errorf("%q, %v", v, err)
						}
					})
				}
				eventually(t, 10*time.Second, "all wait", func() bool { return waiters(c) == 50 })
				if err := lease.Release(t.Context()); err != nil {
					t.Fatal(err)
				}
				group.Wait()
				if n := ran.Load(); n != 1 {
					t.Errorf("it ran %d times", n)
				}
			})
		}
	})
}

// Who asks again under an owner is not told of others' claims, and a batch keeps nobody waiting.
func TestOwnersAndBatchesGoAlone(t *testing.T) {
	farAway(t, nil, func(t *testing.T, c *Coordinator, f *far) {
		key := newKey(t)
		lease := mustClaim(t, c, key)
		first, behind := atOnce(t.Context(), c, key, 1), atOnce(t.Context(), c, key, 3)
		sent := f.count("claim")
		again := atOnce(t.Context(), c, key, 1, Owner(lease.Grant().Owner))
		if n := f.count("claim") - sent; n != 1 {
			t.Errorf("%d claims are out of one who asks again", n)
		}
		began := time.Now()
		for _, r := range c.ClaimMany(t.Context(), []ClaimRequest{{Key: key}, {Key: newKey(t)}}) {
			if r.Lease == nil {
				wantError(t, r.Err, ErrInProgress)
			}
		}
		if took := time.Since(began); took != way {
			t.Errorf("a batch took %v", took)
		}
		if a := again()[0]; a.err != nil || a.lease.Grant() != lease.Grant() || a.took != way {
			t.Errorf("asked again: %v after %v", a.err, a.took)
		}
		for _, a := range slices.Concat(first(), behind()) {
			wantError(t, a.err, ErrInProgress)
		}
	})
}
