package httpapi

import (
	_ "embed"
	"net/http"

	"imgo/roles/logic/httpapi/internal/httpcall"
)

// The document is written as YAML; the JSON is made from it (the test
// TestOpenAPIJSON with -update) and held against it.
var (
	//go:embed openapi.yaml
	documentYAML []byte
	//go:embed openapi.json
	documentJSON []byte
)

func openapiJSON(c *call) error {
	c.Write(http.StatusOK, httpcall.ContentJSON, documentJSON)
	return nil
}

func openapiYAML(c *call) error {
	c.Write(http.StatusOK, "application/yaml", documentYAML)
	return nil
}
