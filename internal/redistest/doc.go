// Package redistest starts real redis-servers for tests: one alone, with
// replicas, with sentinels, or as a Redis Cluster.
//
// A library which promises something about failures has to be tried against
// the failures of the real thing: a primary that dies with kill -9, a replica
// that is promoted, a slot that moves. None of that can be had from a fake.
//
// Nothing here needs a *testing.T, so that benchmarks and chaos programs can
// use it as well; the helpers which take a testing.TB are thin layers on top
// (see [Need], [Run], [RunCluster] and [Pool]).
//
// Every server listens on 127.0.0.1 only, works in a temporary directory of
// its own, and dies with the process that started it.
package redistest
