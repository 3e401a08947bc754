package decode

import (
	"errors"
	"fmt"
	"slices"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
)

// Speculative decoding (Leviathan et al. 2022, arXiv:2211.17192) in the form that keeps the draws: the draft
// model proposes its most likely tokens, the model computes the logits after each of them in one pass, and
// draws from these as it would have drawn without a draft; proposals count as long as they are what was drawn.

// drafting is what a stream keeps for its draft model.
type drafting struct {
	state  *kv.Sequence // of tokens that are certain
	unseen []int32      // certain tokens that the state has not seen; the last one is the model's next input
	most   int          // tokens to propose at a time
}

func newDrafting(sc *Scheduler, st *Stream) *drafting {
	d := &drafting{state: sc.draft.NewSequence(), unseen: slices.Clip(st.prompt), most: st.options.DraftTokens}
	if d.most == 0 {
		d.most = engine.DefaultDraftTokens
	}
	return d
}

func (d *drafting) bytes() int64 {
	if d == nil {
		return 0
	}
	return d.state.Bytes()
}

func (d *drafting) free() error {
	if d == nil {
		return nil
	}
	return d.state.Free()
}

// catchUp lets the draft model see all but the last chunk of what it has not seen, one chunk at a time.
func (d *drafting) catchUp(s *mlxc.Scope, draft *decoder.Network) (behind bool, err error) {
	if len(d.unseen) <= decoder.PrefillChunk {
		return false, nil
	}
	if err := draft.Reserve("the draft's next part of the prompt", func() int64 {
		return d.state.Growth(decoder.PrefillChunk) + draft.PassBytes(decoder.PrefillChunk, d.state.Position(), 0)
	}); err != nil {
		return false, err
	}
	draft.Run(s, d.state, s.FromInts(d.unseen[:decoder.PrefillChunk], 1, decoder.PrefillChunk))
	d.unseen = d.unseen[decoder.PrefillChunk:]
	return true, errors.Join(s.Eval(d.state.Arrays()...), mlxc.ClearCache())
}

// propose returns the draft's k most likely next tokens, uint32 [1] each, not computed yet.
func (d *drafting) propose(s *mlxc.Scope, draft *decoder.Network, k int) (_ []*mlxc.Array, err error) {
	h := draft.Run(s, d.state, s.FromInts(d.unseen, 1, len(d.unseen)))
	logits := s.Squeeze(draft.Arch.Logits(s, s.Slice(h, 1, len(d.unseen)-1, len(d.unseen))), 1)
	d.unseen = nil
	// The proposals may be wrong, and a sliding window cannot forget: they go into a copy.
	ahead := d.state.Share(s)
	defer func() { err = errors.Join(err, ahead.Free()) }()
	var proposals []*mlxc.Array
	for {
		token := s.Argmax(logits, -1, false)
		if proposals = append(proposals, token); len(proposals) == k {
			return proposals, s.AsyncEval(append(d.state.Arrays(), proposals...)...)
		}
		logits = draft.NextLogits(s, ahead, token)
	}
}

// speculate hands out as many tokens as draft and model agree on, and one more.
func (sc *Scheduler) speculate(s *mlxc.Scope, st *Stream) error {
	d := st.draft
	if behind, err := d.catchUp(s, sc.draft); behind || err != nil {
		return err
	}
	k := min(d.most, st.options.MaxTokens-len(st.made)-1)
	if err := sc.Reserve("the next tokens", func() int64 {
		return st.State.Growth(k+1) + sc.PassBytes(k+1, st.State.Position(), k+1) +
			2*d.state.Growth(len(d.unseen)+k) + sc.draft.PassBytes(len(d.unseen), d.state.Position(), 1)
	}); err != nil {
		return err
	}
	ids := []*mlxc.Array{s.FromUints([]uint32{uint32(d.unseen[len(d.unseen)-1])}, 1)}
	var proposals []*mlxc.Array
	if k > 0 {
		var err error
		if proposals, err = d.propose(s, sc.draft, k); err != nil {
			return err
		}
	}
	h := sc.Run(s, st.State, s.ExpandDims(s.Concatenate(0, append(ids, proposals...)...), 0))
	logits := sc.Arch.Logits(s, h)
	if err := s.Eval(append(st.State.Arrays(), logits)...); err != nil {
		return err
	}
	tokens, err := st.agree(s, s.Squeeze(logits, 0), proposals)
	if err != nil {
		return err
	}
	if wrong := k - (len(tokens) - 1); !st.State.Trim(s, wrong) {
		return fmt.Errorf("speculate: the KV cache cannot give %d positions back", wrong)
	}
	sc.Counters.Drafted.Add(int64(k))
	sc.Counters.Accepted.Add(int64(len(tokens) - 1))
	for _, token := range tokens {
		d.unseen = append(d.unseen, token.ID)
	}
	for _, token := range tokens {
		st.deliver(token)
	}
	return nil
}

// agree draws the tokens after each row of logits [k+1, vocab] up to the first that was not proposed.
func (st *Stream) agree(s *mlxc.Scope, logits *mlxc.Array, proposals []*mlxc.Array) ([]engine.Token, error) {
	var tokens []engine.Token
	for i := 0; ; i++ {
		if err := s.Eval(st.sample(s, s.Slice(logits, 0, i, i+1))...); err != nil {
			return nil, err
		}
		token, err := st.pending.read()
		if err = errors.Join(err, st.pending.free()); err != nil {
			return nil, err
		}
		st.pending = pending{}
		tokens = append(tokens, token)
		if i == len(proposals) || st.stops[token.ID] {
			return tokens, nil
		}
		proposed, err := proposals[i].Int()
		if err != nil {
			return nil, err
		}
		if int32(proposed) != token.ID {
			return tokens, nil
		}
	}
}
