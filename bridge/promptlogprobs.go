package bridge

import (
	"context"
	"fmt"

	"forge.lthn.ai/core/go-mlx/engine"
)

type promptLogProbsRequest struct {
	head
	IDs []int32 `msgpack:"ids"`
	Top int     `msgpack:"top"`
}

func (r promptLogProbsRequest) copy() request { return &r }

// PromptLogProbs gives the tokens of a prompt their log-probabilities; see engine.Engine.
func (m *Model) PromptLogProbs(ctx context.Context, ids []int32, top int) ([]engine.Token, error) {
	end, err := m.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	if len(ids) == 0 {
		return nil, engine.ErrEmptyPrompt
	}
	info := m.Info()
	if err := engine.CheckTop(top, info.VocabSize); err != nil {
		return nil, err
	}
	if err := m.checkIDs(ids); err != nil {
		return nil, err
	}
	reply, _, err := m.call(ctx, &promptLogProbsRequest{head: head{Type: "prompt_logprobs"}, IDs: append([]int32{}, ids...), Top: top})
	if err != nil {
		return nil, err
	}
	if len(reply.LogProbs) != len(ids)-1 || len(reply.Tops) != len(ids)-1 {
		return nil, fmt.Errorf("%w: %d log-probabilities for %d tokens", errProtocol, len(reply.LogProbs), len(ids))
	}
	out := make([]engine.Token, len(ids))
	for i, id := range ids {
		out[i].ID = id
		if i == 0 {
			continue
		}
		out[i].LogProb = float32(reply.LogProbs[i-1])
		for _, other := range reply.Tops[i-1] {
			out[i].TopLogProbs = append(out[i].TopLogProbs, engine.TokenLogProb{ID: other.ID, LogProb: float32(other.LogProb)})
		}
	}
	return out, nil
}
