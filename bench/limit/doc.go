// Package limit is what the machine can do without imgo, for figures to be
// read beside: accepted sockets and plain writes of the same bytes (Writer),
// sockets that are accepted, read from and answered (Door), a bare net/http
// server (HTTP), small synced writes to the disk (Syncs). Each does what no push
// server can do without, and nothing else.
//
// Writer, Door and HTTP are the mains of processes of their own, so that their CPU
// time is theirs alone. Linux only.
package limit
