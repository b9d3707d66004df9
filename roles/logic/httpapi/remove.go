package httpapi

import (
	"net/http"

	"imgo/roles/logic"
)

// removedView is the answer of a DELETE below /v1/users/{user} or /v1/user.
type removedView struct {
	Messages   int   `json:"messages"`
	Devices    int   `json:"devices"`
	Tokens     int   `json:"tokens"`
	Sessions   int   `json:"sessions"`
	LogUntilMS int64 `json:"log_until_ms"`
}

// forgetDevice answers DELETE /v1/users/{user}/devices/{device} and /v1/user/devices?user=…&device=…. In the query, an
// empty device is the one without a name.
func (h userHandlers) forgetDevice(c *call) (err error) {
	device := ""
	if c.Param("device") != "" || !c.Params().Has("device") {
		if device, err = c.name("device", "user"); err != nil {
			return err
		}
	}
	return c.remove(func(user string) (logic.Removed, error) { return h.service.ForgetDevice(c.Ctx, user, device) }, "device")
}

// purge answers DELETE /v1/users/{user}/messages and /v1/user/messages?user=….
func (h messageHandlers) purge(c *call) error {
	return c.remove(func(user string) (logic.Removed, error) { return h.service.Purge(c.Ctx, user) })
}

// erase answers DELETE /v1/users/{user} and /v1/user?user=….
func (h userHandlers) erase(c *call) error {
	return c.remove(func(user string) (logic.Removed, error) { return h.service.Erase(c.Ctx, user) })
}

// remove does a removal. more are parameters of the call beside the user.
func (c *call) remove(do func(user string) (logic.Removed, error), more ...string) error {
	user, err := c.name("user", more...)
	if err != nil {
		return err
	}
	r, err := do(user)
	if err != nil {
		return err
	}
	return c.Reply(http.StatusOK, removedView{r.Messages, r.Devices, r.Tokens, r.Sessions, r.LogUntilMS})
}
