package goim

import (
	"encoding/json"
	"fmt"
	"net/http"

	"imgo/roles/logic/httpapi/internal/httpcall"
)

// Values of "code".
const (
	codeOK         = 0
	codeRequestErr = -400
	codeServerErr  = -500
)

// content is the content type of goim's framework.
const content = "application/json; charset=utf-8"

// reply is every answer of /goim.
type reply struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Data    any    `json:"data,omitempty"`
}

// Form answers errors as goim v2 did, with status 200. A malformed query has 400.
// goim did not have API keys (401), their rates (429) and origins (403).
func Form() *httpcall.Form {
	return &httpcall.Form{
		Problem: func(c *httpcall.Call, p httpcall.Problem) {
			status, code := http.StatusOK, codeServerErr
			switch p.Status {
			case http.StatusUnauthorized, http.StatusForbidden:
				status, code = p.Status, codeRequestErr
			case http.StatusTooManyRequests:
				status = p.Status
			case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusNotFound, http.StatusRequestTimeout:
				code = codeRequestErr
			}
			c.SetRetryAfter(p.RetryAfter)
			write(c, status, content, code, p.Message)
		},
		// goim's router answered a wrong method like an unknown path.
		WrongMethod: func(c *httpcall.Call, _ string, _ []string) {
			c.Write(http.StatusNotFound, "text/plain", []byte("404 page not found"))
		},
	}
}

// write answers with a reply without data, which always encodes.
func write(c *httpcall.Call, status int, contentType string, code int, message string) {
	data, _ := json.Marshal(reply{Code: code, Message: message})
	c.Write(status, contentType, data)
}

// replyData answers code 0 with data, if any.
func replyData(c *httpcall.Call, data any) error {
	body, err := json.Marshal(reply{Code: codeOK, Data: data})
	if err != nil {
		return fmt.Errorf("encode an answer of /goim: %w", err)
	}
	c.Write(http.StatusOK, content, body)
	return nil
}

// refuse answers -400 for any error, where goim did.
func refuse(c *httpcall.Call, err error) error {
	p := c.Report(err)
	write(c, http.StatusOK, content, codeRequestErr, p.Message)
	return nil
}
