package kafkatest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"imgo/internal/process"
)

// stopLimit bounds an orderly stop. Brokers that stop at the same time may wait for
// each other in vain.
const stopLimit = 5 * time.Second

// broker is one broker of Apache Kafka with its disk. Each start is a new process. A
// broker is for one goroutine at a time.
type broker struct {
	process.Process
	number                        int // from 1
	address, controller, internal string
	dir                           string
	java                          []string // arguments of java
}

func (b *broker) properties() string { return filepath.Join(b.dir, "server.properties") }

// configure writes server.properties.
func (b *broker) configure(o RealOptions, all []*broker) error {
	var voters []string
	for _, other := range all {
		voters = append(voters, fmt.Sprintf("%d@%s", other.number, other.controller))
	}
	copies, client, session := len(all), "PLAINTEXT", 2*time.Second
	if copies > 1 {
		session = 3 * time.Second
	}
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
		fmt.Sprintf("broker.session.timeout.ms=%d", session.Milliseconds()),
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
func (b *broker) format(ctx context.Context, id string, users []User) error {
	args := append(b.java, "kafka.tools.StorageTool", "format", "-t", id, "-c", b.properties(), "--ignore-formatted")
	for _, u := range users {
		args = append(args, "--add-scram", fmt.Sprintf("SCRAM-SHA-512=[name=%q,password=%q]", u.Name, u.Password))
	}
	if out, err := exec.CommandContext(ctx, b.Binary, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("format the disk of broker %d: %w\n%s", b.number, err, bytes.TrimSpace(out))
	}
	return nil
}

// kill ends the process at once.
func (b *broker) kill() error {
	if !b.Running() {
		return nil
	}
	return b.Kill()
}

// stop stops the process, and kills it if it does not end within stopLimit.
func (b *broker) stop() error {
	if !b.Running() {
		return nil
	}
	if err := b.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if b.AwaitEnd(stopLimit) {
		return nil
	}
	return b.Kill()
}
