package members

// Faults are the seams by which tests cut the network. The zero value is the product.
type Faults struct {
	// Cut reports whether nothing is sent to a gossip address now. The network is tcp or
	// udp. In a partition both sides must cut. Nil means that nothing is cut.
	Cut func(network, address string) bool
}
