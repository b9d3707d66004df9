package roles

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"imgo/config"
)

// announceStart shows which parts run at which address, which roles were added and
// why, and what to try next. On a terminal it prints a banner, elsewhere log lines.
func (n *Node) announceStart() {
	defer func() { _, _ = io.WriteString(n.opts.Stdout, n.demoText()) }() // a closed output is no error
	if forPeople(n.cfg.Logging, n.opts) {
		_, _ = io.WriteString(n.opts.Stdout, n.banner()) // A closed output is no error.
		return
	}
	added := n.cfg.EmbeddedRoles()
	e := n.log.Info().Strs("roles", n.cfg.Roles).Strs("added", added).Str("http", n.http.listener.Addr().String())
	for _, t := range (clientSide{n}).transports() {
		if a := n.ClientAddr(t.scheme); a != nil {
			e = e.Str(t.scheme, a.String())
		}
	}
	e.Str("data", n.cfg.DataDir).Dur("took", time.Since(n.started)).Msg("imgo is ready")
	if len(added) > 0 {
		n.log.Info().Strs("added", added).Msg("these roles run in this process too, because cluster.join is empty")
	}
}

// banner returns the text for a person at a terminal.
func (n *Node) banner() string {
	var b strings.Builder
	line := func(what, where, note string) {
		fmt.Fprintf(&b, "  %-8s %-28s %s\n", what, where, note)
	}
	fmt.Fprintf(&b, "\nimgo %s is ready (node %s)\n\n", n.opts.Version, n.name)
	clients := clientSide{n}.addresses()
	for _, t := range (clientSide{n}).transports() {
		a := clients[t.scheme]
		if a == "" {
			continue
		}
		scheme, address, ok := strings.Cut(a, "://")
		if !ok {
			scheme, address = t.scheme, a
		}
		if t.path != "" {
			address = scheme + "://" + hostOr(address, "localhost") + t.path
		}
		line(strings.ToUpper(t.scheme), address, "clients")
	}
	home := n.http.home()
	line("HTTP", home+"/", "push API /v1, a page to try it, /metrics, /readyz")
	line("data", n.cfg.DataDir, "kept messages, mailboxes, tokens")
	line("roles", strings.Join(config.AllRoles(), " "), "")
	if added := n.cfg.EmbeddedRoles(); len(added) > 0 {
		verb := "runs"
		if len(added) > 1 {
			verb = "run"
		}
		line("", "", fmt.Sprintf("%s %s here, too, because cluster.join is empty", strings.Join(added, " and "), verb))
	}
	server := ""
	if n.cfg.HTTP.Listen != config.Default().HTTP.Listen {
		server = " --server " + home
	}
	program := cmp.Or(n.opts.Program, "imgo")
	b.WriteString("\nTry it, in two more terminals:\n\n")
	switch {
	case n.cfg.DemoKey() != "":
		fmt.Fprintf(&b, "    export IMGO_API_KEY=%s        in both\n", n.cfg.DemoKey())
	case len(n.cfg.HTTP.Keys) > 0:
		b.WriteString("    export IMGO_API_KEY=…        one of http.api_keys, in both\n")
	}
	fmt.Fprintf(&b, "    %s listen%s --user 123\n    %s push%s --user 123 '{\"test\":1}'\n\n", program, server, program, server)
	return b.String()
}

// demoText returns the API key of a demo and commands that use it, or "" if this is none.
func (n *Node) demoText() string {
	key := n.cfg.DemoKey()
	if key == "" {
		return ""
	}
	curl := fmt.Sprintf("curl -s -H 'Authorization: Bearer %s' %s", key, n.http.home())
	return fmt.Sprintf(`
This is a demo. Its API key is new at each start:

    %s

Push a message, which waits for the user's devices:

    %s/v1/push -d '{"user":"123","body":{"hello":"world"}}'

Make a token with which a client of the user connects:

    %s/v1/tokens -d '{"user":"123"}'

`, key, curl, curl)
}

// home returns the URL of the HTTP port for programs of this machine.
func (n *httpSide) home() string {
	scheme := "http"
	if n.cfg.HTTP.TLSCert != "" {
		scheme = "https"
	}
	return scheme + "://" + hostOr(n.listener.Addr().String(), "localhost")
}

// hostOr returns addr with its host replaced by host, if addr has none or stands for every address.
func hostOr(addr, host string) string {
	h, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(h); h == "" || ip != nil && ip.IsUnspecified() {
		h = host
	}
	return net.JoinHostPort(h, port)
}
