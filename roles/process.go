package roles

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/config"
	"imgo/envelope"
	"imgo/roles/logic"
	"imgo/roles/router"
)

// process is what every part of a node knows of the process that it runs in.
type process struct {
	cfg     config.Config
	opts    RunOptions
	name    string
	log     zerolog.Logger
	started time.Time
	metrics *prometheus.Registry
}

// roles returns the roles of this process in display order.
func (p *process) roles() []string {
	return slices.DeleteFunc(config.AllRoles(), func(role string) bool { return !p.cfg.Runs(role) })
}

// now returns the node's wall clock.
func (p *process) now() time.Time {
	if p.opts.Faults.Clock != nil {
		return p.opts.Faults.Clock()
	}
	return time.Now()
}

// readsRecords returns the highest version of records that this node reads.
func (p *process) readsRecords() uint32 {
	return cmp.Or(p.opts.Faults.RecordVersion, envelope.RecordVersion)
}

// checkRecords returns an error if records are in use that this node does not read.
func (p *process) checkRecords(inUse uint32) error {
	if reads := p.readsRecords(); inUse > reads {
		return fmt.Errorf("records of version %d are in use, this imgo (%s) reads records up to version %d: "+
			"run a version that is at least as new as that of the other nodes", inUse, p.opts.Version, reads)
	}
	return nil
}

// logClose logs the error of a close, unless it is nil.
func (p *process) logClose(err error) {
	if err != nil {
		p.log.Error().Err(err).Msg("the log or the data folder was not closed cleanly")
	}
}

// routerConfig returns the settings of the router.
func (p *process) routerConfig() router.Config {
	c, d := router.DefaultConfig(), p.cfg.Delivery
	c.SessionLimits, c.MailboxLimits, c.WatchTimes = p.cfg.Limits.SessionLimits, p.cfg.Kept.MailboxLimits, d.WatchTimes
	c.BacklogMessages, c.BacklogBytes = d.CatchUpMessages, d.CatchUpBytes
	c.CometTimeout = 3 * d.AnnounceInterval
	c.EventsSource, c.Presence = p.eventsSource(), p.cfg.Presence
	c.Faults = p.opts.Faults.Router
	if p.cfg.Clustered() {
		// The log lives longer than this router's disk, and its producers repeat appends. The last try begins within
		// write_timeout. The network may hold an earlier one back for as long again.
		c.Retention, c.Repeats = p.cfg.Kept.Retention, 2*p.cfg.Kafka.WriteTimeout
	}
	return c
}

// eventsSource returns the source of the events of this cluster, as CloudEvents has it.
func (p *process) eventsSource() string {
	if !p.cfg.Clustered() {
		return "imgo/" + p.name
	}
	return "imgo/" + p.cfg.Kafka.Prefix
}

// logicConfig returns the settings of the logic.
func (p *process) logicConfig() logic.Config {
	c := logic.DefaultConfig()
	c.Lifetimes, c.RoomRules, c.Auth, c.Reports = p.cfg.Kept.Lifetimes, p.cfg.RoomRules, p.cfg.Auth.Config, p.cfg.Events.Reports
	c.Upstream = p.cfg.Rules
	c.MaxUsers, c.MaxBody, c.Retention = p.cfg.HTTP.MaxUsers, p.cfg.Protocol.MaxBody, p.cfg.Kept.Retention
	return c
}
