// Package httpapi is role logic's HTTP face: it turns requests of three
// generations into calls of a Service and the answers back into their forms.
//
//   - /v1/…   imgo's own: strict JSON, real status codes, one error form,
//     described by openapi.yaml (which a test holds against the handlers)
//   - /1/…    exactly as imgo 2016 answered: {"ret":N}, status 200 even on error
//   - /goim/… exactly as goim v2 answered: {"code","message","data"}
//
// It owns the API keys (who may call, how often), the bounds on a request
// (size, nesting, time, how many large ones at once) and the HTTP metrics. It
// guarantees that a request it refuses has had no effect, that the error names
// the field at fault where there is one, and that what goes wrong inside the
// server is logged and not told to the caller.
//
// It decides nothing about messages, users or tokens (package logic does),
// stores nothing, and listens nowhere: the node owns the net/http server, for
// which NewServer has the settings.
package httpapi
