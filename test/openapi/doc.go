// Package openapi_test checks the served OpenAPI document with the tools of its readers. schemathesis
// sends requests that follow the document and requests that break it. Three generators make clients
// that must compile and push.
//
// The tools come from PyPI and Maven Central. Without Python or Maven a test is skipped, or fails with
// CI=true. The tests of package httpapi check the document without tools.
package openapi_test
