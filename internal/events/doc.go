// Package events is the events topic: what became of each message.
//
// An event is an output of applying a record of the kept log, so two routers that apply
// the same log derive the same events with the same ids. Every router of a partition
// appends them, which can only repeat them. A reader drops an event whose id is not
// higher than the last one of its partition. The rest has each event once, in order.
//
// The package has the form of an event (Event), the reader of one partition (Reader) and
// the reader of the whole topic that callers of the API use (Feed). It does not derive
// events and does not open topics.
package events
