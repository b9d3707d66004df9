// Package conformance judges client libraries. Its tests play scenarios with a scripted server and compare what the
// driver of a library did with docs/reference/sdk.md. README.md describes the drivers.
//
//	go test ./clients/conformance -language go,python
package conformance
