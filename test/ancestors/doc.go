// Package ancestors holds imgo to what the servers of imgo 2016 and of goim v2 really sent. testdata/recorded has the names of
// conversations and calls that were recorded on their own servers, with what these servers answered. Each file in testdata is
// a transcript of them, which is replayed against imgo, byte for byte. A test checks that none is left out without a reason. A
// difference stands beside the recorded answer, with its case in the exceptions of docs/how-to/migrate.md. Simulated SDKs, one
// for each known kind, get all their waiting messages.
//
// The package contains only tests.
package ancestors
