package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/chaos/history"
	"github.com/onceward/coordinator/internal/redistest"
)

const (
	pollEvery = 20 * time.Millisecond

	// comeBack bounds everything that has to go on when the run has ended: the promotion of a replica, the return of a
	// server, the healing of the cluster.
	comeBack = 40 * time.Second
)

// Heal waits for the faults that make nodes fail to be over, and then until all slots are served, every master has its
// replica and no slot is on its way. Every fault after which that may be otherwise does so itself.
func (t *Target) Heal(ctx context.Context) error {
	t.nodes.Lock()
	defer t.nodes.Unlock()
	return t.heal(ctx)
}

// heal is Heal for who has made nodes fail himself. It goes on when ctx has ended.
func (t *Target) heal(ctx context.Context) error {
	ctx, cancel := detached(ctx)
	defer cancel()
	t.shape.Lock()
	defer t.shape.Unlock()
	return t.Cluster.Heal(ctx)
}

// breakNodes lets one fault at a time make nodes fail, until the function that it returns is called.
func (t *Target) breakNodes() (whole func()) {
	t.nodes.Lock()
	t.turmoil.Add(1)
	return func() {
		t.turmoil.Add(1)
		t.nodes.Unlock()
	}
}

// calm returns a function that tells whether no fault has made nodes fail since calm was called.
func (t *Target) calm() func() bool {
	before := t.turmoil.Load()
	return func() bool { return before%2 == 0 && t.turmoil.Load() == before }
}

func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), comeBack)
}

// pause lets a fault last, and returns whether it did so for all of the time.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// poll waits until cond returns nil.
func poll(ctx context.Context, what string, cond func() error) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := cond()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("faults: waiting for %s: %w (last: %w)", what, context.Cause(ctx), err)
		}
	}
}

func (t *Target) logf(format string, args ...any) {
	if t.Log != nil {
		t.Log(fmt.Sprintf(format, args...))
	}
}

// float returns a number of [0, 1).
func (t *Target) float() float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.Rand == nil {
		t.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	return t.Rand.Float64()
}

func (t *Target) between(from, to time.Duration) time.Duration {
	return from + time.Duration(t.float()*float64(to-from))
}

func (t *Target) number(n int) int { return int(t.float() * float64(n)) }

// either chooses between two variants: at random the first time, and then the other one each time.
func (t *Target) either(what string) bool {
	first := t.float() < 0.5
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.turns == nil {
		t.turns = map[string]bool{}
	}
	if last, again := t.turns[what]; again {
		first = !last
	}
	t.turns[what] = first
	return first
}

func (t *Target) shuffle(lane []Fault) {
	for i := len(lane) - 1; i > 0; i-- {
		j := t.number(i + 1)
		lane[i], lane[j] = lane[j], lane[i]
	}
}

// beyond returns a time that a lease does not survive, but a run of a minute does.
func (t *Target) beyond() time.Duration {
	length := t.Lease + t.Grace
	return min(length+t.between(length/10, length), 10*time.Second)
}

// shard is a master with its replica.
type shard struct{ master, replica *redistest.Server }

// pick chooses one of the shards that are whole.
func (t *Target) pick(ctx context.Context) (shard, error) {
	masters, err := t.Cluster.Masters(ctx)
	if err != nil {
		return shard{}, err
	}
	if len(masters) == 0 {
		return shard{}, errors.New("faults: the cluster has no masters")
	}
	s := shard{master: masters[t.number(len(masters))]}
	replicas, err := t.Cluster.ReplicasOf(ctx, s.master)
	if err != nil {
		return shard{}, err
	}
	if len(replicas) == 0 {
		return shard{}, fmt.Errorf("faults: %s has no replica", s.master.Addr())
	}
	s.replica = replicas[0]
	return s, nil
}

// moves is which slots were moved when. A slot on its way is concerned by what happens to either side.
type moves struct {
	mu  sync.Mutex
	all []*move
}

type move struct {
	slot     int
	from, to *redistest.Server
	end      int64 // 0 until then
}

func (m *moves) begin(slot int, from, to *redistest.Server) *move {
	m.mu.Lock()
	defer m.mu.Unlock()
	added := &move{slot: slot, from: from, to: to}
	m.all = append(m.all, added)
	return added
}

func (m *moves) over(done *move) {
	if done == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	done.end = history.Now()
}

// touching adds the slots that were on their way from or to one of the servers at the time or later.
func (m *moves) touching(slots [][2]int, since int64, servers ...*redistest.Server) [][2]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, one := range m.all {
		if (one.end == 0 || one.end >= since) && (slices.Contains(servers, one.from) || slices.Contains(servers, one.to)) {
			slots = append(slots, [2]int{one.slot, one.slot})
		}
	}
	return merged(slots)
}

// merged puts ranges in order and overlapping ones together.
func merged(slots [][2]int) [][2]int {
	slots = slices.Clone(slots)
	slices.SortFunc(slots, func(a, b [2]int) int { return a[0] - b[0] })
	var out [][2]int
	for _, s := range slots {
		if last := len(out) - 1; last >= 0 && s[0] <= out[last][1]+1 {
			out[last][1] = max(out[last][1], s[1])
		} else {
			out = append(out, s)
		}
	}
	return out
}

// ask sends one command to one server, past all proxies.
func ask(ctx context.Context, s *redistest.Server, args ...any) *redis.Cmd {
	client := plain(s)
	defer client.Close()
	return client.Do(ctx, args...)
}

func plain(s *redistest.Server) *redis.Client {
	return s.Client(&redis.Options{
		Protocol: 2, DisableIdentity: true, MaxRetries: 2, DialerRetries: 1, PoolSize: 2,
		DialTimeout: time.Second, ReadTimeout: 2 * time.Second, WriteTimeout: 2 * time.Second,
	})
}

// info reads one number out of a section of INFO; what is not there is 0.
func info(ctx context.Context, s *redistest.Server, section, field string) (int64, error) {
	text, err := ask(ctx, s, "INFO", section).Text()
	if err != nil {
		return 0, fmt.Errorf("faults: INFO of %s: %w", s.Addr(), err)
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), field+":"); ok {
			return strconv.ParseInt(strings.TrimPrefix(value, "count="), 10, 64)
		}
	}
	return 0, nil
}
