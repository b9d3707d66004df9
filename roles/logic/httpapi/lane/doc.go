// Package lane serves HTTP: with net/http, but for the one request that callers
// send thousands of times a second.
//
// A connection begins in the lane. Each request that is for the lane's target,
// small, and written the way that HTTP clients write them is answered there:
// read in one call, answered in one, by the same handler as every other. At the
// first that is anything else the connection is net/http's, with all that was
// read of it, and stays so: the lane refuses nothing and interprets nothing
// that it does not know to the last byte, so what is wrong with a request is
// always net/http's to say. TLS connections are net/http's from the start.
//
// A request in the lane costs 10 µs where net/http takes 23 (bench: 64 callers,
// the handler itself left out), of which two system calls are most. What net/http
// has beside it, a caller in the lane does without: its request's context does not
// end when it goes away, but with the handler's own bound; and the answer
// cannot be streamed, nor the connection be taken over.
//
// The package owns its connections until it hands them over. It decides nothing
// about what is asked, and listens nowhere.
package lane
