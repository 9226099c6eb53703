// Package coordinator decides, on Redis or Redis Cluster, who may run an operation that must take effect once, what
// everyone else gets instead, and whose writes come too late.
//
// Callers name the operation with a [Key]. One of them is granted a [Lease] and works. The others are told that it is
// in progress, wait, or get the stored result. [Do] is all of that in one call:
//
//	receipt, replayed, err := coordinator.Do(ctx, c, key, charge, coordinator.Fingerprint(sum[:]))
//
// and with [Coordinator.Claim] the caller takes the steps itself:
//
//	lease, err := c.Claim(ctx, key, coordinator.Fingerprint(sum[:]))
//	if result, ok := coordinator.ResultOf(err); ok {
//		return result.Payload, nil // somebody did it before
//	}
//	if err != nil {
//		return nil, err // ErrInProgress, ErrMismatch, ...
//	}
//	defer lease.Release(context.WithoutCancel(ctx)) // after Complete it does nothing
//	payload, err := work(lease.Context())           // ends before anyone else can hold the key
//	if err != nil {
//		return nil, err
//	}
//	return payload, lease.Complete(ctx, payload)
//
// # Words
//
//   - A key names one logical operation: the idempotency key that the client sent, within a scope.
//   - The scope is the tenant and the endpoint that a client's key belongs to. [JoinScope] builds it.
//   - The record is what Redis holds for a key: one string, described in docs/protocol.md.
//   - A lease is the right to work on a key for a time. It is renewed by itself until the work is over.
//   - The owner is the random id of one claim, 128 bits.
//   - The token is the fencing token: later grants have greater ones.
//   - A grant is a token with its owner. Who has it can finish the operation, so it is a credential.
//   - A fence domain is the set of keys whose tokens can be compared: a key by itself, or all keys of one resource, of
//     which one at a time holds a lease.
//   - The fingerprint is a digest of what was asked for. A key is bound to it from its first grant on.
//   - The retention is how long a finished record stays.
//   - A takeover is a grant after a lease ran out without completion or release.
//   - A replay hands out a stored result.
//   - A stale grant is not, or is no longer, the current one.
//
// # Promises
//
// The numbers are used in the documentation, in error texts and in tests. P1 to P5 speak of what the master that serves
// the slot now has in its history; what was lost with an earlier one counts as not done.
//
//   - P1, one holder: at most one grant of a key, and of a resource, is current at any moment.
//   - P2, rising tokens: a grant's token exceeds every earlier one of its domain, also when the record was lost. Where the
//     old token survives nowhere this rests on the servers' clocks; [MinToken] repairs what they spoil.
//   - P3, late writers are refused: a grant that is not current changes neither the record nor a value behind a [Fence].
//   - P4, same answer: a stored result is handed to every claim with the same fingerprint, byte for byte, until its
//     retention ends; other fingerprints are refused.
//   - P5, repeating a call is safe, for callers and for the client under them. [Fence.Do] and [Fence.Eval] are sent once
//     instead. A copy of a claim that arrives late may get a grant that nobody works under, for one lease; a late copy
//     of a renewal may prolong a live one by one lease.
//   - P6, the holder knows: a lease's context ends, with cause [ErrLeaseLost], before its lapse can let anyone else in.
//     Loss by other causes is noticed at the next renewal, while writes are refused at once.
//   - P7, no guess: where the outcome of a call cannot be known the error is [ErrUnknown].
//   - P8, nothing is held for ever: a crash costs a lease and its grace, and everything in Redis has a TTL.
//
// Not promised: that the work runs only once. A holder can be paused for longer than its lease, and somebody else takes
// over. What happens once is the recorded result and what is written behind a fence; other effects happen at least once.
//
// # Further reading
//
// docs/states.md has a table of what each call does in each state. docs/keys-and-ttls.md says how to choose keys and times,
// docs/operating.md what to watch and what each error asks for, docs/upgrading.md what a release may change.
// docs/protocol.md describes the record, the scripts and why repeating them is safe. docs/redis.md says how to set up
// servers and clients, with an ACL line to paste. Programs that run are in examples.
package coordinator
