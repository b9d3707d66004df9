// Package httpapi is role logic's HTTP API. It turns requests of three generations
// into calls of a Service, and the results into answers.
//
//   - /v1/…   imgo's own: strict JSON, real status codes, one error form,
//     described by openapi.yaml (which a test holds against the handlers)
//   - /1/…    exactly as imgo 2016 answered (package imgo2016)
//   - /goim/… exactly as goim v2 answered (package goim)
//
// It owns the API keys (who may call, how often), the bounds on a request (size, nesting,
// time, how many large ones at once) and the HTTP metrics. It guarantees that a refused
// request has had no effect, and that the error names the field at fault, if there is
// one. An error inside the server is logged and not told to the caller.
//
// It decides nothing about messages, users or tokens (package logic does), stores
// nothing and opens no listener. The node owns the net/http server, for which
// NewServer has the settings.
package httpapi
