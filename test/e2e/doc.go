// Package e2e tests a whole node from outside: its real sockets, a data folder
// on the disk, HTTP callers and clients of every generation, and where a
// process is the point (start-up errors, signals, the command line) the real
// binary. What one package can show by itself is tested there; here is what
// only the whole shows: that bad input is answered, counted and felt by nobody
// else, that the ancestors' bugs are gone, and that their clients and callers
// have the conversations that they had.
//
// There is nothing here but tests.
package e2e
