// Package coordtest is for tests of programs that use coordinator: they run in memory, without Redis.
//
// [New] makes a coordinator on a miniredis of its own. Its server's clock stands still until the test moves it, leases
// and TTLs together; a lease can be made to lapse while its holder still works; the next call can be made to fail, or
// to lose its reply; and what is stored can be looked at:
//
//	func TestLateWorker(t *testing.T) {
//		env := coordtest.New(t)
//		key := coordinator.Key{Scope: "credits", ID: "payment-1"}
//
//		late, err := env.Coordinator.Claim(t.Context(), key)
//		if err != nil {
//			t.Fatal(err)
//		}
//		env.Lapse(key) // the worker is paused here, and its lease runs out
//
//		successor, err := env.Another().Coordinator.Claim(t.Context(), key)
//		if err != nil {
//			t.Fatal(err)
//		}
//		if err := credit(t.Context(), env, successor, 100); err != nil {
//			t.Error(err)
//		}
//		if err := credit(t.Context(), env, late, 100); !errors.Is(err, coordinator.ErrStaleToken) {
//			t.Errorf("the late worker's write: %v", err)
//		}
//	}
//
// A handler that passes such a test writes behind [coordinator.Fence], or carries the token to a store that compares it.
// The package's own tests have this one in full, with a handler that fails it.
//
// Holders count their deadlines on the clock of this process, as they do in production, so what [Env.Advance] does to
// the server they learn at their next renewal. A test that is about the holder's side, such as that work stops when its
// lease is lost, runs in a [testing/synctest] bubble with [NewInBubble]: there one clock drives both.
//
// [RunConformance] is another thing: it holds the promises of this module against a server of the caller's, such as a
// managed Redis or a proxy in front of a cluster.
package coordtest
