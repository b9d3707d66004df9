// Package limit measures what the machine can do without imgo, for comparison with
// imgo's figures. It measures plain writes of the same bytes to accepted sockets
// (Writer), and sockets that are accepted, read and answered (Door). It also measures
// a bare net/http server (HTTP) and small synced writes to the disk (Syncs). Each does
// only the work that no push server can avoid.
//
// Writer, Door and HTTP are main functions of separate processes, so that their CPU
// time can be measured alone. Linux only.
package limit
