// Package hooks posts the events topic to the addresses that the operator configured, and keeps what
// they did not take.
//
// Each hook reads the topic as a consumer group of its own. It guarantees that an event is posted at
// least once, with the same webhook-id on each try. The events of a user are posted in their order: the
// next one only after the one before was answered or set aside. An event that fails holds up its user
// only. An address that is down holds up its hook, and loses nothing.
//
// An event is set aside as a dead letter if the address refuses it, or if it fails for longer than
// Config.RetryFor while others succeed. A dead letter is a place in the events topic, so it lasts as long
// as the topic keeps it. Replaying reads it again. Events that leave the topic before they are read are
// logged and counted.
//
// One entry of a table has the events of a partition that a hook has yet to post: where to read on, and which events
// before that place wait or were set aside. A job goes on from the newest entry alone. The position of the consumer
// group is for people, and for the case that the table is lost. No order of the writes of two jobs can lose an event by
// that: each entry is complete, and an older one only repeats events.
//
// The package does not derive events (roles/router does), and does not open
// topics (roles does).
package hooks
