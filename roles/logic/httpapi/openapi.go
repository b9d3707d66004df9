package httpapi

import (
	_ "embed"
	"net/http"
)

// The document is written as YAML; the JSON is made from it (the test
// TestOpenAPIJSON with -update) and held against it.
var (
	//go:embed openapi.yaml
	documentYAML []byte
	//go:embed openapi.json
	documentJSON []byte
)

func document(contentType string, content []byte) handler {
	return func(c *call) error {
		c.Write(http.StatusOK, contentType, content)
		return nil
	}
}
