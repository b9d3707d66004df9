package deploy_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"go.yaml.in/yaml/v3"
)

// renderChart renders the chart like `helm template RELEASE chart`. It implements only the Helm
// functions that the chart uses.
func renderChart(t *testing.T, release string, change func(values map[string]any)) ([]map[string]any, error) {
	t.Helper()
	const chart = "helm/imgo/"
	values := readYAML(t, "values.yaml", readFile(t, chart+"values.yaml"))[0]
	about := readYAML(t, "Chart.yaml", readFile(t, chart+"Chart.yaml"))[0]
	change(values)
	// Helm reads values as JSON, so every number in its templates is a float64.
	raw, err := json.Marshal(values)
	if err == nil {
		values = nil
		err = json.Unmarshal(raw, &values)
	}
	if err != nil {
		t.Fatal(err)
	}

	root := template.New("chart").Option("missingkey=zero")
	toYAML := func(v any) (string, error) {
		out, err := yaml.Marshal(v)
		return strings.TrimSuffix(string(out), "\n"), err
	}
	root.Funcs(template.FuncMap{
		"include": func(name string, data any) (string, error) {
			var out bytes.Buffer
			err := root.ExecuteTemplate(&out, name, data)
			return out.String(), err
		},
		"toYaml":     toYAML,
		"nindent":    func(n int, s string) string { return "\n" + indent(n, s) },
		"quote":      func(v any) string { return fmt.Sprintf("%q", fmt.Sprint(v)) },
		"upper":      strings.ToUpper,
		"trunc":      func(n int, s string) string { return s[:min(n, len(s))] },
		"trimSuffix": func(suffix, s string) string { return strings.TrimSuffix(s, suffix) },
		"contains":   func(part, s string) bool { return strings.Contains(s, part) },
		"sha256sum":  func(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) },
		"list":       func(v ...any) []any { return v },
		"hasKey":     func(m map[string]any, key string) bool { _, ok := m[key]; return ok },
		"dict": func(v ...any) map[string]any {
			out := map[string]any{}
			for i := 0; i+1 < len(v); i += 2 {
				out[v[i].(string)] = v[i+1]
			}
			return out
		},
		"default": func(d any, v ...any) any {
			if len(v) == 0 || v[0] == nil || reflect.ValueOf(v[0]).IsZero() {
				return d
			}
			return v[0]
		},
		"add": func(v ...any) (sum int64, err error) {
			for _, n := range v {
				switch n := n.(type) {
				case int:
					sum += int64(n)
				case float64:
					sum += int64(n)
				default:
					return 0, fmt.Errorf("%v is no number", n)
				}
			}
			return sum, nil
		},
		"join": func(separator string, v []any) string {
			out := make([]string, len(v))
			for i := range v {
				out[i] = fmt.Sprint(v[i])
			}
			return strings.Join(out, separator)
		},
		"required": func(message string, v any) (any, error) {
			if v == nil || v == "" {
				return nil, errors.New(message)
			}
			return v, nil
		},
	})
	files, err := filepath.Glob(chart + "templates/*")
	if err != nil || len(files) < 5 {
		t.Fatalf("found the templates %q: %v", files, err)
	}
	for _, file := range files {
		if _, err := root.New(filepath.Base(file)).Parse(readFile(t, file)); err != nil {
			t.Fatal(err)
		}
	}
	chartData := map[string]any{"Name": about["name"], "Version": about["version"], "AppVersion": about["appVersion"]}
	data := map[string]any{
		"Values": values, "Chart": chartData,
		"Release": map[string]any{"Name": release, "Namespace": "push", "Service": "Helm"},
	}
	var documents []map[string]any
	for _, file := range files {
		var out bytes.Buffer
		if err := root.ExecuteTemplate(&out, filepath.Base(file), data); err != nil {
			return nil, err
		}
		if strings.HasSuffix(file, ".yaml") {
			if strings.Contains(out.String(), "<no value>") {
				t.Errorf("%s names a value that is not there:\n%s", file, out.String())
			}
			documents = append(documents, readYAML(t, file, out.String())...)
		}
	}
	return documents, nil
}

func indent(n int, s string) string {
	pad := strings.Repeat(" ", n)
	return pad + strings.ReplaceAll(s, "\n", "\n"+pad)
}

// setRequired sets the values that have no default.
func setRequired(values map[string]any) {
	values["kafka"].(map[string]any)["brokers"] = []any{"kafka-0.kafka:9092", "kafka-1.kafka:9092"}
	values["secret"].(map[string]any)["values"] = map[string]any{
		"IMGO_CLUSTER_SECRET": "0123456789abcdef0123456789abcdef", "IMGO_HTTP_API_KEYS": "backend:0123456789abcdef",
	}
}

// kinds counts the documents of each kind.
func kinds(documents []map[string]any) map[string]int {
	out := map[string]int{}
	for _, document := range documents {
		out[document["kind"].(string)]++
	}
	return out
}

func find(t *testing.T, documents []map[string]any, kind, name string) map[string]any {
	t.Helper()
	for _, document := range documents {
		if document["kind"] == kind && dig(document, "metadata", "name") == name {
			return document
		}
	}
	t.Fatalf("there is no %s %s", kind, name)
	return nil
}

func TestChartDefaults(t *testing.T) {
	documents, err := renderChart(t, "imgo", setRequired)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"ConfigMap": 1, "Secret": 1, "Deployment": 3, "StatefulSet": 1, "Service": 3, "PodDisruptionBudget": 4}
	if got := kinds(documents); !maps.Equal(got, want) {
		t.Errorf("it makes %v, want %v", got, want)
	}
	seen := map[string]bool{}
	for _, document := range documents {
		name := fmt.Sprint(document["kind"], "/", dig(document, "metadata", "name"))
		if seen[name] || document["apiVersion"] == nil || dig(document, "metadata", "labels", "app.kubernetes.io/instance") != "imgo" {
			t.Errorf("%s is there twice, or lacks its version or labels", name)
		}
		seen[name] = true
	}
	settings := find(t, documents, "ConfigMap", "imgo")
	for _, role := range []string{"comet", "logic", "job", "router"} {
		kind := "Deployment"
		if role == "router" {
			kind = "StatefulSet"
		}
		workload := find(t, documents, kind, "imgo-"+role)
		checkPod(t, role, workload)
		environment := map[string]any{}
		maps.Copy(environment, dig(settings, "data").(map[string]any))
		maps.Copy(environment, podEnvironment(workload))
		checkEnvironment(t, role, environment)
	}
	if dig(find(t, documents, "StatefulSet", "imgo-router"), "spec", "volumeClaimTemplates", 0, "metadata", "name") != "data" {
		t.Error("routers have no disk of their own")
	}
	gossip := find(t, documents, "Service", "imgo-gossip")
	if dig(gossip, "spec", "clusterIP") != "None" || dig(gossip, "spec", "publishNotReadyAddresses") != true {
		t.Error("the first node of all could not find itself")
	}
	if join := dig(settings, "data", "IMGO_CLUSTER_JOIN"); join != "imgo-gossip.push.svc:7946" {
		t.Errorf("nodes join %v", join)
	}
	checkServices(t, documents)
}

// podEnvironment returns the IMGO_ variables of a workload.
func podEnvironment(workload map[string]any) map[string]any {
	out := map[string]any{}
	list, _ := dig(workload, "spec", "template", "spec", "containers", 0, "env").([]any)
	for _, entry := range list {
		if name := dig(entry, "name").(string); strings.HasPrefix(name, "IMGO_") {
			value, _ := dig(entry, "value").(string)
			out[name] = strings.ReplaceAll(value, "$(HOST_IP)", "10.0.0.1")
		}
	}
	return out
}

// checkPod checks what every pod must have.
func checkPod(t *testing.T, role string, workload map[string]any) {
	t.Helper()
	pod := dig(workload, "spec", "template", "spec")
	container := dig(pod, "containers", 0)
	timeout, err := time.ParseDuration(fmt.Sprint(podEnvironment(workload)["IMGO_SHUTDOWN_TIMEOUT"]))
	linger, _ := dig(container, "lifecycle", "preStop", "sleep", "seconds").(int)
	grace, _ := dig(pod, "terminationGracePeriodSeconds").(int)
	if err != nil || linger == 0 || time.Duration(grace-linger)*time.Second <= timeout {
		t.Errorf("%s is killed after %d s, and needs %d s and %v", role, grace, linger, timeout)
	}
	if podEnvironment(workload)["IMGO_ROLES"] != role || dig(pod, "enableServiceLinks") != false {
		t.Errorf("%s does not run its role alone", role)
	}
	failures, _ := dig(container, "startupProbe", "failureThreshold").(int)
	if period, _ := dig(container, "startupProbe", "periodSeconds").(int); failures*period < 300 {
		t.Errorf("%s has %d s to start", role, failures*period)
	}
	if dig(container, "livenessProbe", "httpGet", "path") != "/healthz" || dig(container, "readinessProbe", "httpGet", "path") != "/readyz" {
		t.Errorf("%s is not probed", role)
	}
	// The labels of the pod must match the selectors of the other documents.
	labels, _ := dig(workload, "spec", "template", "metadata", "labels").(map[string]any)
	selector, _ := dig(workload, "spec", "selector", "matchLabels").(map[string]any)
	for key, value := range selector {
		if labels[key] != value {
			t.Errorf("%s selects %s=%v, its pods have %v", role, key, value, labels[key])
		}
	}
	if selector["app.kubernetes.io/component"] != role {
		t.Errorf("%s selects the pods of other roles", role)
	}
	// Every mount must be a volume or a volume claim.
	volumes := []any{dig(workload, "spec", "volumeClaimTemplates", 0, "metadata", "name")}
	for i := 0; dig(pod, "volumes", i) != nil; i++ {
		volumes = append(volumes, dig(pod, "volumes", i, "name"))
	}
	for i := 0; dig(container, "volumeMounts", i) != nil; i++ {
		if name := dig(container, "volumeMounts", i, "name"); !slices.Contains(volumes, name) {
			t.Errorf("%s mounts %v, which is no volume", role, name)
		}
	}
}

// checkServices checks that each service selects pods that have its port by name.
func checkServices(t *testing.T, documents []map[string]any) {
	t.Helper()
	for _, document := range documents {
		if document["kind"] != "Service" {
			continue
		}
		role, ok := dig(document, "spec", "selector", "app.kubernetes.io/component").(string)
		if !ok {
			role = "comet" // the service selects all comets
		}
		container := dig(find(t, documents, "Deployment",
			fmt.Sprint(dig(document, "metadata", "labels", "app.kubernetes.io/instance"), "-", role)),
			"spec", "template", "spec", "containers", 0)
		ports := map[any]any{}
		for i := 0; dig(container, "ports", i) != nil; i++ {
			ports[dig(container, "ports", i, "name")] = dig(container, "ports", i, "containerPort")
		}
		for i := 0; dig(document, "spec", "ports", i) != nil; i++ {
			port := dig(document, "spec", "ports", i)
			if ports[dig(port, "targetPort")] != dig(port, "port") {
				t.Errorf("service %v: port %v leads to %v of %s, which is %v", dig(document, "metadata", "name"),
					dig(port, "port"), dig(port, "targetPort"), role, ports[dig(port, "targetPort")])
			}
		}
	}
}

// TestChartOptions turns on every option.
func TestChartOptions(t *testing.T) {
	documents, err := renderChart(t, "imgo", func(values map[string]any) {
		setRequired(values)
		values["tls"] = map[string]any{"nodes": "nodes-cert", "clients": "clients-cert"}
		values["settings"] = map[string]any{"IMGO_KEPT_PARTITIONS": "32"}
		values["imagePullSecrets"] = []any{map[string]any{"name": "registry"}}
		values["nodeSelector"] = map[string]any{"disk": "fast"}
		values["tolerations"] = []any{map[string]any{"key": "push", "operator": "Exists"}}
		values["podAnnotations"] = map[string]any{"a": "b"}
		values["networkPolicy"] = map[string]any{"enabled": true, "httpFrom": []any{map[string]any{"podSelector": map[string]any{}}}}
		values["serviceMonitor"] = map[string]any{"enabled": true, "interval": "15s", "labels": map[string]any{"release": "prometheus"}}
		comet := values["comet"].(map[string]any)
		comet["hostPorts"], comet["zone"] = true, "eu-1"
		comet["settings"] = map[string]any{"IMGO_LIMITS_CONNECTIONS": "1000000"}
		comet["autoscaling"].(map[string]any)["enabled"] = true
		values["logic"].(map[string]any)["autoscaling"].(map[string]any)["enabled"] = true
		values["router"].(map[string]any)["disk"].(map[string]any)["class"] = "fast"
	})
	if err != nil {
		t.Fatal(err)
	}
	got := kinds(documents)
	if got["HorizontalPodAutoscaler"] != 2 || got["NetworkPolicy"] != 1 || got["ServiceMonitor"] != 1 {
		t.Errorf("it makes %v", got)
	}
	comet := find(t, documents, "Deployment", "imgo-comet")
	checkPod(t, "comet", comet)
	if dig(comet, "spec", "replicas") != nil {
		t.Error("the chart and the autoscaler would fight over the number of comets")
	}
	// The defaults of tcp and ws: the chart sets no address to listen at.
	container := dig(comet, "spec", "template", "spec", "containers", 0)
	for i, transport := range transports() {
		port := dig(container, "ports", 4+i)
		numbers := fmt.Sprint(dig(port, "containerPort"), dig(port, "hostPort"))
		if dig(port, "name") != transport.name || numbers != transport.port+" "+transport.port {
			t.Errorf("port %d of comets is %v, want %s of %s", i, port, transport.port, transport.name)
		}
		allowed := dig(find(t, documents, "NetworkPolicy", "imgo"), "spec", "ingress", 1, "ports", i, "port")
		if fmt.Sprint(allowed) != transport.port {
			t.Errorf("the policy lets clients in to port %v, want %s", allowed, transport.port)
		}
	}
	environment := podEnvironment(comet)
	for key, want := range map[string]string{
		"IMGO_CLUSTER_WS_ADDRESS": "wss://10.0.0.1:8090", "IMGO_CLUSTER_TCP_ADDRESS": "10.0.0.1:8080", "IMGO_CLUSTER_ZONE": "eu-1",
		"IMGO_COMET_TLS_CERT": "/etc/imgo/clients/tls.crt", "IMGO_CLUSTER_TLS_CA": "/etc/imgo/nodes/ca.crt", "IMGO_LIMITS_CONNECTIONS": "1000000",
	} {
		if environment[key] != want {
			t.Errorf("%s is %v, want %s", key, environment[key], want)
		}
	}
	if router := podEnvironment(find(t, documents, "StatefulSet", "imgo-router")); router["IMGO_COMET_TLS_CERT"] != nil ||
		router["IMGO_CLUSTER_TLS_CERT"] == nil {
		t.Error("router has the clients' certificate, or not its own")
	}
	if dig(find(t, documents, "ConfigMap", "imgo"), "data", "IMGO_KEPT_PARTITIONS") != "32" {
		t.Error("a setting does not arrive")
	}
	// If the user names an existing secret, the chart uses it and creates none.
	documents, err = renderChart(t, "push", func(values map[string]any) {
		setRequired(values)
		values["secret"] = map[string]any{"existing": "mine", "values": map[string]any{}}
	})
	if err != nil || kinds(documents)["Secret"] != 0 {
		t.Fatalf("with a secret of one's own: %v, %v", kinds(documents), err)
	}
	if ref := dig(find(t, documents, "Deployment", "push-imgo-job"), "spec", "template", "spec", "containers", 0, "envFrom", 1, "secretRef",
		"name"); ref != "mine" {
		t.Errorf("pods read the secret %v", ref)
	}
}

// TestChartRequires checks that the chart fails if a value without default is missing.
func TestChartRequires(t *testing.T) {
	for what, change := range map[string]func(map[string]any){
		"kafka.brokers": func(v map[string]any) { v["kafka"].(map[string]any)["brokers"] = []any{} },
		"IMGO_CLUSTER_SECRET": func(v map[string]any) {
			v["secret"].(map[string]any)["values"] = map[string]any{"IMGO_HTTP_API_KEYS": "a:b"}
		},
		"IMGO_HTTP_API_KEYS": func(v map[string]any) {
			v["secret"].(map[string]any)["values"] = map[string]any{"IMGO_CLUSTER_SECRET": "a"}
		},
	} {
		_, err := renderChart(t, "imgo", func(values map[string]any) { setRequired(values); change(values) })
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("without %s: %v", what, err)
		}
	}
}
