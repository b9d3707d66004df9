package imgoclient

import (
	"context"
	"encoding/json"
	"time"

	"imgo/clients/go/raw"
)

// minRefresh is the least time before a token is replaced, from the auth reply on.
const minRefresh = time.Second

// refresh replaces the token before it ends, with one from Config.TokenSource. It returns when ctx is done or
// the session has failed.
func (s *session) refresh(ctx context.Context) {
	if s.client.cfg.TokenSource == nil {
		return
	}
	expiresIn, failures := s.info.ExpiresIn, 0
	for expiresIn > 0 {
		wait := max(expiresIn*4/5, minRefresh)
		if failures > 0 {
			wait = s.client.backoff(failures - 1)
		}
		if !sleep(ctx, wait, s.failed) {
			return
		}
		select {
		case <-s.failed:
			return
		default:
		}
		next, err := s.renew(ctx)
		switch {
		case err == nil:
			expiresIn, failures = next, 0
		case ctx.Err() != nil:
			return
		default:
			// The server closes the connection at the end of the token if it wants to.
			failures++
			s.client.report(s.run.events, err)
		}
	}
}

// renew sends a new token. It returns how long that is good. 0 means for ever.
func (s *session) renew(ctx context.Context) (expiresIn time.Duration, failed *Error) {
	asking, cancel := context.WithTimeout(ctx, s.client.cfg.ConnectTimeout)
	defer cancel()
	token, err := s.client.cfg.TokenSource(asking)
	if err != nil {
		return 0, &Error{Code: CodeToken, Text: "get a new token", Err: err}
	}
	body, err := json.Marshal(map[string]string{"token": token})
	if err != nil {
		return 0, &Error{Code: CodeToken, Text: "write the new token", Err: err}
	}
	reply, err := s.call(ctx, "replace the token", raw.Packet{Op: raw.OpAuth, Body: body})
	if err != nil {
		return 0, &Error{Code: CodeToken, Text: "replace the token of the session", Err: err}
	}
	said, err := readAuthReply(reply.Body)
	if err != nil {
		return 0, &Error{Code: CodeToken, Text: "replace the token of the session", Err: err}
	}
	return said.info.ExpiresIn, nil
}
