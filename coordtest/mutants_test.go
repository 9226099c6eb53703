package coordtest

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// Each mutant is a script with a piece of it broken. The coordinator sends the right one; on its way the hook puts
// the mutant in its place. The named check must find it.
var mutants = []struct {
	name   string
	verb   string
	change []string // pairs: what is replaced, by what
	check  string
}{
	{"complete without the owner check", "complete", []string{"if sub(rec, 1, 50) ~= head then", "if false then"}, lateWorkers},
	{"complete again with other bytes", "complete", []string{"or sub(rec, 75 + num(rec, 60, 61)) ~= sub(stored, 75 + num(stored, 60, 61))", ""}, "P4 an outcome is final"},
	{"complete keeps the old TTL", "complete", []string{"'PX', keep(retention, token_of(stored), now))", "'KEEPTTL')"}, everyTTL},
	{"complete wakes nobody", "complete", []string{"wake(rec, KEYS[1])", ""}, woken},
	{"complete keeps the resource", "complete", []string{"if fence then clear", "if false then clear"}, "P1 one key of a resource holds a lease at a time"},
	{"complete anew without the resource", "complete", []string{"refusal = select(2, hold(fence, head, nil, 2))", ""}, everyCell + ", of a resource"},
	{"mint without last + 1", "claim", []string{"if last >= token then return last + 1 end", "if last >= token then return last end"}, "P2 tokens exceed MinToken from then on"},
	{"mint without the clock", "claim", []string{"local token = time[1] * 1000000 + time[2]", "local token = 1"}, "P2 tokens rise over everything that ends a grant"},
	{"claim is not idempotent for its owner", "claim", []string{"if rec and sub(rec, 3, 34) == owner then", "if false then"}, "P5 a claim asked again by its owner is the same claim"},
	{"claim ignores the fingerprint", "claim", []string{"return {MISMATCH}", "size = 0"}, "P4 a key is bound to its first fingerprint, until it is expired"},
	{"claim ignores a live lease", "claim", []string{"if now < lease_end(rec, fence, now) then return stands(IN_PROGRESS, rec, fence, now) end", ""}, "P1 many claim a key at once, one gets it"},
	{"claim ignores the resource", "claim", []string{"if fence and sub(fence, 2, 2) == 'p' and", "if false and"}, "P1 many claim keys of a resource at once, one gets it"},
	{"claim takes a give back for a record", "claim", []string{"or state == 'r' and num(rec, 87, 99) == 1", ""}, oldKeys},
	{"claim cuts the replay", "claim", []string{"state == 102) then return rec end", "state == 102) then return string.sub(rec, 1, #rec - 1) end"}, "P4 a result is replayed byte for byte"},
	{"claim takes over what is in quarantine", "claim", []string{"if find(flags, 'q', 1, true) then return {UNCERTAIN} end", ""}, "P3 what lapsed in quarantine waits for its resolution"},
	{"claim sets no TTL", "claim", []string{"    redis.call('SET', name, rec, 'PX', ttl)", "    redis.call('SET', name, rec)"}, "P1 many claim a key at once, one gets it"},
	{"claim loses the checkpoint", "claim", []string{"mark, checkpoint = sub(rec, 51, 51), sub(rec, 100 + size)", ""}, "P5 a checkpoint outlives its attempt"},
	{"renew revives what lapsed", "renew", []string{"if now >= stop then return {LOST} end", ""}, everyCell},
	{"renew beyond the maximum lifetime", "renew", []string{"math.min(math.max(stop, now + ARGV[2]), num(rec, 87, 99))", "math.max(stop, now + ARGV[2])"}, "P8 a lease is renewed, up to its maximum lifetime"},
	{"renew shortens the TTL", "renew", []string{"'PX', math.max(ttl, left))", "'PX', stop - now)"}, everyTTL},
	{"an older checkpoint overwrites", "checkpoint", []string{"if there >= ARGV[2] then return {STALE, sub(rec, 1, 99)} end", ""}, copies},
	{"release after complete", "release", []string{"if sub(rec, 1, 50) ~= head then", "if sub(rec, 3, 50) ~= sub(head, 3) then"}, "P4 an outcome is final"},
	{"release by anybody", "release", []string{"if sub(rec, 1, 50) ~= head then", "if false then"}, everyCell},
	{"give back by anybody", "giveback", []string{"if sub(rec, 2, 34) ~= 'p' .. ARGV[1] then return {OK} end", ""}, lateWorkers},
	{"give back leaves what expire does", "giveback", []string{"token, now, 1)", "token, now, 0)"}, oldKeys},
	{"expire leaves what give back does", "expire", []string{"token, now, 0)", "token, now, 1)"}, oldKeys},
	{"expire unconditionally", "expire", []string{"if sub(rec, 3, 50) ~= ARGV[1] then return {OK} end", ""}, copies},
	{"expire compares tokens only", "expire", []string{"sub(rec, 3, 50) ~= ARGV[1]", "sub(rec, 35, 50) ~= sub(ARGV[1], -16)"}, lateOperators},
	{"resolve compares tokens only", "resolve", []string{"sub(rec, 3, 50) ~= ARGV[1]", "sub(rec, 35, 50) ~= sub(ARGV[1], -16)"}, lateOperators},
	{"expire keeps the key bound", "expire", []string{"'1r%s%016.0f00000000099", "'1r%s%016.0f00000000000"}, "P4 a key is bound to its first fingerprint, until it is expired"},
	{"resolve what is in progress", "resolve", []string{"if now < lease_end(rec, fence, now) then return {IN_PROGRESS, sub(rec, 1, 99), now} end", ""}, everyCell},
	{"resolve without raising the token", "resolve", []string{"format('%016.0f', token)", "sub(rec, 35, 50)"}, "P3 what lapsed in quarantine waits for its resolution"},
	{"the waiter's mark is lost", "mark", []string{"redis.call('SET', KEYS[1], sub(rec, 1, 50) .. mark .. sub(rec, 52), 'KEEPTTL')", ""}, woken},
	{"a fence without its check", "fence_do", []string{"sub(current, 1, 50) ~= ARGV[1]", "false"}, fences},
	{"a fence that compares tokens only", "fence_do", []string{"sub(current, 1, 50) ~= ARGV[1]", "sub(current, 35, 50) ~= sub(ARGV[1], 35)"}, "P3 an equal token of another owner is refused"},
	{"a fence for scripts without its check", "fence_eval", []string{"sub(current, 1, 50) ~= ARGV[1]", "false"}, fences},
}

// Checks that find several.
const (
	everyCell     = "P1 to P4 every state meets every verb"
	everyTTL      = "P8 everything has a TTL, and a result stays its retention"
	woken         = "P8 waiters are woken, and need not look"
	copies        = "P5 copies of requests that arrive late change nothing"
	fences        = "P3 a fence lets only the current grant write"
	oldKeys       = "P8 a key older than the retention is refused"
	lateOperators = "P5 a late copy of what an operator did tells equal tokens apart"
	lateWorkers   = "P3 a lease that lapsed may still finish, until it is taken over"
)

func find(t *testing.T, name string) check {
	t.Helper()
	all := checks()
	at := slices.IndexFunc(all, func(c check) bool { return c.name() == name })
	if at < 0 {
		t.Fatalf("no check is named %q", name)
	}
	return all[at]
}

func TestMutantsAreFound(t *testing.T) {
	t.Parallel()
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			c, s := find(t, m.check), newSwap(t, m.verb, m.change)
			found := judge(t, c, s)
			if s.swapped == 0 {
				t.Error("the mutant was never sent")
			}
			if len(found) == 0 {
				t.Errorf("the check %q does not find it", m.check)
			} else if strings.Contains(found[0], "redis unavailable") {
				t.Errorf("it does not run, which proves nothing: %s", found[0])
			} else {
				t.Logf("found by %q: %.200s", m.check, found[0])
			}
		})
	}
}

// The same judge, without a mutant, finds nothing: what TestMutantsAreFound sees is the mutants' doing.
func TestJudgeFindsNothingInTheRightScripts(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, m := range mutants {
		names[m.check] = true
	}
	for name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if found := judge(t, find(t, name), newSwap(t, "claim", nil)); len(found) > 0 {
				t.Error(found)
			}
		})
	}
}

// judge runs a check on a miniredis of its own and returns what it finds.
func judge(t *testing.T, c check, s *swap) []string {
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	defer rdb.Close()
	rdb.AddHook(s)
	j := &jury{ctx: t.Context()}
	done := make(chan struct{})
	go func() { // Fatalf ends the goroutine
		defer close(done)
		defer j.cleanUp()
		c.run(newTrial(j, rdb))
	}()
	<-done
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.found
}

// jury is a reporter that keeps what it is told.
type jury struct {
	ctx context.Context

	mu       sync.Mutex
	found    []string
	cleanups []func()
}

func (j *jury) Helper()                  {}
func (j *jury) Logf(string, ...any)      {}
func (j *jury) Context() context.Context { return j.ctx }
func (j *jury) Cleanup(fn func())        { j.cleanups = append(j.cleanups, fn) }
func (j *jury) Errorf(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.found = append(j.found, fmt.Sprintf(format, args...))
}

func (j *jury) Fatalf(format string, args ...any) {
	j.Errorf(format, args...)
	runtime.Goexit()
}

func (j *jury) cleanUp() {
	for _, fn := range slices.Backward(j.cleanups) {
		fn()
	}
}

// swap is a hook that sends another text in the place of one verb's script.
type swap struct {
	sha    string
	change []string // pairs
	text   string   // after the change
	head   string   // fence_eval.lua up to the user's text, which is different each time

	mu      sync.Mutex
	swapped int
}

func newSwap(t *testing.T, verb string, change []string) *swap {
	t.Helper()
	read := func(name string) string {
		text, err := os.ReadFile("../scripts/" + name + ".lua")
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	// Put together as the root package does.
	text := read(verb)
	if before, after, ok := strings.Cut(text, "--[[COMMON]]\n"); ok {
		text = before + read("common") + after
	} else {
		text = read("common") + text
	}
	for i := 0; i < len(change); i += 2 {
		if !strings.Contains(text, change[i]) {
			t.Fatalf("scripts/%s.lua has no %q", verb, change[i])
		}
	}
	s := &swap{sha: shaOf(text), change: change, text: mutate(text, change)}
	if before, _, ok := strings.Cut(text, "--[[TEXT]]"); ok {
		s.sha, s.head = "", before
	}
	return s
}

func mutate(text string, change []string) string {
	for i := 0; i < len(change); i += 2 {
		text = strings.ReplaceAll(text, change[i], change[i+1])
	}
	return text
}

func shaOf(text string) string {
	sum := sha1.Sum([]byte(text))
	return hex.EncodeToString(sum[:])
}

func (s *swap) replace(cmd redis.Cmder) {
	args := cmd.Args()
	if name := cmd.Name(); name != "evalsha" && name != "eval" {
		return
	}
	text, _ := args[1].(string)
	switch {
	case cmd.Name() == "evalsha" && text == s.sha, cmd.Name() == "eval" && shaOf(text) == s.sha:
		args[0], args[1] = "eval", s.text
	case cmd.Name() == "eval" && s.head != "" && strings.HasPrefix(text, s.head):
		args[1] = mutate(text, s.change) // the server never learns the right one, so each is sent whole
	default:
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.swapped++
}

func (s *swap) DialHook(next redis.DialHook) redis.DialHook { return next }
func (s *swap) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		s.replace(cmd)
		return next(ctx, cmd)
	}
}

func (s *swap) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			s.replace(cmd)
		}
		return next(ctx, cmds)
	}
}
