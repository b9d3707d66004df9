package settings

import (
	"net/netip"
	"strings"
)

// IsLoopback reports whether only this machine can reach the host. A name other than localhost
// could resolve to any address, so it does not count as loopback.
func IsLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
