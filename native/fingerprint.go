package native

// Fingerprint tells models apart: a hash of the config, the adapter and samples of the weights.
func (m *Model) Fingerprint() (string, error) {
	if m.fingerprint != "" { // made while loading, with a prompt cache
		return m.fingerprint, nil
	}
	return fingerprint(m.source, m.options.Adapter)
}
