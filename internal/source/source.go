// Package source says which addresses are those of one client, for limits of one address.
package source

import "net/netip"

// Of returns what stands for an address: an IPv4 address itself, or the /64 of an IPv6 address, which is what one
// customer of a provider gets.
func Of(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		prefix, _ := addr.Prefix(64) // it has no zone, so this cannot fail
		addr = prefix.Addr()
	}
	return addr
}
