// Package load makes load: clients that hold connections (Hold, which runs in
// child processes, each within its limit of open files) and callers of the
// HTTP API.
//
// It guarantees that clients cost next to nothing beside the server that they
// are the load of: one event loop (epoll) a process, one read for what a
// connection has, no allocation for a message; and that what it counts it has
// read. Latencies are taken between processes of one machine, by its wall
// clock: messages that carry a stamp say when they were sent.
//
// It is no client to build on: it speaks version 2 only, never reconnects, and
// gives up at the first surprise. clients/go is that client. Linux only.
package load
