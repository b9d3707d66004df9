package imgo2016

import (
	"fmt"
	"net/http"

	"imgo/envelope"
	"imgo/roles/logic/httpapi/internal/httpcall"
)

// The values of "ret". In imgo 2016 another server answered /1/msg/get, and
// there 0 is success.
const (
	retOK       = 1
	retMsgOK    = 0
	retToken    = 65533
	retParam    = 65534
	retInternal = 65535
)

// Form answers errors as imgo 2016 did, with status 200. The exceptions are what
// it did not have: API keys (401), their rates (429) and origins (403).
func Form() *httpcall.Form {
	return &httpcall.Form{
		Problem: func(c *httpcall.Call, p httpcall.Problem) {
			status := http.StatusOK
			if p.Status == http.StatusUnauthorized || p.Status == http.StatusTooManyRequests || p.Status == http.StatusForbidden {
				status = p.Status
			}
			c.SetRetryAfter(p.RetryAfter)
			c.Write(status, httpcall.ContentText, fmt.Appendf(nil, `{"ret":%d}`, retOf(c.R.URL.Path, p)))
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

// retOf returns the "ret" of a problem. Of the caller's mistakes only those of
// /1/admin/token/new and /1/msg/get had a number of their own.
func retOf(path string, p httpcall.Problem) int {
	switch p.Code {
	case envelope.CodeInvalid, envelope.CodeTooLarge, envelope.CodeNotFound, httpcall.CodeTooSlow:
		if path == pathTokenNew || path == pathMsgGet {
			return retParam
		}
	case envelope.CodeUnauthorized, envelope.CodeExpired, envelope.CodeRevoked, httpcall.CodeForbidden:
		return retToken
	}
	return retInternal
}

// replyRet answers {"ret":ret}, with the content type that imgo 2016 had.
func replyRet(c *httpcall.Call, ret int) error {
	c.Write(http.StatusOK, httpcall.ContentText, fmt.Appendf(nil, `{"ret":%d}`, ret))
	return nil
}
