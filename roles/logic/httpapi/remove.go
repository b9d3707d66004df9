package httpapi

import "net/http"

// forgetDevice answers DELETE /v1/users/{user}/devices/{device} and /v1/user/devices?user=…&device=…. In the query, an
// empty device is the one without a name.
func (h userHandlers) forgetDevice(c *call, user string) (err error) {
	device := ""
	if c.Param("device") != "" || !c.Params().Has("device") {
		if device, err = c.name("device", "user"); err != nil {
			return err
		}
	}
	r, err := h.service.ForgetDevice(c.Ctx, user, device)
	return c.answer(http.StatusOK, r, err)
}

// purge answers DELETE /v1/users/{user}/messages and /v1/user/messages?user=….
func (h messageHandlers) purge(c *call, user string) error {
	r, err := h.service.Purge(c.Ctx, user)
	return c.answer(http.StatusOK, r, err)
}

// erase answers DELETE /v1/users/{user} and /v1/user?user=….
func (h userHandlers) erase(c *call, user string) error {
	r, err := h.service.Erase(c.Ctx, user)
	return c.answer(http.StatusOK, r, err)
}
