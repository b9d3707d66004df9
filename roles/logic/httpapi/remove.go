package httpapi

import (
	"net/http"

	"imgo/roles/logic"
)

// removedView is the answer of a DELETE below /v1/users/{user}.
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

// purge answers DELETE /v1/users/{user}/messages.
func (a *API) purge(c *call) error {
	return c.remove(func(user string) (logic.Removed, error) { return a.service.Purge(c.Ctx, user) })
}

// eraseUser answers DELETE /v1/users/{user}.
func (a *API) eraseUser(c *call) error {
	return c.remove(func(user string) (logic.Removed, error) { return a.service.Erase(c.Ctx, user) })
}

func (c *call) remove(do func(user string) (logic.Removed, error)) error {
	user, err := c.PathName("user")
	if err != nil {
		return err
	}
	if err := c.Known(); err != nil {
		return err
	}
	r, err := do(user)
	if err != nil {
		return err
	}
	return c.Reply(http.StatusOK, removedView{r.Messages, r.Devices, r.Tokens, r.Sessions, r.LogUntilMS})
}
