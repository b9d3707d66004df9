package webhook

import "net/http"

// Faults are the seams by which tests make calls fail or wait. The zero value is the product.
type Faults struct {
	// Transport replaces the network. Nil: the network is used.
	Transport http.RoundTripper
}
