//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// serve prints the addresses of the cluster and waits until ctx is done.
func (st *stage) serve(ctx context.Context, stdout io.Writer) error {
	t := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\nA cluster is ready on this machine\n\n")
	fmt.Fprintf(t, "  kafka\t%s\n", strings.Join(st.kafka.Brokers(), ", "))
	for _, n := range st.c.nodes {
		what := "HTTP http://" + n.HTTP
		if n.role == "comet" {
			what = fmt.Sprintf("TCP %s:%s, WS ws://%s:%s/sub, %s", n.ip, tcpPort, n.ip, wsPort, what)
		}
		fmt.Fprintf(t, "  %s\t%s\n", n.Name, what)
	}
	fmt.Fprintf(t, "\n  logs and data\t%s\n", st.c.o.dir)
	if err := t.Flush(); err != nil {
		return err
	}
	comets, logics := st.c.of("comet"), st.c.of("logic")
	fmt.Fprintf(stdout, "\nListen at one comet and at another, push at any logic:\n\n")
	for i, n := range comets {
		logic := logics[i%len(logics)]
		fmt.Fprintf(stdout, "  ./imgo listen --user 123 --connect %s:%s --server http://%s\n", n.ip, tcpPort, logic.HTTP)
	}
	for _, n := range logics {
		fmt.Fprintf(stdout, "  ./imgo push --user 123 --server http://%s '{\"test\":1}'\n", n.HTTP)
	}
	fmt.Fprintf(stdout, "  ./imgo nodes --server http://%s\n  ./imgo verify --server http://%s\n\nCtrl-C ends all.\n\n", logics[0].HTTP,
		strings.Join(st.c.at("logic", httpPort), ",http://"))
	<-ctx.Done()
	return nil
}
