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

// forgetDevice answers DELETE /v1/users/{user}/devices/{device}.
func (a *API) forgetDevice(c *call) error {
	device, err := c.PathName("device")
	if err != nil {
		return err
	}
	return c.remove(func(user string) (logic.Removed, error) { return a.service.ForgetDevice(c.Ctx, user, device) })
}

// forgetDeviceByQuery answers DELETE /v1/user/devices?user=…&device=…. An empty device
// is the one without a name.
func (a *API) forgetDeviceByQuery(c *call) error {
	device := ""
	if c.Param("device") != "" || !c.Params().Has("device") {
		var err error
		if device, err = c.QueryName("device"); err != nil {
			return err
		}
	}
	forget := func(user string) (logic.Removed, error) { return a.service.ForgetDevice(c.Ctx, user, device) }
	return c.remove(forget, "device")
}

// purge answers DELETE /v1/users/{user}/messages and /v1/user/messages?user=….
func (a *API) purge(c *call) error {
	return c.remove(func(user string) (logic.Removed, error) { return a.service.Purge(c.Ctx, user) })
}

// eraseUser answers DELETE /v1/users/{user} and /v1/user?user=….
func (a *API) eraseUser(c *call) error {
	return c.remove(func(user string) (logic.Removed, error) { return a.service.Erase(c.Ctx, user) })
}

// remove does a removal. more are parameters of the call beside the user.
func (c *call) remove(do func(user string) (logic.Removed, error), more ...string) error {
	user, err := c.userName(more...)
	if err != nil {
		return err
	}
	r, err := do(user)
	if err != nil {
		return err
	}
	return c.Reply(http.StatusOK, removedView{r.Messages, r.Devices, r.Tokens, r.Sessions, r.LogUntilMS})
}
