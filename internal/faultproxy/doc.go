// Package faultproxy stands between Redis clients and one server, and lets a
// test choose what goes wrong with which command.
//
// The failure which matters most to a coordinator is the ambiguous one: the
// server has run a command and the client never learns of it, or a command
// arrives long after its sender has given up. Killing servers produces these
// by chance; this proxy produces them on purpose. To do so it takes apart the
// requests of a connection and pairs each with its reply, without knowing what
// any command means.
//
// What it cannot pair it passes on untouched: once a client subscribes, the
// rest of that connection is out of reach of the rule (see [Rule]). Streams
// which are not RESP, as replication is, are not supported.
package faultproxy
