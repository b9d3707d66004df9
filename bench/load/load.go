// Package load generates load: clients that hold connections (Hold), and callers of
// the HTTP API. Hold runs in child processes, because each process has a limit of open
// files.
//
// The clients must cost very little beside the server under test. One process has one
// event loop (epoll). It handles the available bytes of a connection with one read,
// and it allocates nothing for a message. Hold counts only messages that it has read.
// Latencies are differences of the wall clock between processes of one machine: a
// stamped message contains its sending time.
//
// The package is no general client. It speaks only protocol version 2, never
// reconnects after its admission, and stops at the first unexpected event. For a real
// client, use clients/go. Linux only.
package load

import "imgo/internal/histogram"

// Histogram counts durations.
type Histogram = histogram.Histogram
