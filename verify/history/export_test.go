package history

// Verdict returns all violations and losses as Violations, or nil if there are none.
func (h *History) Verdict() error {
	if all := append(h.Violations(), h.Lost(0)...); len(all) > 0 {
		return all
	}
	return nil
}
