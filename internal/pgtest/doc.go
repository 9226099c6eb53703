// Package pgtest runs PostgreSQL for tests: a cluster of its own in a temporary directory, on a free port of the
// loopback interface, as an unprivileged user. It knows no client library; what it hands out is a connection string.
package pgtest
