package kafkatest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// stopLimit bounds an orderly stop. Brokers that stop at the same time may wait for
// each other in vain.
const stopLimit = 5 * time.Second

// broker is one broker of Apache Kafka with its disk. Each start is a new process. A
// broker is for one goroutine at a time.
type broker struct {
	number                        int // from 1
	address, controller, internal string
	dir                           string
	args                          []string // arguments of java

	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended
}

func (b *broker) properties() string { return filepath.Join(b.dir, "server.properties") }
func (b *broker) logFile() string    { return b.dir + ".log" }

// configure writes server.properties.
func (b *broker) configure(o RealOptions, all []*broker) error {
	var voters []string
	for _, other := range all {
		voters = append(voters, fmt.Sprintf("%d@%s", other.number, other.controller))
	}
	copies, client := len(all), "PLAINTEXT"
	if len(o.Users) > 0 {
		client = "SASL_PLAINTEXT"
	}
	lines := []string{
		"process.roles=broker,controller",
		"node.id=" + strconv.Itoa(b.number),
		"controller.quorum.voters=" + strings.Join(voters, ","),
		fmt.Sprintf("listeners=CLIENT://%s,INTERNAL://%s,CONTROLLER://%s", b.address, b.internal, b.controller),
		fmt.Sprintf("advertised.listeners=CLIENT://%s,INTERNAL://%s", b.address, b.internal),
		"listener.security.protocol.map=CONTROLLER:PLAINTEXT,INTERNAL:PLAINTEXT,CLIENT:" + client,
		"controller.listener.names=CONTROLLER",
		"inter.broker.listener.name=INTERNAL",
		"log.dirs=" + filepath.Join(b.dir, "data"),
		"auto.create.topics.enable=false",
		fmt.Sprintf("default.replication.factor=%d", copies),
		fmt.Sprintf("min.insync.replicas=%d", max(1, copies-1)),
		fmt.Sprintf("offsets.topic.replication.factor=%d", copies),
		"offsets.topic.num.partitions=8",
		fmt.Sprintf("transaction.state.log.replication.factor=%d", copies),
		fmt.Sprintf("transaction.state.log.min.isr=%d", max(1, copies-1)),
		"group.initial.rebalance.delay.ms=0",
		// A killed broker counts as alive for so long, and cannot start again before:
		// the controller waits for the end of its session.
		fmt.Sprintf("broker.session.timeout.ms=%d", o.SessionTimeout.Milliseconds()),
		"broker.heartbeat.interval.ms=500",
		// The default is half of the heap.
		"log.cleaner.dedupe.buffer.size=16777216",
	}
	if len(o.Users) > 0 {
		login := "org.apache.kafka.common.security.plain.PlainLoginModule required"
		for _, u := range o.Users {
			login += fmt.Sprintf(" user_%s=%q", u.Name, u.Password)
		}
		lines = append(lines,
			"sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512",
			"listener.name.client.plain.sasl.jaas.config="+login+";",
			"listener.name.client.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;",
		)
	}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return fmt.Errorf("make the folder of a broker: %w", err)
	}
	if err := os.WriteFile(b.properties(), []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return fmt.Errorf("write the settings of a broker: %w", err)
	}
	return nil
}

// format formats the disk, unless that was done before.
func (b *broker) format(ctx context.Context, java, id string, users []User) error {
	args := append(b.args, "kafka.tools.StorageTool", "format", "-t", id, "-c", b.properties(), "--ignore-formatted")
	for _, u := range users {
		args = append(args, "--add-scram", fmt.Sprintf("SCRAM-SHA-512=[name=%q,password=%q]", u.Name, u.Password))
	}
	if out, err := exec.CommandContext(ctx, java, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("format the disk of broker %d: %w\n%s", b.number, err, bytes.TrimSpace(out))
	}
	return nil
}

// start starts the process. It does not wait until the broker serves.
func (b *broker) start(java string) error {
	log, err := os.OpenFile(b.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open the log of a broker: %w", err)
	}
	defer log.Close()                                                           // the process has its own descriptor
	cmd := exec.Command(java, append(b.args, "kafka.Kafka", b.properties())...) //nolint:noctx // stop and kill end it
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, childAttributes()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start broker %d: %w", b.number, err)
	}
	ended := make(chan struct{})
	b.cmd, b.ended = cmd, ended
	go func() {
		defer close(ended)
		_ = cmd.Wait() // the result is in cmd.ProcessState
	}()
	return nil
}

func (b *broker) running() bool {
	if b.cmd == nil {
		return false
	}
	select {
	case <-b.ended:
		return false
	default:
		return true
	}
}

// kill ends the process at once.
func (b *broker) kill() error {
	if !b.running() {
		return nil
	}
	if err := b.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill broker %d: %w", b.number, err)
	}
	<-b.ended
	return nil
}

// stop stops the process, and kills it if it does not end within stopLimit.
func (b *broker) stop() error {
	if !b.running() {
		return nil
	}
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop broker %d: %w", b.number, err)
	}
	select {
	case <-b.ended:
		return nil
	case <-time.After(stopLimit):
		return b.kill()
	}
}

// logTail returns the end of the broker's log, for an error.
func (b *broker) logTail() string {
	log, err := os.ReadFile(b.logFile())
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(log[max(0, len(log)-2000):]))
}
