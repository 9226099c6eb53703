// Package coordhttp makes HTTP endpoints take effect once for each idempotency key.
//
// On the server, [New] makes a middleware: the first request with a key runs the handler under a lease, and its answer is stored;
// every other one gets that answer, or a problem (RFC 9457) that says what to do. On the client, [Transport] makes keys and
// retries. Between services, [GrantTransport] sends the fencing token of the work at hand, and [RequireGrant] refuses stale ones.
//
// docs/http.md has the whole table of what is answered when.
package coordhttp
