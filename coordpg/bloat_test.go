package coordpg

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Marks are rewritten in place, and the room of swept outcomes is used again: neither table grows with what has passed.
func TestTablesDoNotGrowUnderLoad(t *testing.T) {
	pool := newBank(t)
	size := func(table string) int64 { return number(t, pool, `SELECT pg_total_relation_size($1::regclass)`, table) }
	const resources, rounds = 100, 40
	token := int64(0)
	var first int64
	for round := range rounds {
		for i := range resources {
			token++
			if err := inTx(t.Context(), pool, "", func(tx pgx.Tx) error {
				return Admit(t.Context(), tx, string(rune('a'+i%26))+string(rune('0'+i/26)), grant(token, 1))
			}); err != nil {
				t.Fatal(err)
			}
		}
		if round == 0 {
			first = size("coordinator.fences")
		}
	}
	eventually(t, func() error { // statistics come a moment later
		if n := number(t, pool, `SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'fences'`); n < resources*(rounds-1)/2 {
			_, err := pool.Exec(t.Context(), `SELECT pg_stat_force_next_flush()`)
			if err != nil {
				return err
			}
			return fmt.Errorf("only %d updates are counted", n)
		}
		return nil
	})
	hot := number(t, pool, `SELECT 100 * n_tup_hot_upd / n_tup_upd FROM pg_stat_user_tables WHERE relname = 'fences'`)
	last := size("coordinator.fences")
	t.Logf("%d%% of the marks' updates in place; %d bytes after %d rounds, %d after one", hot, last, rounds, first)
	if hot < 90 || last > first+64<<10 {
		t.Error("marks leave dead rows behind")
	}

	fill := func() {
		exec(t, pool, `INSERT INTO coordinator.ledger (expires_at, token, attempt, failed, owner, scope, id, resource, fingerprint, payload)
			SELECT now() - interval '1 second', 1753000000000000, 1, false, decode(repeat('ab', 16), 'hex'), 'tenant-7/POST@2Fpayments', convert_to(gen_random_uuid()::text, 'UTF8'),
				convert_to('account/' || i, 'UTF8'), decode(repeat('cd', 32), 'hex'), decode(repeat('ef', 200), 'hex') FROM generate_series(1, 5000) AS i`)
	}
	var sizes []int64
	for range 4 {
		fill()
		sizes = append(sizes, size("coordinator.ledger"))
		if _, err := Sweep(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
		exec(t, pool, `VACUUM coordinator.ledger`) // as autovacuum does
	}
	t.Logf("an outcome with a payload of 200 bytes takes %d bytes with its indexes; after each filling %v", sizes[0]/5000, sizes)
	if sizes[3] > sizes[0]*3/2 {
		t.Error("the room of swept outcomes is not used again")
	}
}

// The same while several work, publish and sweep at once: what has been published and swept leaves no room behind that is not used.
func TestTablesDoNotGrowUnderConcurrentLoad(t *testing.T) {
	pool := newBank(t)
	_, c := newRedis(t)
	runRelay(t, c, pool, func(context.Context, []Event) error { return nil }, PollEvery(10*time.Millisecond))
	const workers, each = 8, 60
	var sizes [3][]int64
	for range 4 {
		var group sync.WaitGroup
		for w := range workers {
			group.Go(func() {
				for range each {
					if _, _, err := Do(t.Context(), c, pool, newKey(fmt.Sprint(w)), withdraw(fmt.Sprint(w+1), 1), Emit(Event{Topic: "t", Payload: make([]byte, 500)})); err != nil {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
		eventually(t, func() error {
			if n := number(t, pool, `SELECT count(*) FROM coordinator.outbox`); n > 0 {
				return fmt.Errorf("%d events are left", n)
			}
			return nil
		})
		exec(t, pool, `UPDATE coordinator.ledger SET expires_at = now() - interval '1 second'`)
		for range 3 {
			group.Go(func() {
				if _, err := Sweep(t.Context(), pool, SweepBatch(50)); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		for i, table := range []string{"coordinator.fences", "coordinator.ledger", "coordinator.outbox"} {
			exec(t, pool, `VACUUM `+table) // as autovacuum does
			sizes[i] = append(sizes[i], number(t, pool, `SELECT pg_total_relation_size($1::regclass)`, table))
		}
	}
	t.Logf("marks, outcomes and events, after each round: %v", sizes)
	for _, of := range sizes {
		if of[3] > of[1]*5/4 { // the first round has nothing to use again
			t.Errorf("it grows: %v", of)
		}
	}
}
