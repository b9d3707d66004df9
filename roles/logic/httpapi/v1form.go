package httpapi

import (
	"net/http"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"imgo/envelope"
	"imgo/roles/logic/httpapi/internal/httpcall"
)

// v1Form answers errors as JSON objects, with real status codes.
func v1Form() *httpcall.Form {
	return &httpcall.Form{
		Head:    true,
		Problem: v1Problem,
		WrongMethod: func(c *httpcall.Call, path string, allowed []string) {
			if allowed == nil {
				v1Problem(c, c.Report(envelope.Errorf(envelope.CodeNotFound,
					"nothing is at %s; /v1/openapi.json describes what there is", c.R.URL.Path)))
				return
			}
			methods := strings.Join(allowed, ", ")
			c.W.Header().Set("Allow", methods)
			v1Problem(c, c.Report(envelope.Errorf(httpcall.CodeMethod, "%s takes %s, not %s", path, methods, c.R.Method)))
		},
	}
}

func v1Problem(c *httpcall.Call, p httpcall.Problem) {
	c.SetRetryAfter(p.RetryAfter)
	if p.Status == http.StatusUnauthorized {
		c.W.Header().Set("WWW-Authenticate", "Bearer")
	}
	c.Write(p.Status, httpcall.ContentJSON, append(appendProblem([]byte(`{"error":`), &p), "}\n"...))
}

// appendProblem appends {"code","message","field"}; a problem that no field
// is at fault for has none.
func appendProblem(b []byte, p *httpcall.Problem) []byte {
	b = append(b, `{"code":`...)
	b = appendString(b, string(p.Code))
	b = append(b, `,"message":`...)
	b = appendString(b, p.Message)
	if p.Field != "" {
		b = append(b, `,"field":`...)
		b = appendString(b, p.Field)
	}
	return append(b, '}')
}

// appendString appends s as a JSON string. Bytes that are not UTF-8 become U+FFFD.
func appendString(b []byte, s string) []byte {
	b, _ = jsontext.AppendQuote(b, s) // its error only tells of that
	return b
}
