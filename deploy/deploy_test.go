// Package deploy_test checks that the files in this folder fit imgo. The settings, flags, ports and
// metrics that these files and the documents name must exist, and imgo must accept the settings. It
// runs no Helm, container or Prometheus. It reads their files with a parser of its own.
package deploy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"

	"imgo/config"
)

var update = flag.Bool("update", false, "write the ports into the Containerfile and docs/how-to/cluster.md")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// readYAML returns all documents of a YAML file. A duplicate key is an error.
func readYAML(t *testing.T, name, text string) []map[string]any {
	t.Helper()
	var documents []map[string]any
	decoder := yaml.NewDecoder(strings.NewReader(text))
	for {
		var document map[string]any
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return documents
		}
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		if document != nil {
			documents = append(documents, document)
		}
	}
}

// dig follows keys and indices into decoded YAML or JSON. It returns nil if there is no value.
func dig(v any, path ...any) any {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[step]
		case int:
			l, _ := v.([]any)
			if step >= len(l) {
				return nil
			}
			v = l[step]
		}
	}
	return v
}

// forEachString calls f for every string in v.
func forEachString(v any, f func(string)) {
	switch v := v.(type) {
	case string:
		f(v)
	case []any:
		for _, element := range v {
			forEachString(element, f)
		}
	case map[string]any:
		for key, element := range v {
			f(key)
			forEachString(element, f)
		}
	}
}

// guides returns the documents that mention settings and metrics.
func guides(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../docs/*/*.md")
	if err != nil || len(files) < 10 {
		t.Fatalf("there are %d documents: %v", len(files), err)
	}
	return files
}

// deployFiles returns the files of this folder without the tests, and the documents that mention
// settings and metrics.
func deployFiles(t *testing.T) []string {
	t.Helper()
	files := append(guides(t), "../README.md")
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && !strings.HasSuffix(path, ".go") {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestSettingsExist checks that imgo knows every variable and every key that these files name.
func TestSettingsExist(t *testing.T) {
	variables := []string{config.ConfigEnv, config.EnvPrefix + "API_KEY", config.EnvPrefix + "SERVER"}
	var keys, flags []string
	sections := map[string]bool{}
	for _, key := range config.Keys() {
		variables = append(variables, key.Envs...)
		flags = append(flags, key.Flags...)
		keys = append(keys, key.Name)
		if section, _, ok := strings.Cut(key.Name, "."); ok {
			sections[section] = true
		}
	}
	variable := regexp.MustCompile(`\bIMGO_[A-Z0-9_]+`)
	quoted := regexp.MustCompile("`([a-z]+)\\.([a-z_]+)[`= ]")
	serve := regexp.MustCompile(`(?:imgo serve|bin/imgo|imgo) (--[^\n` + "`" + `#]*)`)
	flag := regexp.MustCompile(`--([a-z-]+)`)
	for _, file := range deployFiles(t) {
		text := readFile(t, file)
		for _, name := range variable.FindAllString(text, -1) {
			// IMGO_ alone, or a prefix such as IMGO_COMET_…, stands for many variables.
			if !slices.Contains(variables, name) && !strings.HasSuffix(name, "_") {
				t.Errorf("%s: imgo reads no %s", file, name)
			}
		}
		if strings.HasSuffix(file, ".md") {
			for _, found := range quoted.FindAllStringSubmatch(text, -1) {
				if name := found[1] + "." + found[2]; sections[found[1]] && !slices.Contains(keys, name) && found[2] != "md" && found[2] != "go" {
					t.Errorf("%s: there is no setting %s", file, name)
				}
			}
		}
		for _, line := range serve.FindAllStringSubmatch(text, -1) {
			for _, found := range flag.FindAllStringSubmatch(line[1], -1) {
				if !slices.Contains(flags, found[1]) && !slices.Contains([]string{"config", "help", "api-key", "server"}, found[1]) {
					t.Errorf("%s: imgo has no flag --%s", file, found[1])
				}
			}
		}
	}
}

// transport is a way for clients to connect, with its default port.
type transport struct{ name, port string }

// transports returns those that have the settings comet.NAME and cluster.NAME_address.
func transports() (all []transport) {
	defaults, addresses := reflect.ValueOf(config.Default()), map[string]string{}
	for _, key := range config.Keys() {
		if name, ok := strings.CutPrefix(key.Name, "comet."); ok {
			addresses[name] = fmt.Sprint(defaults.FieldByIndex(key.Index))
		}
		name, ok := strings.CutPrefix(strings.TrimSuffix(key.Name, "_address"), "cluster.")
		if address := addresses[name]; ok && address != "" {
			all = append(all, transport{name, address[strings.LastIndex(address, ":")+1:]})
		}
	}
	return all
}

// checkLine checks the line of a file that matches a pattern, or writes it with -update.
func checkLine(t *testing.T, file, pattern, want string) {
	t.Helper()
	text, line := readFile(t, file), regexp.MustCompile("(?m)^"+pattern+"$")
	got := line.FindString(text)
	if got == want {
		return
	}
	if !*update || got == "" {
		t.Errorf("%s has %q, want %q: write it with go test ./deploy -update", file, got, want)
		return
	}
	if err := os.WriteFile(file, []byte(strings.Replace(text, got, want, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestPorts checks that the files use imgo's default ports.
func TestPorts(t *testing.T) {
	port := func(address string) string { return address[strings.LastIndex(address, ":")+1:] }
	defaults, clients := config.Default(), transports()
	var exposed, keys []string
	for _, transport := range clients {
		exposed, keys = append(exposed, transport.port), append(keys, "`comet."+transport.name+"`")
	}
	row := "| " + strings.Join(exposed, ", ") + " | " + strings.Join(keys, ", ") + " | clients; the load balancer |"
	checkLine(t, "../docs/how-to/cluster.md", `\|.*\| clients; the load balancer \|`, row)
	gossip := port(defaults.Cluster.Gossip)
	exposed = append(exposed, port(defaults.HTTP.Listen), port(defaults.Cluster.RPC), gossip+"/tcp", gossip+"/udp")
	checkLine(t, "Containerfile", `EXPOSE .*`, "EXPOSE "+strings.Join(exposed, " "))
	chart := readYAML(t, "values.yaml", readFile(t, "helm/imgo/values.yaml"))[0]
	for i, transport := range clients {
		entry := dig(chart, "comet", "clientPorts", i)
		if dig(entry, "name") != transport.name || fmt.Sprint(dig(entry, "port")) != transport.port {
			t.Errorf("the chart's port %d for clients is %v, want %s of %s", i, entry, transport.port, transport.name)
		}
	}
	compose := readYAML(t, "compose.yaml", readFile(t, "compose.yaml"))[0]
	publishes := func(service, port string) {
		published := false
		forEachString(dig(compose, "services", service, "ports"), func(s string) { published = published || strings.HasSuffix(s, ":"+port) })
		if !published {
			t.Errorf("compose: %s does not publish %s", service, port)
		}
	}
	for _, n := range []string{"1", "2"} {
		publishes("logic"+n, port(defaults.HTTP.Listen))
		for _, transport := range clients {
			publishes("comet"+n, transport.port)
		}
	}
}

// TestCompose checks that the compose file has all nodes of the cluster, and that every node has
// what it needs.
func TestCompose(t *testing.T) {
	compose := readYAML(t, "compose.yaml", readFile(t, "compose.yaml"))[0]
	services, _ := dig(compose, "services").(map[string]any)
	volumes, _ := dig(compose, "volumes").(map[string]any)
	for _, service := range []string{"comet1", "comet2", "logic1", "logic2", "router1", "router2", "job1", "job2"} {
		s := services[service]
		environment, _ := dig(s, "environment").(map[string]any)
		if role := strings.TrimRight(service, "12"); environment["IMGO_ROLES"] != role || environment["IMGO_NODE_ID"] != service {
			t.Errorf("%s runs %v as %v", service, environment["IMGO_ROLES"], environment["IMGO_NODE_ID"])
		}
		checkEnvironment(t, service, environment)
		if dig(s, "env_file") == nil || dig(s, "healthcheck", "test") == nil || dig(s, "depends_on", "kafka", "condition") != "service_healthy" {
			t.Errorf("%s lacks the secrets, a health check or its wait for Kafka", service)
		}
		grace, err := time.ParseDuration(dig(s, "stop_grace_period").(string))
		if err != nil || grace <= config.Default().Shutdown.Timeout {
			t.Errorf("%s is killed after %v, before its drain is over", service, grace)
		}
		if volume, _ := dig(s, "volumes", 0).(string); volume != service+":/data" {
			t.Errorf("%s keeps its data in %q", service, volume)
		}
		if _, ok := volumes[service]; !ok {
			t.Errorf("there is no volume %s", service)
		}
	}
	if len(services) != 9 || dig(services["kafka"], "healthcheck", "test") == nil {
		t.Errorf("there are %d services, or Kafka has no health check", len(services))
	}
}

// checkEnvironment checks that imgo accepts the variables. It sets the secrets that a user writes
// into an env file.
func checkEnvironment(t *testing.T, name string, environment map[string]any) {
	t.Helper()
	environ := []string{"IMGO_CLUSTER_SECRET=0123456789abcdef0123456789abcdef",
		"IMGO_HTTP_API_KEYS=backend:0123456789abcdef:0:push+read+users+tokens"}
	for key, value := range environment {
		if text, ok := value.(string); ok {
			environ = append(environ, key+"="+text)
		} else {
			t.Errorf("%s: %s is no string, but %v", name, key, value)
		}
	}
	cfg, err := config.Load(config.Sources{Environ: environ})
	if err != nil {
		t.Errorf("%s would not start: %v", name, err)
	}
	if warnings := cfg.Warnings(); len(warnings) > 0 {
		t.Errorf("%s would warn: %q", name, warnings)
	}
}

// TestSystemd checks that the unit passes the role and drains. Each environment file must start a
// node, and the nodes of one machine must not share a port.
func TestSystemd(t *testing.T) {
	for file, mark := range map[string]string{"imgo@.service": "--roles=%i", "imgo.service": "--config=%d/imgo.toml"} {
		unit := map[string]string{}
		for line := range strings.SplitSeq(readFile(t, "systemd/"+file), "\n") {
			if key, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
				unit[key] = value
			}
		}
		if exec := unit["ExecStart"]; !strings.Contains(exec, mark) || !strings.HasSuffix(exec, "--data-dir=/var/lib/"+unit["StateDirectory"]) {
			t.Errorf("%s: ExecStart is %q, StateDirectory %q", file, exec, unit["StateDirectory"])
		}
		stop, err := time.ParseDuration(unit["TimeoutStopSec"] + "s")
		if err != nil || stop <= config.Default().Shutdown.Timeout || unit["KillSignal"] != "SIGTERM" ||
			unit["RestartPreventExitStatus"] != "64 78" {
			t.Errorf("%s: killed %s after %s, or restarted with wrong settings", file, unit["TimeoutStopSec"], unit["KillSignal"])
		}
		if files, err := strconv.Atoi(unit["LimitNOFILE"]); err != nil || files <= config.Default().Limits.Connections {
			t.Errorf("%s: %d open files are too few", file, files)
		}
	}
	environment := func(file string) map[string]any {
		out := map[string]any{}
		for line := range strings.SplitSeq(readFile(t, file), "\n") {
			if key, value, ok := strings.Cut(line, "="); ok && (!strings.HasPrefix(line, "#") || strings.HasPrefix(line, "#IMGO_CLUSTER_")) {
				out[strings.TrimPrefix(key, "#")] = value
			}
		}
		return out
	}
	used := map[string]string{}
	for _, role := range []string{"comet", "logic", "router", "job"} {
		own := environment("systemd/" + role + ".env")
		for _, key := range []string{"IMGO_CLUSTER_GOSSIP", "IMGO_CLUSTER_RPC", "IMGO_HTTP_LISTEN"} {
			address, _ := own[key].(string)
			port := address[strings.LastIndex(address, ":")+1:]
			if other := used[port]; other != "" {
				t.Errorf("%s and %s both have port %s", role, other, port)
			}
			used[port] = role
		}
		all := environment("systemd/common.env")
		all["IMGO_ROLES"] = role
		for key, value := range own {
			all[key] = value
		}
		checkEnvironment(t, role+".env", all)
	}
}

// dashboardExpressions returns the expressions of the dashboard by panel title.
func dashboardExpressions(t *testing.T) map[string][]string {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
		Annotations struct{ List []struct{ Expr string } }
		Templating  struct {
			List []struct{ Name, Definition string }
		}
	}
	decoder := json.NewDecoder(bytes.NewReader([]byte(readFile(t, "grafana/imgo.json"))))
	if err := decoder.Decode(&dashboard); err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	ids := map[int]bool{}
	for _, panel := range dashboard.Panels {
		if ids[panel.ID] || panel.GridPos.X+panel.GridPos.W > 24 {
			t.Errorf("panel %q has the id of another one or hangs out", panel.Title)
		}
		ids[panel.ID] = true
		for _, target := range panel.Targets {
			out[panel.Title] = append(out[panel.Title], target.Expr)
		}
	}
	for _, annotation := range dashboard.Annotations.List {
		out["annotation"] = append(out["annotation"], annotation.Expr)
	}
	variable := regexp.MustCompile(`^label_values\(([^{,]*(?:\{.*\})?), (\w+)\)$`)
	for _, v := range dashboard.Templating.List {
		if v.Definition != "" {
			found := variable.FindStringSubmatch(v.Definition)
			if found == nil {
				t.Fatalf("variable %s: %s is not understood", v.Name, v.Definition)
			}
			out["variable "+v.Name] = append(out["variable "+v.Name], found[1])
		}
	}
	return out
}

// TestMetricsExist checks that every metric of the dashboard and the alerts exists, with the labels
// and label values that they use.
func TestMetricsExist(t *testing.T) {
	s := readSource(t)
	expressions := dashboardExpressions(t)
	alerts := readYAML(t, "alerts.yaml", readFile(t, "prometheus/alerts.yaml"))[0]
	described := readFile(t, "../docs/how-to/monitor.md")
	seen := map[string]bool{}
	for i := 0; dig(alerts, "groups", 0, "rules", i) != nil; i++ {
		rule := dig(alerts, "groups", 0, "rules", i)
		name, _ := dig(rule, "alert").(string)
		expr, _ := dig(rule, "expr").(string)
		summary, _ := dig(rule, "annotations", "summary").(string)
		severity, _ := dig(rule, "labels", "severity").(string)
		if name == "" || seen[name] || expr == "" || summary == "" || severity != "page" && severity != "ticket" {
			t.Errorf("alert %q lacks a name of its own, an expression, a summary or a severity", name)
		}
		if !strings.Contains(described, "`"+name+"`") {
			t.Errorf("docs/how-to/monitor.md does not say what %s means", name)
		}
		seen[name] = true
		expressions["alert "+name] = []string{expr}
		for _, found := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(summary, -1) {
			if strings.Contains(expr, "sum") && !regexp.MustCompile(`by \([^)]*\b`+found[1]+`\b`).MatchString(expr) {
				t.Errorf("alert %s: the summary has {{ $labels.%s }}, which the sum takes away", name, found[1])
			}
		}
	}
	if len(seen) < 10 {
		t.Errorf("only %d alerts were read", len(seen))
	}
	// Prometheus adds these labels to every series.
	target := []string{"job", "instance"}
	for where, list := range expressions {
		for _, text := range list {
			q, err := parsePromQL(text)
			if err != nil {
				t.Errorf("%s: %s: %v", where, text, err)
				continue
			}
			var labels []string
			for _, sel := range q.selectors {
				m, ok := s.find(sel.metric)
				if !ok {
					t.Errorf("%s: there is no metric %s", where, sel.metric)
					continue
				}
				labels = append(labels, m.labels...)
				counter := regexp.MustCompile(`_(total|bucket|sum|count)$`).MatchString(sel.metric)
				// What was counted before the first scrape is no increase: an alert may look at the counter itself, too.
				also := counter && !sel.ranged && strings.Contains(text, "increase("+sel.metric+"[")
				if rated := sel.ranged && slices.Contains([]string{"rate", "increase"}, sel.within[0]); rated != counter && !also {
					t.Errorf("%s: %s: rate and increase go with counters, and counters with them", where, sel.metric)
				}
				for _, match := range sel.matchers {
					if !slices.Contains(append(target, m.labels...), match.label) {
						t.Errorf("%s: %s has no label %s", where, sel.metric, match.label)
					}
					if slices.Contains(target, match.label) || match.value == "true" || match.value == "false" {
						continue
					}
					for value := range strings.SplitSeq(match.value, "|") {
						if !s.words[value] {
							t.Errorf("%s: %s: nothing in the sources sets %s to %q", where, sel.metric, match.label, value)
						}
					}
				}
			}
			for _, label := range q.grouped {
				if !slices.Contains(append(target, labels...), label) {
					t.Errorf("%s: nothing in %s has the label %s", where, text, label)
				}
			}
		}
	}
	// The documents must name existing metrics, too.
	for _, file := range guides(t) {
		for _, name := range regexp.MustCompile(`\bimgo_[a-z]+_[a-z_]+`).FindAllString(readFile(t, file), -1) {
			if _, ok := s.find(name); !ok && !s.metrics[name].histogram {
				t.Errorf("%s: there is no metric %s", file, name)
			}
		}
	}
}
