package transport

// Held returns the bytes that all connections hold.
func (b *InputBudget) Held() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.size
}
