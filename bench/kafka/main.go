// Command kafka runs a Kafka on this machine until Ctrl-C, for trying out a cluster
// and for measuring. It runs Apache Kafka from the jars of Maven Central, which needs
// Java, and Maven the first time. With -fake it runs a small fake Kafka in memory that
// needs neither.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"imgo/cluster/bus/kafkatest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "kafka:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("kafka", flag.ContinueOnError)
	brokers := flags.Int("brokers", 1, "number of brokers: 1 on 127.0.0.1, or 3 on 127.0.0.1 to 127.0.0.3")
	port := flags.Int("port", 9092, "port of the brokers; the two ports after it are used as well")
	dir := flags.String("dir", "", "folder for data and logs, which stay there; if empty, a temporary folder that is removed at the end")
	memory := flags.String("memory", "512M", "heap of a broker")
	fake := flags.Bool("fake", false, "run a Kafka in memory, with one broker")
	fetch := flags.Bool("fetch", false, "fetch the jars of Apache Kafka, and run nothing")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *brokers != 1 && *brokers != 3 {
		return fmt.Errorf("-brokers %d: must be 1 or 3", *brokers)
	}
	logf := func(format string, args ...any) { fmt.Fprintf(os.Stderr, "kafka: "+format+"\n", args...) }
	if *fake {
		k, err := kafkatest.Start(kafkatest.Options{Ports: []int{*port}})
		if err != nil {
			return err
		}
		defer k.Close()
		logf("ready; give imgo --kafka %s; Ctrl-C ends", strings.Join(k.Brokers(), ","))
		<-ctx.Done()
		return nil
	}
	if *fetch {
		_, err := kafkatest.Jars(ctx, logf)
		return err
	}
	var addresses []string
	for i := range *brokers {
		addresses = append(addresses, fmt.Sprintf("127.0.0.%d:%d", i+1, *port))
	}
	o := kafkatest.RealOptions{Brokers: *brokers, Addresses: addresses, Dir: *dir, Memory: *memory, Logf: logf}
	k, err := kafkatest.StartReal(ctx, o)
	if err != nil {
		return err
	}
	logf("ready; give imgo --kafka %s; Ctrl-C ends", strings.Join(k.Brokers(), ","))
	<-ctx.Done()
	logf("stopping")
	if err := k.Stop(); err != nil {
		_ = k.Close()
		return err
	}
	return k.Close()
}
