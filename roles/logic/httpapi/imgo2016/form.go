package imgo2016

import (
	"fmt"
	"net/http"

	"imgo/envelope"
	"imgo/roles/logic/httpapi/internal/httpcall"
)

// The codes of /1: what "ret" says. /1/msg/get came from another server of
// imgo 2016, and there 0 is good.
const (
	retOK       = 1
	retMsgOK    = 0
	retToken    = 65533
	retParam    = 65534
	retInternal = 65535
)

// Form answers as imgo 2016 did: status 200 whatever happened, but for the
// two things that it did not have, API keys (401) and their rates (429).
func Form() *httpcall.Form {
	return &httpcall.Form{
		Problem: func(c *httpcall.Call, p httpcall.Problem) {
			status := http.StatusOK
			if p.Status == http.StatusUnauthorized || p.Status == http.StatusTooManyRequests || p.Status == http.StatusForbidden {
				status = p.Status
			}
			c.SetRetryAfter(p.RetryAfter)
			c.Write(status, httpcall.ContentText, fmt.Appendf(nil, `{"ret":%d}`, retOf(p)))
		},
		WrongMethod: func(c *httpcall.Call, _ string, allowed []string) {
			if allowed == nil {
				c.Status = http.StatusNotFound
				http.NotFound(c.W, c.R)
				return
			}
			c.Status = http.StatusMethodNotAllowed
			http.Error(c.W, "Method Not Allowed", http.StatusMethodNotAllowed)
		},
	}
}

// retOf is a problem as "ret": the caller's own mistakes, its lack of a key or
// token, and everything else.
func retOf(p httpcall.Problem) int {
	switch p.Code {
	case envelope.CodeInvalid, envelope.CodeTooLarge, envelope.CodeNotFound:
		return retParam
	case envelope.CodeUnauthorized, envelope.CodeExpired, envelope.CodeRevoked, httpcall.CodeForbidden:
		return retToken
	}
	return retInternal
}

// replyRet answers {"ret":ret}, the way Go's server labelled it for imgo 2016.
func replyRet(c *httpcall.Call, ret int) error {
	c.Write(http.StatusOK, httpcall.ContentText, fmt.Appendf(nil, `{"ret":%d}`, ret))
	return nil
}
