package roles

import (
	"imgo/roles/comet"
	"imgo/roles/logic"
	"imgo/roles/router"
)

func (n *Node) routerConfig() router.Config {
	c, d := router.DefaultConfig(), n.cfg.Delivery
	c.MailboxLength = n.cfg.Kept.MailboxLength
	c.CacheBytes = int(n.cfg.Kept.Cache)
	c.DeviceExpiry = n.cfg.Kept.DeviceExpiry
	c.IdempotencyTTL = n.cfg.Kept.IdempotencyTTL
	c.SessionsPerUser = n.cfg.Limits.SessionsPerUser
	c.SessionsPolicy = router.Policy(n.cfg.Limits.SessionsPolicy)
	c.WindowMessages, c.WindowBytes = d.CatchUpMessages, int(d.CatchUpBytes)
	c.WatchInterval, c.WatchAfter = d.WatchInterval, d.WatchAfter
	c.CometTimeout = 3 * d.AnnounceInterval
	c.Without = n.opts.Seeded.Router
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

// unlimited turns a setting's 0 (no limit) into comet's -1.
func unlimited[T int | float64](v T) T {
	if v == 0 {
		return -1
	}
	return v
}

func (n *Node) cometConfig() (comet.Config, error) {
	c, p, l, d := comet.DefaultConfig(), n.cfg.Protocol, n.cfg.Limits, n.cfg.Delivery
	c.Name = n.name
	c.HandshakeTimeout, c.Heartbeat, c.HeartbeatV1 = p.HandshakeTimeout, p.Heartbeat, p.HeartbeatV1
	c.MaxBody = int(p.MaxBody)
	c.MaxConnections, c.MaxConnsPerIP = unlimited(l.Connections), unlimited(l.ConnectionsPerAddress)
	c.ConnectRate, c.ConnectBurst, c.ConnectWait = unlimited(l.ConnectRate), l.ConnectBurst, l.ConnectWait
	c.UpstreamRate, c.UpstreamBurst = unlimited(l.UpstreamRate), l.UpstreamBurst
	c.MaxRooms, c.PendingBytes, c.WriteTimeout = l.RoomsPerSession, int(l.PendingBytes), l.SlowTimeout
	c.SendBuffer = int(l.SendBuffer)
	c.Goroutines, c.SingleWrites = !n.cfg.Comet.Epoll, !n.cfg.Comet.IOUring
	c.FlushInterval = n.cfg.Comet.FlushInterval
	c.CatchUpTimeout, c.CatchUpMessages, c.CatchUpBytes = d.CatchUpTimeout, d.CatchUpMessages, int(d.CatchUpBytes)
	c.AckInterval, c.AnnounceInterval = d.AckInterval, d.AnnounceInterval
	c.CloseExpired = n.cfg.Auth.CloseExpired
	c.Without = n.opts.Seeded.Comet
	// The others need time to stop, too: HTTP has a quarter (serveHTTP).
	c.DrainTimeout = n.cfg.Shutdown.Timeout * 3 / 10
	c.CloseTimeout = min(c.DrainTimeout, c.CloseTimeout)
	c.DrainRate = float64(n.cfg.Shutdown.DrainRate)
	if c.DrainRate == 0 {
		c.DrainRate = 1e9
	}
	if n.cluster != nil {
		c.Others = n.cluster.otherComets(n.cfg.Cluster.Zone)
	}
	var err error
	c.Listen, err = n.listenFuncs()
	return c, err
}
