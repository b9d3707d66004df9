package roles

import (
	"imgo/roles/comet"
	"imgo/roles/logic"
	"imgo/roles/router"
)

// routerConfig returns the settings of this node's router.
func (n *Node) routerConfig() router.Config {
	c, d := router.DefaultConfig(), n.cfg.Delivery
	c.SessionLimits, c.MailboxLimits, c.WatchTimes = n.cfg.Limits.SessionLimits, n.cfg.Kept.MailboxLimits, d.WatchTimes
	c.WindowMessages, c.WindowBytes = d.CatchUpMessages, d.CatchUpBytes
	c.CometTimeout = 3 * d.AnnounceInterval
	c.Faults = n.opts.Faults.Router
	if n.cluster != nil {
		// The log outlives this router's disk, and its producers try again.
		c.Retention, c.DedupeWarm = n.cfg.Kept.Retention, dedupeWarm
	}
	return c
}

// dedupeWarm is how many records of a partition before its stored position a
// router reads at the start: an append that was repeated stands in the log
// again within write_timeout.
const dedupeWarm = 1 << 14

func (n *Node) logicConfig() logic.Config {
	c, a := logic.DefaultConfig(), n.cfg.Auth
	c.DefaultTTL, c.MaxTTL = n.cfg.Kept.TTL, n.cfg.Kept.MaxTTL
	c.MaxUsers, c.MaxBody = n.cfg.HTTP.MaxUsers, int(n.cfg.Protocol.MaxBody)
	c.AuthMode = a.Mode
	c.JWT.Secret, c.JWT.JWKSFile, c.JWT.JWKSURL = a.JWTSecret, a.JWKSFile, a.JWKSURL
	if a.JWTPublicKey != "" {
		c.JWT.PublicKeyFiles = []string{a.JWTPublicKey}
	}
	c.JWT.Issuer, c.JWT.Audience, c.JWT.UserClaim = a.Issuer, a.Audience, a.UserClaim
	c.JWT.DeviceClaim, c.JWT.Leeway = a.DeviceClaim, a.Leeway
	return c
}

// cometConfig returns the settings of this node's comet.
func (n *Node) cometConfig() (comet.Config, error) {
	c := comet.DefaultConfig()
	c.Name = n.name
	c.Sockets, c.Protocol, c.Limits, c.Delivery = n.cfg.Comet.Sockets, n.cfg.Protocol, n.cfg.Limits.Limits, n.cfg.Delivery.Delivery
	c.Shutdown, c.Auth = n.cfg.Shutdown.Shutdown, n.cfg.Auth.Auth
	c.Faults = n.opts.Faults.Comet
	// The others need time to stop, too: HTTP has a quarter (serveHTTP).
	c.DrainTimeout = n.cfg.Shutdown.Timeout * 3 / 10
	c.CloseTimeout = min(c.DrainTimeout, c.CloseTimeout)
	if n.cluster != nil {
		c.Others = n.cluster.otherComets(n.cfg.Cluster.Zone)
	}
	var err error
	c.Listen, err = n.listenFuncs()
	return c, err
}
