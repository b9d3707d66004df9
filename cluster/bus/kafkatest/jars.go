package kafkatest

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// pom names the jars of Apache Kafka.
//
//go:embed pom.xml
var pom []byte

// ErrMissing is the error if Apache Kafka cannot run on this machine: Java, Maven or
// Kafka's jars are missing.
var ErrMissing = errors.New("no Apache Kafka here")

// fetchLimit bounds the download of about 45 MB.
const fetchLimit = 5 * time.Minute

// Jars returns the folder with Apache Kafka's jars, in .cache/kafka of this checkout. If
// they are not there, Maven fetches them. Several processes may do so at the same time.
// The error is ErrMissing if they cannot be fetched.
func Jars(ctx context.Context, logf func(format string, args ...any)) (string, error) {
	root, err := checkout()
	if err != nil {
		return "", err
	}
	// Each version of the pom has a folder of its own.
	cache := filepath.Join(root, ".cache", "kafka")
	lib := filepath.Join(cache, fmt.Sprintf("lib-%.4x", sha256.Sum256(pom)))
	if _, err := os.Stat(lib); err == nil {
		return lib, nil
	}
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return "", fmt.Errorf("%w: Maven (mvn) is not installed; scripts/setup kafka does it on Debian", ErrMissing)
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("make the cache of Kafka: %w", err)
	}
	dir, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return "", fmt.Errorf("make the cache of Kafka: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a folder that stays does no harm
	if err := os.WriteFile(filepath.Join(dir, "pom.xml"), pom, 0o644); err != nil {
		return "", fmt.Errorf("make the cache of Kafka: %w", err)
	}
	logf("fetching Apache Kafka by Maven into %s", lib)
	ctx, cancel := context.WithTimeout(ctx, fetchLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, mvn, "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=lib")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: fetch it by Maven: %w\n%s", ErrMissing, err, bytes.TrimSpace(out))
	}
	if err := os.Rename(filepath.Join(dir, "lib"), lib); err != nil {
		if _, statErr := os.Stat(lib); statErr != nil { // no other process was faster
			return "", fmt.Errorf("make the cache of Kafka: %w", err)
		}
	}
	return lib, nil
}

// checkout returns the folder of go.mod, which is the working directory or above it.
func checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the checkout: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("find the checkout: there is no go.mod at or above this folder")
		}
		dir = up
	}
}
