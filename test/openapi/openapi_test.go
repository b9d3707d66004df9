package openapi_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imgo/clients/conformance/driver"
	"imgo/roles"
	"imgo/roles/logic/httpapi"
	"imgo/test/harness"
)

const (
	key = "the-key-of-the-openapi-tests"

	// generator is the artifact of openapi-generator on Maven Central.
	generator = "org.openapitools:openapi-generator-cli:7.17.0"

	// limit bounds each tool.
	limit = 5 * time.Minute
)

// briefJava is for the programs in Java, each of which runs for a few seconds.
var briefJava = []string{"JDK_JAVA_OPTIONS=" + driver.BriefJava}

// TestSchemathesis sends some thousand requests. Each request that follows the document must be accepted,
// each other one refused, and each answer must be as described.
func TestSchemathesis(t *testing.T) {
	bin := python(t)
	run(t, t.TempDir(), []string{"SCHEMATHESIS_HOOKS=" + testdata(t, "hooks.py")}, filepath.Join(bin, "schemathesis"),
		"--config-file", testdata(t, "schemathesis.toml"), "run", server(t)+"/v1/openapi.json",
		"--max-examples", "10", "--seed", "1", "--generation-deterministic", "--no-color", "--header", "Authorization: Bearer "+key)
}

// TestOpenAPIPythonClient makes a client with openapi-python-client.
func TestOpenAPIPythonClient(t *testing.T) {
	bin, url, dir := python(t), server(t), t.TempDir()
	run(t, dir, []string{"PATH=" + bin + ":" + os.Getenv("PATH")}, filepath.Join(bin, "openapi-python-client"),
		"generate", "--url", url+"/v1/openapi.json", "--output-path", "client")
	run(t, dir, []string{"PYTHONPATH=client"}, filepath.Join(bin, "python"), testdata(t, "push_client.py"), url, key)
}

// TestOpenAPIGeneratorPython makes a Python client with openapi-generator.
func TestOpenAPIGeneratorPython(t *testing.T) {
	bin, url := python(t), server(t)
	dir := generate(t, url, "-g", "python")
	run(t, dir, []string{"PYTHONPATH=client"}, filepath.Join(bin, "python"), testdata(t, "push_generator.py"), url, key)
}

// TestOpenAPIGeneratorJava makes a Java client with openapi-generator.
func TestOpenAPIGeneratorJava(t *testing.T) {
	url := server(t)
	dir := generate(t, url, "-g", "java", "--library", "native", "--additional-properties",
		"containerDefaultToNull=true,openApiNullable=false")
	source, err := os.ReadFile(testdata(t, "PushMain.java"))
	if err != nil {
		t.Fatal(err)
	}
	client := filepath.Join(dir, "client")
	if err := os.WriteFile(filepath.Join(client, "src/main/java/PushMain.java"), source, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, client, briefJava, "mvn", "--quiet", "--batch-mode", "-Dmaven.test.skip=true", "compile",
		"dependency:build-classpath", "-Dmdep.outputFile=classpath")
	classes, err := os.ReadFile(filepath.Join(client, "classpath"))
	if err != nil {
		t.Fatal(err)
	}
	run(t, client, briefJava, "java", "-cp", "target/classes:"+strings.TrimSpace(string(classes)), "PushMain", url, key)
}

// generate makes a client with openapi-generator in the folder "client" of the folder that it returns.
func generate(t *testing.T, url string, args ...string) string {
	t.Helper()
	needs(t, "java", "mvn")
	cache, err := filepath.Abs("../../.cache/openapi")
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(generator, ":")
	jar := filepath.Join(cache, parts[1]+"-"+parts[2]+".jar")
	if _, err := os.Stat(jar); err != nil {
		run(t, ".", briefJava, "mvn", "--quiet", "--batch-mode", "dependency:copy", "-Dartifact="+generator, "-DoutputDirectory="+cache)
	}
	dir := t.TempDir()
	run(t, dir, briefJava, "java", append([]string{"-jar", jar, "generate", "-i", url + "/v1/openapi.json", "-o", "client"}, args...)...)
	return dir
}

// server starts a node with an API key and returns the URL of its API.
func server(t *testing.T) string {
	t.Helper()
	cfg := harness.Settings(t)
	cfg.Auth.Mode = "token"
	cfg.HTTP.Keys = []httpapi.Key{{Name: "test", Key: key}}
	return harness.Start(t, cfg, roles.RunOptions{Version: "openapi"}, nil).Base
}

// python installs the packages of the tests and returns the folder of their programs.
func python(t *testing.T) string {
	t.Helper()
	needs(t, "python3")
	return strings.TrimSpace(run(t, "../..", nil, "scripts/python", "test/openapi/testdata/requirements.txt"))
}

// needs skips the test if a program is missing. With CI=true it fails.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, name := range programs {
		if _, err := exec.LookPath(name); err == nil {
			continue
		}
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing: scripts/setup installs it", name)
		}
		t.Skipf("%s is missing", name)
	}
}

// run runs a program in dir and returns its standard output. The test ends if the program fails.
func run(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs strings.Builder
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, append(os.Environ(), env...), &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", name, err, out.String(), errs.String())
	}
	return out.String()
}

func testdata(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}
