// Package coordmsg lets messages that are delivered at least once take effect once: those of Kafka, SQS, NATS, RabbitMQ and Redis
// Streams, and webhooks.
//
// [Handle] runs a handler under a lease on the message's key and says what its consumer is to do with the message: acknowledge it,
// have it delivered again later, or park it where people look. [HandleBatch] does so for many, which it claims in one round trip per
// node. The key must be what the producer gave the message, such as an event's or a delivery's ID, and not what a broker gives
// each delivery. docs/messages.md has the table of what leads to what.
//
// A handler takes effect once if what it writes is behind a fence (coordinator.Fence, coordpg) or is written so that twice is as good as
// once: an attempt that wrote and then crashed, before its completion was stored, is run again.
package coordmsg
