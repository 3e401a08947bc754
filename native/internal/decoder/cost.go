package decoder

// What passes allocate is estimated before they run, from above, for the memory budget.

// PassBytes is what a pass holds at its widest, besides KV. It is an estimate from above: 24 bytes for each
// element that a layer makes of a token, because MLX has the results of about six ops in flight and
// widens some of them (measured on the CPU: 23 bytes with chunks of 100 to 512 tokens), attention scores in
// float32 over past positions where the back end makes them, and logits in float32 for some of the rows.
func (n *Network) PassBytes(tokens, past, logitRows int) int64 {
	return n.layerBytes(tokens) + n.AttentionBytes(tokens, past+tokens) + 12*int64(logitRows)*int64(n.Shape.VocabSize)
}

func (n *Network) layerBytes(tokens int) int64 {
	s := n.Shape
	return 24 * int64(tokens) * int64(4*s.HiddenSize+3*s.intermediate+2*(s.heads+2*s.KVHeads)*s.HeadDim)
}

// AttentionBytes is the size of one layer's attention scores, in float32.
func (n *Network) AttentionBytes(queries, keys int) int64 {
	return 4 * int64(n.Shape.heads) * int64(queries) * int64(keys)
}

// WideBytes is PassBytes for a wide pass, which has the scores of one chunk at a time.
func (n *Network) WideBytes(tokens int) int64 {
	return n.layerBytes(tokens) + n.AttentionBytes(PrefillChunk, tokens)
}
