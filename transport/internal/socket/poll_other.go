//go:build !linux

package socket

// polling is empty here: every connection has a goroutine.
type polling struct{}

func (a *Acceptor) poll() error { return nil }

func (p *polling) closePort() {}
func (p *polling) stop()      {}
func (p *polling) abort()     {}
