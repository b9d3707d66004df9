// Package ancestors holds imgo to what the servers of imgo 2016 and of goim v2 really sent. Each file in
// testdata is a transcript of conversations with one of them, which was recorded on its own server and is
// replayed against imgo, byte for byte. A known difference stands beside the recorded answer, with its
// reason. Simulated SDKs, one for each known kind, get all their waiting messages.
//
// The package contains only tests.
package ancestors
