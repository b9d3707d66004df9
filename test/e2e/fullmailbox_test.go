package e2e_test

import (
	"fmt"
	"testing"

	"imgo/config"
	"imgo/roles/router/mailbox"
)

// fill pushes messages to a user who is away until no more fit, and one to another user.
func fill(t *testing.T, policy mailbox.Policy) *node {
	n := start(t, func(c *config.Config) { c.Kept.MailboxLength, c.Kept.MailboxPolicy = 3, policy })
	for i := range 3 {
		n.call(t, "POST", "/v1/push", fmt.Sprintf(`{"user":"alice","body":%d}`, i)).want(t, 202, `"duplicate":false}`)
	}
	return n
}

// A message that has to go for a new one is in the answer, in the user's count, and in one event with a count.
func TestFullMailboxDropsTheOldest(t *testing.T) {
	n := fill(t, mailbox.DropOldest)
	for range 5 {
		n.call(t, "POST", "/v1/push", `{"user":"alice","body":"new"}`).want(t, 202, `"duplicate":false,"dropped":1}`)
	}
	n.call(t, "POST", "/v1/push", `{"users":["alice","bob"],"body":"both"}`).want(t, 202,
		`"user":"alice","sessions":0,"duplicate":false,"dropped":1}`,
		`"user":"bob","sessions":0,"duplicate":false}`)
	n.call(t, "POST", "/v1/push", `{"user":"alice","body":"last","idempotency_key":"k"}`).want(t, 202, `"duplicate":false,"dropped":1}`)
	n.call(t, "POST", "/v1/push", `{"user":"alice","body":"last","idempotency_key":"k"}`).want(t, 202, `"duplicate":true}`)
	n.call(t, "GET", "/v1/users/alice", "").want(t, 200, `"pending":3,`, `"dropped":7,`)
	var notices struct {
		Notices []struct {
			Kind, User string
			Count      int
		}
	}
	n.call(t, "GET", "/v1/notices", "").decode(t, &notices)
	if len(notices.Notices) != 1 || notices.Notices[0].Kind != "mailbox_dropped" || notices.Notices[0].Count != 7 {
		t.Errorf("notices %+v", notices)
	}
	// Also when the mailbox is not in memory.
	n = n.restart(t)
	n.call(t, "POST", "/v1/push", `{"user":"alice","body":"new"}`).want(t, 202, `"duplicate":false,"dropped":1}`)
}

func TestFullMailboxRefusesTheNewest(t *testing.T) {
	n := fill(t, mailbox.RefuseNewest)
	full := `{"error":{"code":"mailbox_full","message":"user has \"alice\", for whom as many messages wait as are allowed","field":"user"}}`
	n.call(t, "POST", "/v1/push", `{"user":"alice","body":"new"}`).is(t, 507, full)
	n = n.restart(t)
	n.call(t, "POST", "/v1/push", `{"user":"alice","body":"new"}`).is(t, 507, full)
	n.call(t, "POST", "/1/pushs", `{"m":1,"u":[1]}`).is(t, 200, `{"ret":1}`)
	n.call(t, "POST", "/v1/push", `{"users":["alice","bob"],"body":"both"}`).want(t, 202,
		`{"id":"0","user":"alice","sessions":0,"duplicate":false,"refused":"mailbox_full"}`, `"user":"bob","sessions":0,"duplicate":false}`)
	n.call(t, "GET", "/v1/users/alice", "").want(t, 200, `"pending":3,`, `"dropped":0,`)
	c := n.tcp(t)
	c.login("v2", "alice", `,"ack":true`)
	for i := range 3 {
		c.ack(c.expect(5, fmt.Sprint(i)).ID)
	}
	eventually(t, "there is room again", func() bool {
		return n.call(t, "POST", "/v1/push", `{"user":"alice","body":"new"}`).status == 202
	})
	c.expect(5, `"new"`)
}
