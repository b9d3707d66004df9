package cluster_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"imgo/cluster/bus/kafkatest"
	"imgo/config"
	"imgo/internal/process"
	"imgo/internal/race"
	"imgo/internal/wait/waittest"
	"imgo/roles"
	"imgo/test/harness"
)

// readiness returns the status of /readyz, and the text of an answer that is not good.
func readiness(address string) (status int, text string) {
	status, err := call("GET", "http://"+address+"/readyz", "", nil)
	if err != nil {
		text = err.Error()
	}
	return status, text
}

// waitsForKafka checks that the node at an address says what it waits for, and goes on waiting.
func waitsForKafka(t *testing.T, address, broker string, log func() string) {
	t.Helper()
	eventually(t, "the node says that it waits for Kafka", func() bool {
		status, text := readiness(address)
		return status == 503 && strings.Contains(text, `"ready":false`) && strings.Contains(text, "it waits for Kafka") &&
			strings.Contains(text, broker)
	})
	eventually(t, "the log says so, more than once", func() bool {
		return strings.Count(log(), "Kafka does not answer yet") > 1 && strings.Contains(log(), broker)
	})
	for path, want := range map[string]int{"/healthz": 200, "/v1/nodes": 503} {
		if status, err := call("GET", "http://"+address+path, "", nil); status != want {
			t.Errorf("%s is answered %d, %v; want %d", path, status, err, want)
		}
	}
}

// onlyNode returns the settings of a cluster's only node, which has all roles.
func onlyNode(t *testing.T, kafka *kafkatest.Fake) config.Config {
	cfg := harness.Settings(t)
	cfg.HTTP.Listen, cfg.Roles = waittest.FreeAddress(t), config.AllRoles()
	cfg.Cluster.Gossip, cfg.Cluster.RPC, cfg.Cluster.Secret = "127.0.0.1:0", "127.0.0.1:0", secret
	cfg.Cluster.Join = []string{"127.0.0.1:1"}
	cfg.Kafka.Brokers, cfg.Kept.Partitions, cfg.Live.Partitions, cfg.Disk.Reserve = kafka.Brokers(), 4, 2, 0
	return cfg
}

// A node whose Kafka is away at the start stays up. It is not ready, says why, and serves once Kafka answers.
func TestKafkaComesLate(t *testing.T) {
	t.Parallel()
	kafka := kafkatest.New(t, kafkatest.Options{})
	kafka.Stop()
	cfg := onlyNode(t, kafka)
	for _, comes := range []bool{false, true} {
		log := &waittest.Log{}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- roles.Run(ctx, cfg, roles.RunOptions{Stderr: log}) }()
		waitsForKafka(t, cfg.HTTP.Listen, kafka.Brokers()[0], log.String)
		if comes {
			kafka.Resume()
			eventually(t, "the node is ready", func() bool { status, _ := readiness(cfg.HTTP.Listen); return status == 200 })
			status, err := call("POST", "http://"+cfg.HTTP.Listen+"/v1/push", `{"user":"ann","body":1}`, nil)
			if status != 202 {
				t.Errorf("a push is answered %d, %v", status, err)
			}
		}
		stop() // also while it waits
		if err := <-done; err != nil {
			t.Errorf("the node ended with %v\n%s", err, log)
		}
	}
}

// A stop takes no longer than shutdown.timeout if Kafka does not take a record, also if kafka.write_timeout is longer.
func TestStopDoesNotWaitForKafka(t *testing.T) {
	t.Parallel()
	kafka := kafkatest.New(t, kafkatest.Options{})
	cfg := onlyNode(t, kafka)
	cfg.Shutdown.Timeout, cfg.Kafka.WriteTimeout = time.Second, 2*waitLimit
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- roles.Run(ctx, cfg, roles.RunOptions{}) }()
	eventually(t, "the node is ready", func() bool { status, _ := readiness(cfg.HTTP.Listen); return status == 200 })
	refusal := kafka.Cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas, Count: -1})
	defer refusal.Remove()
	pushed := make(chan struct{})
	go func() {
		defer close(pushed)
		_, _ = call("POST", "http://"+cfg.HTTP.Listen+"/v1/push", `{"user":"ann","body":1}`, nil) // the stop cuts it off
	}()
	eventually(t, "Kafka does not take a record", func() bool { return refusal.Hits() > 0 })
	stop()
	select {
	case err := <-done:
		if err != nil && !strings.Contains(err.Error(), "did not stop within shutdown.timeout") {
			t.Errorf("the node ended with %v", err)
		}
	case <-time.After(waitLimit):
		t.Error("the node waits for Kafka")
		refusal.Remove()
		<-done
	}
	<-pushed
}

// TestProcessWithoutKafka is TestKafkaComesLate with a process of its own, which SIGTERM ends in good order while it waits.
func TestProcessWithoutKafka(t *testing.T) {
	t.Parallel()
	kafka := kafkatest.New(t, kafkatest.Options{})
	kafka.Stop()
	dir := t.TempDir()
	binary, err := process.Build(t.Context(), dir, race.Enabled)
	if err != nil {
		t.Fatal(err)
	}
	p := &process.Process{
		Binary: binary, Name: "late", HTTP: waittest.FreeAddress(t), Log: filepath.Join(dir, "log"),
		Args: []string{"--roles", strings.Join(config.AllRoles(), ","), "--join", "127.0.0.1:1", "--data-dir", filepath.Join(dir, "data")},
		Env: []string{
			"IMGO_CLUSTER_SECRET=" + secret, "IMGO_KAFKA_BROKERS=" + kafka.Brokers()[0], "IMGO_CLUSTER_GOSSIP=127.0.0.1:0",
			"IMGO_CLUSTER_RPC=127.0.0.1:0",
			"IMGO_TCP=127.0.0.1:0", "IMGO_WS=127.0.0.1:0", "IMGO_KEPT_PARTITIONS=4", "IMGO_LIVE_PARTITIONS=2", "IMGO_DISK_RESERVE=0",
		},
	}
	p.Env = append(p.Env, "IMGO_HTTP="+p.HTTP)
	for _, comes := range []bool{false, true} {
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		waitsForKafka(t, p.HTTP, kafka.Brokers()[0], func() string {
			if err := p.Ended(); err != nil {
				t.Fatal(err)
			}
			return p.Tail(1 << 20)
		})
		if comes {
			kafka.Resume()
			if err := p.Ready(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if err := p.Stop(); err != nil {
			t.Errorf("%v\n%s", err, p.Tail(4000))
		}
	}
}
