// Package coordgrpc makes unary gRPC methods take effect once for each idempotency key.
//
// On the server, [New] makes interceptors: the first call with a key in its metadata runs the handler under a lease, and its answer,
// a response or a final status, is stored; every other one gets that answer, or a status that says what to do. On the client,
// [Client] makes keys, retries, and sends the fencing token of the work at hand to the services that it is for; there,
// [RequireGrant] refuses stale ones.
//
// Streams pass through. docs/grpc.md has the whole table of what is answered when.
package coordgrpc
